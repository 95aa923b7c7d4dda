"""How often a score agrees with a preference between two items."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from vrm.metrics.inputs import check_preference, paired_series


def preference_accuracy(margin: ArrayLike, preference: ArrayLike, tie: float | None = None) -> float:
    """Share of pairs (A, B) on which a scorer agrees with the recorded preference.

    Args:
        margin: ``(P,)`` score of A minus score of B, finite.
        preference: ``(P,)`` 1 where A is preferred, -1 where B is, 0 where neither.
        tie: largest ``|margin|`` that counts as "neither". None leaves out the pairs whose preference is 0 and gives
            one half for a margin of exactly 0, so that a constant score gets 0.5. With a number, all pairs count
            and "neither" must be predicted as such (three classes; Deutsch et al. 2023, "Ties matter",
            arXiv 2305.14324).

    Returns:
        A number in [0, 1]; nan if no pair counts.

    Raises:
        ValueError: if the lengths differ, there are none, a margin is not finite, a preference is not -1, 0 or 1, or
            ``tie`` is negative.

    Example:
        >>> preference_accuracy([0.3, -0.2, 0.0], [1, 1, -1])
        0.5
        >>> preference_accuracy([0.3, -0.2, 0.0], [1, -1, 0], tie=0.25)
        0.6666666666666666
    """
    difference, wanted = paired_series(margin, preference, ("margin", "preference"), minimum=1)
    check_preference(wanted)
    if tie is None:
        credit = (1 + np.sign(difference) * wanted)[wanted != 0] / 2
        return float(credit.mean()) if len(credit) else math.nan
    if not tie >= 0:
        raise ValueError(f"tie must be at least 0, got {tie}.")
    predicted = np.where(np.abs(difference) <= tie, 0, np.sign(difference))
    return float((predicted == wanted).mean())


def pairwise_accuracy(score: ArrayLike, target: ArrayLike, tie: float | None = None) -> float:
    """Share of all pairs of items that ``score`` puts in the order of ``target``.

    Every one of the N (N - 1) / 2 pairs goes through :func:`preference_accuracy` with the sign of the target's
    difference as its preference; memory grows with the square of N.

    Args:
        score: ``(N,)`` finite numbers, N >= 2.
        target: ``(N,)`` finite numbers; equal targets are a tie.
        tie: as in :func:`preference_accuracy`.

    Returns:
        A number in [0, 1]; nan without ``tie`` if all targets are equal.

    Raises:
        ValueError: if the lengths differ, are below two, a value is not finite or ``tie`` is negative.

    Example:
        >>> pairwise_accuracy([0.1, 0.5, 0.4], [1, 2, 3])
        0.6666666666666666
    """
    scores, targets = paired_series(score, target, ("score", "target"))
    first, second = np.triu_indices(len(scores), k=1)
    return preference_accuracy(scores[first] - scores[second], np.sign(targets[first] - targets[second]), tie)
