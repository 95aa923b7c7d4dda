"""How well a score tells success from failure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from vrm.metrics.inputs import Floats, paired_series, ranks


def roc_auc(score: ArrayLike, label: ArrayLike) -> float:
    """Area under the ROC curve: the probability that a success outscores a failure, ties counting one half.

    In rank form (Mann and Whitney 1947; Hanley and McNeil 1982), with R the sum of the ranks of the P successes among
    all scores and F the number of failures: ``(R - P (P + 1) / 2) / (P F)``, tied scores sharing their mean rank.

    Args:
        score: ``(N,)`` finite numbers.
        label: ``(N,)`` bool or 0/1, true for success.

    Returns:
        A number in [0, 1], 0.5 for a score that knows nothing; nan if only one class is present.

    Raises:
        ValueError: if the lengths differ, there are none, a score is not finite or a label is not 0 or 1.

    Example:
        >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    scores, success = _scored_labels(score, label)
    positives = int(success.sum())
    negatives = len(success) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    above = ranks(scores)[success > 0].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def roc_curve(score: ArrayLike, label: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates as the threshold falls from above every score to below.

    Args:
        score: ``(N,)`` finite numbers.
        label: ``(N,)`` bool or 0/1, true for success.

    Returns:
        Two arrays ``(K + 1,)`` for the K distinct scores, both rising from 0 to 1: false and true positive rates.
        The trapezium area under them is :func:`roc_auc`. The rate of an absent class is nan.

    Raises:
        ValueError: as :func:`roc_auc`.

    Example:
        >>> false_positive, true_positive = roc_curve([0.1, 0.2, 0.3], [0, 0, 1])
        >>> false_positive.tolist(), true_positive.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 1.0, 1.0, 1.0])
    """
    scores, success = _scored_labels(score, label)
    order = np.argsort(-scores, kind="stable")
    steps = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # a tie is passed in one step
    rates = []
    for hit in (1 - success, success):
        hits = np.concatenate([[0.0], np.cumsum(hit[order])[steps]])
        rates.append(hits / hits[-1] if hits[-1] else np.full_like(hits, math.nan))
    return rates[0], rates[1]


def _scored_labels(score: ArrayLike, label: ArrayLike) -> tuple[Floats, Floats]:
    """Check a score and its 0/1 label."""
    scores, success = paired_series(score, label, ("score", "label"), minimum=1)
    other = success[(success != 0) & (success != 1)]
    if len(other):
        raise ValueError(f"label must hold only 0 and 1 (or booleans), got {other[0]:g}.")
    return scores, success
