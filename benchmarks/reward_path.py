"""Frames per second of simulate + render + encode + reward.

Ours: the text-goal humanoid, rendered in the fast profile at the encoder's resolution, stepped on two threads by
``ThreadVecEnv``, all frames of a step encoded in one call by ``VecRewardWrapper``. Against it: Gymnasium's Humanoid-v5
as it comes, ``render()`` at its default 480 x 480 pixels, the same encoder called on every frame, one environment after
the other. Both take random actions, simulate 15 ms a step and pay the cosine to the same sentence.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from timing import Work, in_turns, make_reward, median_ratio, open_encoder, parse, print_table

from vrm.agents.rollouts import make_envs
from vrm.envs import TASKS
from vrm.frames import from_hwc
from vrm.rewards import GoalReward
from vrm.wrappers import VecRewardWrapper

COUNTS = (1, 4, 16)


class Ours:
    """A step of ``count`` text-goal humanoids."""

    def __init__(self, count: int, reward: GoalReward, size: int) -> None:
        """Start the first episodes."""
        self.venv = VecRewardWrapper(make_envs(TASKS["humanoid_kneeling"], count, size), reward)
        self.venv.action_space.seed(0)
        self.venv.reset()

    def __call__(self) -> int:
        """Take one step and return how many frames it scored."""
        self.venv.step(np.stack([self.venv.action_space.sample() for _ in range(self.venv.num_envs)]))
        return int(self.venv.num_envs)


class Plain:
    """A step of ``count`` humanoids of Gymnasium, each rendered and encoded by itself."""

    def __init__(self, count: int, reward: GoalReward) -> None:
        """Start the first episodes."""
        self.reward = reward
        self.envs = [gym.make("Humanoid-v5", render_mode="rgb_array") for _ in range(count)]
        for env in self.envs:
            env.action_space.seed(0)
            env.reset(seed=0)

    @torch.no_grad()
    def __call__(self) -> int:
        """Take one step and return how many frames it scored."""
        for env in self.envs:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            frame = env.render()
            assert isinstance(frame, np.ndarray)
            self.reward(from_hwc(frame)[None, None])
            if terminated or truncated:
                env.reset()
        return len(self.envs)


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, seconds=6.0)
    encoder, size = open_encoder(options.encoder)
    reward, rows = make_reward(encoder), []
    for count in COUNTS:
        ours, plain = Ours(count, reward, size), Plain(count, reward)
        works: dict[str, Work] = {"ours": ours, "plain": plain}
        rates = in_turns(works, options.seconds, rounds=3)
        ratio = median_ratio(rates, "ours", "plain")
        rows.append([str(count), *(f"{np.median(rates[name]):.0f}" for name in works), f"{ratio:.1f}x"])
        ours.venv.close()
        for env in plain.envs:
            env.close()
    print_table("Frames per second, simulate + render + encode + reward",
                ["environments", f"vrm, {size} px", "gymnasium render(), 480 px", "ratio"], rows)  # fmt: skip


if __name__ == "__main__":
    main()
