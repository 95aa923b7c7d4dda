"""The guard against reward hacking: when a judge that nobody trains on falls while the trained reward rises, stop.

The rule, with the same prompts and noise at every evaluation, so that scores are compared video by video:

* The *peak* is the evaluation with the highest mean of the held-out judge so far.
* The judge *has fallen* if its mean is below the peak's by more than ``margin`` standard errors of the paired
  difference.
* It is *hacking* if the judge has fallen while the mean of the trained reward is above its value at the peak.
* After ``patience`` evaluations of hacking in a row, training stops.

*Best* is the evaluation with the highest trained reward among those at which the judge had not fallen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

State = Literal["fine", "both fall", "hacking", "stop"]
CHANGES = {
    "diversity": (0.5, "lower"),
    "motion": (0.5, "lower"),
    "sharpness": (0.5, "lower"),
    "saturation": (2.0, "higher"),
}
SATURATED = 0.02  # a share below this is never warned about, whatever it was before


@dataclass(frozen=True)
class Evaluation:
    """Scores of the same held-out videos at one step.

    Attributes:
        step: updates made so far.
        trained: ``(N,)`` the trained reward of each video.
        held_out: ``(N,)`` the held-out judge's score of each.
    """

    step: int
    trained: tuple[float, ...]
    held_out: tuple[float, ...]

    @property
    def trained_mean(self) -> float:
        """Mean of the trained reward."""
        return math.fsum(self.trained) / len(self.trained)

    @property
    def held_out_mean(self) -> float:
        """Mean of the held-out judge."""
        return math.fsum(self.held_out) / len(self.held_out)


@dataclass(frozen=True)
class Verdict:
    """What an evaluation says.

    Attributes:
        state: ``"fine"``; ``"both fall"``: the judge has fallen and the trained reward with it; ``"hacking"``: the
            judge has fallen while the trained reward rose; ``"stop"``: that for the ``patience``-th time in a row.
        is_best: whether these weights are the best so far.
        reason: a sentence.
    """

    state: State
    is_best: bool
    reason: str


class Guard:
    """Watches a held-out judge beside the trained reward; the rule is in this module's own words above.

    Args:
        patience: evaluations of hacking in a row until training stops, at least 1.
        margin: standard errors by which the judge must have fallen, at least 0.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> guard = Guard(patience=1)
        >>> guard.update(0, [0.1, 0.2], [0.5, 0.6]).state
        'fine'
        >>> guard.update(10, [0.3, 0.4], [0.3, 0.4]).state
        'stop'
        >>> guard.best.step
        0
    """

    def __init__(self, patience: int = 2, margin: float = 2.0) -> None:
        """Start without evaluations."""
        if patience < 1 or not 0 <= margin < math.inf:
            raise ValueError(f"A guard needs patience >= 1 and a finite margin >= 0, got {patience} and {margin}.")
        self.patience, self.margin = patience, float(margin)
        self.history: list[Evaluation] = []
        self.verdicts: list[Verdict] = []
        self._best = self._in_a_row = 0

    @property
    def best(self) -> Evaluation:
        """The evaluation of the highest trained reward before any fall of the judge."""
        return self.history[self._best]

    @property
    def peak(self) -> Evaluation:
        """The evaluation with the highest mean of the held-out judge, the earliest of equals."""
        return max(self.history, key=lambda seen: seen.held_out_mean)

    def update(self, step: int, trained: Sequence[float], held_out: Sequence[float]) -> Verdict:
        """Take in the scores of one evaluation; always of the same videos in the same order.

        Raises:
            ValueError: if the number of scores differs from before, or one is not finite.
        """
        now = Evaluation(step, tuple(map(float, trained)), tuple(map(float, held_out)))
        count = len(self.history[0].trained) if self.history else len(now.trained)
        if not (len(now.trained) == len(now.held_out) == count > 0):
            raise ValueError(
                f"Every evaluation needs one trained and one held-out score for the same {count} videos, "
                f"got {len(now.trained)} and {len(now.held_out)}."
            )
        if not np.isfinite([*now.trained, *now.held_out]).all():
            raise ValueError(f"Scores at step {step} hold NaN or infinity, so nothing can be said about them.")
        self.history.append(now)
        self.verdicts.append(self._judge(now))
        return self.verdicts[-1]

    def state_dict(self) -> dict[str, Any]:
        """Everything seen and said, as JSON values."""
        return {"history": [asdict(seen) for seen in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See again what :meth:`state_dict` holds, under this guard's own patience and margin."""
        self.history, self.verdicts = [], []
        self._best = self._in_a_row = 0
        for seen in state["history"]:
            self.update(seen["step"], seen["trained"], seen["held_out"])

    def _judge(self, now: Evaluation) -> Verdict:
        peak = self.peak
        has_fallen, words = _compare(now, peak, self.margin)
        rises = now.trained_mean > peak.trained_mean
        self._in_a_row = self._in_a_row + 1 if has_fallen and rises else 0
        if has_fallen:
            way = f"from {peak.trained_mean:.4f} to {now.trained_mean:.4f}"
            if not rises:
                return Verdict("both fall", False, f"{words}, and the trained reward did not rise ({way})")
            reason = f"{words}, while the trained reward rose {way}"
            return Verdict("stop" if self._in_a_row >= self.patience else "hacking", False, reason)
        is_best = len(self.history) == 1 or now.trained_mean > self.best.trained_mean
        if is_best:
            self._best = len(self.history) - 1
        return Verdict("fine", is_best, words)


def warnings(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Say which measures of the videos have changed so much that a person should look.

    Args:
        before: ``diversity``, ``motion``, ``sharpness`` and ``saturation`` of the base model's samples.
        now: those of the tuned model's samples; measures that either lacks are left out.

    Returns:
        A sentence for each: one half of a measure lost, or twice the share of clipped pixels.
    """
    found = []
    for name, (factor, way) in CHANGES.items():
        if name not in before or name not in now:
            continue
        limit = factor * before[name]
        bad = now[name] < limit if way == "lower" else now[name] > max(limit, SATURATED)
        if bad:
            found.append(f"{name} went from {before[name]:.3g} to {now[name]:.3g}")
    return found


def _compare(now: Evaluation, peak: Evaluation, margin: float) -> tuple[bool, str]:
    """Whether the judge has fallen since the peak, and in words."""
    if now is peak:
        return False, "the held-out judge is at its highest"
    differences = np.subtract(now.held_out, peak.held_out)
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    fall = -float(differences.mean())
    if fall > margin * error:
        return True, (
            f"the held-out judge fell from {peak.held_out_mean:.4f} (step {peak.step}) to {now.held_out_mean:.4f}, "
            f"more than {margin:g} standard errors of {error:.2g}"
        )
    return False, f"the held-out judge is within {margin:g} standard errors of its highest"
