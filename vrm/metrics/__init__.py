"""Pure functions of arrays that say how good a reward is.

One rule for all: malformed input (unequal lengths, NaN, infinity, labels out of range) raises ``ValueError`` with one
sentence, and a quantity that is not defined for well-formed input (a constant series, a single class) is nan.
"""

from vrm.metrics.classification import roc_auc, roc_curve
from vrm.metrics.correlation import epic_distance, pearson, spearman, value_order_correlation
from vrm.metrics.preference import pairwise_accuracy, preference_accuracy

__all__ = [
    "epic_distance",
    "pairwise_accuracy",
    "pearson",
    "preference_accuracy",
    "roc_auc",
    "roc_curve",
    "spearman",
    "value_order_correlation",
]
