"""Frames waiting for their rewards, and the memory of running episodes: the core of deferred rewards."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from vrm.frames import from_hwc
from vrm.rewards.base import RewardModel
from vrm.wrappers.history import Moment, Scorer, unknown_start
from vrm.wrappers.sb3 import terminated
from vrm.wrappers.stream import at_reset, at_step, read_state, take_frame

Infos = Sequence[dict[str, Any]]


@dataclass(eq=False, slots=True)
class _Episode:
    """An episode of environment ``env``: what is remembered of it and, for its last frames, the rows to be paid."""

    env: int
    moments: list[Moment]
    rows: list[int | None] = field(default_factory=list)  # None where the transition is gone from the buffer
    done: bool = False
    paid: float = 0.0


class RewardQueue:
    """Frames of steps waiting to be scored together, and the memory of the running episodes.

    A causal model pays whatever waits. One that needs the future labels an episode in one call when it has ended,
    terminated or truncated; until then its frames wait, as features where those are all the model sees.

    Args:
        model: a reward model.
        venv: the environments, asked for the first frame of each new episode.
        batch: how many frames are scored at once, and the most that wait as pixels unless the model reads those of
            whole episodes.

    Raises:
        ValueError: if ``batch`` is not positive.

    Attributes:
        target: array ``(rows, num_envs)`` that rewards are written into.
        episode_sums: summed model reward of the last hundred finished episodes.
    """

    def __init__(self, model: RewardModel, venv: VecEnv, batch: int = 256) -> None:
        """Start with no episode known; see :meth:`begin`."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}.")
        self.model = model
        self.batch = batch
        self.target: NDArray[np.float32] = np.zeros((0, venv.num_envs), dtype=np.float32)
        self.episode_sums: deque[float] = deque(maxlen=100)
        self.venv = venv
        self._scorer = Scorer(model, whole=not model.causal)
        self._window = model.window if model.causal else sys.maxsize
        self._running: list[_Episode | None] = [None] * venv.num_envs
        self._finished: list[_Episode] = []
        self._waiting = 0
        self._paid: list[float] = []

    def begin(self, restart: bool = False) -> None:
        """Take the first frames of episodes that started by a reset of the whole ``venv``.

        Args:
            restart: whether all environments were just reset; otherwise only unknown episodes begin. An episode that
                a reset cut short gets no more rewards: it has no end to be judged by.
        """
        if restart:
            self.flush()
        for i in range(self.venv.num_envs):
            if restart or self._running[i] is None:
                self._begin(i)

    def aim(self, target: NDArray[np.float32]) -> None:
        """Write into ``target`` from now on; what belongs to another array is paid there first, or never."""
        if target is not self.target:
            self.flush()
            for episode in filter(None, self._running):
                episode.rows = [None] * len(episode.rows)
            self.target = target

    def add(self, row: int, infos: Infos, env_rewards: NDArray[Any], dones: NDArray[Any]) -> None:
        """Queue one step of every environment, to be paid at ``target[row]``."""
        for i, info in enumerate(infos):
            (state,) = read_state(self.model, [at_step(info, env_rewards[i], terminated(dones[i], info))])
            moment = self._scorer.moment(from_hwc(take_frame(info)), state)
            self._append(i, moment, row, bool(dones[i]))
        self._waiting += len(infos)
        if self._waiting >= self.batch:
            self._scorer.embed(moment for episode in filter(None, self._running) for moment in episode.moments)
            self._waiting = 0
            self.flush()
        elif self._finished and not self.model.causal:
            self.flush()

    def flush(self) -> None:
        """Score what can be scored and write it into :attr:`target`."""
        due, self._finished = self._finished, []
        if self.model.causal:
            due += [episode for episode in self._running if episode is not None and episode.rows]
        if due:
            found = self._scorer.every([episode.moments for episode in due], self.batch)
            for episode, rewards in zip(due, found, strict=True):
                self._pay(episode, rewards[-len(episode.rows) :].tolist())

    def take_mean(self) -> float | None:
        """Mean model reward since the last call, ``None`` if nothing was scored."""
        paid, self._paid = self._paid, []
        return float(np.mean(paid)) if paid else None

    def _begin(self, i: int) -> None:
        first = []
        if self._window > 1:
            info = at_reset(self.venv.unwrapped.reset_infos[i])
            (state,) = read_state(self.model, [info])
            first = [self._scorer.moment(from_hwc(take_frame(info)), state)]
        self._running[i] = _Episode(i, first)

    def _append(self, i: int, moment: Moment, row: int, done: bool) -> None:
        episode = self._running[i]
        if episode is None:
            if self._window > 1:
                raise unknown_start(i, self._window)
            episode = self._running[i] = _Episode(i, [])
        episode.moments.append(moment)
        episode.rows.append(row)
        if done:
            episode.done = True
            self._finished.append(episode)
            self._begin(i)

    def _pay(self, episode: _Episode, rewards: list[float]) -> None:
        for row, reward in zip(episode.rows, rewards, strict=True):
            if row is not None:
                self.target[row, episode.env] = reward
        self._paid += rewards
        episode.paid += sum(rewards)
        episode.rows = []
        if episode.done:
            self.episode_sums.append(episode.paid)
        else:
            del episode.moments[: max(len(episode.moments) - (self._window - 1), 0)]
