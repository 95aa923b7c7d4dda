"""What choosing the best of n by a proxy does to what is really wanted: over-optimisation without any training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from vrm.metrics.inputs import Floats, paired_series


@dataclass(frozen=True, eq=False)
class BestOfNCurve:
    """Expected worth of the best of n items by the proxy, for several n.

    Attributes:
        n: how many items the proxy chose from, rising.
        gold: ``(len(n),)`` expected gold of the chosen item.
        proxy: ``(len(n),)`` expected proxy of the chosen item; never falls.
        spread: standard deviation of gold over all items, the unit of :attr:`gain` and :attr:`drop`.
    """

    n: tuple[int, ...]
    gold: Floats = field(repr=False)
    proxy: Floats = field(repr=False)
    spread: float

    @property
    def kl(self) -> Floats:
        """``(len(n),)`` divergence of best-of-n from the policy in nats; see :func:`best_of_n_kl`."""
        return np.array([best_of_n_kl(n) for n in self.n])

    @property
    def gain(self) -> float:
        """Gold at the largest n minus gold at the smallest, in standard deviations; nan if gold never varies."""
        return float(self.gold[-1] - self.gold[0]) / self.spread if self.spread > 0 else math.nan

    @property
    def drop(self) -> float:
        """How far gold falls from its peak to the largest n, in standard deviations: over-optimisation if above 0."""
        return float(self.gold.max() - self.gold[-1]) / self.spread if self.spread > 0 else math.nan


def best_of_n_curve(proxy: ArrayLike, gold: ArrayLike, ns: Sequence[int] = (1, 4, 16, 64)) -> BestOfNCurve:
    """Expected gold of the item with the highest proxy among n drawn without replacement, over all draws.

    The item of rank k from below, of E, is the best of ``C(k - 1, n - 1)`` of the ``C(E, n)`` draws, so no draw is
    made: the estimate is unbiased and has no Monte Carlo noise. Equal proxies share the choice. With roll-outs of one
    policy as items it shows whether optimising the proxy harder costs what is wanted (Gao et al. 2023, "Scaling laws
    for reward model overoptimization", arXiv 2210.10760, whose best-of-n estimator this is).

    Args:
        proxy: ``(E,)`` finite, for instance the return under a learned reward.
        gold: ``(E,)`` finite, for instance the return under the task's own reward.
        ns: numbers of items to choose from, each in [1, E].

    Raises:
        ValueError: if the lengths differ, a value is not finite, or an n is missing or out of range.

    Example:
        >>> best_of_n_curve([1, 2, 3, 4], [0, 1, 2, 0], ns=(1, 2, 4)).gold.round(3).tolist()
        [0.75, 0.833, 0.0]
    """
    scores, worth = paired_series(proxy, gold, ("proxy", "gold"), minimum=1)
    counts = tuple(sorted(set(ns)))
    if not counts or counts[0] < 1 or counts[-1] > len(scores):
        raise ValueError(f"ns must be numbers in [1, {len(scores)}], got {list(ns)}.")
    order = np.argsort(scores, kind="stable")
    _, tied = np.unique(scores[order], return_inverse=True)
    shared = (np.bincount(tied, worth[order]) / np.bincount(tied))[tied]
    chances = np.stack([_chance_of_choice(len(scores), n) for n in counts])
    # Relative to the mean, a gold that never varies stays exactly what it is.
    centre = worth.mean()
    spread = float(worth.std()) if np.ptp(worth) > 0 else 0.0
    return BestOfNCurve(counts, centre + chances @ (shared - centre), chances @ scores[order], spread)


def best_of_n_kl(n: int) -> float:
    """Divergence of best-of-n sampling from the policy sampled from: ``ln n - (n - 1) / n`` nats.

    Raises:
        ValueError: if ``n`` is below 1.

    Example:
        >>> round(best_of_n_kl(16), 3)
        1.835
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    return math.log(n) - (n - 1) / n


def _chance_of_choice(total: int, n: int) -> Floats:
    """Chance ``(total,)`` of each rank, from below, to be the highest of ``n``: ``C(k - 1, n - 1) / C(total, n)``."""
    ranks = np.arange(total, 1, -1)
    factors = np.concatenate([[n / total], np.maximum(ranks - n, 0) / (ranks - 1)])
    return np.asarray(np.cumprod(factors)[::-1])
