"""Rewards for Stable-Baselines3 vector environments, paid at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from vrm.frames import from_hwc
from vrm.rewards.base import RewardModel
from vrm.wrappers.stream import Mode, RewardStream, at_reset, at_step, read_state, take_frame


class VecRewardWrapper(VecEnvWrapper):
    """Replaces the rewards of a ``VecEnv``, all scored in one call.

    ``infos[i]["env_reward"]`` keeps the original and ``infos[i]["reward/<term>"]`` shows each part of the new one.
    A ``Monitor`` inside still reports the environment's reward; put ``VecMonitor`` outside to see this one.

    With ``mode="episode_end"`` all steps but an episode's last are paid 0; the last is paid the sum of what the model
    gives to all of them, and ``infos[i]["episode_rewards"]`` holds those rewards ``(steps,)``.

    Args:
        venv: vector environment whose sub-environments capture frames with :class:`~vrm.FrameCapture`.
        model: a reward model; a causal one unless ``mode`` is ``"episode_end"``.
        keep_frame: whether ``infos[i]["frame"]`` stays for the caller.
        mode: when rewards are paid, ``"step"`` or ``"episode_end"``.

    Raises:
        ValueError: if there are no environments, ``mode`` does not suit the model, or a state value that it reads is
            missing from ``info``.
        FrameError: at reset, if no frame is captured.

    Example:
        >>> from stable_baselines3.common.vec_env import DummyVecEnv
        >>> venv = VecRewardWrapper(DummyVecEnv([make_env] * 4), model)  # doctest: +SKIP
    """

    def __init__(self, venv: VecEnv, model: RewardModel, *, keep_frame: bool = False, mode: Mode = "step") -> None:
        """Start with no episodes."""
        super().__init__(venv)
        self.stream = RewardStream(model, venv.num_envs, mode)
        self.keep_frame = keep_frame

    def reset(self) -> VecEnvObs:
        """Reset all environments and begin their histories."""
        obs = self.venv.reset()
        for info in self.venv.unwrapped.reset_infos:
            take_frame(info, keep=True)  # a missing frame is told here, not after the first step
        self._begin(np.ones(self.num_envs, dtype=bool))
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments and pay for arriving at the new frames."""
        obs, env_rewards, dones, infos = self.venv.step_wait()
        for info, env_reward in zip(infos, env_rewards, strict=True):
            info["env_reward"] = float(env_reward)
        frames = from_hwc(np.stack([take_frame(info, self.keep_frame) for info in infos]))
        steps = zip(infos, dones, strict=True)
        rows = [at_step(info, info["env_reward"], terminated(done, info)) for info, done in steps]
        state = read_state(self.stream.model, rows)
        rewards = self.stream.push(frames, torch.from_numpy(np.asarray(dones, dtype=bool)), state)
        for name, values in self.stream.terms.items():
            for info, value in zip(infos, values.tolist(), strict=True):
                info[f"reward/{name}"] = value
        for i, labels in self.stream.episode_rewards.items():
            infos[i]["episode_rewards"] = labels.numpy()
        self._begin(dones)
        return obs, rewards.numpy(), dones, infos

    def _begin(self, mask: NDArray[np.bool_]) -> None:
        """Begin histories where ``mask``; the VecEnv has reset those environments already."""
        if self.stream.needs_reset_frame and mask.any():
            infos = [at_reset(info) for info in self.venv.unwrapped.reset_infos]
            frames = from_hwc(np.stack([take_frame(info) for info in infos]))
            self.stream.begin(frames, read_state(self.stream.model, infos), torch.from_numpy(mask))


def terminated(done: Any, info: dict[str, Any]) -> bool:
    """Whether an episode ended by its own rule: a ``VecEnv`` says ``done`` for time limits, too, and marks those."""
    return bool(done) and not info.get("TimeLimit.truncated", False)
