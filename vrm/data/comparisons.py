"""Comparisons of two pieces of behaviour: what is compared, what was answered, and the file answers are kept in."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from vrm.errors import VrmError
from vrm.frames import check_frames


class ComparisonError(VrmError, ValueError):
    """Comparisons that cannot be read or learned from."""


@dataclass(frozen=True)
class Segments:
    """Pieces of episodes, all of one length, as a labeller sees them.

    Attributes:
        frames: ``(N, L, 3, H, W)`` uint8 RGB, or None where only numbers are known.
        state: per-frame values ``(N, L)`` by name, ``env_reward`` among them where it is known.
    """

    frames: Tensor | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that all parts speak of the same pieces."""
        if self.frames is not None:
            check_frames(self.frames, ndim=5)
        shapes = {tuple(value.shape[:2]) for value in (self.frames, *self.state.values()) if value is not None}
        if len(shapes) != 1:
            raise ComparisonError(f"Frames and state values of segments must agree on (N, L), got {sorted(shapes)}.")

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self._any())

    @property
    def length(self) -> int:
        """Frames of one piece."""
        return self._any().shape[1]

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """The pieces at ``rows``."""
        frames = None if self.frames is None else self.frames[rows]
        return type(self)(frames, {name: value[rows] for name, value in self.state.items()})

    def _any(self) -> Tensor:
        return self.frames if self.frames is not None else next(iter(self.state.values()))


@dataclass(frozen=True)
class Comparisons:
    """Answered questions in the form that preference rewards learn from.

    Attributes:
        first, second: ``(N, L, ...)`` what the reward will see of either piece: features ``(N, L, D)`` or frames
            ``(N, L, 3, H, W)`` uint8.
        labels: ``(N,)`` how likely the first is preferred, in [0, 1]; 0.5 is a tie, NaN a question left unanswered.
        users: ``(N,)`` int64, who answered; all zero where there is one annotator.
    """

    first: Tensor
    second: Tensor
    labels: Tensor
    users: Tensor

    def __post_init__(self) -> None:
        """Check sizes and labels."""
        sizes = {len(self.first), len(self.second), len(self.labels), len(self.users)}
        if len(sizes) != 1 or self.first.shape != self.second.shape:
            raise ComparisonError(
                f"Both sides, labels and users must have one length, got {tuple(self.first.shape)}, "
                f"{tuple(self.second.shape)}, {tuple(self.labels.shape)} and {tuple(self.users.shape)}."
            )
        wrong = (self.labels < 0) | (self.labels > 1)
        if wrong.any():
            raise ComparisonError(f"Labels must lie in [0, 1] or be NaN, got {float(self.labels[wrong][0])}.")

    @classmethod
    def of(cls, first: Tensor, second: Tensor, labels: Tensor | Sequence[float], users: Tensor | None = None) -> Self:
        """Comparisons by one annotator unless ``users`` says who."""
        known = torch.as_tensor(labels, dtype=torch.float32)
        return cls(first, second, known, torch.zeros(len(known), dtype=torch.int64) if users is None else users)

    def __len__(self) -> int:
        """How many questions were asked."""
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """The comparisons at ``rows``."""
        return type(self)(self.first[rows], self.second[rows], self.labels[rows], self.users[rows])

    def answered(self) -> Self:
        """Only those with a label."""
        return self[~self.labels.isnan()]

    def joined(self, more: Self) -> Self:
        """These and ``more`` behind them."""
        pairs = zip(
            (self.first, self.second, self.labels, self.users),
            (more.first, more.second, more.labels, more.users),
            strict=True,
        )
        return type(self)(*(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class Answer:
    """One line of a comparison file.

    Attributes:
        first, second: what was shown, as paths relative to the file or other names its reader knows.
        label: how likely the first is preferred: 1, 0, 0.5 for a tie, anything between; None if skipped.
        annotator: who answered.
        saw: what the annotator went by: ``"frames"``, ``"state"``.
        goal: the sentence behind the question, if there was one.
        time: seconds since 1970, UTC.
    """

    first: str
    second: str
    label: float | None
    annotator: str = ""
    saw: str = "frames"
    goal: str = ""
    time: float = 0.0


class AnswerFile:
    """Answers on disk, one JSON object a line: an answer is safe when :meth:`append` returns.

    A line that a kill cut short is left out when reading, and ended before the next answer is written. Nothing is ever
    removed: who takes an answer back writes so behind it (:meth:`retract`), and :meth:`read` leaves both out.

    Args:
        path: the ``.jsonl`` file; need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Nothing is read or written yet."""
        self.path = Path(path)

    def append(self, answers: Answer | Iterable[Answer]) -> None:
        """Write answers behind those that are there, and wait until the disk has them."""
        self._write([asdict(answer) for answer in ([answers] if isinstance(answers, Answer) else answers)])

    def retract(self, answer: Answer, time: float = 0.0) -> None:
        """Take back the newest answer that this annotator gave to this pair, and wait until the disk has it.

        Args:
            answer: names the pair and the annotator; its label is of no matter.
            time: of the retraction, seconds since 1970, UTC.
        """
        self._write([{**asdict(answer), "time": time, "retracts": True}])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        lines = [json.dumps(row) + "\n" for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Answer]:
        """All answers that stand, in the order in which they were given.

        Raises:
            ComparisonError: if a whole line is no answer, naming it.
        """
        if not self.path.exists():
            return []
        answers: list[Answer] = []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                answer = _answer(row)
                if row.get("retracts"):
                    _take_back(answers, answer)
                else:
                    answers.append(answer)
            except (ValueError, TypeError, KeyError) as error:
                if _cut_short(line):
                    continue
                raise ComparisonError(
                    f"Line {number} of {str(self.path)!r} is no answer ({error}); it should read like "
                    '{"first": "a.mp4", "second": "b.mp4", "label": 1.0}.'
                ) from None
        return answers


def _take_back(answers: list[Answer], retraction: Answer) -> None:
    who = (retraction.annotator, retraction.first, retraction.second)
    for place in reversed(range(len(answers))):
        if (answers[place].annotator, answers[place].first, answers[place].second) == who:
            del answers[place]
            return


def _cut_short(line: str) -> bool:
    return line.startswith("{") and not line.rstrip().endswith("}")


def _answer(row: Any) -> Answer:
    if not isinstance(row, dict):
        raise TypeError("not an object")
    label = row["label"]
    if label is not None and (
        isinstance(label, bool) or not isinstance(label, (int, float)) or not 0 <= label <= 1 or math.isnan(label)
    ):
        raise ValueError(f"label {label!r} is not in [0, 1] or null")
    names = ("annotator", "saw", "goal")
    return Answer(
        str(row["first"]), str(row["second"]), None if label is None else float(label),
        **{name: str(row[name]) for name in names if name in row}, time=float(row.get("time", 0.0)),
    )  # fmt: skip
