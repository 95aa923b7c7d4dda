"""What the reward wrappers cost on top of the work that cannot be avoided.

Bare: a loop that steps the same humanoids, renders each, encodes the stacked frames in one call and takes the cosine
to the goal. Against it: ``RewardWrapper`` on one environment, and ``VecRewardWrapper`` on eight, over SB3's
``DummyVecEnv`` (which copies every info) and over one thread of ``ThreadVecEnv``. All on one thread, with the same
actions, taking turns, by processor time, which other processes hardly disturb; the overhead is the median over the
turns. The wrappers also render the first frame of each
episode, which the bare loop does not need.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from timing import Work, in_turns, make_reward, median_ratio, open_encoder, parse, print_table

from vrm.agents.rollouts import make_envs
from vrm.envs import TASKS
from vrm.frames import from_hwc
from vrm.rewards import GoalReward
from vrm.wrappers import FrameCapture, RewardWrapper, VecRewardWrapper

TASK = TASKS["humanoid_kneeling"]
LANES = 8


class Bare:
    """A step of ``count`` environments, rendered and scored by hand."""

    def __init__(self, count: int, reward: GoalReward, size: int) -> None:
        """Start the first episodes."""
        self.encoder, self.goal = reward.encoder, reward.encoder.encode_text(reward.goal)[0]
        self.envs = [TASK.make(size=size) for _ in range(count)]
        for env in self.envs:
            env.action_space.seed(0)
            env.reset(seed=0)

    @torch.no_grad()
    def __call__(self) -> int:
        """Take one step and return how many frames it scored."""
        frames = []
        for env in self.envs:
            truncated = env.step(env.action_space.sample())[3]
            frames.append(env.render())
            if truncated:
                env.reset()
        (self.encoder.encode_image(from_hwc(np.stack(frames))) @ self.goal).numpy()
        return len(self.envs)


class Single:
    """A step of ``RewardWrapper`` on one environment."""

    def __init__(self, reward: GoalReward, size: int) -> None:
        """Start the first episodes."""
        self.env = RewardWrapper(FrameCapture(TASK.make(size=size)), reward)
        self.env.action_space.seed(0)
        self.env.reset(seed=0)

    def __call__(self) -> int:
        """Take one step and return how many frames it scored."""
        if self.env.step(self.env.action_space.sample())[3]:
            self.env.reset()
        return 1


class Vector:
    """A step of ``VecRewardWrapper`` on a vector of environments."""

    def __init__(self, venv: VecEnv, reward: GoalReward) -> None:
        """Start the first episodes."""
        self.venv = VecRewardWrapper(venv, reward)
        self.venv.action_space.seed(0)
        self.venv.reset()

    def __call__(self) -> int:
        """Take one step and return how many frames it scored."""
        self.venv.step(np.stack([self.venv.action_space.sample() for _ in range(self.venv.num_envs)]))
        return int(self.venv.num_envs)


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, seconds=5.0)
    encoder, size = open_encoder(options.encoder)
    reward = make_reward(encoder)
    dummy = DummyVecEnv([lambda: FrameCapture(TASK.make(size=size))] * LANES)
    threaded = make_envs(TASK, LANES, size, threads=1)
    pairs: list[tuple[str, Work, Work]] = [
        ("RewardWrapper, 1", Single(reward, size), Bare(1, reward, size)),
        (f"VecRewardWrapper over DummyVecEnv, {LANES}", Vector(dummy, reward), Bare(LANES, reward, size)),
        (f"VecRewardWrapper over ThreadVecEnv, {LANES}",
         Vector(threaded, reward), Bare(LANES, reward, size)),
    ]  # fmt: skip
    rows = []
    for name, wrapped, bare in pairs:
        rates = in_turns({"wrapped": wrapped, "bare": bare}, options.seconds, rounds=9, clock=time.process_time)
        overhead = 100 * (median_ratio(rates, "bare", "wrapped") - 1)
        rows.append([name, f"{median(rates['bare']):.0f}", f"{median(rates['wrapped']):.0f}", f"{overhead:+.1f} %"])
    threaded.close()
    print_table("Frames per second of processor time with and without a wrapper",
                ["wrapper, environments", "bare loop", "wrapped", "overhead"], rows)  # fmt: skip


if __name__ == "__main__":
    main()
