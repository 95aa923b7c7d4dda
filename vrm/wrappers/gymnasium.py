"""Rewards for Gymnasium: capture the frame inside each environment, score one environment or a vector of them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from vrm.errors import FrameError, RenderingError
from vrm.frames import from_hwc
from vrm.rewards.base import RewardModel
from vrm.wrappers.history import StateRow
from vrm.wrappers.stream import Mode, RewardStream, at_reset, at_step, read_state, take_frame

Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class FrameCapture(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Puts the rendered frame, a fresh ``(H, W, 3)`` uint8 array, into ``info["frame"]`` at reset and every step.

    It sits inside every single environment, before any automatic reset, so an episode's last frame is its own.

    Args:
        env: an environment made with ``render_mode="rgb_array"``.

    Raises:
        RenderingError: if the render mode is another.
        FrameError: if ``render()`` returns something else than one RGB frame.

    Example:
        >>> import gymnasium as gym
        >>> env = FrameCapture(gym.make("CartPole-v1", render_mode="rgb_array"))
        >>> _, info = env.reset(seed=0)
        >>> info["frame"].shape
        (400, 600, 3)
        >>> env.close()
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Check that the environment renders arrays."""
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise RenderingError(
                f"{env} has render_mode={env.render_mode!r}, so it has no frames to score; "
                'make it with gymnasium.make(..., render_mode="rgb_array").'
            )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset and capture the first frame."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, {**info, "frame": self._frame()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and capture the frame arrived at."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "frame": self._frame()}

    def _frame(self) -> Frame:
        frame: Any = self.env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
            shape = getattr(frame, "shape", None)
            raise FrameError(
                f"render() must return one (H, W, 3) uint8 frame, got {type(frame).__name__} "
                f"of {getattr(frame, 'dtype', 'no dtype')} with shape {shape}."
            )
        return np.array(frame, order="C")  # always a copy: renderers hand out views and reuse buffers


class RewardWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces the reward of one environment by a reward model's.

    ``info["env_reward"]`` keeps the original and ``info["reward/<term>"]`` shows each part of the new one.
    ``terminated`` and ``truncated`` are untouched. State values the model reads come from ``info``, except
    ``"env_reward"`` and ``"terminated"``, which come from the step itself.

    With ``mode="episode_end"`` all steps but an episode's last are paid 0; the last is paid the sum of what the model
    gives to all of them, and ``info["episode_rewards"]`` holds those rewards ``(steps,)``.

    Args:
        env: an environment with :class:`FrameCapture` somewhere inside.
        model: a reward model; a causal one unless ``mode`` is ``"episode_end"``.
        keep_frame: whether ``info["frame"]`` stays for the caller.
        mode: when rewards are paid, ``"step"`` or ``"episode_end"``.

    Raises:
        FrameError: at reset, if no frame is captured.
        ValueError: if ``mode`` does not suit the model, or a state value that it reads is missing from ``info``.

    Example:
        >>> env = RewardWrapper(FrameCapture(env), model)  # doctest: +SKIP
    """

    def __init__(
        self, env: gym.Env[Any, Any], model: RewardModel, *, keep_frame: bool = False, mode: Mode = "step"
    ) -> None:
        """Start with no episode."""
        super().__init__(env)
        self.stream = RewardStream(model, num_envs=1, mode=mode)
        self.keep_frame = keep_frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset and begin a new history."""
        obs, info = self.env.reset(seed=seed, options=options)
        frame = take_frame(info, self.keep_frame)
        if self.stream.needs_reset_frame:
            state = read_state(self.stream.model, [at_reset(info)])
            self.stream.begin(from_hwc(frame[None]), state)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step and pay for arriving at the new frame."""
        obs, env_reward, terminated, truncated, info = self.env.step(action)
        info["env_reward"] = float(env_reward)
        frame = take_frame(info, self.keep_frame)
        done = torch.tensor([bool(terminated or truncated)])
        state = read_state(self.stream.model, [at_step(info, info["env_reward"], terminated)])
        reward = self.stream.push(from_hwc(frame[None]), done, state)
        info.update({f"reward/{name}": float(value[0]) for name, value in self.stream.terms.items()})
        if self.stream.episode_rewards:
            info["episode_rewards"] = self.stream.episode_rewards[0].numpy()
        return obs, float(reward[0]), terminated, truncated, info


class VectorRewardWrapper(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Replaces the rewards of a vector of environments, all scored in one call, in every autoreset mode.

    An episode's last frame is paid to that episode: with ``SAME_STEP`` it is taken from ``info["final_info"]``, with
    ``NEXT_STEP`` the step that only resets is paid 0 and begins a new history, and with ``DISABLED`` the caller
    resets. ``info["env_reward"]`` and ``info["reward/<term>"]`` are arrays, as Gymnasium's vector infos are.

    ``mode="episode_end"`` pays as in :class:`RewardWrapper`; ``info["episode_rewards"]`` then is an object array with
    the rewards ``(steps,)`` of each episode that ended, and None elsewhere.

    Args:
        env: vector environment whose sub-environments capture frames, as ``make_vec(..., wrappers=[FrameCapture])``.
        model: a reward model; a causal one unless ``mode`` is ``"episode_end"``.
        keep_frame: whether ``info["frame"]`` stays for the caller.
        mode: when rewards are paid, ``"step"`` or ``"episode_end"``.

    Raises:
        ValueError: if there are no environments, ``mode`` does not suit the model, or the autoreset mode or a state
            value is unknown.
        FrameError: at reset, if no frame is captured.

    Example:
        >>> envs = gym.make_vec("CartPole-v1", 4, render_mode="rgb_array", wrappers=[FrameCapture])  # doctest: +SKIP
        >>> envs = VectorRewardWrapper(envs, model)  # doctest: +SKIP
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        model: RewardModel,
        *,
        keep_frame: bool = False,
        mode: Mode = "step",
    ) -> None:
        """Find out how episodes follow each other."""
        super().__init__(env)
        self.stream = RewardStream(model, env.num_envs, mode)
        self.keep_frame = keep_frame
        if "autoreset_mode" not in env.metadata:
            raise ValueError(
                f"{env} does not say when it resets; set metadata['autoreset_mode'] to a gymnasium AutoresetMode."
            )
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._over: Mask = np.zeros(env.num_envs, dtype=bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those in ``options["reset_mask"]``, and begin their histories."""
        mask = (options or {}).get("reset_mask")  # read first: the environment pops it
        started = np.ones(self.num_envs, dtype=bool) if mask is None else np.array(mask, dtype=bool)
        obs, info = self.env.reset(seed=seed, options=options)
        self._begin(self._frames(info), info, started)
        self._over &= ~started
        return obs, info

    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], Mask, Mask, dict[str, Any]]:
        """Step all environments and pay for arriving at the new frames."""
        obs, env_rewards, terminated, truncated, info = self.env.step(actions)
        done = np.logical_or(terminated, truncated)
        new_episode = self._over if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(done)
        frames, last = self._frames(info), info
        arrived = frames
        if self._mode is AutoresetMode.SAME_STEP and done.any():
            last = info["final_info"]
            arrived = np.where(done[:, None, None, None], self._frames(last), frames)
        self._begin(frames, info, new_episode)
        infos = [last if d else info for d in done]
        rows = [at_step(self._row(infos[i], i), env_rewards[i], terminated[i]) for i in range(self.num_envs)]
        rewards = self._pay(arrived, rows, done, ~new_episode)
        if self._mode is AutoresetMode.SAME_STEP:
            self._begin(frames, info, done)
        self._over = done
        self._report(info, env_rewards, ~new_episode)
        return obs, rewards, terminated, truncated, info

    def _frames(self, info: dict[str, Any]) -> Frame:
        if not self.keep_frame:
            info.pop("_frame", None)
        frames: Frame = take_frame(info, self.keep_frame)
        return frames

    def _begin(self, frames: Frame, info: dict[str, Any], mask: Mask) -> None:
        if self.stream.needs_reset_frame and mask.any():
            rows = [at_reset(self._row(info, i)) for i in range(self.num_envs)]
            self.stream.begin(from_hwc(frames), self._read(rows, mask), torch.from_numpy(mask))

    def _pay(self, frames: Frame, rows: list[dict[str, Any]], done: Mask, paid: Mask) -> NDArray[np.float64]:
        state = self._read(rows, paid)
        rewards = self.stream.push(from_hwc(frames), torch.from_numpy(done), state, torch.from_numpy(paid))
        return rewards.double().numpy()

    def _row(self, info: dict[str, Any], i: int) -> dict[str, Any]:
        """What environment ``i`` itself reported among the state keys; vector infos fill gaps with zeros."""
        mine = {}
        for key in self.stream.model.state_keys:
            reported = info.get(f"_{key}")
            if key in info and (reported is None or reported[i]):
                mine[key] = info[key][i]
        return mine

    def _read(self, rows: list[dict[str, Any]], mask: Mask) -> list[StateRow]:
        values = iter(read_state(self.stream.model, [row for row, wanted in zip(rows, mask, strict=True) if wanted]))
        return [next(values) if wanted else {} for wanted in mask]

    def _report(self, info: dict[str, Any], env_rewards: NDArray[Any], paid: Mask) -> None:
        info["env_reward"], info["_env_reward"] = env_rewards, np.ones(self.num_envs, dtype=bool)
        for name, values in self.stream.terms.items():
            info[f"reward/{name}"], info[f"_reward/{name}"] = values.numpy(), paid.copy()
        if ended := self.stream.episode_rewards:
            steps, mask = np.full(self.num_envs, None), np.zeros(self.num_envs, dtype=bool)
            for i, rewards in ended.items():
                steps[i], mask[i] = rewards.numpy(), True
            info["episode_rewards"], info["_episode_rewards"] = steps, mask
