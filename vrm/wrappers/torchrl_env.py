"""TorchRL environments whose frames lie beside the observations, so that rewards see pictures and policies states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from vrm.errors import MissingExtraError
from vrm.wrappers.gymnasium import FrameCapture

try:
    from tensordict import TensorDictBase
    from torchrl.data import Bounded, Composite, Unbounded
    from torchrl.envs import GymWrapper
    from torchrl.envs.gym_like import BaseInfoDictReader
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "capture_env") from error

FRAME = "frame"


class FrameReader(BaseInfoDictReader):  # type: ignore[misc]  # torchrl ships no types
    """Copies ``info["frame"]`` and single numbers of ``info`` into a TorchRL environment's data.

    Args:
        size: height and width of the frames.
        keys: names of numbers in ``info``, at reset too; they become float32 entries ``(1,)``.
    """

    def __init__(self, size: tuple[int, int], keys: Sequence[str] = ()) -> None:
        """Describe the entries."""
        self.keys = tuple(keys)
        frame = Bounded(0, 255, (*size, 3), dtype=torch.uint8)
        self._spec = Composite({FRAME: frame, **{key: Unbounded((1,), dtype=torch.float32) for key in self.keys}})

    @property
    def info_spec(self) -> Any:
        """What :meth:`__call__` writes."""
        return self._spec

    def reset(self) -> None:
        """Nothing is remembered."""

    def __call__(self, info: dict[str, Any], tensordict: TensorDictBase) -> TensorDictBase:
        """Write the frame and the numbers.

        Raises:
            ValueError: if ``info`` lacks one of the numbers.
        """
        tensordict.set(FRAME, torch.from_numpy(info[FRAME]))
        for key in self.keys:
            if key not in info:
                raise ValueError(f"info has no {key!r}, only {sorted(info)}; let the environment put it there.")
            tensordict.set(key, torch.tensor([float(info[key])]))
        return tensordict


def capture_env(env: gym.Env[Any, Any], keys: Sequence[str] = ()) -> GymWrapper:
    """Turn a Gymnasium environment into a TorchRL one with the rendered frame under ``"frame"``.

    Discrete actions are integers, not one-hot. Batch such environments with ``SerialEnv`` or ``ParallelEnv``.

    Args:
        env: made with ``render_mode="rgb_array"``; captured here unless it is a :class:`~vrm.FrameCapture` already.
        keys: further numbers of ``info`` that the reward reads, such as ``"success"``.

    Raises:
        RenderingError: if the render mode is another.

    Example:
        >>> import gymnasium as gym
        >>> env = capture_env(gym.make("CartPole-v1", render_mode="rgb_array"))
        >>> env.rollout(2)["next", "frame"].shape
        torch.Size([2, 400, 600, 3])
        >>> env.close()
    """
    captured = env if isinstance(env, FrameCapture) else FrameCapture(env)
    frame: np.ndarray[Any, Any] = captured.reset()[1]["frame"]
    wrapped = GymWrapper(captured, categorical_action_encoding=True)
    return wrapped.set_info_dict_reader(FrameReader(frame.shape[:2], keys))
