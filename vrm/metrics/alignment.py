"""Does a reward with its discount rank whole trajectories as people do? No true reward is needed to ask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vrm.metrics.inputs import check_preference, paired_series, series


class TrajectoryAlignment(NamedTuple):
    """How returns agree with comparisons of trajectories.

    Attributes:
        tau: trajectory alignment coefficient in [-1, 1]; nan if people or returns tie in every pair.
        concordant: pairs ordered alike.
        discordant: pairs ordered the other way round.
        human_ties: pairs that people alone left undecided.
        return_ties: pairs whose returns alone are equal.
        both_ties: pairs tied in both; they do not count.
    """

    tau: float
    concordant: int
    discordant: int
    human_ties: int
    return_ties: int
    both_ties: int


def trajectory_alignment(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    preference: ArrayLike,
    gamma: float = 1.0,
    tie: float = 1e-9,
) -> TrajectoryAlignment:
    """Trajectory alignment coefficient: Kendall's tau-b between comparisons and returns under a reward and discount.

    Muslimani et al. 2025, "Towards improving reward design in RL: a reward alignment metric for RL practitioners",
    arXiv 2503.05996. With concordant C, discordant D, and pairs tied for people (H) or returns (R) alone:
    ``(C - D) / sqrt((C + D + H) (C + D + R))``. Potential shaping changes nothing where both trajectories of a pair
    start in one state and end in one state, or the potential is 0 there.

    Args:
        first: ``P`` trajectories as rewards ``(T,)``, ``r[0]`` never paid (see :func:`discounted_return`).
        second: the ``P`` trajectories they are compared with.
        preference: ``(P,)`` 1 where people prefer the first, -1 where the second, 0 where neither.
        gamma: discount in [0, 1].
        tie: largest difference of returns that counts as equal, at least 0.

    Raises:
        ValueError: if lengths differ, a value is not finite, or an argument is out of range.

    Example:
        >>> found = trajectory_alignment([[0, 1], [0, 2], [0, 3]], [[0, 0], [0, 3], [0, 1]], [1, -1, 0])
        >>> round(found.tau, 4)
        0.8165
    """
    if not tie >= 0:
        raise ValueError(f"tie must be at least 0, got {tie}.")
    margin = [discounted_return(a, gamma) - discounted_return(b, gamma) for a, b in zip(first, second, strict=False)]
    if len(first) != len(second):
        raise ValueError(f"first and second must have one length, got {len(first)} and {len(second)}.")
    difference, wanted = paired_series(margin, preference, ("pairs", "preference"), minimum=1)
    check_preference(wanted)
    called = np.where(np.abs(difference) <= tie, 0, np.sign(difference))
    agree, against = int((called * wanted > 0).sum()), int((called * wanted < 0).sum())
    human, returns, both = (
        int(mask.sum())
        for mask in ((wanted == 0) & (called != 0), (wanted != 0) & (called == 0), (wanted == 0) & (called == 0))
    )
    scale = math.sqrt((agree + against + human) * (agree + against + returns))
    return TrajectoryAlignment((agree - against) / scale if scale else math.nan, agree, against, human, returns, both)


def discounted_return(rewards: ArrayLike, gamma: float = 1.0) -> float:
    """Return of an episode: ``sum_{t >= 1} gamma^(t - 1) r[t]``; ``r[0]``, of the first frame, is never paid.

    Raises:
        ValueError: if there are no rewards, one is not finite or ``gamma`` is outside [0, 1].

    Example:
        >>> discounted_return([9, 1, 1, 1], gamma=0.5)
        1.75
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}.")
    paid = series(rewards, "rewards", minimum=1)[1:]
    return float(paid @ gamma ** np.arange(len(paid)))
