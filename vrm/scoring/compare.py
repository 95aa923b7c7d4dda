"""Paired comparison of scored runs: how much better, how often, and how sure that is.

Rows are paired by id, prompt and reward. Clips of one prompt resemble each other, so intervals come from a bootstrap
that draws whole prompts (Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from vrm.metrics.inputs import series

Key = tuple[str | None, str | None, str]
_Entry = tuple[int, int, str | None, float, float]  # both rows, their prompt, both numbers
SCORE = "score"  # the name under which a row's score stands beside its dimensions
_CELLS = 2_000_000  # draws held at once, so that memory does not grow with the number of prompts


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: the mean.
        low: lower end of the interval, nan where there is only one cluster.
        high: upper end, likewise.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pairs:
    """The scores of two runs for the same items, element i of each field about the same item.

    Attributes:
        reward: which reward gave them.
        dimension: ``"score"`` or the name of a dimension.
        rows: ``(P, 2)`` row numbers in the first and in the second table, the first one where an item has several.
        prompts: ``P`` prompts.
        first: ``(P,)`` numbers of the first run.
        second: ``(P,)`` numbers of the second run.
    """

    reward: str
    dimension: str
    rows: NDArray[np.int64]
    prompts: list[str | None]
    first: NDArray[np.float64]
    second: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How the second run does against the first, for one reward and dimension.

    Attributes:
        pairs: what was compared.
        difference: mean of second minus first.
        win_rate: share of pairs in which the second is higher, a tie counting one half; in [0, 1].
        wins: pairs in which the second is higher.
        ties: pairs of equal numbers, up to rounding.
        losses: pairs in which the first is higher.
        clusters: how many independent groups the intervals rest on.
        clustered_by: ``"prompt"``, or ``"pair"`` where all pairs share one prompt.
    """

    pairs: Pairs
    difference: Estimate
    win_rate: Estimate
    wins: int
    ties: int
    losses: int
    clusters: int
    clustered_by: Literal["prompt", "pair"]


def clustered_mean(
    values: ArrayLike, clusters: Sequence[str | None], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean with a percentile bootstrap interval in which clusters, not single values, are drawn with replacement.

    With fewer than some ten clusters such an interval is too narrow.

    Args:
        values: ``(N,)`` finite numbers.
        clusters: ``N`` cluster names; values of one name are drawn together.
        confidence: how often the interval should hold the truth, in (0, 1).
        resamples: number of draws.
        seed: of the draws; up to rounding, the result is the same in whatever order the values come.

    Raises:
        ValueError: if there are no values, one is not finite, the lengths differ or ``confidence`` is out of range.

    Example:
        >>> clustered_mean([1, 1, 4, 4], ["a", "a", "b", "b"])
        Estimate(value=2.5, low=1.0, high=4.0)
    """
    array = series(values, "values", minimum=1)
    if len(clusters) != len(array):
        raise ValueError(f"values and clusters must have one length, got {len(array)} and {len(clusters)}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    names, group = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    sums, sizes = (np.bincount(group, weights=each).astype(np.float64) for each in (array, np.ones_like(array)))
    value = float(sums.sum() / sizes.sum())
    if len(names) < 2:
        return Estimate(value, math.nan, math.nan)
    means = _resampled_means(sums, sizes, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


def pair_rows(first: pa.Table, second: pa.Table) -> list[Pairs]:
    """Pair the rows of two score tables (:data:`vrm.scoring.schema.ROW`) by id, prompt and reward.

    Rows that repeat a key, such as several seeds of one item, are averaged first. Items without a finite number in
    both tables are left out, for each dimension by itself.

    Returns:
        One entry for each reward and dimension that both have, the score first, in the order of the first table.
    """
    here, there = _numbers(first), _numbers(second)
    found: dict[tuple[str, str], list[_Entry]] = {}
    for key, (row, numbers) in here.items():
        if key not in there:
            continue
        other_row, other = there[key]
        for dimension, number in numbers.items():
            if dimension in other:
                entry = (row, other_row, key[1], number, other[dimension])
                found.setdefault((key[2], dimension), []).append(entry)
    return [_pairs(reward, dimension, entries) for (reward, dimension), entries in found.items()]


def compare_pairs(pairs: Pairs, seed: int = 0) -> Comparison:
    """Compare the second run of ``pairs`` with the first; intervals hold with 95 % confidence.

    Example:
        >>> scores = np.array([0.0, 0.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0, 1.0])
        >>> rows = np.zeros((4, 2), dtype=np.int64)
        >>> result = compare_pairs(Pairs("goal", "score", rows, ["a", "a", "b", "b"], *scores))
        >>> result.difference, result.win_rate.value
        (Estimate(value=0.5, low=-0.5, high=1.5), 0.625)
    """
    # Two machines differ in the last digits of float32; that is no win.
    tied = np.isclose(pairs.first, pairs.second, rtol=1e-5, atol=1e-8)
    difference = pairs.second - pairs.first
    credit = np.where(tied, 0.5, difference > 0)
    clusters: Sequence[str | None] = pairs.prompts
    one_prompt = len(set(clusters)) < 2
    if one_prompt:
        clusters = [str(row) for row in range(len(difference))]
    wins, ties = int((credit == 1).sum()), int(tied.sum())
    return Comparison(
        pairs,
        clustered_mean(difference, clusters, seed=seed),
        clustered_mean(credit, clusters, seed=seed),
        wins,
        ties,
        len(difference) - wins - ties,
        len(set(clusters)),
        "pair" if one_prompt else "prompt",
    )


def compare_runs(first: pa.Table, second: pa.Table, seed: int = 0) -> list[Comparison]:
    """Compare two score tables for each reward and dimension; see :func:`pair_rows` and :func:`compare_pairs`."""
    return [compare_pairs(pairs, seed) for pairs in pair_rows(first, second)]


def row_numbers(table: pa.Table) -> list[dict[str, float]]:
    """Collect the finite numbers of each row by name: ``"score"`` first, then its dimensions."""
    scores, dimensions = table["score"].to_pylist(), table["dimensions"].to_pylist()
    rows = [
        {SCORE: score} | dict(parts or []) | {SCORE: score} for score, parts in zip(scores, dimensions, strict=True)
    ]
    return [{name: v for name, v in row.items() if v is not None and math.isfinite(v)} for row in rows]


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Mean of the values in each of ``resamples`` draws of clusters with replacement."""
    count = len(sums)
    step = max(_CELLS // count, 1)
    chunks = []
    for start in range(0, resamples, step):
        drawn = rng.integers(0, count, (min(step, resamples - start), count))
        chunks.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(chunks)


def _numbers(table: pa.Table) -> dict[Key, tuple[int, dict[str, float]]]:
    """Map id, prompt and reward to the first such row and the numbers, averaged where there are several rows."""
    rows: dict[Key, int] = {}
    found: dict[Key, dict[str, list[float]]] = {}
    keys = zip(*(table[name].to_pylist() for name in ("id", "prompt", "reward")), strict=True)
    for row, (key, numbers) in enumerate(zip(keys, row_numbers(table), strict=True)):
        if numbers:
            rows.setdefault(key, row)
        for name, number in numbers.items():
            found.setdefault(key, {}).setdefault(name, []).append(number)
    return {key: (row, {name: float(np.mean(v)) for name, v in found[key].items()}) for key, row in rows.items()}


def _pairs(reward: str, dimension: str, entries: list[_Entry]) -> Pairs:
    rows, others, prompts, first, second = zip(*entries, strict=True)
    return Pairs(
        reward,
        dimension,
        np.array([rows, others], dtype=np.int64).T,
        list(prompts),
        np.array(first, dtype=np.float64),
        np.array(second, dtype=np.float64),
    )
