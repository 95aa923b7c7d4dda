"""Preference benchmarks: how a reward, or scores made elsewhere, agree with what people said about videos."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrm.data import OVERALL, BenchmarkError, PreferenceSet, RatingSet, load_preferences
from vrm.data.tables import plain
from vrm.errors import UnknownNameError
from vrm.rewards import RewardModel
from vrm.scoring.agreement import DimensionResult, Key, judge_pairs, judge_ratings
from vrm.scoring.benchmark_report import BenchmarkResult
from vrm.scoring.given_scores import SCORE, GivenScores, ItemScores, match_scores, score_items


def run_benchmark(
    format: str,
    path: str | os.PathLike[str],
    *,
    reward: RewardModel | str | None = None,
    scores: GivenScores | None = None,
    out: str | os.PathLike[str] | None = None,
    dimensions: Mapping[str, str] | None = None,
    folds: int = 5,
    **settings: Any,
) -> BenchmarkResult:
    """Measure a reward on a preference benchmark in a local folder.

    Every distinct video is scored once under each of its prompts. Figures are those of
    :class:`vrm.scoring.agreement.DimensionResult`; the one to report is the accuracy with ties whose threshold comes
    from other prompts (``heldout``), beside the scorers that know nothing.

    Args:
        format: of the benchmark, or "auto"; see :func:`vrm.data.load_preferences`.
        path: its folder or table.
        reward: to score the videos with; or
        scores: made elsewhere, see :func:`vrm.scoring.given_scores.match_scores`; the videos need not be there then.
        out: folder for ``benchmark.json``, ``.csv`` and ``.png``, and with ``reward`` for the scores, which a later
            call continues; None writes nothing.
        dimensions: which dimension of the reward is compared in a dimension of the benchmark, where it is not the one
            of the same name, or else the score: ``{"VQ": "aesthetics"}``.
        folds: of the cross-fitted threshold.
        settings: of :func:`vrm.score`, such as ``encoder``, ``frames`` and ``workers``.

    Raises:
        BenchmarkError: if the benchmark cannot be read, nothing in it is labelled, or nothing can be scored.
        UnknownNameError: if a format or dimension is unknown.
        ValueError: if not exactly one of ``reward`` and ``scores`` is given, or settings without ``reward``.

    Example:
        >>> result = run_benchmark("auto", "VideoGen-RewardBench", reward="goal", out="bench")  # doctest: +SKIP
        >>> result.print()  # doctest: +SKIP
    """
    if (reward is None) == (scores is None):
        raise ValueError("A benchmark needs either a reward to score the videos with or scores made elsewhere.")
    if scores is not None and settings:
        raise ValueError(f"Settings {sorted(settings)} need a reward to score with; scores made elsewhere have none.")
    benchmark = load_preferences(path, format)
    if not benchmark.dimensions:
        raise BenchmarkError(f"No pair or video in {str(path)!r} has a usable label or rating; check the label column.")
    items = _distinct_items(benchmark)
    if scores is not None:
        found = match_scores(items, scores)
    else:
        assert reward is not None
        found = score_items(items, reward, **({"out": Path(out, "scores")} if out is not None else {}), **settings)
    chosen = _choose(benchmark.dimensions, found, dimensions or {})
    results = tuple(_judge(benchmark, name, found, chosen[name], folds) for name in benchmark.dimensions)
    result = BenchmarkResult(
        benchmark.format,
        str(Path(path)),
        found.source,
        results,
        len(items),
        dict(found.unscored),
        found.unmatched,
        dict(benchmark.dropped),
        dict(benchmark.unknown_labels) if isinstance(benchmark, PreferenceSet) else {},
    )
    if out is not None:
        result.save(out)
    return result


def _distinct_items(benchmark: PreferenceSet | RatingSet) -> list[Key]:
    members = benchmark.pairs if isinstance(benchmark, PreferenceSet) else benchmark.videos
    return list(dict.fromkeys((video, member.prompt) for member in members for video in member.videos))


def _choose(names: tuple[str, ...], found: ItemScores, wanted: Mapping[str, str]) -> dict[str, str]:
    """Pick what is compared in each dimension of the benchmark."""
    own = {plain(name): name for name in found.by_dimension if name != SCORE}
    for name, source in wanted.items():
        if name not in names:
            raise UnknownNameError("dimension of the benchmark", name, names)
        if source not in found.by_dimension:
            raise UnknownNameError("dimension of the reward", source, found.by_dimension)
    return {
        name: wanted.get(name) or (SCORE if name == OVERALL else own.get(plain(name), SCORE)) for name in names
    }  # fmt: skip


def _judge(
    benchmark: PreferenceSet | RatingSet, dimension: str, found: ItemScores, scored_by: str, folds: int
) -> DimensionResult:
    scores = found.by_dimension[scored_by]
    if isinstance(benchmark, PreferenceSet):
        return judge_pairs(benchmark.pairs, scores, dimension, scored_by, folds)
    return judge_ratings(benchmark.videos, scores, dimension, scored_by, folds)
