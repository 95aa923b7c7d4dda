"""Rewards for TorchRL: a transform that scores the pixels of an environment."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrm.errors import FrameError, MissingExtraError
from vrm.rewards.base import RewardModel, load_reward
from vrm.wrappers.history import StateRow
from vrm.wrappers.stream import Mode, RewardStream, check_online

try:
    from tensordict import TensorDictBase
    from torchrl.data import Composite, Unbounded
    from torchrl.envs import Transform
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "RewardTransform") from error

RewardSource = RewardModel | str | Path | Callable[[], RewardModel]


class RewardTransform(Transform):  # type: ignore[misc]  # torchrl ships no types
    """Replaces the reward of a TorchRL environment by a reward model's, for every environment of its batch at once.

    ``("next", "env_reward")`` keeps the original. State values the model reads are entries of the same name. Put
    ``RewardSum()`` after it to sum the new reward. The model is no submodule: it neither moves nor saves with the
    environment.

    Inside collectors with workers give the path of a saved reward, or a function that builds one: each process then
    loads it when it first needs it, and nothing but the path travels. A history belongs to one running environment:
    copies, clones and pickles of the transform begin without one.

    Frames are an entry of the data, so a policy is free to read states. They come from ``GymEnv(from_pixels=True)``,
    from :func:`~vrm.wrappers.torchrl_env.capture_env` (``info["frame"]``, entry ``"frame"``), or from TorchRL's
    ``PixelRenderTransform`` put before this one, which calls ``env.render()``.

    With ``mode="episode_end"`` all steps but an episode's last are paid 0; the last is paid the sum of what the model
    gives to all of them.

    Args:
        model: a reward model, the path of a saved one, or a function that returns one; a causal one unless ``mode`` is
            ``"episode_end"``.
        pixels: entry with frames ``(..., H, W, 3)`` uint8, as ``GymEnv(..., from_pixels=True)`` writes.
        keep_frame: whether the pixels stay in the data.
        mode: when rewards are paid, ``"step"`` or ``"episode_end"``.

    Raises:
        ValueError: if the model needs frames from the future and is to be paid step by step; when it is loaded, for one
            that is given by path or function.
        FrameError: at reset, if there are no pixels in that layout.

    Example:
        >>> env = GymEnv("CartPole-v1", from_pixels=True, pixels_only=False)  # doctest: +SKIP
        >>> env = TransformedEnv(env, RewardTransform(model))  # doctest: +SKIP
    """

    def __init__(
        self, model: RewardSource, pixels: str = "pixels", *, keep_frame: bool = False, mode: Mode = "step"
    ) -> None:
        """Name the entries; the history starts at the first reset, when the batch is known."""
        super().__init__(in_keys=[pixels], out_keys=["reward"])
        self.pixels = pixels
        self.keep_frame = keep_frame
        if isinstance(model, RewardModel):
            check_online(model, mode)
        self._new_stream = partial(_new_stream, model, mode)  # hides the model from nn.Module
        self._stream: RewardStream | None = None

    def clone(self) -> RewardTransform:
        """Copy the transform without its history: two environments must not share one."""
        copied: RewardTransform = super().clone()
        copied._stream = None
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Leave the history here: it belongs to the environment of this process."""
        return {**super().__getstate__(), "_stream": None}

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        mask = tensordict.get("_reset", None)
        stream, frames = self._stream_for(tensordict_reset), self._take_frames(tensordict_reset)
        if stream.needs_reset_frame:
            zero = torch.zeros(stream.num_envs)
            state = self._read_state(stream, tensordict_reset, zero)
            stream.begin(frames, state, None if mask is None else mask.reshape(-1).cpu())
        tensordict_reset["env_reward"] = torch.zeros(*tensordict_reset.batch_size, 1, device=tensordict_reset.device)
        return tensordict_reset

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        stream, frames = self._stream_for(next_tensordict), self._take_frames(next_tensordict)
        env_reward = next_tensordict["reward"].float()
        done = next_tensordict["done"].reshape(-1).cpu()
        mask = tensordict.get("_step", None)  # which environments of the batch made this step
        state = self._read_state(stream, next_tensordict, env_reward)
        reward = stream.push(frames, done, state, None if mask is None else mask.reshape(-1).cpu())
        next_tensordict["env_reward"] = env_reward
        next_tensordict["reward"] = reward.reshape(env_reward.shape).to(env_reward.device)
        return next_tensordict

    def _stream_for(self, tensordict: TensorDictBase) -> RewardStream:
        if self._stream is None:
            self._stream = self._new_stream(math.prod(tensordict.batch_size))
        return self._stream

    def _take_frames(self, tensordict: TensorDictBase) -> Tensor:
        frames = tensordict.get(self.pixels, None)
        if frames is None or frames.dtype != torch.uint8 or frames.shape[-1] != 3:
            what = "nothing" if frames is None else f"{frames.dtype} with shape {tuple(frames.shape)}"
            raise FrameError(
                f"Entry {self.pixels!r} must hold (..., H, W, 3) uint8 frames, got {what}; make single environments "
                "with from_pixels=True and batch them with SerialEnv or ParallelEnv."
            )
        if not self.keep_frame:
            del tensordict[self.pixels]
        # the environment reuses its buffers, and a history must not change under the stream
        copied: Tensor = frames.reshape(-1, *frames.shape[-3:]).movedim(-1, -3).clone()
        return copied

    @staticmethod
    def _read_state(stream: RewardStream, tensordict: TensorDictBase, env_reward: Tensor) -> list[StateRow] | None:
        keys = stream.model.state_keys
        if not keys:
            return None
        columns = {}
        for key in keys:
            values = env_reward if key == "env_reward" else tensordict.get(key, None)
            if values is None:
                raise ValueError(f"The reward reads state {key!r}, but the data has only {sorted(tensordict.keys())}.")
            columns[key] = values.reshape(-1).float().tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def transform_observation_spec(self, observation_spec: Any) -> Any:
        """Announce ``env_reward`` and, unless they are kept, take the pixels out."""
        if not self.keep_frame and self.pixels in observation_spec.keys():  # noqa: SIM118 (a Composite is no mapping)
            del observation_spec[self.pixels]
        observation_spec["env_reward"] = self._scalar(observation_spec)
        return observation_spec

    def transform_reward_spec(self, reward_spec: Any) -> Any:
        """Announce an unbounded float32 reward."""
        reward_spec["reward"] = self._scalar(reward_spec)
        return reward_spec

    @staticmethod
    def _scalar(spec: Composite) -> Unbounded:
        return Unbounded(shape=(*spec.shape, 1), dtype=torch.float32, device=spec.device)


def _new_stream(source: RewardSource, mode: Mode, num_envs: int) -> RewardStream:
    return RewardStream(build_reward(source), num_envs, mode)


def build_reward(source: RewardSource) -> RewardModel:
    """Return the model, load it if its path is given, or build it."""
    if isinstance(source, RewardModel):
        return source
    return load_reward(source) if isinstance(source, str | Path) else source()
