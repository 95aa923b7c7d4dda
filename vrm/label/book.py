"""The answers of all annotators to the questions of one source, and how well they agree."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from threading import RLock

from vrm.data.comparisons import Answer, AnswerFile
from vrm.label.questions import Question

Pair = tuple[str, str]


@dataclass(frozen=True)
class Agreement:
    """How two annotators agree on the questions that both answered.

    Attributes:
        annotators: both names.
        shared: how many questions both answered, skipped ones apart.
        same: of those, how many in the same way: for the same side, or tie.
        kappa: Cohen's kappa of the three choices; None where both always made one and the same.
    """

    annotators: tuple[str, str]
    shared: int
    same: int
    kappa: float | None


class AnswerBook:
    """Reads and appends answers; what :meth:`give` and :meth:`undo` return from is on disk.

    Args:
        path: the answer file; other processes may append to it, too.
    """

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self.file = AnswerFile(path)
        self._lock = RLock()
        self._stamp: tuple[int, int] | None = None
        self._answers: list[Answer] = []

    def answers(self) -> list[Answer]:
        """Those that stand, oldest first.

        Raises:
            ComparisonError: if the file holds something else.
        """
        with self._lock:
            try:
                facts = os.stat(self.file.path)
            except FileNotFoundError:
                return []
            stamp = (facts.st_mtime_ns, facts.st_size)
            if stamp != self._stamp:
                self._answers, self._stamp = self.file.read(), stamp
            return self._answers

    def by(self, annotator: str) -> dict[Pair, Answer]:
        """The newest answer of one annotator to each pair."""
        return {(a.first, a.second): a for a in self.answers() if a.annotator == annotator}

    def give(self, question: Question, annotator: str, label: float | None) -> None:
        """Append an answer; a question that this annotator has answered keeps its first one.

        Args:
            question: what was asked.
            annotator: who answers.
            label: 1 for the first, 0 for the second, 0.5 for a tie, None if skipped.
        """
        with self._lock:
            if question.names not in self.by(annotator):
                self.file.append(Answer(*question.names, label, annotator, "frames", question.goal, time.time()))

    def undo(self, questions: Sequence[Question], annotator: str) -> None:
        """Take back the annotator's newest answer to one of ``questions``, if there is any."""
        asked = {question.names for question in questions}
        with self._lock:
            mine = [a for a in self.answers() if a.annotator == annotator and (a.first, a.second) in asked]
            if mine:
                self.file.retract(mine[-1], time.time())

    def agreements(self, questions: Sequence[Question]) -> list[Agreement]:
        """Agreement of every two annotators who share an answered question."""
        asked = {question.names for question in questions}
        choices: dict[str, dict[Pair, int]] = {}
        for a in self.answers():
            if a.label is not None and (a.first, a.second) in asked:
                choices.setdefault(a.annotator, {})[a.first, a.second] = (a.label > 0.5) - (a.label < 0.5)
        found = []
        for one, other in combinations(sorted(choices), 2):
            shared = sorted(choices[one].keys() & choices[other].keys())
            if shared:
                votes = [(choices[one][pair], choices[other][pair]) for pair in shared]
                found.append(Agreement((one, other), len(votes), sum(a == b for a, b in votes), cohens_kappa(votes)))
        return found


def cohens_kappa(votes: Sequence[tuple[int, int]]) -> float | None:
    """Agreement beyond chance (Cohen 1960): ``(observed - expected) / (1 - expected)``; None if chance explains all.

    Example:
        >>> cohens_kappa([(1, 1), (0, 0), (1, 0), (0, 0)])
        0.5
    """
    count = len(votes)
    observed = sum(a == b for a, b in votes) / count
    kinds = {choice for vote in votes for choice in vote}
    expected = sum(sum(a == k for a, _ in votes) * sum(b == k for _, b in votes) for k in kinds) / count**2
    return None if expected == 1 else (observed - expected) / (1 - expected)
