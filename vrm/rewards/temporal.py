"""Rewards of how a clip changes over time, without any text: smooth, steady, moving, uncut, and about one subject.

Each is 1 where nothing is wrong, and 1 where nothing can be said: for the first frames, which lack the predecessors
that a frame is compared with, so that a clip of one frame scores 1. The clip's score leaves those frames out.

The pixel measures look at luma (ITU-R BT.601) of frames squashed to 16 x 16: values do not depend on the size of the
video, and compression noise hardly counts. They do depend on the frame rate, so compare clips that were sampled alike.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from vrm.encoders import Encoder
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder

SIDE = 16  # of the squashed frames
CHUNK = 2**18  # pixels squashed at once, so that large frames stay in the processor's cache while they are floats
STILL = 0.05  # motion below this share of a frame's contrast counts as noise
FLAT = 0.05  # standard deviation of luma below which a frame has no contrast to speak of


class _TemporalReward(RewardModel):
    """One term, the reward itself: a value for every frame that has ``window - 1`` predecessors, 1 before."""

    term: ClassVar[str]
    range = (0.0, 1.0)

    @abstractmethod
    def compare(self, clips: Tensor) -> Tensor:
        """Judge every frame but the first ``window - 1`` of checked clips: ``(B, T - window + 1)``."""

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The reward ``(B, T)`` under its own name; ``goals`` and ``state`` change nothing."""
        check_call(clips, goals, state)
        skipped = min(self.window - 1, clips.shape[1])
        first = torch.ones(len(clips), skipped, device=clips.device)
        return {self.term: first if skipped == clips.shape[1] else torch.cat([first, self.compare(clips)], dim=1)}

    def combine(self, terms: Terms) -> Tensor:
        """The term."""
        return terms[self.term]

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """Mean ``(B,)`` over the frames that have enough predecessors; 1 if there is none."""
        rewards = self.forward(clips, goals, state)
        return rewards[:, min(self.window, rewards.shape[1]) - 1 :].mean(dim=1)

    def dimensions(self, clips: Tensor, goals: Goals = None, state: State = None) -> dict[str, Tensor]:
        """The score under the term's name."""
        return {self.term: self.score(clips, goals, state)}

    def config(self) -> dict[str, Any]:
        """No arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`; there is no encoder."""
        return cls(**config)


class MotionSmoothness(_TemporalReward):
    """How far the last change goes on as the one before it: 1 for steady motion or rest, 0 for shaking to and fro.

    With ``d_t = x_t - x_{t-1}``, the change between squashed frames of equal brightness and contrast::

        r_t = 1 - ||d_t - d_{t-1}||^2 / (2 ||d_t||^2 + 2 ||d_{t-1}||^2)

    which lies in [0, 1] by the parallelogram law: 1 if the change repeats, 1/2 if it is unrelated to the one before,
    0 if it is undone. A constant added to the denominator keeps noise in a still picture from counting as shaking.
    Flicker of the whole picture does not count; :class:`Flicker` sees it.
    """

    term = "motion_smoothness"
    window = 3

    def compare(self, clips: Tensor) -> Tensor:
        """Compare each change with the one before."""
        x = thumbnails(clips)
        x = x - x.mean(dim=(-2, -1), keepdim=True)
        x = x / (x.square().mean(dim=(-2, -1), keepdim=True) + FLAT**2).sqrt()
        change = x[:, 1:] - x[:, :-1]
        turn = _power(change[:, 1:] - change[:, :-1])
        return 1 - turn / (2 * (_power(change[:, 1:]) + _power(change[:, :-1])) + STILL**2)


class Flicker(_TemporalReward):
    """1 minus the brightness that comes and goes again within three frames, averaged over the picture.

    Where the luma of a squashed pixel rises and falls again, or falls and rises, the smaller of the two changes counts:
    a picture that blinks between 100 % and 80 % grey gives 0.8, a fade or steady motion gives 1. VBench's temporal
    flickering (Huang et al. 2023, arXiv 2311.17982) is 1 minus the mean absolute difference of frames, which counts all
    motion and is meant for still scenes only.
    """

    term = "flicker"
    window = 3

    def compare(self, clips: Tensor) -> Tensor:
        """Measure what the last change took back of the one before."""
        x = thumbnails(clips)
        before, after = x[:, 1:-1] - x[:, :-2], x[:, 2:] - x[:, 1:-1]
        undone = torch.minimum(before.abs(), after.abs()) * (before * after < 0)
        return 1 - undone.mean(dim=(-2, -1))


class FrozenVideo(_TemporalReward):
    """1 where a frame differs from the one before, 0 where it repeats it; the score is the share that moves.

    Args:
        tolerance: a frame repeats the one before if no pixel of the squashed frame changes its luma by more than this,
            in [0, 1]. The default is a quarter of a grey level, above what H.264 makes of repeated frames.

    Raises:
        ValueError: if ``tolerance`` is outside [0, 1).
    """

    term = "moving"
    window = 2
    differentiable = False

    def __init__(self, tolerance: float = 0.001) -> None:
        """Keep the tolerance."""
        super().__init__()
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), got {tolerance}.")
        self.tolerance = float(tolerance)

    def compare(self, clips: Tensor) -> Tensor:
        """Look for a pixel that changed."""
        x = thumbnails(clips)
        return ((x[:, 1:] - x[:, :-1]).abs().amax(dim=(-2, -1)) > self.tolerance).float()

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"tolerance": self.tolerance}


class CutDetection(_TemporalReward):
    """0 at the first frame of another shot, 1 elsewhere; the score is 1 / (number of shots).

    A hard cut is where the structural similarity (SSIM, Wang et al. 2004, over the whole squashed picture) to the frame
    before falls below ``threshold``. Cuts between pictures of one layout that differ in colour only, and dissolves, are
    not found; in frames sampled far apart, fast motion of the whole picture can look like a cut.

    Args:
        threshold: similarity in (-1, 1) below which there is a cut.

    Raises:
        ValueError: if ``threshold`` is outside (-1, 1).
    """

    term = "uncut"
    window = 2
    differentiable = False

    def __init__(self, threshold: float = 0.5) -> None:
        """Keep the threshold."""
        super().__init__()
        if not -1 < threshold < 1:
            raise ValueError(f"threshold must lie in (-1, 1), got {threshold}.")
        self.threshold = float(threshold)

    def compare(self, clips: Tensor) -> Tensor:
        """Look for too little similarity."""
        x = thumbnails(clips)
        return (structural_similarity(x[:, 1:], x[:, :-1]) >= self.threshold).float()

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """One over the number of shots ``(B,)``."""
        return 1 / (1 + (1 - self.forward(clips, goals, state)).sum(dim=1))

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"threshold": self.threshold}


class SubjectConsistency(_TemporalReward):
    """Similarity of each frame's features to those of the frame before and of the first frame.

    ``r_t = (max(0, f_t . f_{t-1}) + max(0, f_t . f_0)) / 2``, averaged over ``t >= 1``: the formula of VBench's subject
    consistency (Huang et al. 2023, arXiv 2311.17982, with DINO features; with CLIP features it is its background
    consistency). It needs the first frame of the clip, so it cannot be paid online.

    Args:
        encoder: what the features come from.
    """

    term = "subject_consistency"
    window = 2
    causal = False
    reads_pixels = False

    def __init__(self, encoder: Encoder) -> None:
        """Keep the encoder."""
        super().__init__()
        self.encoder = encoder

    def compare(self, clips: Tensor) -> Tensor:
        """Compare features with those before and those at the start."""
        features = encode_frames(self.encoder, clips)
        now = features[:, 1:]
        previous, start = ((now * other).sum(-1).clamp(0, 1) for other in (features[:, :-1], features[:, :1]))
        return (previous + start) / 2

    def config(self) -> dict[str, Any]:
        """The encoder by name."""
        return {"encoder": self.encoder.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`."""
        return cls(pick_encoder(config["encoder"], encoder))


def thumbnails(clips: Tensor) -> Tensor:
    """Squash frames ``(B, T, 3, H, W)`` to luma ``(B, T, 16, 16)`` in [0, 1]."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=clips.device).view(3, 1, 1)
    if clips.dtype == torch.uint8:
        weights = weights / 255  # after squashing, which spares a pass over the large frames
    height, width = clips.shape[-2:]
    chunks = torch.split(clips.flatten(0, 1), max(CHUNK // (height * width), 1))
    small = [functional.interpolate(x.float(), (SIDE, SIDE), mode="bilinear", antialias=True) for x in chunks]
    return (torch.cat(small) * weights).sum(dim=1).reshape(*clips.shape[:2], SIDE, SIDE)


def structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    """SSIM with a single window over pictures ``(..., H, W)`` in [0, 1]: ``(...)`` in [-1, 1] (Wang et al. 2004).

    Example:
        >>> ramp = torch.linspace(0, 1, 4).expand(4, 4)
        >>> structural_similarity(ramp, ramp), structural_similarity(ramp, ramp.flip(-1)) < 0
        (tensor(1.), tensor(True))
    """
    c1, c2 = 0.01**2, 0.03**2
    mean, mean_other = one.mean(dim=(-2, -1)), other.mean(dim=(-2, -1))
    spread, spread_other = one - mean[..., None, None], other - mean_other[..., None, None]
    covariance = (spread * spread_other).mean(dim=(-2, -1))
    brightness = (2 * mean * mean_other + c1) / (mean**2 + mean_other**2 + c1)
    return brightness * (2 * covariance + c2) / (_power(spread) + _power(spread_other) + c2)


def _power(x: Tensor) -> Tensor:
    return x.square().mean(dim=(-2, -1))
