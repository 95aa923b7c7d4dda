"""Which frames of a video are decoded and scored, and what each counts: SegVR and TAR among others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Uniform:
    """Every chosen frame counts ``1 / S``."""

    def __call__(self, indices: Tensor, total: int) -> Tensor:
        """Weights ``(S,)``."""
        return torch.full(indices.shape, 1 / indices.shape[-1], dtype=torch.float32, device=indices.device)


@dataclass(frozen=True)
class TAR:
    """Temporally attenuated reward (InstructVideo, arXiv 2312.12490, eq. 8): frames far from the centre count less.

    Weights are ``exp(-decay |g - centre|) / S`` for frame ``g``. With the published constants they are sharp: of four
    segments of 16 frames one carries 72 % of the signal, and the whole shrinks to 0.135 of a mean.

    Attributes:
        decay: lambda, per frame; 0 is a plain mean.
        centre: the frame that counts most, as a fraction of the length; None is the frame ``T // 2``.
        normalise: whether weights are scaled to sum to 1.
    """

    decay: float = 1.0
    centre: float | None = None
    normalise: bool = False

    def __post_init__(self) -> None:
        """Check the constants."""
        if not self.decay >= 0 or (self.centre is not None and not 0 <= self.centre <= 1):
            raise ValueError(f"TAR needs decay >= 0 and centre in [0, 1], got {self.decay} and {self.centre}.")

    def __call__(self, indices: Tensor, total: int) -> Tensor:
        """Weights ``(S,)`` of frames ``indices`` of ``total``."""
        centre = total // 2 if self.centre is None else self.centre * (total - 1)
        exponents = -self.decay * (indices.float() - centre).abs()
        if self.normalise:
            return exponents.softmax(dim=-1)
        return exponents.exp() / indices.shape[-1]


Weighting = Uniform | TAR


@dataclass(frozen=True)
class FrameSelection(ABC):
    """Chooses frames of a video and weighs their rewards.

    Attributes:
        weighting: what each chosen frame counts.
    """

    weighting: Weighting = field(default=Uniform(), kw_only=True)

    @abstractmethod
    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        """Frames ``(S,)`` of ``total``, ascending, int64.

        Raises:
            ValueError: if the video has too few frames.
        """

    def weights(self, indices: Tensor, total: int) -> Tensor:
        """What each of ``indices`` counts, ``(S,)`` float32: the reward is ``sum(weights * rewards)``."""
        return self.weighting(indices, total)


@dataclass(frozen=True)
class AllFrames(FrameSelection):
    """Every frame."""

    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        """``0 .. total - 1``."""
        return torch.arange(total)


@dataclass(frozen=True)
class RandomFrames(FrameSelection):
    """Different frames at random; one of them is an unbiased estimate of a mean over frames (VADER)."""

    count: int = 1

    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` different frames."""
        _check_count(self.count, total)
        return torch.randperm(total, generator=generator)[: self.count].sort().values


@dataclass(frozen=True)
class EvenFrames(FrameSelection):
    """Evenly spaced frames with a random offset (T2V-Turbo takes 8)."""

    count: int = 8

    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        """``offset + stride * i``."""
        _check_count(self.count, total)
        stride = total // self.count
        offset = torch.randint(total - stride * (self.count - 1), (1,), generator=generator)
        return offset + stride * torch.arange(self.count)


@dataclass(frozen=True)
class FirstMiddleLast(FrameSelection):
    """The first, middle and last frame (VADER's "fml")."""

    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        """``0, total // 2, total - 1``, each once."""
        return torch.tensor(sorted({0, total // 2, total - 1}))


@dataclass(frozen=True)
class AlternateFrames(FrameSelection):
    """Every ``step``-th frame (VADER's "alt" takes every second)."""

    step: int = 2

    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        """``0, step, 2 step, ...``."""
        if self.step < 1:
            raise ValueError(f"step must be at least 1, got {self.step}.")
        return torch.arange(0, total, self.step)


@dataclass(frozen=True)
class Segments(FrameSelection):
    """Segmental video reward (InstructVideo, section 3.3): one random frame from each of equal segments.

    ``Segments(4, weighting=TAR())`` is the paper's setting.
    """

    count: int = 4

    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        """One frame per segment; where the length does not divide, segments differ by one frame."""
        _check_count(self.count, total)
        edges = [math.floor(i * total / self.count) for i in range(self.count + 1)]
        widths = torch.tensor([b - a for a, b in pairwise(edges)])
        places = (torch.rand(self.count, generator=generator) * widths).floor().long()
        return torch.tensor(edges[:-1]) + places.minimum(widths - 1)


def _check_count(count: int, total: int) -> None:
    if not 1 <= count <= total:
        raise ValueError(f"Cannot choose {count} frames of a video of {total}; choose between 1 and {total}.")
