"""Episodes of a policy on a text-goal task: scored in vectors, or filmed for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.agents.threads import ThreadVecEnv
from vrm.envs import TextGoalTask
from vrm.frames import from_hwc
from vrm.rewards import RewardModel
from vrm.wrappers import FrameCapture, RewardWrapper
from vrm.wrappers.sb3 import VecRewardWrapper
from vrm.wrappers.stream import Mode

Floats = NDArray[np.float32]
Policy = Callable[[NDArray[Any]], NDArray[Any]]  # observations (N, ...) to actions (N, ...)


@dataclass(frozen=True)
class Episodes:
    """Whole episodes of equal length.

    Attributes:
        reward: ``(E, T)`` reward of the model under test for arriving at each step.
        true: ``(E, T)`` the environment's own reward.
        success: ``(E, T)`` whether the task's criterion holds.
    """

    reward: Floats
    true: Floats
    success: NDArray[np.bool_]

    @property
    def success_rate(self) -> float:
        """Share of the last fifth of the steps in which the criterion holds, over all episodes."""
        return float(self.per_episode().mean())

    def per_episode(self) -> Floats:
        """Share ``(E,)`` of the last fifth of each episode's steps in which the criterion holds."""
        tail = max(1, self.success.shape[1] // 5)
        rates: Floats = self.success[:, -tail:].mean(axis=1, dtype=np.float32)
        return rates

    def summary(self) -> dict[str, float]:
        """Mean returns and the success rate, under the names that logs use."""
        return {
            "reward_return": float(self.reward.sum(axis=1).mean()),
            "true_return": float(self.true.sum(axis=1).mean()),
            "success_rate": self.success_rate,
        }


def make_envs(task: TextGoalTask, count: int, size: int, threads: int = 2) -> ThreadVecEnv:
    """Build ``count`` copies of the task that capture frames of ``size`` pixels."""
    return ThreadVecEnv([lambda: FrameCapture(task.make(size=size))] * count, threads=threads)


class Examiner:
    """Plays whole episodes on its own environments, as often as asked.

    Args:
        task: what to play; its episodes all have ``task.episode_steps`` steps.
        reward: the model that pays, at every step or, if it needs the future, for whole episodes at their end.
        size: pixels of the frames it sees.
        lanes: how many episodes are played at once.
    """

    def __init__(self, task: TextGoalTask, reward: RewardModel, size: int, lanes: int = 10) -> None:
        """Build the environments."""
        self.task = task
        self.venv = VecRewardWrapper(make_envs(task, lanes, size), reward, mode=_mode(reward))

    def play(self, policy: Policy, episodes: int, seed: int) -> Episodes:
        """Play at least ``episodes`` episodes from ``seed`` and return exactly that many."""
        rounds = [self._round(policy, seed + 1000 * r) for r in range(-(-episodes // self.venv.num_envs))]
        merged = [
            np.concatenate([getattr(r, name) for r in rounds])[:episodes] for name in ("reward", "true", "success")
        ]
        return Episodes(*merged)

    def _round(self, policy: Policy, seed: int) -> Episodes:
        self.venv.seed(seed)
        observation: Any = self.venv.reset()
        rewards, true, success = [], [], []
        for _ in range(self.task.episode_steps):
            observation, reward, _, infos = self.venv.step(policy(observation))
            rewards.append(reward)
            true.append([info["env_reward"] for info in infos])
            success.append([info["success"] for info in infos])
        labels = [info["episode_rewards"] for info in infos if "episode_rewards" in info]  # all end at the last step
        paid = np.stack(labels) if labels else np.array(rewards, np.float32).T
        return Episodes(paid, np.array(true, np.float32).T, np.array(success, dtype=np.bool_).T)

    def close(self) -> None:
        """Close the environments."""
        self.venv.close()


@dataclass(frozen=True)
class Film:
    """One episode for people.

    Attributes:
        frames: ``(T + 1, 3, H, W)`` uint8, the first from reset.
        reward: ``(T + 1,)``, nan first.
        success: ``(T + 1,)``.
    """

    frames: Tensor
    reward: Floats
    success: NDArray[np.bool_]


def film(policy: Policy, task: TextGoalTask, reward: RewardModel, size: int, seed: int) -> Film:
    """Play one episode and render it as people want to see it.

    The reward model sees the frames it always sees; a second copy of the environment, stepped by the same actions
    from the same seed, is rendered large.
    """
    env = RewardWrapper(FrameCapture(task.make(size=size)), reward, mode=_mode(reward))
    viewer = task.make_for_viewing()
    observation, info = env.reset(seed=seed)
    viewer.reset(seed=seed)
    frames: list[Any] = [viewer.render()]
    rewards, success = [np.nan], [info["success"]]
    for _ in range(task.episode_steps):
        action = policy(observation[None])[0]
        observation, value, _, _, info = env.step(action)
        viewer.step(action)
        frames.append(viewer.render())
        rewards.append(float(value))
        success.append(info["success"])
    rewards[1:] = info.get("episode_rewards", rewards[1:])
    env.close()
    viewer.close()
    return Film(from_hwc(np.stack(frames)), np.array(rewards, np.float32), np.array(success, dtype=np.bool_))


def _mode(reward: RewardModel) -> Mode:
    return "step" if reward.causal else "episode_end"


def random_clips(task: TextGoalTask, size: int, episodes: int, seed: int) -> Tensor:
    """Clips ``(episodes, T, 3, size, size)`` uint8 of random play, each action held for five steps."""
    venv = make_envs(task, episodes, size)
    venv.seed(seed)
    venv.reset()
    rng = np.random.default_rng(seed)
    venv.action_space.seed(seed)
    frames = []
    for step in range(task.episode_steps):
        if step % 5 == 0:
            actions = np.stack([venv.action_space.sample() for _ in range(episodes)])
            quiet = rng.random((episodes,) + (1,) * (actions.ndim - 1))
            actions = (actions * quiet).astype(actions.dtype) if actions.dtype.kind == "f" else actions
        infos = venv.step(actions)[3]
        frames.append(np.stack([info["frame"] for info in infos]))
    venv.close()
    return torch.stack([from_hwc(f) for f in frames], dim=1)
