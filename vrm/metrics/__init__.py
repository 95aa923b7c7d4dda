"""Pure functions of arrays that say how good a reward is.

One rule for all: malformed input (unequal lengths, NaN, infinity, labels out of range) raises ``ValueError`` with one
sentence, and a quantity that is not defined for well-formed input (a constant series, a single class) is nan.
"""

from vrm.metrics.classification import roc_auc, roc_curve
from vrm.metrics.correlation import (
    GroupedMean,
    epic_distance,
    grouped_mean,
    kendall,
    pearson,
    spearman,
    value_order_correlation,
)
from vrm.metrics.four_way import four_way_accuracy
from vrm.metrics.preference import pairwise_accuracy, preference_accuracy
from vrm.metrics.ranking import BestOfN, PositionBias, best_of_n, position_bias, probe_position
from vrm.metrics.ties import Accuracies, Agreement, TieThreshold, best_tie_threshold, measure_agreement

__all__ = [
    "Accuracies",
    "Agreement",
    "BestOfN",
    "GroupedMean",
    "PositionBias",
    "TieThreshold",
    "best_of_n",
    "best_tie_threshold",
    "epic_distance",
    "four_way_accuracy",
    "grouped_mean",
    "kendall",
    "measure_agreement",
    "pairwise_accuracy",
    "pearson",
    "position_bias",
    "preference_accuracy",
    "probe_position",
    "roc_auc",
    "roc_curve",
    "spearman",
    "value_order_correlation",
]
