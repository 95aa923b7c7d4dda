"""How well one series of numbers follows another: Pearson, Spearman, and what the literature builds on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vrm.metrics.inputs import paired_series, ranks, series
from vrm.metrics.ranking import group_members


class GroupedMean(NamedTuple):
    """Mean over groups of a statistic.

    Attributes:
        value: the mean; nan if it is defined in no group.
        groups: how many groups it is defined in.
    """

    value: float
    groups: int


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Linear correlation ``cov(x, y) / (std(x) std(y))`` of two series.

    Args:
        first: ``(N,)`` finite numbers, N >= 2.
        second: ``(N,)`` finite numbers.

    Returns:
        A number in [-1, 1]; nan if either series is constant.

    Raises:
        ValueError: if the lengths differ, are below two, or a value is not finite.

    Example:
        >>> round(pearson([1, 2, 3], [10, 20, 30]), 6)
        1.0
    """
    x, y = paired_series(first, second, ("first", "second"))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # so that squares neither overflow nor vanish
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / spread, -1.0, 1.0)) if spread > 0 else math.nan


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation: the Pearson correlation of the ranks, tied values sharing their mean rank.

    Args, result and errors are those of :func:`pearson`.

    Example:
        >>> round(spearman([1, 2, 3], [1, 10, 100]), 6)
        1.0
    """
    x, y = paired_series(first, second, ("first", "second"))
    return pearson(ranks(x), ranks(y))


def kendall(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's tau-b: concordant minus discordant pairs over the geometric mean of the pairs not tied in each.

    Kendall 1945, "The treatment of ties in ranking problems"; computed by :func:`scipy.stats.kendalltau`.

    Args, result and errors are those of :func:`pearson`.

    Example:
        >>> round(kendall([1, 2, 2, 3], [1, 2, 3, 4]), 6)
        0.912871
    """
    from scipy.stats import kendalltau  # slow to import

    x, y = paired_series(first, second, ("first", "second"))
    return math.nan if np.ptp(x) == 0 or np.ptp(y) == 0 else float(kendalltau(x, y, variant="b").statistic)


def grouped_mean(
    statistic: Callable[[ArrayLike, ArrayLike], float], first: ArrayLike, second: ArrayLike, groups: Sequence[str]
) -> GroupedMean:
    """Mean over groups of a statistic computed within each; groups where it is undefined are left out.

    Args:
        statistic: such as :func:`spearman` or :func:`kendall`.
        first: ``(N,)`` finite numbers.
        second: ``(N,)`` finite numbers.
        groups: ``N`` names, usually prompts; one of a single item is left out.

    Raises:
        ValueError: if the lengths differ or a value is not finite.

    Example:
        >>> grouped_mean(spearman, [1, 2, 9, 8], [1, 2, 3, 4], ["a", "a", "b", "b"])
        GroupedMean(value=0.0, groups=2)
    """
    x, y = paired_series(first, second, ("first", "second"), minimum=0)
    values = [statistic(x[m], y[m]) for m in group_members(groups, len(x)) if len(m) > 1]
    defined = [value for value in values if not math.isnan(value)]
    return GroupedMean(math.fsum(defined) / len(defined) if defined else math.nan, len(defined))


def epic_distance(reward: ArrayLike, other: ArrayLike) -> float:
    """Distance between two state rewards that no scale or shift can change: ``sqrt((1 - pearson) / 2)``.

    EPIC (Gleave et al. 2021, "Quantifying differences in reward functions", arXiv 2006.13900) compares rewards up
    to potential shaping. For rewards of the state alone it comes to this form (Rocamonde et al. 2023, "Vision-language
    models are zero-shot reward models", arXiv 2310.12921, section 4), where ``other`` is a 0/1 success label.

    Args:
        reward: ``(N,)`` rewards of N states, finite.
        other: ``(N,)`` rewards or labels of the same states, finite.

    Returns:
        A number in [0, 1]: 0 for equivalent, about 0.707 for unrelated, 1 for opposite rewards; nan if either is
        constant.

    Raises:
        ValueError: if the lengths differ, are below two, or a value is not finite.

    Example:
        >>> round(epic_distance([0.20, 0.25, 0.22, 0.30], [0, 1, 0, 1]), 6)
        0.261878
    """
    x, y = paired_series(reward, other, ("reward", "other"))
    return math.sqrt((1 - pearson(x, y)) / 2)


def value_order_correlation(values: ArrayLike) -> float:
    """Value order correlation (VOC): the rank correlation of predicted values with time.

    Ma et al. 2024, "Vision language models are in-context value learners" (GVL), arXiv 2411.04549: a good progress
    estimate of a successful episode rises from frame to frame.

    Args:
        values: ``(T,)`` values of the frames of one episode in time order, finite, T >= 2.

    Returns:
        A number in [-1, 1]: 1 if every frame is worth more than the one before; nan if all values are equal.

    Raises:
        ValueError: if there are fewer than two values or one is not finite.

    Example:
        >>> round(value_order_correlation([0, 10, 30, 20, 50]), 6)
        0.9
    """
    ordered = series(values, "values")
    return spearman(ordered, np.arange(len(ordered)))
