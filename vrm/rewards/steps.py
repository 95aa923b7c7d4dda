"""Step discovery: where one step of a demonstration ends and the next begins.

Two criteria. :func:`discover_steps` cuts one demonstration by the cost of Sermanet, Xu and Levine 2016 (arXiv
1612.06699), exactly. :func:`segment_jointly` cuts several at once by the likelihood that the cost stands
for, an independent Gaussian per step and feature, with the Gaussians shared between demonstrations.
:func:`choose_steps` finds the number of steps by that likelihood.

Features are ``(T, D)``, steps are numbered from 0, and *cuts* are the first frames of all steps but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Cuts = NDArray[np.int64]

FLOOR = 0.1  # least deviation of a feature inside a step, in units of its deviation over all frames
ROUNDS = 100  # at most; a handful is usual
BLOCK = 2**22  # numbers held at once while the table of costs is made


def default_min_size(total: int) -> int:
    """Least frames of a step in a demonstration of ``total`` frames: a twentieth, and no fewer than 2."""
    return max(2, total // 20)


def segment_costs(features: ArrayLike) -> Floats:
    """Tabulate how much each stretch of a demonstration varies: ``c(a, b)``, the mean over features of their deviation.

    Args:
        features: ``(T, D)``.

    Returns:
        ``(T + 1, T + 1)`` float64: ``c[a, b]`` is the cost of frames ``a`` up to but without ``b``, infinite unless
        ``a < b``. Takes ``O(T^2 D)`` time; besides the table, memory grows with ``T D`` only.

    Source: Sermanet, Xu and Levine 2016, arXiv 1612.06699.
    """
    values = _features(features)
    costs: Floats = _tabulate(values, lambda variance, count: np.sqrt(variance)) / values.shape[1]
    return costs


def discover_steps(features: ArrayLike, steps: int, min_size: int | None = None) -> Cuts:
    """Cut a demonstration where the sum over steps of :func:`segment_costs` is least.

    The published recursion over all cuts takes ``O(T^(steps - 1))``; dynamic programming finds the same minimum in
    ``O(steps T^2)`` once costs are tabulated.

    Args:
        features: ``(T, D)``.
        steps: number ``n`` of steps.
        min_size: least frames per step; ``max(2, T // 20)`` by default.

    Returns:
        ``(n - 1,)`` int64, increasing: the first frame of every step after the first. Of equal sums the earliest cuts.

    Raises:
        ValueError: if a feature is not finite, or ``steps`` steps of ``min_size`` frames do not fit.

    Example:
        >>> discover_steps([[0.0], [0.1], [0.0], [5.0], [5.1], [9.0], [9.0]], steps=3)
        array([3, 5])
    """
    values = _features(features)
    least = check_fit(len(values), steps, min_size)
    return _cut(segment_costs(values), steps, least)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Steps of several demonstrations under shared statistics.

    Attributes:
        cuts: per demonstration, ``(n - 1,)`` first frames of the steps after the first.
        means: ``(n, D)`` of each step.
        deviations: ``(n, D)`` of each step, at least ``FLOOR``.
        objective: negative log-likelihood of all frames in nats, without the constant.
        history: the objective after each round; never rises.
    """

    cuts: list[Cuts]
    means: Floats
    deviations: Floats
    objective: float
    history: list[float]


def segment_jointly(demos: Sequence[ArrayLike], steps: int, min_size: int | None = None) -> Segmentation:
    """Cut several demonstrations of one task at once.

    Step ``s`` has one Gaussian per feature, shared by all demonstrations, whose cuts remain their own. Starting from
    the likeliest cuts of each demonstration for itself, two exact moves alternate until nothing changes: the Gaussians
    that fit the present steps best, and the cuts that fit the present Gaussians best (in order, by dynamic
    programming). Neither can raise the negative log-likelihood. To be less at the mercy of one odd demonstration, the
    Gaussians of each one alone are tried as a start too, and the best end is kept.

    Args:
        demos: ``(T_i, D)`` features of each, standardised over all frames: deviations are kept above 0.1.
        steps: number ``n`` of steps.
        min_size: least frames per step; ``max(2, T_i // 20)`` by default.

    Raises:
        ValueError: if features are not finite or not of one ``D``, or a demonstration is too short.
    """
    values = _all_features(demos)
    least = [check_fit(len(demo), steps, min_size) for demo in values]
    return _best_end(values, [_tabulate(demo, _misfit) for demo in values], steps, least)


def bic_scores(demos: Sequence[ArrayLike], max_steps: int = 6, min_size: int | None = None) -> dict[int, float]:
    """Score every number of steps from 2 to ``max_steps`` by the Bayesian information criterion; the least is best.

    With ``J(n)`` the negative log-likelihood of :func:`segment_jointly` over ``M`` frames and ``D`` features::

        BIC(n) = 2 J(n) (r / D) (1 / tau) + (2 n r + N (n - 1)) log(M / tau)

    Neighbouring frames of a video say nearly the same, and so do features of one network: taken as ``M D``
    independent numbers they would always ask for more steps. So the likelihood counts ``M / tau`` frames and ``r``
    features only, and a step has a mean and a deviation for each of these; every demonstration has ``n - 1`` cuts.
    ``tau = (1 + rho) / (1 - rho)``, with ``rho`` the correlation of neighbouring frames, and
    ``r = (sum l)^2 / sum l^2``, with ``l`` the eigenvalues of the covariance of features, are measured on what the
    segmentation into ``max_steps`` leaves unexplained.

    What counts is what looks alike for a while. The way from one posture to the next looks like neither, so where it
    takes more than ``min_size`` frames it may be counted as a step of its own: three for standing, sitting down and
    sitting. Give the number where another is meant.

    Args:
        demos: ``(T_i, D)`` features of each, standardised over all frames.
        max_steps: most steps tried; fewer are where the shortest demonstration has no room for so many.
        min_size: least frames per step; ``max(2, T_i // 10)`` by default, so that the way from one step to the next
            does not easily pass for one.

    Raises:
        ValueError: as :func:`segment_jointly`, or if ``max_steps`` is below 2.
    """
    values = _all_features(demos)
    if max_steps < 2:
        raise ValueError(f"max_steps must be at least 2, got {max_steps}.")
    sizes = [max(2, len(demo) // 10) if min_size is None else min_size for demo in values]
    for demo, size in zip(values, sizes, strict=True):
        check_fit(len(demo), 2, size)
    most = min(max_steps, *(len(demo) // size for demo, size in zip(values, sizes, strict=True)))
    tables = [_tabulate(demo, _misfit) for demo in values]
    found = {steps: _best_end(values, tables, steps, sizes) for steps in range(2, most + 1)}
    tau, rank = _effective(values, found[most])
    frames = sum(len(demo) for demo in values)
    scale = rank / values[0].shape[1] / tau
    return {
        steps: 2 * scale * end.objective
        + (2 * steps * rank + len(values) * (steps - 1)) * float(np.log(max(frames / tau, 2)))
        for steps, end in found.items()
    }


def choose_steps(demos: Sequence[ArrayLike], max_steps: int = 6, min_size: int | None = None) -> int:
    """Choose the number of steps whose :func:`bic_scores` is least; arguments as there."""
    scores = bic_scores(demos, max_steps, min_size)
    return min(scores, key=scores.__getitem__)


def random_cuts(total: int, steps: int, rng: np.random.Generator, min_size: int = 1) -> Cuts:
    """Draw cuts in order, all legal ones equally likely: what step discovery is measured against.

    Raises:
        ValueError: if ``steps`` steps of ``min_size`` frames do not fit into ``total``.
    """
    check_fit(total, steps, min_size)
    spare = total - steps * min_size
    # n - 1 of (spare + n - 1) places taken without replacement are as many as there are ways to share out what is spare
    places = np.sort(rng.choice(spare + steps - 1, steps - 1, replace=False)) - np.arange(steps - 1)
    cuts: Cuts = places + min_size * np.arange(1, steps)
    return cuts


def step_masks(cuts: ArrayLike, total: int) -> NDArray[np.bool_]:
    """Turn cuts into ``(n, total)`` bool: which frames belong to each step.

    Example:
        >>> step_masks([2, 3], total=5).astype(int)
        array([[1, 1, 0, 0, 0],
               [0, 0, 1, 0, 0],
               [0, 0, 0, 1, 1]])
    """
    begun = np.arange(total) >= np.asarray(cuts, np.int64)[:, None]
    number = begun.sum(axis=0)
    masks: NDArray[np.bool_] = number == np.arange(len(begun) + 1)[:, None]
    return masks


def jaccard(found: ArrayLike, true: ArrayLike) -> Floats:
    """Overlap of found and true frames of each step: those in both, divided by those in either.

    Args:
        found: ``(n, T)`` bool; frames may belong to several steps or to none.
        true: ``(n, T)`` bool.

    Returns:
        ``(n,)`` in [0, 1]; nan for a step with neither found nor true frames.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> jaccard(step_masks([2], 6), step_masks([3], 6))
        array([0.66666667, 0.75      ])
    """
    a, b = np.asarray(found, bool), np.asarray(true, bool)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"found and true must be (n, T) of one shape, got {a.shape} and {b.shape}.")
    either = (a | b).sum(axis=1)
    return np.where(either > 0, (a & b).sum(axis=1) / np.maximum(either, 1), np.nan)


def check_fit(total: int, steps: int, min_size: int | None) -> int:
    """Return the least number of frames per step.

    Raises:
        ValueError: if ``steps`` steps of so many do not fit into ``total`` frames, or a number is below 1.
    """
    least = default_min_size(total) if min_size is None else min_size
    if steps < 1 or least < 1:
        raise ValueError(f"steps and min_size must be at least 1, got steps={steps} and min_size={least}.")
    if total < steps * least:
        raise ValueError(
            f"{steps} steps of at least {least} frames need {steps * least} frames, got {total}; "
            "ask for fewer steps or read the video at a higher frame rate."
        )
    return least


def _features(features: ArrayLike) -> Floats:
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"Features must be (T, D) with at least one frame and feature, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("Features hold NaN or infinity; steps need finite ones.")
    return values


def _all_features(demos: Sequence[ArrayLike]) -> list[Floats]:
    values = [_features(demo) for demo in demos]
    if len({demo.shape[1] for demo in values}) != 1:
        raise ValueError(f"Demonstrations must share their features, got sizes {[v.shape[1] for v in values]}.")
    return values


def _prefix(values: Floats) -> Floats:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])


def _tabulate(values: Floats, cost: Callable[[Floats, Floats], Floats]) -> Floats:
    """Sum ``cost`` of variance and number of frames over all features, for every stretch of frames."""
    total, dims = values.shape
    values = values - values.mean(axis=0)  # the difference of squares below loses digits far from zero
    table = np.full((total + 1, total + 1), np.inf)
    table[np.triu_indices(total + 1, 1)] = 0.0
    width = max(BLOCK // total, 1)
    for left in range(0, dims, width):
        block = np.ascontiguousarray(values[:, left : left + width])
        sums, squares = _prefix(block), _prefix(block**2)
        for start in range(total):
            count = np.arange(1.0, total - start + 1)[:, None]
            mean = (sums[start + 1 :] - sums[start]) / count
            variance = (squares[start + 1 :] - squares[start]) / count - mean**2
            table[start, start + 1 :] += cost(np.maximum(variance, 0.0), count).sum(axis=1)
    return table


def _misfit(variance: Floats, count: Floats) -> Floats:
    """Negative log-likelihood of a stretch under its own Gaussian, whose deviation is no less than ``FLOOR``."""
    allowed = np.maximum(variance, FLOOR**2)
    misfit: Floats = 0.5 * count * (np.log(allowed) + variance / allowed)
    return misfit


def _cut(costs: Floats, steps: int, least: int) -> Cuts:
    """Choose the cuts of least summed cost from a table of costs."""
    total = len(costs) - 1
    start, end = np.ogrid[: total + 1, : total + 1]
    legal = np.where(end - start >= least, costs, np.inf)
    best, choices = legal[0], []
    for _ in range(1, steps):
        sums = best[:, None] + legal
        choices.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    return _trace(choices, total)


def _trace(choices: Sequence[NDArray[np.int64]], end: int) -> Cuts:
    """Follow the best predecessors back from the end."""
    cuts = []
    for choice in reversed(choices):
        end = int(choice[end])
        cuts.append(end)
    return np.array(cuts[::-1], np.int64)


def _best_end(values: Sequence[Floats], tables: Sequence[Floats], steps: int, least: Sequence[int]) -> Segmentation:
    """Alternate from the pooled statistics of all demonstrations cut alone, and from those of each; keep the best."""
    alone = [_cut(table, steps, size) for table, size in zip(tables, least, strict=True)]
    starts = [_statistics(values, alone, steps)]
    if len(values) > 1:
        starts += [_statistics([demo], [cuts], steps) for demo, cuts in zip(values, alone, strict=True)]
    return min((_alternate(values, *start, least) for start in starts), key=lambda end: end.objective)


def _alternate(values: Sequence[Floats], means: Floats, deviations: Floats, least: Sequence[int]) -> Segmentation:
    history: list[float] = []
    cuts: list[Cuts] = []
    while len(history) < ROUNDS:
        new = [_assign(demo, means, deviations, size) for demo, size in zip(values, least, strict=True)]
        if cuts and all(np.array_equal(a, b) for a, b in zip(cuts, new, strict=True)):
            break
        cuts = new
        means, deviations = _statistics(values, cuts, len(means))
        history.append(_objective(values, cuts, means, deviations))
    return Segmentation(cuts, means, deviations, history[-1], history)


def _objective(values: Sequence[Floats], cuts: Sequence[Cuts], means: Floats, deviations: Floats) -> float:
    return sum(
        float(_surprise(demo[a:b], means[s], deviations[s]).sum())
        for demo, own in zip(values, cuts, strict=True)
        for s, (a, b) in enumerate(_spans(own, len(demo)))
    )


def _spans(cuts: Cuts, total: int) -> list[tuple[int, int]]:
    return list(pairwise([0, *(int(cut) for cut in cuts), total]))


def _statistics(values: Sequence[Floats], cuts: Sequence[Cuts], steps: int) -> tuple[Floats, Floats]:
    """Most likely mean and deviation of each step and feature, the deviation no less than ``FLOOR``."""
    spans = [_spans(own, len(demo)) for demo, own in zip(values, cuts, strict=True)]
    pooled = [
        np.concatenate([demo[slice(*own[s])] for demo, own in zip(values, spans, strict=True)]) for s in range(steps)
    ]
    means = np.stack([frames.mean(axis=0) for frames in pooled])
    deviations = np.stack([frames.std(axis=0) for frames in pooled])
    return means, np.maximum(deviations, FLOOR)


def _surprise(frames: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Negative log-likelihood of each frame ``(T,)`` under one step, without the constant."""
    total: Floats = (0.5 * ((frames - mean) / deviation) ** 2 + np.log(deviation)).sum(axis=1)
    return total


def _assign(demo: Floats, means: Floats, deviations: Floats, least: int) -> Cuts:
    """Choose the cuts of one demonstration that are most likely under the given Gaussians."""
    total = len(demo)
    surprise = np.stack([_surprise(demo, *step) for step in zip(means, deviations, strict=True)], axis=1)
    sums = _prefix(surprise).T
    best = np.where(np.arange(total + 1) >= least, sums[0], np.inf)
    choices = []
    for own in sums[1:]:
        before = best - own  # of ending the earlier steps at each frame
        first = np.zeros(total + 1, np.int64)
        leader = np.minimum.accumulate(before)
        is_new = np.concatenate([[True], before[1:] < leader[:-1]])
        first[least:] = np.maximum.accumulate(np.where(is_new, np.arange(total + 1), 0))[: total + 1 - least]
        choices.append(first)
        best = np.full(total + 1, np.inf)
        best[least:] = own[least:] + leader[: total + 1 - least]
    return _trace(choices, total)


def _effective(values: Sequence[Floats], end: Segmentation) -> tuple[float, float]:
    """Correlation time of neighbouring frames and effective number of features of what steps do not explain."""
    rest = [
        np.concatenate(
            [(demo[a:b] - end.means[s]) / end.deviations[s] for s, (a, b) in enumerate(_spans(own, len(demo)))]
        )
        for demo, own in zip(values, end.cuts, strict=True)
    ]
    power = sum(float((r**2).sum()) for r in rest)
    if power == 0:
        return 1.0, float(values[0].shape[1])
    lagged = sum(float((r[1:] * r[:-1]).sum()) for r in rest)
    rho = float(np.clip(lagged / power, 0, 0.99))
    pooled = np.concatenate(rest)
    gram = pooled @ pooled.T if len(pooled) < pooled.shape[1] else pooled.T @ pooled
    rank = float(np.trace(gram) ** 2 / (gram**2).sum())
    return (1 + rho) / (1 - rho), max(rank, 1.0)
