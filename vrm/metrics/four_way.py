"""Agreement with votes that tell two kinds of tie apart: both videos good, or both bad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vrm.metrics.inputs import Floats, paired_series
from vrm.metrics.ties import assign_folds, best_tie_threshold

Vote = Literal["a", "b", "good", "bad"]
_PREFERENCE = {"a": 1.0, "b": -1.0, "good": 0.0, "bad": 0.0}


def four_way_accuracy(
    score_a: ArrayLike, score_b: ArrayLike, votes: Sequence[Vote], groups: Sequence[str], folds: int = 5
) -> float:
    """Share of votes that a scorer foretells: A better, B better, both good, both bad.

    The four answers are those of GenAI-Bench (Jiang et al. 2024, "GenAI Arena", arXiv 2406.04485), which are put to
    judges in words. A scorer of numbers needs two thresholds for them: a tie is called where ``|a - b|`` is at most
    epsilon (:func:`vrm.metrics.best_tie_threshold`), and a called tie is good where ``(a + b) / 2`` is above the cut
    that best parts the human ties. Both come from the other folds.

    Args:
        score_a: ``(P,)`` finite.
        score_b: ``(P,)`` finite.
        votes: ``P`` answers.
        groups: ``P`` names, usually prompts; pairs of one name share a fold.
        folds: of the cross-fitting.

    Returns:
        A number in [0, 1]; nan with fewer than two groups.

    Raises:
        ValueError: if the lengths differ, a score is not finite or a vote is another word.

    Example:
        >>> votes = ["a", "b", "good", "bad", "good", "bad"]
        >>> four_way_accuracy([5, 0, 4, 1, 5, 0], [1, 4, 4, 1, 5, 0], votes, "abcdef")
        1.0
    """
    a, b = paired_series(score_a, score_b, ("score_a", "score_b"), minimum=0)
    if not len(a) == len(votes) == len(groups):
        raise ValueError(f"scores, votes and groups must have one length, got {len(a)}, {len(votes)}, {len(groups)}.")
    unknown = [vote for vote in votes if vote not in _PREFERENCE]
    if unknown:
        raise ValueError(f"votes must be a, b, good or bad, got {unknown[0]!r}.")
    fold, said = assign_folds(groups, folds), np.array(votes, dtype=object)
    if len(np.unique(fold)) < 2:
        return math.nan
    margin, level = a - b, (a + b) / 2
    preference = np.array([_PREFERENCE[vote] for vote in votes])
    right = 0
    for one in np.unique(fold):
        here, others = fold == one, fold != one
        epsilon = best_tie_threshold(margin[others], preference[others]).epsilon
        tied = others & (preference == 0)
        cut = _best_cut(level[tied], said[tied] == "good")
        decided = np.where(margin[here] > 0, "a", "b")
        tie = np.where(level[here] > cut, "good", "bad")
        right += int((np.where(np.abs(margin[here]) <= epsilon, tie, decided) == said[here]).sum())
    return right / len(votes)


def _best_cut(level: Floats, good: NDArray[np.bool_]) -> float:
    """The cut with the most good ties above and bad ties up to it, in the middle between two levels."""
    if not len(level):
        return 0.0
    order = np.argsort(level, kind="stable")
    level, good = level[order], good[order]
    right = np.append(good.sum(), good.sum() + np.cumsum(np.where(good, -1, 1)))  # with the lowest 0, 1, ... called bad
    edges = np.concatenate([[-np.inf], (level[:-1] + level[1:]) / 2, [np.inf]])
    reachable = np.concatenate([[True], np.diff(level) > 0, [True]])
    return float(edges[np.argmax(np.where(reachable, right, -1))])
