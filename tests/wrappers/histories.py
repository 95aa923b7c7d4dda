"""Rewards that look far back, or need the future, for the tests of what remembers episodes."""

import sys
from typing import Any

import torch
from tiny import GOAL

from vrm.rewards import GoalReward, RewardModel, StateValue, Sum
from vrm.rewards.base import check_call, encode_frames
from vrm.rewards.transform import PotentialShaping

STRETCH = 20.0  # makes one frame's difference large against the tolerance


class FromGoal(RewardModel):
    """What is made of a goal reward over time; one term."""

    reads_pixels = False

    def __init__(self, goal: GoalReward) -> None:
        super().__init__()
        self.inner = goal

    def over_time(self, goal: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def terms(self, clips, goals=None, state=None):
        features = encode_frames(self.inner.encoder, check_call(clips, goals, state))
        return {"value": self.over_time(self.inner(clips, goals), features)}

    def combine(self, terms):
        return terms["value"]

    def config(self) -> dict[str, Any]:
        return self.inner.config()

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls(GoalReward.from_config(config, encoder))


class Novelty(FromGoal):
    """Distance to the mean feature of the last sixteen frames."""

    window = 16

    def over_time(self, goal, features):
        spans = [features[:, max(t - 15, 0) : t + 1].mean(dim=1) for t in range(features.shape[1])]
        return (features - torch.stack(spans, dim=1)).norm(dim=-1)


class BestYet(FromGoal):
    """The highest goal reward of the episode so far."""

    window = sys.maxsize

    def over_time(self, goal, features):
        return goal.cummax(dim=1).values


class Centred(FromGoal):
    """Goal reward minus its mean over the whole episode, the first frame included."""

    causal = False

    def over_time(self, goal, features):
        return goal - goal.mean(dim=1, keepdim=True)


class CentredBrightness(Centred):
    """The same of brightness, seen in the pixels."""

    reads_pixels = True

    def terms(self, clips, goals=None, state=None):
        light = check_call(clips, goals, state).float().mean(dim=(2, 3, 4)) / 255
        return {"value": self.over_time(light, light)}


def long_histories(encoder):
    """Features instead of frames: sixteen of them, and all since the episode began."""
    goal = GoalReward(encoder, GOAL)
    parts = {"new": Novelty(goal), "best": BestYet(goal), "now": goal}
    return Sum(parts, weights={"new": STRETCH, "best": STRETCH, "now": STRETCH})


def shaped(encoder):
    """Two frames, and whether an episode ended by its own rule or by the time limit."""
    potential = Sum({"goal": GoalReward(encoder, GOAL), "place": StateValue("position")}, weights={"goal": STRETCH})
    return PotentialShaping(potential, gamma=0.9)
