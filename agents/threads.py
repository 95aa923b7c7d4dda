"""Several environments in one process, stepped and rendered on a few threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class ThreadVecEnv(DummyVecEnv):
    """A ``DummyVecEnv`` that steps its environments on ``threads`` threads.

    MuJoCo's physics and OpenGL rendering release the interpreter lock, so two threads nearly double frames per
    second without worker processes. Each environment lives on one thread for good, because an OpenGL context
    belongs to the thread that made it.

    Args:
        env_fns: one constructor per environment.
        threads: how many threads; no more than environments are used.

    Raises:
        ValueError: if there are no environments.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]], threads: int = 2) -> None:
        """Build the environments, each on its own thread."""
        if not env_fns:
            raise ValueError("A vector environment needs at least one environment, got none.")
        self._pools = [ThreadPoolExecutor(1) for _ in range(max(1, min(threads, len(env_fns))))]
        super().__init__([partial(self._make_one, fn, i) for i, fn in enumerate(env_fns)])

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; a finished one is reset, its last observation kept in ``info``."""
        self._on_every_thread(self._step_one)
        infos = [copy(info) for info in self.buf_infos]
        return self._obs_from_buf(), np.copy(self.buf_rews), np.copy(self.buf_dones), infos

    def reset(self) -> VecEnvObs:
        """Reset all environments."""
        self._on_every_thread(self._reset_one)
        self._reset_seeds()
        self._reset_options()
        return self._obs_from_buf()

    def close(self) -> None:
        """Close every environment on the thread that owns its OpenGL context."""
        self._on_every_thread(lambda i: self.envs[i].close())
        for pool in self._pools:
            pool.shutdown()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of environments, each on its own thread."""
        return [
            self._pool(i).submit(self.envs[i].get_wrapper_attr(method_name), *args, **kwargs).result()
            for i in self._get_indices(indices)
        ]

    def get_images(self) -> list[Any]:
        """Render every environment on its own thread."""
        return self.env_method("render")

    def _make_one(self, make: Callable[[], gym.Env[Any, Any]], index: int) -> gym.Env[Any, Any]:
        return self._pool(index).submit(make).result()

    def _pool(self, index: int) -> ThreadPoolExecutor:
        return self._pools[index % len(self._pools)]

    def _on_every_thread(self, work: Callable[[int], None]) -> None:
        """Run ``work(i)`` for every environment on its thread, one job a thread, and pass on what it raises."""

        def batch(first: int) -> None:
            for i in range(first, self.num_envs, len(self._pools)):
                work(i)

        for job in [pool.submit(batch, first) for first, pool in enumerate(self._pools)]:
            job.result()

    def _step_one(self, i: int) -> None:
        obs, self.buf_rews[i], terminated, truncated, info = self.envs[i].step(self.actions[i])
        self.buf_dones[i] = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if self.buf_dones[i]:
            info["terminal_observation"] = obs
            obs, self.reset_infos[i] = self.envs[i].reset()
        self.buf_infos[i] = info
        self._save_obs(i, obs)

    def _reset_one(self, i: int) -> None:
        options = {"options": self._options[i]} if self._options[i] else {}
        obs, self.reset_infos[i] = self.envs[i].reset(seed=self._seeds[i], **options)
        self._save_obs(i, obs)
