"""Pure functions of arrays that say how good a reward is.

One rule for all: malformed input (unequal lengths, NaN, infinity, labels out of range) raises ``ValueError`` with one
sentence, and a quantity that is not defined for well-formed input (a constant series, a single class) is nan.
"""

from vrm.metrics.alignment import TrajectoryAlignment, discounted_return, trajectory_alignment
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
from vrm.metrics.over_optimisation import BestOfNCurve, best_of_n_curve, best_of_n_kl
from vrm.metrics.preference import pairwise_accuracy, preference_accuracy
from vrm.metrics.ranking import BestOfN, PositionBias, best_of_n, position_bias, probe_position
from vrm.metrics.reward_distance import (
    canonical_dard,
    canonical_epic,
    canonical_starc,
    dard,
    epic,
    policy_value,
    starc,
    starc_from_canonical,
    value_canonical,
)
from vrm.metrics.sampled_distance import canonical_epic_sampled, dard_sampled, epic_sampled
from vrm.metrics.ties import Accuracies, Agreement, TieThreshold, best_tie_threshold, measure_agreement
from vrm.metrics.value_order import ValueOrder, final_reward, value_order

__all__ = [
    "Accuracies",
    "Agreement",
    "BestOfN",
    "BestOfNCurve",
    "GroupedMean",
    "PositionBias",
    "TieThreshold",
    "TrajectoryAlignment",
    "ValueOrder",
    "best_of_n",
    "best_of_n_curve",
    "best_of_n_kl",
    "best_tie_threshold",
    "canonical_dard",
    "canonical_epic",
    "canonical_epic_sampled",
    "canonical_starc",
    "dard",
    "dard_sampled",
    "discounted_return",
    "epic",
    "epic_distance",
    "epic_sampled",
    "final_reward",
    "four_way_accuracy",
    "grouped_mean",
    "kendall",
    "measure_agreement",
    "pairwise_accuracy",
    "pearson",
    "policy_value",
    "position_bias",
    "preference_accuracy",
    "probe_position",
    "roc_auc",
    "roc_curve",
    "spearman",
    "starc",
    "starc_from_canonical",
    "trajectory_alignment",
    "value_canonical",
    "value_order",
    "value_order_correlation",
]
