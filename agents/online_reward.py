"""Rewards that go on learning while an agent trains: they are shown what the agent does."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from vrm.frames import from_hwc
from vrm.wrappers.stream import take_frame


class Observer(Protocol):
    """A reward that learns online, such as :class:`~vrm.rewards.discriminator.Rank2Reward`."""

    def observe(self, agent: Tensor) -> dict[str, float]:
        """Learn from frames ``(N, 3, H, W)`` of the agent and tell how it went."""


class OnlineRewardCallback(BaseCallback):
    """Shows a reward the agent's frames every so often, and logs what it tells as ``reward_model/<name>``.

    Frames are read from ``info["frame"]``, which whoever pays the reward takes away. So this callback must come before
    the one of :func:`~vrm.wrappers.attach_reward` in the list given to ``learn``; a
    :class:`~vrm.wrappers.VecRewardWrapper` needs ``keep_frame=True``.

    Of all frames since the last time, a random ``frames`` are shown, each as likely, and only those are kept in memory.
    Rewards paid already stay as they are: an on-policy rollout may be paid in part before and in part after, and
    what lies in a replay buffer is stale.

    Args:
        reward: what learns.
        every: steps, summed over environments, between times.
        frames: the most that are shown at a time.
        seed: of the choice among frames.

    Raises:
        ValueError: if ``every`` or ``frames`` is below 1.

    Example:
        >>> callbacks = [OnlineRewardCallback(reward), attach_reward(algo, reward)]  # doctest: +SKIP
        >>> algo.learn(100_000, callback=callbacks)  # doctest: +SKIP
    """

    def __init__(self, reward: Observer, every: int = 2000, frames: int = 256, seed: int = 0) -> None:
        """Nothing has been seen yet."""
        super().__init__()
        if every < 1 or frames < 1:
            raise ValueError(f"every and frames must be at least 1, got every={every}, frames={frames}.")
        self.reward, self.every, self.frames = reward, every, frames
        self._random = np.random.default_rng(seed)
        self._kept: list[NDArray[np.uint8]] = []
        self._seen = 0

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            self._keep(info)
        if self._seen >= self.every:
            for name, value in self.reward.observe(from_hwc(np.stack(self._kept))).items():
                self.logger.record_mean(f"reward_model/{name}", value)
            self._kept, self._seen = [], 0
        return True

    def _keep(self, info: dict[str, Any]) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R): each frame seen is as likely to be kept."""
        self._seen += 1
        frame = take_frame(info, keep=True)
        if len(self._kept) < self.frames:
            self._kept.append(np.array(frame))
        elif (place := int(self._random.integers(self._seen))) < self.frames:
            self._kept[place] = np.array(frame)
