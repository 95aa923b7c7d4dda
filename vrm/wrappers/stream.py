"""The one place that knows about episodes: per-environment history for online rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vrm.errors import FrameError, UnknownNameError
from vrm.frames import check_frames
from vrm.rewards.base import RewardModel, Terms
from vrm.wrappers.history import Clip, History, Scorer, StateRow

Mode = Literal["step", "episode_end"]
EPISODE_BATCH = 256  # frames of finished episodes scored at once


class RewardStream:
    """Feeds one frame per environment and step to a reward model and pays the reward of arriving there.

    With ``mode="episode_end"`` every step is paid 0 until an episode ends; its last step is then paid the sum of what
    the model gives to the steps of the whole episode. So a model that needs the future can be paid, too. Until then the
    episode's frames are kept: as features where those are all the model sees of them, else as they are.

    Args:
        model: a reward model; a causal one unless ``mode`` is ``"episode_end"``.
        num_envs: number ``N`` of environments that step together.
        mode: when rewards are paid, ``"step"`` or ``"episode_end"``.

    Raises:
        ValueError: if ``num_envs`` is not positive or ``model`` needs future frames at every step.
        UnknownNameError: if there is no such ``mode``.

    Attributes:
        terms: the named parts ``(N,)`` of the last rewards, for ``info``; 0 where nothing was paid. Empty with
            ``mode="episode_end"``.
        episode_rewards: with ``mode="episode_end"``, the rewards ``(steps,)`` of each episode that the last
            :meth:`push` ended, by environment.

    Example:
        >>> stream = RewardStream(model, num_envs=2)  # doctest: +SKIP
        >>> stream.begin(first_frames)  # doctest: +SKIP
        >>> rewards = stream.push(frames, done=torch.tensor([False, True]))  # doctest: +SKIP
    """

    def __init__(self, model: RewardModel, num_envs: int, mode: Mode = "step") -> None:
        """Start with no history; call :meth:`begin` with the frames that reset returned."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.model = check_online(model, mode)
        self.num_envs = num_envs
        self.mode = mode
        self.terms: Terms = {}
        self.episode_rewards: dict[int, Tensor] = {}
        at_end = mode == "episode_end"
        self._history = History(model, num_envs, whole=at_end)
        self._scorer = Scorer(model, whole=at_end)

    @property
    def needs_reset_frame(self) -> bool:
        """Whether rewards look back, so that an episode's first frame must be given to :meth:`begin`."""
        return self._history.looks_back

    def begin(self, frames: Tensor, state: Sequence[StateRow] | None = None, mask: Tensor | None = None) -> None:
        """Start new episodes: forget history and remember the first frame, which is never paid.

        Args:
            frames: ``(N, 3, H, W)`` first frames.
            state: per environment, the values the model's ``state_keys`` name.
            mask: ``(N,)`` bool, which environments begin; all if omitted.
        """
        self._check(frames)
        for i in self._rows(mask):
            self._history.begin(i, self._scorer.moment(frames[i], _row(self.model, state, i)))

    def push(
        self,
        frames: Tensor,
        done: Tensor,
        state: Sequence[StateRow] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Reward ``(N,)`` for arriving at ``frames``, in one call of the model.

        Args:
            frames: ``(N, 3, H, W)`` RGB; where ``done``, the episode's own last frame, not the next one's first.
            done: ``(N,)`` bool, terminated or truncated; history is cleared after paying.
            state: per environment, the values the model's ``state_keys`` name.
            mask: ``(N,)`` bool, which environments made a step; the others get 0 and keep their history.

        Raises:
            FrameError: if ``frames`` breaks the layout.
            ValueError: if there is not one frame per environment, or an episode's first frame is needed and unknown.
            NonFiniteError: if the model returns NaN or infinity.
        """
        self._check(frames)
        over = [bool(d) for d in done.tolist()]
        clips = {
            i: self._history.extend(i, self._scorer.moment(frames[i], _row(self.model, state, i)), over[i])
            for i in self._rows(mask)
        }
        if self.mode == "episode_end":
            return self._pay_episodes(clips, [i for i in clips if over[i]])
        rows = list(clips)
        rewards, terms = self._scorer.latest(list(clips.values())) if rows else (torch.zeros(0), {})
        if len(rows) == self.num_envs:
            self.terms = terms
            return rewards
        names = terms or self.terms  # what was paid before stays in info, as 0
        self.terms = {name: self._spread(terms.get(name, torch.zeros(0)), rows) for name in names}
        return self._spread(rewards, rows)

    def _pay_episodes(self, clips: Mapping[int, Clip], ended: list[int]) -> Tensor:
        self._scorer.embed(moment for clip in clips.values() for moment in (clip[0], clip[-1]))  # the others are
        found = self._scorer.every([clips[i] for i in ended], EPISODE_BATCH) if ended else []
        self.episode_rewards = {i: rewards[1:] for i, rewards in zip(ended, found, strict=True)}
        rewards = torch.zeros(self.num_envs)
        for i, steps in self.episode_rewards.items():
            rewards[i] = steps.sum()
        return rewards

    def _spread(self, values: Tensor, rows: list[int]) -> Tensor:
        spread = torch.zeros(self.num_envs)
        spread[rows] = values
        return spread

    def _rows(self, mask: Tensor | None) -> list[int]:
        return list(range(self.num_envs)) if mask is None else [i for i, on in enumerate(mask.tolist()) if on]

    def _check(self, frames: Tensor) -> None:
        check_frames(frames, 4)
        if len(frames) != self.num_envs:
            raise ValueError(f"Expected one frame for each of {self.num_envs} environments, got {len(frames)}.")


def check_online(model: RewardModel, mode: Mode = "step") -> RewardModel:
    """Return ``model`` if it can be paid at that time.

    Raises:
        ValueError: if it needs frames from the future and is to be paid step by step.
        UnknownNameError: if there is no such ``mode``.
    """
    if mode not in get_args(Mode):
        raise UnknownNameError("mode", mode, get_args(Mode))
    if mode == "step" and not model.causal:
        raise ValueError(
            f"{type(model).__name__} needs frames from the future, so it cannot pay rewards step by step; "
            'use mode="episode_end" here, or an off-policy algorithm with vrm.wrappers.attach_reward.'
        )
    return model


def take_frame(info: dict[str, Any], keep: bool = False) -> Any:
    """Take the frame that :class:`~vrm.FrameCapture` left in ``info``.

    Raises:
        FrameError: if there is none.
    """
    if "frame" not in info:
        raise FrameError(
            "There is no info['frame'] to score; wrap every single environment in vrm.FrameCapture, as in "
            "make_vec(..., wrappers=[vrm.FrameCapture]) or make_vec_env(..., wrapper_class=vrm.FrameCapture)."
        )
    return info["frame"] if keep else info.pop("frame")


def at_reset(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a reward may read of an episode's first frame: ``info``, no reward yet, and that nothing has ended."""
    return {"env_reward": 0.0, **info, "terminated": 0.0}


def at_step(info: Mapping[str, Any], env_reward: float, terminated: bool) -> dict[str, Any]:
    """What a reward may read of a frame arrived at: ``info``, the original reward, and whether the episode terminated.

    A time limit is no termination: what lies behind it still has a value.
    """
    return {**info, "env_reward": env_reward, "terminated": float(terminated)}


def read_state(model: RewardModel, infos: Sequence[Mapping[str, Any]]) -> list[StateRow]:
    """Read the values that ``model.state_keys`` name from each environment's ``info``.

    Raises:
        ValueError: if a value is missing.
    """
    for key in model.state_keys:
        for info in infos:
            if key not in info:
                raise ValueError(
                    f"The reward reads state {key!r}, but info has only {sorted(info)}; "
                    f"let the environment put {key!r} into info, at reset too if the reward looks back."
                )
    return [{key: float(info[key]) for key in model.state_keys} for info in infos]


def _row(model: RewardModel, state: Sequence[StateRow] | None, i: int) -> StateRow:
    if state is None and model.state_keys:
        raise ValueError(f"The reward reads state {', '.join(model.state_keys)} for every frame, got none.")
    return {} if state is None else state[i]
