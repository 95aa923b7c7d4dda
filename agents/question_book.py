"""Questions and answers of a run on disk: pieces in safetensors parts, answers in a file of lines."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vrm.data.comparisons import Answer, AnswerFile, ComparisonError, Comparisons, Segments
from vrm.rewards.labellers import Labeller


class QuestionBook:
    """All that was ever asked in a run; what :meth:`add` was given is safe on disk when it returns.

    Each session is ``part_NUMBER.safetensors``: what the reward sees of either side, labels at the time, and the frames
    of questions left open, so that they can be asked again after a restart. ``answers.jsonl`` holds an
    :class:`~vrm.data.comparisons.Answer` per question, and late ones behind them, which count.

    Args:
        folder: made when first needed.
        labeller: who answers.
        goal: the sentence behind the questions.

    Raises:
        ComparisonError: if a part is damaged.

    Attributes:
        data: everything asked, None before the first session.
        last_step: of the newest session; -1 before the first.
    """

    def __init__(self, folder: Path, labeller: Labeller, goal: str = "") -> None:
        """Read what is there."""
        self.folder, self.labeller, self.goal = folder, labeller, goal
        self.answers = AnswerFile(folder / "answers.jsonl")
        self.data: Comparisons | None = None
        self.last_step = -1
        self._names: list[tuple[str, str]] = []
        self._open: dict[bytes, list[int]] = {}
        self._unasked: list[tuple[Segments, Segments]] = []
        self._read()

    def __len__(self) -> int:
        """How many questions were asked."""
        return len(self._names)

    @property
    def answered(self) -> int:
        """How many of them have an answer."""
        return 0 if self.data is None else int((~self.data.labels.isnan()).sum())

    @property
    def open_questions(self) -> int:
        """How many may still be answered late."""
        return sum(map(len, self._open.values())) if hasattr(self.labeller, "collect") else 0

    def add(self, step: int, first: Tensor, second: Tensor, labels: Tensor, shown: tuple[Segments, Segments]) -> None:
        """Write a session's questions.

        Args:
            step: of the agent.
            first: ``(N, L, ...)`` what the reward sees of the first of each pair.
            second: likewise.
            labels: ``(N,)``, NaN where there is no answer.
            shown: what the labeller saw.
        """
        name = f"part_{self._parts():05d}.safetensors"
        labels = labels.detach().float().cpu()
        tensors = {"first": first.contiguous(), "second": second.contiguous(), "labels": labels}
        late = hasattr(self.labeller, "collect") and shown[0].frames is not None
        if late:
            left = labels.isnan()
            for side, segments in zip(("open_first", "open_second"), shown, strict=True):
                assert segments.frames is not None
                tensors[side] = segments.frames[left].contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        save_file(tensors, partial, metadata={"step": str(step)})
        os.replace(partial, self.folder / name)
        before = len(self)
        self._join(name, step, first, second, labels)
        self._log(range(before, len(self)))
        if late:
            self._leave_open([before + int(i) for i in left.nonzero()], shown[0][left], shown[1][left])

    def collect(self) -> int:
        """Take late answers, where the labeller gives any, and return how many there were."""
        collect = getattr(self.labeller, "collect", None)
        if collect is None:
            return 0
        found = []
        for first, second in self._unasked:  # left open before a restart
            label = float(self.labeller.compare(first, second)[0])
            if not math.isnan(label):
                found.append((first, second, label))
        self._unasked = []
        found += [(late.first, late.second, late.label) for late in collect()]
        rows = []
        for first, second, label in found:
            for row in self._open.pop(_digest(first, second), []):
                assert self.data is not None  # there is a row
                self.data.labels[row] = label
                rows.append(row)
        self._log(rows)
        return len(rows)

    def _log(self, rows: range | list[int]) -> None:
        assert self.data is not None or not len(rows)
        saw = "frames" if self.labeller.sees_frames else "state"
        written = []
        for row in rows:
            label = math.nan if self.data is None else float(self.data.labels[row])
            known = None if math.isnan(label) else label
            who = type(self.labeller).__name__
            written.append(Answer(*self._names[row], known, who, saw, self.goal, time.time()))
        if written:
            self.answers.append(written)

    def _join(self, name: str, step: int, first: Tensor, second: Tensor, labels: Tensor) -> None:
        new = Comparisons.of(first, second, labels)
        if self.data is not None and self.data.first.shape[1:] != first.shape[1:]:
            raise ComparisonError(
                f"The answers in {str(self.folder)!r} are about pieces of {tuple(self.data.first.shape[1:])}, new ones "
                f"are of {tuple(first.shape[1:])}; keep segment length and encoder, or start another run."
            )
        self.data = new if self.data is None else self.data.joined(new)
        self._names += [(f"{name}#{i}/first", f"{name}#{i}/second") for i in range(len(labels))]
        self.last_step = max(self.last_step, step)

    def _leave_open(self, rows: list[int], first: Segments, second: Segments) -> None:
        for place, row in enumerate(rows):
            pair = first[place : place + 1], second[place : place + 1]
            self._open.setdefault(_digest(*pair), []).append(row)

    def _parts(self) -> int:
        return len(list(self.folder.glob("part_*.safetensors")))

    def _read(self) -> None:
        late = {
            (answer.first, answer.second): answer.label for answer in self.answers.read() if answer.label is not None
        }
        for path in sorted(self.folder.glob("part_*.safetensors")):
            before = len(self)
            try:
                with safe_open(path, "pt") as file:
                    part = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not iterable itself)
                    step = int(file.metadata()["step"])
                self._join(path.name, step, part["first"], part["second"], part["labels"])
            except (OSError, KeyError, TypeError, SafetensorError) as error:
                raise ComparisonError(f"{str(path)!r} holds no questions of a run ({error}); delete it.") from error
            self._reopen(before, part, late)

    def _reopen(self, before: int, part: dict[str, Tensor], late: dict[tuple[str, str], float]) -> None:
        assert self.data is not None
        unanswered = [before + int(i) for i in part["labels"].isnan().nonzero()]
        for place, row in enumerate(unanswered):
            label = late.get(self._names[row])
            if label is not None:
                self.data.labels[row] = label
            elif "open_first" in part:
                pair = tuple(Segments(part[side][place : place + 1]) for side in ("open_first", "open_second"))
                self._leave_open([row], *pair)
                self._unasked.append((pair[0], pair[1]))


def _digest(first: Segments, second: Segments) -> bytes:
    """Names a pair by its frames."""
    digest = hashlib.blake2b(digest_size=16)
    for side in (first, second):
        assert side.frames is not None  # only what is looked at is left open
        digest.update(json.dumps(list(side.frames.shape)).encode() + side.frames.contiguous().numpy().tobytes())
    return digest.digest()
