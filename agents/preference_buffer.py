"""A replay buffer whose rewards come from a model that goes on learning, and what it takes to pay them again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from vrm.agents.exploration import MOST, StateEntropy
from vrm.agents.segment_store import SegmentStore
from vrm.errors import NonFiniteError
from vrm.frames import from_hwc
from vrm.rewards.base import encode_frames
from vrm.rewards.preference import PreferenceReward
from vrm.wrappers.deferred import DeferredReplayBuffer
from vrm.wrappers.reward_queue import Infos, RewardQueue
from vrm.wrappers.sb3 import terminated
from vrm.wrappers.stream import at_step, take_frame


class PreferenceReplayBuffer(DeferredReplayBuffer):
    """Pays for new states as long as it has an explorer, and then what the model says."""

    explorer: StateEntropy | None = None

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Sample as ever; with an explorer, rewards are for being in a state unlike the others.

        Raises:
            RuntimeError: as :meth:`DeferredReplayBuffer.sample`.
        """
        drawn = super().sample(batch_size, env)
        if self.explorer is None:
            return drawn
        size = (self.buffer_size if self.full else self.pos) * self.n_envs
        chosen = np.arange(size) if size <= MOST else np.random.randint(size, size=MOST)  # as SB3 draws its batches
        states = self.next_observations[chosen // self.n_envs, chosen % self.n_envs]
        others = self.to_torch(self._normalize_obs(states, env))  # type: ignore[arg-type]  # arrays, not dicts
        return drawn._replace(rewards=self.explorer.pay(drawn.next_observations, others)[:, None])


class FeatureQueue(RewardQueue):
    """Pays steps from what it keeps of them, so that they can be paid again when the model has changed.

    Args:
        model: what pays.
        venv: the environments.
        store: where steps are kept.
        batch: how many frames are encoded at once.
    """

    model: PreferenceReward

    def __init__(self, model: PreferenceReward, venv: VecEnv, store: SegmentStore, batch: int = 256) -> None:
        """Nothing waits."""
        super().__init__(model, venv, batch)
        self.store = store
        self.stamp = model.stamp()  # of the model that paid all that is paid
        self._rows: list[int] = []
        self._frames: list[Tensor] = []
        self._sums = np.zeros(venv.num_envs)

    def begin(self, restart: bool = False) -> None:
        """All environments were reset: pieces do not go on there."""
        self.flush()
        self.store.cut()
        self._sums[:] = 0

    def add(self, row: int, infos: Infos, env_rewards: NDArray[Any], dones: NDArray[Any]) -> None:
        """Keep one step of every environment; ``row`` of the buffer is the store's.

        Raises:
            FrameError: if there is no frame.
            ValueError: if a state value is missing.
        """
        frames = from_hwc(np.stack([take_frame(info) for info in infos]))
        told = [at_step(info, env_rewards[i], terminated(dones[i], info)) for i, info in enumerate(infos)]
        values = np.array([[_value(info, key) for key in self.store.keys] for info in told], np.float32)
        kept = self.store.add(frames, values, dones)
        assert kept == row, f"the store is at row {kept}, the buffer at {row}"
        self._rows.append(row)
        self._frames.append(frames)
        if len(self._rows) * len(infos) >= self.batch:
            self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Encode what waits, keep it and pay it."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        frames, self._frames = torch.stack(self._frames), []
        encoder = self.model.encoder
        self.store.keep(rows, frames if encoder is None else encode_frames(encoder, frames))
        rewards = self.pay(rows)
        self.target[rows] = rewards
        self._paid += rewards.flatten().tolist()
        for row, paid in zip(rows, rewards, strict=True):
            self._sums += paid
            for i in np.flatnonzero(self.store.ends[row]):
                self.episode_sums.append(float(self._sums[i]))
                self._sums[i] = 0

    @torch.no_grad()
    def pay(self, rows: list[int] | slice) -> NDArray[np.float32]:
        """Rewards ``(rows, envs)`` that the present model gives to kept rows.

        Raises:
            NonFiniteError: if one is not finite.
        """
        seen = torch.from_numpy(self.store.kept[rows])
        encoder = self.model.encoder
        if encoder is None:
            rewards = self.model(seen)
        else:
            blank = torch.zeros(*seen.shape[:2], 3, 1, 1, dtype=torch.uint8)
            with encoder.supply(blank, seen):
                rewards = self.model(blank)
        if not bool(torch.isfinite(rewards).all()):
            raise NonFiniteError("The preference model returned NaN or infinity for a step in the replay buffer.")
        paid: NDArray[np.float32] = rewards.cpu().numpy()
        return paid

    def relabel(self, batch: int) -> int:
        """Pay all that lies in the buffer anew, ``batch`` steps at once, and return how many steps these are."""
        self.flush()
        filled = min(self.store.count, self.store.rows)
        size = max(batch // self.store.envs, 1)
        for start in range(0, filled, size):
            part = slice(start, min(start + size, filled))
            self.target[part] = self.pay(part)
        self.stamp = self.model.stamp()
        return filled * self.store.envs


def _value(info: dict[str, Any], key: str) -> float:
    if key not in info:
        raise ValueError(
            f"The labeller reads state {key!r}, but info has only {sorted(info)}; let the environment put it into info."
        )
    return float(info[key])
