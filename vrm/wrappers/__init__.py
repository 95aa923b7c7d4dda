"""Rewards in reinforcement learning: one thin file per ecosystem; :func:`wrap` picks the right one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from vrm.encoders import Encoder, load_encoder
from vrm.errors import PromptError
from vrm.rewards import GoalReward, RewardModel, load_reward
from vrm.wrappers.gymnasium import FrameCapture as FrameCapture
from vrm.wrappers.gymnasium import RewardWrapper as RewardWrapper
from vrm.wrappers.gymnasium import VectorRewardWrapper as VectorRewardWrapper
from vrm.wrappers.stream import Mode
from vrm.wrappers.stream import RewardStream as RewardStream

if TYPE_CHECKING:
    from vrm.wrappers.deferred import DeferredReplayBuffer as DeferredReplayBuffer
    from vrm.wrappers.deferred import attach_reward as attach_reward
    from vrm.wrappers.sb3 import VecRewardWrapper as VecRewardWrapper
    from vrm.wrappers.torchrl import RewardTransform as RewardTransform

_LAZY = {
    "DeferredReplayBuffer": "vrm.wrappers.deferred",
    "RewardTransform": "vrm.wrappers.torchrl",
    "VecRewardWrapper": "vrm.wrappers.sb3",
    "attach_reward": "vrm.wrappers.deferred",
}


def wrap(
    env: Any,
    goal: str | Sequence[str] | None = None,
    *,
    baseline: str | Sequence[str] | None = None,
    alpha: float = 0.0,
    reward: RewardModel | str | Path | None = None,
    encoder: str | Encoder = "vrm-sim",
    keep_frame: bool = False,
    mode: Mode = "step",
) -> Any:
    """Replace the reward of an environment by a goal sentence or a reward model.

    Frames are captured for you in a single environment, a ``SyncVectorEnv`` and a ``DummyVecEnv``; other vectors
    run their environments in other processes, so make those with ``wrappers=[vrm.FrameCapture]``.

    Args:
        env: a Gymnasium environment or vector environment, a Stable-Baselines3 ``VecEnv`` or a TorchRL environment.
        goal: one sentence or several that describe the goal; or give ``reward``.
        baseline: neutral sentence for ``alpha > 0``, with ``goal`` only.
        alpha: goal-baseline regularisation in [0, 1], with ``goal`` only.
        reward: a reward model, or the path of a saved one; or give ``goal``.
        encoder: name of the encoder, or an encoder, for ``goal`` or a saved ``reward``.
        keep_frame: whether the frame stays in ``info``.
        mode: when rewards are paid: at every ``"step"``; or at ``"episode_end"`` the sum over the episode, which suits
            rewards that need the future, too.

    Returns:
        ``env`` wrapped as :class:`RewardWrapper`, :class:`VectorRewardWrapper`, ``VecRewardWrapper`` or TorchRL's
        ``TransformedEnv``.

    Raises:
        PromptError: unless exactly one of ``goal`` and ``reward`` is given, with prompts that define a reward.
        RenderingError: if the environment does not render RGB arrays.
        TypeError: if ``env`` is none of the above.
        ValueError: if the reward needs the future and ``mode`` is ``"step"``.

    Example:
        >>> import gymnasium as gym
        >>> env = wrap(gym.make("CartPole-v1", render_mode="rgb_array"), "a pole standing upright")  # doctest: +SKIP
    """
    kind = _kind(env)
    model = _reward_model(goal, baseline, alpha, reward, encoder)
    if kind == "env":
        captured = env if _has_capture(env) else FrameCapture(env)
        return RewardWrapper(captured, model, keep_frame=keep_frame, mode=mode)
    if kind == "vector":
        _capture_each(env.unwrapped, gym.vector.SyncVectorEnv)
        return VectorRewardWrapper(env, model, keep_frame=keep_frame, mode=mode)
    if kind == "sb3":
        from stable_baselines3.common.vec_env import DummyVecEnv

        from vrm.wrappers.sb3 import VecRewardWrapper

        _capture_each(env.unwrapped, DummyVecEnv)
        return VecRewardWrapper(env, model, keep_frame=keep_frame, mode=mode)
    from torchrl.envs import TransformedEnv

    from vrm.wrappers.torchrl import RewardTransform

    return TransformedEnv(env, RewardTransform(model, keep_frame=keep_frame, mode=mode))


def _kind(env: Any) -> str:
    if isinstance(env, gym.Env):
        return "env"
    if isinstance(env, gym.vector.VectorEnv):
        return "vector"
    # an object of a library's class proves that the library is imported; no need to import it to ask
    for kind, module, name in (
        ("sb3", "stable_baselines3.common.vec_env", "VecEnv"),
        ("torchrl", "torchrl.envs", "EnvBase"),
    ):
        if module in sys.modules and isinstance(env, getattr(sys.modules[module], name)):
            return kind
    raise TypeError(
        f"wrap takes a Gymnasium environment or vector environment, a Stable-Baselines3 VecEnv or a TorchRL "
        f"environment, got {type(env).__name__}."
    )


def _reward_model(
    goal: str | Sequence[str] | None,
    baseline: str | Sequence[str] | None,
    alpha: float,
    reward: RewardModel | str | Path | None,
    encoder: str | Encoder,
) -> RewardModel:
    if (goal is None) == (reward is None):
        given = "neither" if goal is None else "both"
        raise PromptError(f"wrap needs a goal sentence or a reward model, exactly one of them; got {given}.")
    if goal is not None:
        return GoalReward(load_encoder(encoder) if isinstance(encoder, str) else encoder, goal, baseline, alpha)
    if baseline is not None or alpha:
        raise PromptError(f"baseline and alpha belong to a goal; a reward has its own, got {baseline=} and {alpha=}.")
    if isinstance(reward, RewardModel):
        return reward
    assert reward is not None
    return load_reward(reward, encoder if isinstance(encoder, Encoder) else None)


def _has_capture(env: gym.Env[Any, Any]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, FrameCapture):
            return True
        env = env.env
    return False


def _capture_each(vector: Any, local: type) -> None:
    """Capture frames in the environments of a vector that runs in this process."""
    if isinstance(vector, local):
        envs: list[gym.Env[Any, Any]] = vector.envs  # type: ignore[attr-defined]
        envs[:] = [env if _has_capture(env) else FrameCapture(env) for env in envs]


def __getattr__(name: str) -> Any:
    """Import what needs Stable-Baselines3 or TorchRL when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'vrm.wrappers' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
