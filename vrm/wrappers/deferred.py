"""Deferred rewards for Stable-Baselines3: collect first, score in big batches, write back into the buffer.

During collection the algorithm sees the environment's own reward. On-policy rollouts are relabelled when they end,
with returns and advantages computed again; replay buffers are relabelled before they are sampled. The numbers are those
that :class:`~vrm.wrappers.sb3.VecRewardWrapper` would have paid step by step.

Rewards that label whole episodes have their place here, too: a replay buffer keeps the transitions of an unfinished
episode without a reward, and gives out none of them, until the episode's end.
"""

from __future__ import annotations

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
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from vrm.rewards.base import RewardModel
from vrm.wrappers.reward_queue import RewardQueue


class DeferredReplayBuffer(ReplayBuffer):
    """Replay buffer of SAC, TD3, DQN … whose rewards a model pays before they are sampled.

    Pass the class as ``replay_buffer_class=DeferredReplayBuffer``, then call :func:`attach_reward`. Pickling scores
    what waits and leaves the model out; attach it again after loading.

    Where the model labels whole episodes, ``rewards`` is NaN until an episode's end, and such transitions are never
    sampled. That holds in a saved buffer, too: an episode that was unfinished then has no end in what is loaded, so its
    transitions stay unsampled until new ones take their place.

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
        if not queue.model.causal:
            self.rewards[row] = np.nan
        queue.add(row, infos, reward, done)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Score what waits, then sample among the transitions that have a reward.

        Raises:
            RuntimeError: if no reward model is attached, or no transition has a reward yet.
        """
        queue = self._attached()
        queue.flush()
        drawn = super().sample(batch_size, env)
        if not drawn.rewards.isnan().any():
            return drawn
        if not self.has_rewards():
            raise RuntimeError(
                f"No transition in the replay buffer of {self.buffer_size} steps has a reward yet, because no episode "
                "in it has ended; start learning later, or make the buffer larger than an episode."
            )
        found = [_rewarded(drawn)]
        missing = batch_size - len(found[0].rewards)
        while missing > 0:  # what is refused is drawn anew, which is uniform over the rest
            found.append(_rewarded(super().sample(batch_size, env)))
            missing -= len(found[-1].rewards)
        columns: Any = (None if c[0] is None else torch.cat(c)[:batch_size] for c in zip(*found, strict=True))
        return ReplayBufferSamples(*columns)

    def has_rewards(self) -> bool:
        """Whether any transition has its reward."""
        filled = self.buffer_size if self.full else self.pos
        return not bool(np.isnan(self.rewards[:filled]).all())

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

    Logs ``rollout/reward_model_mean`` and ``rollout/reward_model_episode`` (mean sum over an episode). With a reward
    that labels whole episodes, warm-up (``learning_starts``) lasts at least until the first episode has its labels.
    """

    def __init__(self, queue: RewardQueue) -> None:
        """Keep the queue that collected frames go into."""
        super().__init__()
        self.queue = queue
        self._env_rewards: list[NDArray[np.float32]] = []
        self._can_learn = queue.model.causal

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
        elif isinstance(self.model, OffPolicyAlgorithm) and not self._can_learn:
            self._warm_up(self.model)
        mean = self.queue.take_mean()
        if mean is not None:
            self.logger.record_mean("rollout/reward_model_mean", mean)
        if self.queue.episode_sums:
            self.logger.record("rollout/reward_model_episode", float(np.mean(self.queue.episode_sums)))

    def _on_training_end(self) -> None:
        self.queue.flush()

    def _warm_up(self, algo: OffPolicyAlgorithm) -> None:
        assert isinstance(algo.replay_buffer, DeferredReplayBuffer)
        self._can_learn = algo.replay_buffer.has_rewards()
        if not self._can_learn:
            algo.learning_starts = max(algo.learning_starts, algo.num_timesteps)

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
        reward: a reward model, which must be causal for PPO and A2C; it is never pickled with ``algo``.
        batch: how many frames are scored at once, and the most that wait as pixels; whole episodes of them wait if the
            reward needs the future and reads pixels.

    Returns:
        The callback for ``algo.learn(..., callback=...)``.

    Raises:
        ValueError: if the reward needs future frames and ``algo`` learns from rollouts that end in the middle of
            episodes, if ``algo`` has no environment or another replay buffer, or if ``VecNormalize`` would scale
            rewards by statistics of the environment's.

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
    if isinstance(algo, OnPolicyAlgorithm) and not reward.causal:
        raise ValueError(
            f"{type(reward).__name__} needs frames from the future to label whole episodes, and the rollouts of "
            f"{type(algo).__name__} end in the middle of them; use an off-policy algorithm such as SAC, or wrap the "
            'environments with mode="episode_end".'
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
    if buffer.queue is not None and buffer.queue is not queue:
        buffer.queue.flush()
    queue.aim(buffer.rewards)
    buffer.queue = queue


def _rewarded(samples: ReplayBufferSamples) -> ReplayBufferSamples:
    rows = ~samples.rewards.isnan().squeeze(1)
    columns: Any = (None if column is None else column[rows] for column in samples)
    return ReplayBufferSamples(*columns)
