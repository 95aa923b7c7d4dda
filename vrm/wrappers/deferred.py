"""Deferred rewards for Stable-Baselines3: collect first, score in big batches, write back into the buffer.

During collection the algorithm sees the environment's own reward. On-policy rollouts are relabelled when they end,
with returns and advantages computed again; replay buffers are relabelled before they are sampled. The numbers are those
that :class:`~vrm.wrappers.sb3.VecRewardWrapper` would have paid step by step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from vrm.frames import from_hwc
from vrm.rewards.base import RewardModel
from vrm.wrappers.stream import Clip, History, check_online, read_state, score_clips, take_frame

Infos = Sequence[dict[str, Any]]


class RewardQueue:
    """Frames of finished steps, as uint8, waiting to be scored together.

    Args:
        model: a causal reward model.
        venv: the environments, asked for the first frame of each new episode.
        batch: how many clips are scored at once, and the most that wait.

    Raises:
        ValueError: if ``batch`` is not positive or ``model`` needs future frames.

    Attributes:
        target: array ``(rows, num_envs)`` that rewards are written into.
        episode_sums: summed model reward of the last hundred finished episodes.
    """

    def __init__(self, model: RewardModel, venv: VecEnv, batch: int = 256) -> None:
        """Start with no episode known; see :meth:`begin`."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}.")
        self.model = check_online(model)
        self.batch = batch
        self.target: NDArray[np.float32] = np.zeros((0, venv.num_envs), dtype=np.float32)
        self.episode_sums: deque[float] = deque(maxlen=100)
        self.venv = venv
        self._history = History(model, venv.num_envs)
        self._waiting: list[tuple[Clip, int, int, bool]] = []
        self._running = np.zeros(venv.num_envs)
        self._paid: list[float] = []

    def begin(self, restart: bool = False) -> None:
        """Take the first frames of episodes that started by a reset of the whole ``venv``.

        Args:
            restart: whether all environments were just reset; otherwise only unknown episodes begin.
        """
        for i in range(self.venv.num_envs):
            if restart or i not in self._history:
                self._begin(i)

    def add(self, row: int, infos: Infos, env_rewards: NDArray[Any], dones: NDArray[Any]) -> None:
        """Queue one step of every environment, to be paid at ``target[row]``."""
        for i, info in enumerate(infos):
            (state,) = read_state(self.model, [{**info, "env_reward": env_rewards[i]}])
            frame, done = from_hwc(take_frame(info)), bool(dones[i])
            self._waiting.append((self._history.extend(i, frame, state, done), row, i, done))
            if done:
                self._begin(i)
        if len(self._waiting) >= self.batch:
            self.flush()

    def flush(self) -> None:
        """Score what waits and write it into :attr:`target`."""
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), self.batch):
            chunk = waiting[start : start + self.batch]
            rewards, _ = score_clips(self.model, [clip for clip, *_ in chunk])
            for (_, row, i, done), reward in zip(chunk, rewards.tolist(), strict=True):
                self.target[row, i] = reward
                self._account(i, reward, done)

    def take_mean(self) -> float | None:
        """Mean model reward since the last call, ``None`` if nothing was scored."""
        paid, self._paid = self._paid, []
        return float(np.mean(paid)) if paid else None

    def _begin(self, i: int) -> None:
        if self.model.window > 1:
            info = {"env_reward": 0.0, **self.venv.unwrapped.reset_infos[i]}
            (state,) = read_state(self.model, [info])
            self._history.begin(i, from_hwc(take_frame(info)), state)

    def _account(self, i: int, reward: float, done: bool) -> None:
        self._paid.append(reward)
        self._running[i] += reward
        if done:
            self.episode_sums.append(float(self._running[i]))
            self._running[i] = 0.0


class DeferredReplayBuffer(ReplayBuffer):
    """Replay buffer of SAC, TD3, DQN … whose rewards a model pays before they are sampled.

    Pass the class as ``replay_buffer_class=DeferredReplayBuffer``, then call :func:`attach_reward`. Pickling scores
    what waits and leaves the model out; attach it again after loading.

    Example:
        >>> algo = SAC("MlpPolicy", venv, replay_buffer_class=DeferredReplayBuffer)  # doctest: +SKIP
        >>> algo.learn(10_000, callback=attach_reward(algo, model))  # doctest: +SKIP
    """

    queue: RewardQueue | None = None

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store the transition and queue its frame.

        Raises:
            RuntimeError: if no reward model is attached.
            FrameError: if ``infos`` carry no frames.
        """
        queue, row = self._attached(), self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        queue.add(row, infos, reward, done)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Score what waits, then sample."""
        self._attached().flush()
        return super().sample(batch_size, env)

    def _attached(self) -> RewardQueue:
        if self.queue is None:
            raise RuntimeError("This buffer has no reward model; call vrm.wrappers.attach_reward(algo, model) first.")
        return self.queue

    def __getstate__(self) -> dict[str, Any]:
        """Score what waits and drop the model."""
        if self.queue is not None:
            self.queue.flush()
        return {**self.__dict__, "queue": None}


class DeferredRewardCallback(BaseCallback):
    """Relabels what an algorithm collects; made by :func:`attach_reward` and passed to ``learn``.

    Logs ``rollout/reward_model_mean`` and ``rollout/reward_model_episode`` (mean sum over an episode).
    """

    def __init__(self, queue: RewardQueue) -> None:
        """Keep the queue that collected frames go into."""
        super().__init__()
        self.queue = queue
        self._env_rewards: list[NDArray[np.float32]] = []

    def _init_callback(self) -> None:
        if self.training_env is not self.queue.venv:
            raise ValueError("The algorithm has got another environment since attach_reward; call attach_reward again.")
        if isinstance(self.model, OffPolicyAlgorithm):
            _connect(self.model, self.queue)  # the buffer may have been loaded since

    def _on_training_start(self) -> None:
        self.queue.begin(restart=bool(self.locals["reset_num_timesteps"]))

    def _on_rollout_start(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            self.queue.target, self._env_rewards = np.zeros_like(self.model.rollout_buffer.rewards), []

    def _on_step(self) -> bool:
        if isinstance(self.model, OnPolicyAlgorithm):
            # the algorithm adds its time-limit bootstrap to this very array after the callback
            self._env_rewards.append(self.locals["rewards"].copy())
            row = len(self._env_rewards) - 1
            self.queue.add(row, self.locals["infos"], self.locals["rewards"], self.locals["dones"])
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            self._relabel(self.model)
        mean = self.queue.take_mean()
        if mean is not None:
            self.logger.record_mean("rollout/reward_model_mean", mean)
        if self.queue.episode_sums:
            self.logger.record("rollout/reward_model_episode", float(np.mean(self.queue.episode_sums)))

    def _on_training_end(self) -> None:
        self.queue.flush()

    def _relabel(self, algo: OnPolicyAlgorithm) -> None:
        buffer = algo.rollout_buffer
        self.queue.flush()
        bootstrap = buffer.rewards - np.stack(self._env_rewards)
        buffer.rewards[:] = self.queue.target + bootstrap
        last_values: torch.Tensor = self.locals["values"]
        buffer.compute_returns_and_advantage(last_values=last_values, dones=self.locals["dones"])


def attach_reward(algo: BaseAlgorithm, reward: RewardModel, batch: int = 256) -> DeferredRewardCallback:
    """Let ``reward`` pay what ``algo`` learns from, scored in batches; pass the result to ``learn``.

    Args:
        algo: PPO, A2C …, or SAC, TD3, DQN … made with ``replay_buffer_class=DeferredReplayBuffer``; each single
            environment captures frames with :class:`~vrm.FrameCapture`.
        reward: a causal reward model; it is never pickled with ``algo``.
        batch: how many frames are scored at once, and the most that wait as uint8.

    Returns:
        The callback for ``algo.learn(..., callback=...)``.

    Raises:
        ValueError: if the reward needs future frames, ``algo`` has no environment or another replay buffer, or
            ``VecNormalize`` would scale rewards by statistics of the environment's.

    Example:
        >>> algo = PPO("MlpPolicy", make_vec_env(make_env, 4))  # doctest: +SKIP
        >>> algo.learn(10_000, callback=attach_reward(algo, model))  # doctest: +SKIP
    """
    venv = algo.get_env()
    if venv is None:
        raise ValueError(f"This {type(algo).__name__} has no environment; give it one with set_env before attaching.")
    normalize = unwrap_vec_normalize(venv)
    if normalize is not None and normalize.norm_reward:
        raise ValueError(
            "VecNormalize would scale the model's rewards by statistics of the environment's; use norm_reward=False."
        )
    queue = RewardQueue(reward, venv, batch)
    if not isinstance(algo, OnPolicyAlgorithm):
        _connect(algo, queue)
    return DeferredRewardCallback(queue)


def _connect(algo: BaseAlgorithm, queue: RewardQueue) -> None:
    buffer = getattr(algo, "replay_buffer", None)
    if not isinstance(buffer, DeferredReplayBuffer):
        raise ValueError(
            f"{type(algo).__name__} holds a {type(buffer).__name__}; "
            "make it with replay_buffer_class=vrm.wrappers.DeferredReplayBuffer."
        )
    queue.flush()  # what waits belongs to the buffer known so far
    queue.target, buffer.queue = buffer.rewards, queue
