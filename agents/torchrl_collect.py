"""Collectors for text-goal tasks: in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from vrm.agents.torchrl_agent import OnlineAgent, quiet
from vrm.envs import TextGoalTask
from vrm.errors import MissingExtraError, UnknownNameError, VrmError
from vrm.rewards import RewardModel
from vrm.rewards.base import TERMINATED
from vrm.wrappers.torchrl import RewardTransform
from vrm.wrappers.torchrl_env import FRAME, capture_env
from vrm.wrappers.torchrl_rollout import RolloutReward

try:
    from tensordict import TensorDictBase
    from torchrl.envs import EnvBase, SerialEnv, TransformedEnv
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "A TorchRL collector") from error

ENDLESS = 2**60  # Ray's collector does not take -1
KINDS = ("sync", "multi", "ray")
OF_THE_STEP = ("env_reward", TERMINATED)  # state that a step says itself; the rest is read from info


class Collection:
    """Brings rollouts ``(N, T)`` with their rewards paid.

    ``sync`` steps all environments here and scores each rollout in big batches. ``multi`` steps them in worker
    processes and ``ray`` in Ray actors, on one machine or a cluster; each worker loads the saved reward and scores its
    own environments, all of them in one call per step, so that frames never travel.

    Args:
        agent: acts; its newest weights are sent out before each rollout.
        task: what is played.
        reward: pays.
        reward_file: where ``reward`` is saved, for workers.
        n_envs: environments in all.
        size: pixels of the frames that the reward sees.
        seed: of the environments.
        kind: ``"sync"``, ``"multi"`` or ``"ray"``.
        workers: processes or actors that share the environments.
        reward_batch: frames scored at once, with ``"sync"``.
        address: of a running Ray cluster; None starts Ray on this machine.

    Raises:
        UnknownNameError: if there is no such ``kind``.
        VrmError: if the environments cannot be shared evenly, or the reward learns online, or it needs the future and
            there are workers.
    """

    def __init__(
        self,
        agent: OnlineAgent,
        task: TextGoalTask,
        reward: RewardModel,
        reward_file: Path,
        n_envs: int,
        size: int,
        seed: int,
        *,
        kind: str = "sync",
        workers: int = 2,
        reward_batch: int = 256,
        address: str | None = None,
    ) -> None:
        """Make the environments; with workers, start them."""
        if kind not in KINDS:
            raise UnknownNameError("collector", kind, KINDS)
        if hasattr(reward, "observe"):
            raise VrmError(
                f"{type(reward).__name__} goes on learning from what the agent does, which agents of TorchRL do not "
                "show it; train one of Stable-Baselines3, such as agent=sac."
            )
        self.agent = agent
        steps = agent.steps_per_batch
        if not reward.causal:
            _check_alone(kind, f"{type(reward).__name__} needs the future")
            steps = task.episode_steps * math.ceil(steps / task.episode_steps)
        self._pay: RolloutReward | None = None
        keys = [key for key in reward.state_keys if key not in OF_THE_STEP]
        if kind == "sync":
            self._pay = RolloutReward(reward, batch=reward_batch)
            make = partial(SerialEnv, n_envs, partial(_captured, task, size, keys))
            self._collector = _single(make, agent, n_envs * steps)
            self._collector.set_seed(seed)
            return
        if workers < 1 or n_envs % workers:
            raise VrmError(f"n_envs must be a multiple of the collector's workers, got n_envs={n_envs}, {workers=}.")
        share = partial(_scored, task, size, keys, n_envs // workers, str(reward_file.absolute()))
        start = _multi if kind == "multi" else partial(_ray, address=address)
        self._collector = start([share] * workers, agent, n_envs * steps)
        self._collector.set_seed(seed)

    def __iter__(self) -> Iterator[TensorDictBase]:
        """Rollouts without end; weights are those of the moment each one begins at."""
        batches = iter(self._collector)
        while True:
            with quiet():
                self._collector.update_policy_weights_()
                data = next(batches).clone()
            yield data if self._pay is None else self._pay(data)

    def close(self) -> None:
        """Stop the workers."""
        with quiet():
            self._collector.shutdown()


def _captured(task: TextGoalTask, size: int, keys: list[str]) -> EnvBase:
    env: gym.Env[Any, Any] = task.make(size=size)
    if isinstance(env.action_space, gym.spaces.Box):
        env = gym.wrappers.ClipAction(env)
    return capture_env(env, keys)


def _scored(task: TextGoalTask, size: int, keys: list[str], count: int, reward: str) -> EnvBase:
    torch.set_num_threads(1)  # workers share the cores
    return TransformedEnv(SerialEnv(count, partial(_captured, task, size, keys)), RewardTransform(reward, FRAME))


def _single(make: Any, agent: OnlineAgent, frames: int) -> Any:
    with quiet():
        from torchrl.collectors import Collector

        return Collector(make, agent.policy, **_settings(agent, frames))


def _multi(makes: list[Any], agent: OnlineAgent, frames: int) -> Any:
    with quiet():
        from torchrl.collectors import MultiSyncCollector

        return MultiSyncCollector(makes, agent.policy, cat_results=0, **_settings(agent, frames))


def _ray(makes: list[Any], agent: OnlineAgent, frames: int, address: str | None) -> Any:
    with quiet():
        try:
            from torchrl.collectors.distributed import RayCollector
        except ImportError as error:
            raise MissingExtraError("ray", "ray", "Collecting with Ray") from error
        where = {"address": address} if address else {"num_cpus": len(makes), "include_dashboard": False}
        return RayCollector(
            makes, agent.policy, sync=True, ray_init_config={**where, "log_to_driver": False},
            remote_configs={"num_cpus": 1}, **_settings(agent, frames),
        )  # fmt: skip


def _settings(agent: OnlineAgent, frames: int) -> dict[str, Any]:
    left = max(agent.random_steps - agent.num_timesteps, 0)
    return {"frames_per_batch": frames, "total_frames": ENDLESS, "init_random_frames": left or None}


def _check_alone(kind: str, why: str) -> None:
    if kind != "sync":
        raise VrmError(f"{why}, so it must be where the agent is: use agent.collector.kind=sync, got {kind!r}.")
