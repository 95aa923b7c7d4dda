"""Environment families: what is shared by all tasks of one environment, and what pre-training renders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np

from vrm.envs import (
    ant,
    cartpole,
    fetch,
    fetch_facts,
    half_cheetah,
    hopper,
    humanoid_facts,
    humanoid_standup,
    inverted_double_pendulum,
    inverted_pendulum,
    mountain_car,
    pendulum,
    pusher,
    reacher,
    swimmer,
    walker2d,
)
from vrm.envs.captions import Captioner
from vrm.envs.humanoid import TextGoalHumanoid
from vrm.envs.humanoid_sampling import HumanoidSampler
from vrm.envs.wording import worded


@dataclass(frozen=True)
class Family:
    """One environment and how to see, vary and describe it.

    Attributes:
        name: short identifier.
        make: builds the environment; takes ``size``, ``quality``, ``render_mode`` and the family's own options.
        sample: puts an environment into varied states for ever and yields what the captioner reads.
        basic: knows what is true, and a few words for each fact.
        share: how much of the pre-training frames come from this family.
    """

    name: str
    make: Callable[..., gym.Env[Any, Any]]
    sample: Callable[[Any, np.random.Generator, bool], Iterator[Any]]
    basic: Captioner[Any]
    share: float

    @cached_property
    def captioner(self) -> Captioner[Any]:
        """Writes captions and knows their truth, in all the words of ``caption_phrases/``."""
        return worded(self.basic, self.name)

    @property
    def draws_by_rays(self) -> bool:
        """Whether :mod:`vrm.envs.warp_renderer` can draw it; classic control's pictures are not MuJoCo's."""
        return "renderer" in inspect.signature(self.make).parameters


def _sample_humanoid(env: TextGoalHumanoid, rng: np.random.Generator, vary: bool) -> Iterator[Any]:
    return iter(HumanoidSampler(env, rng, vary))


FAMILIES = {
    family.name: family
    for family in (
        Family("humanoid", TextGoalHumanoid, _sample_humanoid, humanoid_facts.CAPTIONER, 0.4),
        Family("cartpole", cartpole.TextGoalCartPole, cartpole.sample, cartpole.CAPTIONER, 0.04),
        Family("mountain_car", mountain_car.TextGoalMountainCar, mountain_car.sample, mountain_car.CAPTIONER, 0.03),
        Family(
            "inverted_pendulum",
            inverted_pendulum.TextGoalInvertedPendulum,
            inverted_pendulum.sample,
            inverted_pendulum.CAPTIONER,
            0.04,
        ),
        Family("reacher", reacher.TextGoalReacher, reacher.sample, reacher.CAPTIONER, 0.05),
        Family("fetch_reach", fetch.TextGoalFetchReach, fetch_facts.sample, fetch_facts.REACH_CAPTIONER, 0.03),
        Family("fetch_push", fetch.TextGoalFetchPush, fetch_facts.sample, fetch_facts.PUSH_CAPTIONER, 0.03),
        Family("ant", ant.TextGoalAnt, ant.sample, ant.CAPTIONER, 0.06),
        Family("half_cheetah", half_cheetah.TextGoalHalfCheetah, half_cheetah.sample, half_cheetah.CAPTIONER, 0.05),
        Family("hopper", hopper.TextGoalHopper, hopper.sample, hopper.CAPTIONER, 0.05),
        Family("walker2d", walker2d.TextGoalWalker2d, walker2d.sample, walker2d.CAPTIONER, 0.05),
        Family("swimmer", swimmer.TextGoalSwimmer, swimmer.sample, swimmer.CAPTIONER, 0.03),
        Family(
            "humanoid_standup",
            humanoid_standup.TextGoalHumanoidStandup,
            humanoid_standup.sample,
            humanoid_standup.CAPTIONER,
            0.04,
        ),
        Family("pusher", pusher.TextGoalPusher, pusher.sample, pusher.CAPTIONER, 0.04),
        Family(
            "inverted_double_pendulum",
            inverted_double_pendulum.TextGoalInvertedDoublePendulum,
            inverted_double_pendulum.sample,
            inverted_double_pendulum.CAPTIONER,
            0.03,
        ),
        Family("pendulum", pendulum.TextGoalPendulum, pendulum.sample, pendulum.CAPTIONER, 0.03),
    )
}
