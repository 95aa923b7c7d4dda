"""What a reward model remembers of running episodes, and how it scores that: the core under every wrapper.

A reward that looks back sees most frames many times. One that sees them through the features of a single encoder
(:attr:`vrm.rewards.RewardModel.reads_pixels`) gets each frame embedded once; what is remembered of it then is its
feature vector, a few hundred numbers, however long the history.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from vrm.encoders import Encoder
from vrm.errors import NonFiniteError
from vrm.rewards.base import RewardModel, Terms

StateRow = dict[str, float]
FEATURES_PER_FRAME = 16  # so many frames weigh as much as one whose pixels are kept, once features stand for them


@dataclass(eq=False, slots=True)
class Moment:
    """One frame of an episode.

    Attributes:
        frame: ``(3, H, W)`` pixels; None once features stand for them, or where the model sees neither.
        state: the values that the model's ``state_keys`` name.
        features: ``(D,)`` unit vector, once made.
    """

    frame: Tensor | None
    state: StateRow
    features: Tensor | None = None


Clip = Sequence[Moment]


class History:
    """The last frames, with their state values, of the running episode in each environment.

    Args:
        model: the reward model.
        num_envs: number of environments.
        whole: whether to remember episodes from their first frame on, whatever the model's window.
    """

    def __init__(self, model: RewardModel, num_envs: int, whole: bool = False) -> None:
        """Start with no episode running."""
        self.window = sys.maxsize if whole else model.window
        self._clips: list[tuple[Moment, ...]] = [() for _ in range(num_envs)]

    @property
    def looks_back(self) -> bool:
        """Whether an episode's first frame must be given to :meth:`begin`."""
        return self.window > 1

    def begin(self, i: int, moment: Moment) -> None:
        """Start an episode in environment ``i`` at ``moment``."""
        self._clips[i] = (moment,)

    def extend(self, i: int, moment: Moment, done: bool) -> Clip:
        """Add the frame that environment ``i`` arrived at and return the clip that its reward is about.

        Raises:
            ValueError: if rewards look back and the episode's first frame was never given.
        """
        clip = (*self._known(i), moment)[-self.window :]
        self._clips[i] = () if done else clip
        return clip

    def _known(self, i: int) -> tuple[Moment, ...]:
        if self.looks_back and not self._clips[i]:
            raise unknown_start(i, self.window)
        return self._clips[i]


def unknown_start(i: int, window: int) -> ValueError:
    """The error of an episode in environment ``i`` whose first frame is needed and was never given."""
    span = "the whole episode" if window == sys.maxsize else f"{window} frames"
    return ValueError(
        f"Environment {i} steps in an episode whose first frame is unknown, but the reward looks back over "
        f"{span}; give the frame that reset returned to begin() first."
    )


class Scorer:
    """Scores clips of remembered frames; the only place that decides what stands for a frame.

    Args:
        model: the reward model.
        whole: whether clips are whole episodes, which are long even if the model's window is not.
    """

    def __init__(self, model: RewardModel, whole: bool = False) -> None:
        """Look for the encoder that sees for the model."""
        self.model = model
        encoders = [module for module in model.modules() if isinstance(module, Encoder)]
        through_features = not model.reads_pixels and len(encoders) == 1
        self._encoder = encoders[0] if through_features and (whole or model.window > 1) else None
        self._blind = not model.reads_pixels and not encoders

    def moment(self, frame: Tensor, state: StateRow) -> Moment:
        """Remember ``frame`` ``(3, H, W)``, or its place in time only if the model sees no frames at all."""
        return Moment(frame.new_zeros(3, 1, 1) if self._blind else frame, state)

    @torch.no_grad()
    def embed(self, moments: Iterable[Moment]) -> None:
        """Let features stand for the pixels of those ``moments`` that still have them, in one call of the encoder."""
        if self._encoder is None:
            return
        new = list({id(moment): moment for moment in moments if moment.features is None}.values())
        if not new:
            return
        frames = torch.stack([moment.frame for moment in new if moment.frame is not None])
        for moment, features in zip(new, self._encoder.encode_image(frames).to(frames.device), strict=True):
            moment.frame, moment.features = None, features

    @torch.no_grad()
    def latest(self, clips: Sequence[Clip]) -> tuple[Tensor, Terms]:
        """Reward and terms ``(M,)``, on the CPU, of the last frame of each of ``M`` clips, in one call of the model.

        Clips of different lengths are padded at the end with their last frame: a causal reward does not see the future,
        so the column of a clip's own last frame is what it would be alone.

        Raises:
            NonFiniteError: if the model returns NaN or infinity.
        """
        lengths = torch.tensor([len(clip) for clip in clips])
        with self._shown(clips) as (frames, state):
            if self._encoder is None and bool((lengths == lengths[0]).all()):
                terms = self.model.latest(frames, state=state)
            else:  # latest may cut frames off, and features are for these very frames
                terms = {
                    name: values[torch.arange(len(clips), device=values.device), (lengths - 1).to(values.device)]
                    for name, values in self.model.terms(frames, state=state).items()
                }
        return self._finite(self.model.combine(terms)), {name: values.cpu() for name, values in terms.items()}

    def every(self, clips: Sequence[Clip], batch: int) -> list[Tensor]:
        """Rewards ``(T,)``, on the CPU, of every frame of each of the clips, which may differ in length.

        Args:
            clips: at least as long as the model's window, or from their episode's first frame on.
            batch: how many frames are scored at once; longer clips are scored one by one.

        Raises:
            NonFiniteError: if the model returns NaN or infinity.
        """
        if self.model.causal and self.model.window == 1:
            moments = list(chain.from_iterable(clips))
            chunks = [moments[start : start + batch] for start in range(0, len(moments), batch)]
            paid = torch.cat([self.latest([(moment,) for moment in chunk])[0] for chunk in chunks])
            return list(torch.split(paid, [len(clip) for clip in clips]))
        self.embed(chain.from_iterable(clips))
        room = batch if self._encoder is None else batch * FEATURES_PER_FRAME
        found: dict[int, Tensor] = {}
        for group in self._groups([len(clip) for clip in clips], room):
            found |= zip(group, self._columns([clips[i] for i in group]), strict=True)
        return [found[i] for i in range(len(clips))]

    def _groups(self, lengths: list[int], room: int) -> Iterator[list[int]]:
        """Which clips go together; those of a reward that sees the future cannot be padded."""
        group: list[int] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            fits = (len(group) + 1) * lengths[i] <= room
            if group and not (fits and (self.model.causal or lengths[i] == lengths[group[0]])):
                yield group
                group = []
            group.append(i)
        if group:
            yield group

    @torch.no_grad()
    def _columns(self, clips: list[Clip]) -> list[Tensor]:
        with self._shown(clips) as (frames, state):
            rewards = self._finite(self.model.combine(self.model.terms(frames, state=state)))
        return [row[: len(clip)] for row, clip in zip(rewards, clips, strict=True)]

    @contextmanager
    def _shown(self, clips: Sequence[Clip]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Frames ``(M, T, 3, H, W)`` and state ``(M, T)``, padded to one length, while features are supplied."""
        self.embed(chain.from_iterable(clips))
        longest = max(len(clip) for clip in clips)
        padded = [(*clip, *[clip[-1]] * (longest - len(clip))) for clip in clips]
        state = {key: torch.tensor([[m.state[key] for m in clip] for clip in padded]) for key in self.model.state_keys}
        if self._encoder is None:
            yield torch.stack([torch.stack([m.frame for m in clip if m.frame is not None]) for clip in padded]), state
            return
        features = torch.stack([torch.stack([m.features for m in clip if m.features is not None]) for clip in padded])
        blank = torch.zeros(len(clips), longest, 3, 1, 1, dtype=torch.uint8, device=features.device)
        with self._encoder.supply(blank, features):
            yield blank, state

    def _finite(self, rewards: Tensor) -> Tensor:
        if not torch.isfinite(rewards).all():
            raise NonFiniteError(
                f"{type(self.model).__name__} returned {rewards.tolist()}; rewards must be finite numbers."
            )
        return rewards.cpu()
