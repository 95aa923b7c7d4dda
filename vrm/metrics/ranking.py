"""What choosing the best of N by a score is worth, and whether a judge of pairs minds the order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from vrm.metrics.inputs import Floats, paired_series

Item = TypeVar("Item")


@dataclass(frozen=True)
class BestOfN:
    """What is gained by keeping the highest-scored item of each group; all but ``groups`` are nan without groups.

    Attributes:
        top1: chance that the kept item is one of the best of its group, in [0, 1].
        regret: mean of the group's best target minus the kept item's target, at least 0, in units of the target.
        random_top1: the same chance for an item picked blindly.
        random_regret: the same mean for an item picked blindly.
        groups: how many groups hold two items or more with different targets; the others cannot tell.
    """

    top1: float
    regret: float
    random_top1: float
    random_regret: float
    groups: int


@dataclass(frozen=True)
class PositionBias:
    """How a judge of pairs depends on which item is shown first; all but ``pairs`` are nan without pairs.

    Attributes:
        consistency: share of pairs with the same verdict in both orders, in [0, 1].
        first: share of all verdicts that prefer the item shown first, in [0, 1].
        second: share that prefer the item shown second; what is left are ties.
        pairs: how many pairs were shown both ways.
    """

    consistency: float
    first: float
    second: float
    pairs: int


def best_of_n(score: ArrayLike, target: ArrayLike, groups: Sequence[str]) -> BestOfN:
    """Measure best-of-N selection: of each group, the item with the highest score is kept.

    Equal highest scores share the choice, so the result does not depend on the order of items.

    Args:
        score: ``(N,)`` finite.
        target: ``(N,)`` what the items are worth to people, finite, higher is better.
        groups: ``N`` names, usually prompts.

    Raises:
        ValueError: if the lengths differ or a value is not finite.

    Example:
        >>> best_of_n([0.1, 0.9, 0.4], [3, 5, 1], ["cat", "cat", "cat"])
        BestOfN(top1=1.0, regret=0.0, random_top1=0.3333333333333333, random_regret=2.0, groups=1)
    """
    scores, targets = paired_series(score, target, ("score", "target"), minimum=0)
    rows = []
    for members in group_members(groups, len(scores)):
        worth = targets[members]
        if np.ptp(worth) == 0:
            continue
        kept = worth[scores[members] == scores[members].max()]
        best = worth.max()
        rows.append(((kept == best).mean(), best - kept.mean(), (worth == best).mean(), best - worth.mean()))
    top1, regret, random_top1, random_regret = (
        (math.fsum(column) / len(rows) for column in zip(*rows, strict=True)) if rows else [math.nan] * 4
    )
    return BestOfN(top1, regret, random_top1, random_regret, len(rows))


def group_members(groups: Sequence[str], count: int) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Return the places of each group's members, groups in the order of their names.

    Raises:
        ValueError: if there is not one name for each of ``count`` items.
    """
    if len(groups) != count:
        raise ValueError(f"groups must hold one name per item, got {len(groups)} for {count} items.")
    places: dict[str, list[int]] = {}
    for index, name in enumerate(groups):
        places.setdefault(name, []).append(index)
    return [np.array(places[name], dtype=np.intp) for name in sorted(places)]


def position_bias(forward: ArrayLike, swapped: ArrayLike) -> PositionBias:
    """Compare a judge's verdicts on (A, B) with its verdicts on (B, A).

    Args:
        forward: ``(P,)`` above 0 where the judge prefers the first of (A, B), below 0 the second, 0 neither; finite.
        swapped: ``(P,)`` the same for (B, A), again seen from the item shown first.

    Raises:
        ValueError: if the lengths differ or a value is not finite.

    Example:
        >>> position_bias([1, 1, -1, 0], [-1, 1, 1, 0])
        PositionBias(consistency=0.75, first=0.5, second=0.25, pairs=4)
    """
    there, back = paired_series(forward, swapped, ("forward", "swapped"), minimum=0)
    if not len(there):
        return PositionBias(math.nan, math.nan, math.nan, 0)
    verdicts: Floats = np.concatenate([np.sign(there), np.sign(back)])
    consistent = float((np.sign(there) == -np.sign(back)).mean())
    return PositionBias(consistent, float((verdicts > 0).mean()), float((verdicts < 0).mean()), len(there))


def probe_position(judge: Callable[[Item, Item], float], pairs: Iterable[tuple[Item, Item]]) -> PositionBias:
    """Show every pair to ``judge`` in both orders.

    Args:
        judge: takes the first and the second item; above 0 prefers the first, below 0 the second, 0 neither.
        pairs: items of any kind.

    Raises:
        ValueError: if a verdict is not finite.

    Example:
        >>> probe_position(lambda first, second: 1.0, [("a", "b"), ("c", "d")])
        PositionBias(consistency=0.0, first=1.0, second=0.0, pairs=2)
    """
    shown = list(pairs)
    return position_bias([judge(a, b) for a, b in shown], [judge(b, a) for a, b in shown])
