"""Value order correlation with the controls without which it means little: a clock has a perfect one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vrm.metrics.classification import roc_auc
from vrm.metrics.correlation import kendall, value_order_correlation
from vrm.metrics.inputs import Floats, series

Episodes = Sequence[Sequence[float] | NDArray[Any]]


@dataclass(frozen=True)
class ValueOrder:
    """How rewards follow time where they should, and where they should not; nan where nothing was given.

    Attributes:
        success: mean VOC of successful episodes, in [-1, 1].
        failed: mean VOC of failed ones.
        reversed: mean VOC of successful ones played backwards; near minus ``success`` if content counts, equal to it
            for a clock.
        wrong_goal: mean VOC of successful ones judged for another goal.
        gap: ``success - failed``; 0 for a clock.
        kendall: mean Kendall tau-b with time of successful episodes.
        auc_final: chance that a success ends with a higher reward than a failure, ties counting one half.
        auc_mean: the same for the mean reward of an episode.
    """

    success: float
    failed: float
    reversed: float
    wrong_goal: float
    gap: float
    kendall: float
    auc_final: float
    auc_mean: float


def value_order(
    success: Episodes,
    failed: Episodes = (),
    reversed: Episodes = (),
    wrong_goal: Episodes = (),
    final: float = 0.0,
) -> ValueOrder:
    """Measure VOC (Ma et al. 2024, arXiv 2411.04549) of successful episodes and of its controls.

    An episode whose reward never changes counts as 0, for it shows no order.

    Args:
        success: rewards ``(T,)`` of the frames of each successful episode, in time order, T >= 2; T may differ.
        failed: the same of failed episodes.
        reversed: the same of successful episodes played backwards, in the order they were played.
        wrong_goal: the same of successful episodes judged for another goal.
        final: share in [0, 1] of an episode's frames whose mean is its final reward; 0 for the last frame alone.

    Raises:
        ValueError: if there is no successful episode, one is shorter than two frames, a reward is not finite or
            ``final`` is out of range.

    Example:
        >>> clock = [0, 1, 2, 3]
        >>> found = value_order([clock], failed=[clock], reversed=[clock])
        >>> round(found.success, 6), round(found.reversed, 6), found.gap, found.auc_final
        (1.0, 1.0, 0.0, 0.5)
    """
    if not len(success):
        raise ValueError("value_order needs at least one successful episode, got none.")
    if not 0 <= final <= 1:
        raise ValueError(f"final must lie in [0, 1], got {final}.")
    good, bad = ([series(episode, "an episode") for episode in group] for group in (success, failed))
    forward, failing = _mean_order(good), _mean_order(bad)
    backward, other = (
        _mean_order([series(episode, "an episode") for episode in group]) for group in (reversed, wrong_goal)
    )
    label = [1] * len(good) + [0] * len(bad)
    return ValueOrder(
        forward,
        failing,
        backward,
        other,
        forward - failing,
        _mean_order(good, lambda values: kendall(values, np.arange(len(values)))),
        roc_auc([final_reward(episode, final) for episode in good + bad], label),
        roc_auc([episode.mean() for episode in good + bad], label),
    )


def final_reward(rewards: ArrayLike, share: float = 0.0) -> float:
    """Mean of the last ``share`` of an episode's rewards ``(T,)``, of at least one."""
    values = np.asarray(rewards, np.float64)
    return float(values[-max(1, round(share * len(values))) :].mean())


def _mean_order(episodes: Sequence[Floats], order: Callable[[Floats], float] = value_order_correlation) -> float:
    """Average an order over episodes, constant ones counting 0; nan without episodes."""
    found = [order(episode) for episode in episodes]
    return float(np.mean([0.0 if math.isnan(value) else value for value in found])) if found else math.nan
