"""People as a labeller: questions go into a folder, the page shows them, answers come back by file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from vrm.data.comparisons import Answer, AnswerFile, ComparisonError, Segments
from vrm.label.questions import ANSWERS, question
from vrm.rewards.base import Encoders
from vrm.video import replacing, write_video


@dataclass(frozen=True, eq=False)
class LateAnswer:
    """An answer to a question that was left open when it was asked.

    Attributes:
        first: the first segment, as it was given.
        second: likewise.
        label: how likely the first is preferred, in [0, 1].
    """

    first: Segments
    second: Segments
    label: float


class HumanLabeller:
    """Asks people, who answer at ``vrm label FOLDER``.

    Each question becomes two mp4 files and ``QUERY.json``, named by its content: a question that was answered before,
    in this process or another, is not asked again. Of several people's answers to one question the mean counts;
    skipped questions are NaN.

    Args:
        folder: of the questions, made when first needed.
        answers: where the page writes; ``answers.jsonl`` in the folder by default.
        goal: the sentence that decides.
        fps: frames per second of the clips.
        wait: whether :meth:`compare` waits until each question is answered or skipped. If not, it returns NaN for those
            that are open, and :meth:`collect` delivers their answers later.
        timeout: seconds to wait at most, None for ever. What is open then is as without waiting.
        poll: seconds between looks at the answers.

    Raises:
        ComparisonError: if a number is not above 0.

    Example:
        >>> labeller = HumanLabeller("runs/mine/queries", goal="a robot on its knees", wait=False)  # doctest: +SKIP
        >>> labels = labeller.compare(first, second)  # NaN where nobody has answered  # doctest: +SKIP
        >>> late = labeller.collect()  # doctest: +SKIP
    """

    sees_frames = True
    state_keys: tuple[str, ...] = ()

    def __init__(
        self,
        folder: str | os.PathLike[str],
        answers: str | os.PathLike[str] | None = None,
        goal: str = "",
        fps: float = 20.0,
        wait: bool = True,
        timeout: float | None = None,
        poll: float = 0.5,
    ) -> None:
        """Check the numbers; nothing is written yet."""
        for name, value in (("fps", fps), ("poll", poll), ("timeout", timeout)):
            if value is not None and not 0 < value < math.inf:
                raise ComparisonError(f"{name} must be a number above 0, got {value}.")
        self.folder = Path(folder)
        self.answers = AnswerFile(self.folder / ANSWERS if answers is None else answers)
        self.goal, self.fps, self.wait, self.timeout, self.poll = goal, fps, wait, timeout, poll
        self._open: dict[tuple[str, str], tuple[Segments, Segments]] = {}

    @property
    def open_questions(self) -> int:
        """How many questions of this labeller nobody has answered, as far as it has looked."""
        return len(self._open)

    def compare(self, first: Segments, second: Segments) -> Tensor:
        """Labels ``(N,)``, NaN for what is skipped or still open; waits as told at construction.

        Raises:
            ComparisonError: if there are no frames, or the answer file holds something else.
        """
        asked = [self._ask(first[i : i + 1], second[i : i + 1]) for i in range(len(first))]
        labels = self._labels(asked)
        if self.wait and any(pair not in labels for pair in asked):
            labels = self._wait(asked)
        for pair in labels:
            self._open.pop(pair, None)
        return torch.tensor([labels.get(pair, math.nan) for pair in asked], dtype=torch.float32)

    def collect(self) -> list[LateAnswer]:
        """Answers since the last look to questions that were left open; each is delivered once, skipped ones never."""
        late = []
        for pair, label in self._labels(self._open).items():
            first, second = self._open.pop(pair)
            if not math.isnan(label):
                late.append(LateAnswer(first, second, label))
        return late

    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        settings = {name: getattr(self, name) for name in ("goal", "fps", "wait", "timeout", "poll")}
        return {"folder": str(self.folder), "answers": str(self.answers.path), **settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`; there is no encoder."""
        return cls(**config)

    def _ask(self, first: Segments, second: Segments) -> tuple[str, str]:
        """Write a question unless it is there, and return the names of its clips in the answer file."""
        if first.frames is None or second.frames is None:
            raise ComparisonError("People compare what they see, but the segments have no frames.")
        sides = [_pixels(side.frames[0]) for side in (first, second) if side.frames is not None]
        digest = hashlib.blake2b(self.goal.encode(), digest_size=8)
        for side in sides:
            digest.update(repr(tuple(side.shape)).encode() + side.numpy().tobytes())
        name = digest.hexdigest()
        clips = [self.folder / f"{name}-{side}.mp4" for side in ("first", "second")]
        if not (self.folder / f"{name}.json").is_file():
            for clip, frames in zip(clips, sides, strict=True):
                write_video(clip, frames, fps=self.fps)
            row = {"first": clips[0].name, "second": clips[1].name, "goal": self.goal, "time": time.time()}
            with replacing(self.folder / f"{name}.json", ".json") as partial:  # the page sees it complete
                partial.write_text(json.dumps(row), encoding="utf-8")
        pair = question(clips[0], clips[1], self.answers.path).names
        self._open[pair] = (first, second)
        return pair

    def _labels(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """The mean label of each pair that anybody has answered, NaN where all have skipped it."""
        wanted = set(pairs)
        newest: dict[tuple[str, str], dict[str, Answer]] = {}
        for answer in self.answers.read():
            if (answer.first, answer.second) in wanted:
                newest.setdefault((answer.first, answer.second), {})[answer.annotator] = answer
        found = {}
        for pair, answers in newest.items():
            labels = [answer.label for answer in answers.values() if answer.label is not None]
            found[pair] = math.fsum(labels) / len(labels) if labels else math.nan
        return found

    def _wait(self, asked: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
        end = math.inf if self.timeout is None else time.monotonic() + self.timeout
        labels = self._labels(asked)
        missing = len(set(asked) - labels.keys())
        print(f"{missing} questions wait for a person; answer them with: vrm label {self.folder}", file=sys.stderr)
        while (left := end - time.monotonic()) > 0 and any(pair not in labels for pair in asked):
            time.sleep(min(self.poll, left))
            labels = self._labels(asked)
        return labels


def _pixels(frames: Tensor) -> Tensor:
    if frames.dtype == torch.uint8:
        return frames.cpu().contiguous()
    return (frames.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).contiguous()
