"""One dimension of a benchmark: how the scores of videos agree with what people said about them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from vrm.data import OVERALL, PreferencePair, RatedVideo
from vrm.metrics import (
    Agreement,
    BestOfN,
    GroupedMean,
    best_of_n,
    four_way_accuracy,
    grouped_mean,
    kendall,
    measure_agreement,
    spearman,
)
from vrm.scoring.compare import Estimate, clustered_mean

Key = tuple[str, str | None]  # a video's absolute path and its prompt
Scores = Mapping[Key, float]
CREDITS = ("strict", "tie_aware", "heldout")
_WORTH = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}
_PREFERENCE = {"a": 1.0, "b": -1.0, "tie": 0.0, None: math.nan}


@dataclass(frozen=True, eq=False)
class DimensionResult:
    """Agreement of scores and people in one dimension.

    Attributes:
        dimension: as the benchmark names it.
        scored_by: ``"score"``, or the reward's dimension that was compared.
        agreement: over the pairs, with baselines; of rated videos, over all pairs within a prompt.
        intervals: 95 % intervals of ``"strict"``, ``"tie_aware"`` and ``"heldout"``, from draws of whole clusters.
        clustered_by: ``"prompt"``, or ``"pair"`` where fewer than two prompts are known.
        clusters: how many there are.
        target: what a video is worth in the rank figures: its ``"rating"``, or its ``"win rate"`` over its pairs.
        spearman: of scores and targets, ungrouped.
        kendall: tau-b, ungrouped.
        spearman_by_prompt: mean over prompts.
        kendall_by_prompt: tau-b, mean over prompts.
        best_of_n: what keeping the best-scored video of each prompt is worth.
        videos: how many scored videos the rank figures rest on.
        four_way: overall accuracy with ties told apart into both good and both bad, cross-fitted; nan where people had
            no such choice.
        four_way_majority: share of the commonest of the four votes, likewise.
    """

    dimension: str
    scored_by: str
    agreement: Agreement
    intervals: Mapping[str, Estimate]
    clustered_by: str
    clusters: int
    target: str
    spearman: float
    kendall: float
    spearman_by_prompt: GroupedMean
    kendall_by_prompt: GroupedMean
    best_of_n: BestOfN
    videos: int
    four_way: float = math.nan
    four_way_majority: float = math.nan

    def figures(self) -> dict[str, float | int | str]:
        """The result as one flat row of a table; undefined figures are nan."""
        found = self.agreement
        row: dict[str, float | int | str] = {
            "dimension": self.dimension,
            "scored_by": self.scored_by,
            "pairs": found.pairs,
            "human_ties": found.human_ties,
            "human_tie_share": found.tie_share,
            "model_ties": found.model_ties,
        }
        for name in (*CREDITS, "oracle"):
            row[name] = getattr(found.accuracy, name)
            if name in self.intervals:
                row[f"{name}_low"], row[f"{name}_high"] = self.intervals[name].low, self.intervals[name].high
        row["oracle_epsilon"] = found.epsilon
        for baseline, accuracies in found.baselines.items():
            row |= {f"{baseline}_{name}": getattr(accuracies, name) for name in (*CREDITS, "oracle")}
        return row | {
            "four_way": self.four_way,
            "four_way_majority": self.four_way_majority,
            "clustered_by": self.clustered_by,
            "clusters": self.clusters,
            "target": self.target,
            "videos": self.videos,
            "spearman": self.spearman,
            "kendall": self.kendall,
            "spearman_by_prompt": self.spearman_by_prompt.value,
            "kendall_by_prompt": self.kendall_by_prompt.value,
            "rank_prompts": self.spearman_by_prompt.groups,
            "top1": self.best_of_n.top1,
            "random_top1": self.best_of_n.random_top1,
            "regret": self.best_of_n.regret,
            "random_regret": self.best_of_n.random_regret,
            "best_of_n_prompts": self.best_of_n.groups,
            **{f"dropped: {reason}": count for reason, count in found.dropped.items()},
        }


def judge_pairs(
    pairs: Sequence[PreferencePair], scores: Scores, dimension: str, scored_by: str, folds: int
) -> DimensionResult:
    """Compare scores with preferences in one dimension.

    A video's target for the rank figures is its win rate: the mean over its pairs of 1, one half (tie) or 0.

    Args:
        pairs: of the benchmark.
        scores: finite or nan, by path and prompt; a video that is absent has no score.
        dimension: whose labels count.
        scored_by: what the scores are, for the result.
        folds: of the cross-fitting.
    """
    margin = np.array(
        [scores.get((p.video_a, p.prompt), math.nan) - scores.get((p.video_b, p.prompt), math.nan) for p in pairs]
    )
    preference = np.array([_PREFERENCE[p.judgement(dimension)] for p in pairs])
    won: dict[Key, list[float]] = {}
    for pair, known in zip(pairs, np.isfinite(margin), strict=True):
        label = pair.judgement(dimension)
        if label is not None and known:
            for video, worth in zip(pair.videos, _WORTH[label], strict=True):
                won.setdefault((video, pair.prompt), []).append(worth)
    targets = {key: math.fsum(worths) / len(worths) for key, worths in won.items()}
    prompts = [pair.prompt for pair in pairs]
    result = _judge(margin, preference, prompts, targets, scores, (dimension, scored_by, "win rate"), folds)
    if dimension != OVERALL or not any(pair.vote == "bad" for pair in pairs):
        return result
    counted = [pair for pair, keep in zip(pairs, result.agreement.kept, strict=True) if keep]
    four_way, majority = _four_ways(counted, scores, folds)
    return replace(result, four_way=four_way, four_way_majority=majority)


def judge_ratings(
    videos: Sequence[RatedVideo], scores: Scores, dimension: str, scored_by: str, folds: int
) -> DimensionResult:
    """Compare scores with ratings in one dimension; every two videos of one prompt make a pair.

    Args:
        videos: of the benchmark.
        scores: as for :func:`judge_pairs`.
        dimension: whose ratings count.
        scored_by: what the scores are, for the result.
        folds: of the cross-fitting.
    """
    rated: dict[str, list[tuple[float, float]]] = {}
    targets: dict[Key, float] = {}
    for video in videos:
        key, rating = (video.video, video.prompt), video.ratings.get(dimension, math.nan)
        score = scores.get(key, math.nan)
        if math.isfinite(rating) and math.isfinite(score):
            targets[key] = rating
        if video.prompt is not None and not math.isnan(rating):
            rated.setdefault(video.prompt, []).append((score, rating))
    rows = [
        (first[0] - second[0], np.sign(first[1] - second[1]), prompt)
        for prompt, members in rated.items()
        for first, second in combinations(members, 2)
    ]
    margin, preference = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], np.float64)
    prompts = [row[2] for row in rows]
    return _judge(margin, preference, prompts, targets, scores, (dimension, scored_by, "rating"), folds)


def _four_ways(pairs: Sequence[PreferencePair], scores: Scores, folds: int) -> tuple[float, float]:
    """Both figures of the votes with two kinds of tie, over pairs that have a label and scores."""
    votes = [pair.vote for pair in pairs if pair.vote is not None]
    first, second = ([scores[(pair.videos[side], pair.prompt)] for pair in pairs] for side in (0, 1))
    groups = _groups([pair.prompt for pair in pairs])
    commonest = max(Counter(votes).values(), default=0)
    accuracy = four_way_accuracy(first, second, votes, groups, folds)
    return accuracy, commonest / len(votes) if votes else math.nan


def _groups(prompts: Sequence[str | None]) -> list[str]:
    """Name the cluster of each pair: its prompt, or itself where fewer than two prompts are known."""
    by_prompt = len(set(prompts)) > 1
    return [f"prompt {p}" if by_prompt and p else f"pair {i}" for i, p in enumerate(prompts)]


def _judge(
    margin: np.ndarray[tuple[int], np.dtype[np.float64]],
    preference: np.ndarray[tuple[int], np.dtype[np.float64]],
    prompts: Sequence[str | None],
    targets: Mapping[Key, float],
    scores: Scores,
    names: tuple[str, str, str],
    folds: int,
) -> DimensionResult:
    by_prompt = len(set(prompts)) > 1
    groups = _groups(prompts)
    agreement = measure_agreement(margin, preference, groups, folds)
    kept = [group for group, keep in zip(groups, agreement.kept, strict=True) if keep]
    order = sorted(targets, key=lambda key: (key[0], key[1] or ""))
    score, target = [scores[key] for key in order], [targets[key] for key in order]
    prompt = [f"prompt {key[1]}" if key[1] else f"video {key[0]}" for key in order]  # unknown prompts share nothing
    enough = len(order) > 1
    return DimensionResult(
        names[0],
        names[1],
        agreement,
        {name: _interval(agreement, name, kept) for name in CREDITS},
        "prompt" if by_prompt else "pair",
        len(set(kept)),
        names[2],
        spearman(score, target) if enough else math.nan,
        kendall(score, target) if enough else math.nan,
        grouped_mean(spearman, score, target, prompt),
        grouped_mean(kendall, score, target, prompt),
        best_of_n(score, target, prompt),
        len(order),
    )


def _interval(agreement: Agreement, name: str, groups: Sequence[str]) -> Estimate:
    counted = ~np.isnan(agreement.credits[name])
    if not counted.any():
        return Estimate(math.nan, math.nan, math.nan)
    chosen = [group for group, keep in zip(groups, counted, strict=True) if keep]
    return clustered_mean(agreement.credits[name][counted], chosen)
