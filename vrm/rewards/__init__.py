"""Rewards: clips to numbers, one file per family; composed by arithmetic, saved without pickle."""

from vrm.rewards.base import RewardModel as RewardModel
from vrm.rewards.base import load_reward as load_reward
from vrm.rewards.combine import Gate as Gate
from vrm.rewards.combine import Product as Product
from vrm.rewards.combine import Sum as Sum
from vrm.rewards.combine import TargetSpeed as TargetSpeed
from vrm.rewards.contrastive import ContrastiveGoalReward as ContrastiveGoalReward
from vrm.rewards.contrastive import contrast_probability as contrast_probability
from vrm.rewards.goal import GoalReward as GoalReward
from vrm.rewards.goal import goal_baseline_reward as goal_baseline_reward
from vrm.rewards.heads import AestheticReward as AestheticReward
from vrm.rewards.heads import HPSv2 as HPSv2
from vrm.rewards.heads import PickScore as PickScore
from vrm.rewards.segmental import SegmentalReward as SegmentalReward
from vrm.rewards.segmental import SegmentScores as SegmentScores
from vrm.rewards.segmental import segment_indices as segment_indices
from vrm.rewards.segmental import tar_weights as tar_weights
from vrm.rewards.state import StateFalloff as StateFalloff
from vrm.rewards.state import StateSteadiness as StateSteadiness
from vrm.rewards.state import StateValue as StateValue
from vrm.rewards.temporal import CutDetection as CutDetection
from vrm.rewards.temporal import Flicker as Flicker
from vrm.rewards.temporal import FrozenVideo as FrozenVideo
from vrm.rewards.temporal import MotionSmoothness as MotionSmoothness
from vrm.rewards.temporal import SubjectConsistency as SubjectConsistency
