"""Deferred rewards for TorchRL: a collector's rollout is scored as a whole, in big batches, before losses see it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vrm.errors import FrameError, MissingExtraError
from vrm.frames import from_hwc
from vrm.rewards.base import RewardModel
from vrm.wrappers.history import Moment, Scorer, StateRow
from vrm.wrappers.torchrl_env import FRAME

try:
    from tensordict import TensorDictBase
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "RolloutReward") from error


@dataclass
class _Segment:
    """Steps of one episode within a rollout: what came before them, and where they lie."""

    env: int
    start: int
    moments: list[Moment] = field(default_factory=list)
    steps: int = 0


class RolloutReward:
    """Replaces the rewards of rollouts; called with each batch of a collector, in the order they were collected.

    The numbers are those that :class:`~vrm.wrappers.RewardTransform` would have paid step by step. The original stays
    under ``("next", "env_reward")``; the frames are taken out.

    Args:
        model: a reward model. One that needs the future labels whole episodes: then each rollout must end where
            episodes end.
        frame: entry with the frames ``(H, W, 3)`` uint8.
        batch: how many frames are scored at once.

    Example:
        >>> pay = RolloutReward(model)  # doctest: +SKIP
        >>> for data in collector:  # doctest: +SKIP
        ...     losses = loss(pay(data))
    """

    def __init__(self, model: RewardModel, frame: str = FRAME, batch: int = 256) -> None:
        """Start with no episode running."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}.")
        self.model, self.frame, self.batch = model, frame, batch
        self._scorer = Scorer(model, whole=not model.causal)
        self._looks_back = model.window > 1 or not model.causal
        self._running: dict[int, list[Moment]] = {}

    def __call__(self, data: TensorDictBase) -> TensorDictBase:
        """Pay a rollout.

        Args:
            data: batch ``(N, T)``: the next ``T`` steps of each of ``N`` environments, always in the same order.

        Raises:
            FrameError: if the frames are missing or of another layout.
            ValueError: if an episode goes on after the rollout, and the reward needs its end.
            NonFiniteError: if the model returns NaN or infinity.
        """
        done = data["next", "done"].flatten(2).any(-1)
        if not self.model.causal and not bool(done[:, -1].all()):
            raise ValueError(
                f"{type(self.model).__name__} needs whole episodes, but this rollout of {done.shape[1]} steps ends in "
                "the middle of one; collect as many steps per environment as an episode has."
            )
        env_reward = data["next", "reward"].float()
        segments = [s for i in range(len(done)) for s in self._segments(data, i, done[i].tolist(), env_reward[i])]
        rewards = torch.zeros_like(env_reward)
        found = self._scorer.every([s.moments for s in segments], self.batch)
        for segment, paid in zip(segments, found, strict=True):
            rewards[segment.env, segment.start : segment.start + segment.steps, 0] = paid[-segment.steps :]
        data["next", "env_reward"] = env_reward
        data["next", "reward"] = rewards
        slim: TensorDictBase = data.exclude(self.frame, ("next", self.frame))
        return slim

    def _segments(self, data: TensorDictBase, i: int, done: list[bool], env_reward: Tensor) -> list[_Segment]:
        """Cut the steps of environment ``i`` at the ends of episodes, and remember the one that goes on."""
        before, after = data[i], data[i]["next"]
        shots = self._frames(after)
        arrived = self._state(after, env_reward)
        known = self._running.pop(i, None)
        segments: list[_Segment] = []
        for t, over in enumerate(done):
            if not segments or done[t - 1]:
                history = known if known is not None and t == 0 else self._first(before, t)
                segments.append(_Segment(i, t, list(history)))
            segments[-1].moments.append(self._scorer.moment(shots[t], arrived[t]))
            segments[-1].steps += 1
            if not over and t == len(done) - 1:
                keep = self.model.window - 1
                self._running[i] = segments[-1].moments[-keep:] if keep else []
        return segments

    def _first(self, before: TensorDictBase, t: int) -> list[Moment]:
        """The frame that an episode started with, if the reward looks back at it."""
        if not self._looks_back:
            return []
        row = before[t : t + 1]
        state = self._state(row, torch.zeros(1), at_start=True)
        return [self._scorer.moment(self._frames(row)[0], state[0])]

    def _frames(self, data: TensorDictBase) -> Tensor:
        frames = data.get(self.frame, None)
        if frames is None or frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            what = "nothing" if frames is None else f"{frames.dtype} with shape {tuple(frames.shape)}"
            raise FrameError(
                f"Entry {self.frame!r} must hold (N, T, H, W, 3) uint8 frames, got {what}; make single environments "
                "with vrm.wrappers.torchrl_env.capture_env and batch them with SerialEnv or ParallelEnv."
            )
        return from_hwc(frames.numpy(force=True))

    def _state(self, data: TensorDictBase, env_reward: Tensor, at_start: bool = False) -> list[StateRow]:
        columns: dict[str, list[float]] = {}
        for key in self.model.state_keys:
            values = env_reward if key == "env_reward" else data.get(key, None)
            if values is None:
                raise ValueError(f"The reward reads state {key!r}, but the data has only {sorted(data.keys())}.")
            values = torch.zeros_like(values) if at_start and key == "terminated" else values
            columns[key] = values.reshape(-1).float().tolist()
        rows = range(data.batch_size[0])
        return [{key: values[row] for key, values in columns.items()} for row in rows]
