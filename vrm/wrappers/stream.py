"""The only place that knows about episodes: per-environment history for online and deferred rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vrm.errors import FrameError, NonFiniteError
from vrm.frames import check_frames
from vrm.rewards.base import RewardModel, Terms

StateRow = dict[str, float]
Clip = tuple[tuple[Tensor, StateRow], ...]


class History:
    """The last ``window`` frames, with their state values, of the running episode in each environment."""

    def __init__(self, model: RewardModel, num_envs: int) -> None:
        """Start with no episode running."""
        self.window = model.window
        self._clips: list[Clip] = [() for _ in range(num_envs)]

    def begin(self, i: int, frame: Tensor, state: StateRow) -> None:
        """Start an episode in environment ``i`` at ``frame``."""
        self._clips[i] = ((frame, state),)

    def extend(self, i: int, frame: Tensor, state: StateRow, done: bool) -> Clip:
        """Add the frame that environment ``i`` arrived at and return the clip that its reward is about.

        Raises:
            ValueError: if rewards look back and the episode's first frame was never given.
        """
        if self.window > 1 and not self._clips[i]:
            raise ValueError(
                f"Environment {i} steps in an episode whose first frame is unknown, but the reward looks back over "
                f"{self.window} frames; give the frame that reset returned to begin() first."
            )
        clip = (*self._clips[i], (frame, state))[-self.window :]
        self._clips[i] = () if done else clip
        return clip

    def __contains__(self, i: int) -> bool:
        """Whether an episode runs in environment ``i`` of which a frame is known."""
        return bool(self._clips[i])


class RewardStream:
    """Feeds one frame per environment and step to a reward model and pays the reward of arriving there.

    Args:
        model: a causal reward model.
        num_envs: number ``N`` of environments that step together.

    Raises:
        ValueError: if ``num_envs`` is not positive or ``model`` needs future frames.

    Attributes:
        terms: the named parts ``(N,)`` of the last rewards, for ``info``; 0 where nothing was paid.

    Example:
        >>> stream = RewardStream(model, num_envs=2)  # doctest: +SKIP
        >>> stream.begin(first_frames)  # doctest: +SKIP
        >>> rewards = stream.push(frames, done=torch.tensor([False, True]))  # doctest: +SKIP
    """

    def __init__(self, model: RewardModel, num_envs: int) -> None:
        """Start with no history; call :meth:`begin` with the frames that reset returned."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.model = check_online(model)
        self.num_envs = num_envs
        self.terms: Terms = {}
        self._history = History(model, num_envs)

    @property
    def needs_reset_frame(self) -> bool:
        """Whether rewards look back, so that an episode's first frame must be given to :meth:`begin`."""
        return self.model.window > 1

    def begin(self, frames: Tensor, state: Sequence[StateRow] | None = None, mask: Tensor | None = None) -> None:
        """Start new episodes: forget history and remember the first frame, which is never paid.

        Args:
            frames: ``(N, 3, H, W)`` first frames.
            state: per environment, the values the model's ``state_keys`` name.
            mask: ``(N,)`` bool, which environments begin; all if omitted.
        """
        self._check(frames)
        for i in self._rows(mask):
            self._history.begin(i, frames[i], _row(self.model, state, i))

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
        rows = self._rows(mask)
        over = done.tolist()
        clips = [self._history.extend(i, frames[i], _row(self.model, state, i), bool(over[i])) for i in rows]
        rewards, terms = score_clips(self.model, clips) if rows else (torch.zeros(0), {})
        if len(rows) == self.num_envs:
            self.terms = terms
            return rewards
        names = terms or self.terms  # what was paid before stays in info, as 0
        self.terms = {name: self._spread(terms.get(name, torch.zeros(0)), rows) for name in names}
        return self._spread(rewards, rows)

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


@torch.no_grad()
def score_clips(model: RewardModel, clips: Sequence[Clip]) -> tuple[Tensor, Terms]:
    """Reward and terms ``(M,)``, on the CPU, of the last frame of each of ``M`` clips, in one call of the model.

    Clips of different lengths are padded at the end with their last frame: a causal reward does not see the future,
    so the column of a clip's own last frame is what it would be alone.

    Raises:
        NonFiniteError: if the model returns NaN or infinity.
    """
    lengths = [len(clip) for clip in clips]
    longest = max(lengths)
    padded = [(*clip, *[clip[-1]] * (longest - len(clip))) for clip in clips]
    frames = torch.stack([torch.stack([frame for frame, _ in clip]) for clip in padded])
    state = {key: torch.tensor([[row[key] for _, row in clip] for clip in padded]) for key in model.state_keys}
    if min(lengths) == longest:
        terms = model.latest(frames, state=state)
    else:
        last = torch.tensor(lengths, device=frames.device) - 1
        terms = {
            name: values[torch.arange(len(clips), device=values.device), last.to(values.device)]
            for name, values in model.terms(frames, state=state).items()
        }
    rewards = model.combine(terms).cpu()
    if not torch.isfinite(rewards).all():
        raise NonFiniteError(f"{type(model).__name__} returned {rewards.tolist()}; rewards must be finite numbers.")
    return rewards, {name: values.cpu() for name, values in terms.items()}


def check_online(model: RewardModel) -> RewardModel:
    """Return ``model`` if it can be paid step by step.

    Raises:
        ValueError: if it needs frames from the future.
    """
    if not model.causal:
        raise ValueError(
            f"{type(model).__name__} needs frames from the future, so it cannot pay rewards step by step; "
            "use it for offline scoring."
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
