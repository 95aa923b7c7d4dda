"""Frames of several videos fill one batch, and every frame's features are the same bytes whatever shares its batch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from vrm.encoders import Encoder
from vrm.errors import NonFiniteError

# Matrix kernels are chosen by shape, and another kernel rounds otherwise: the tower always sees this many frames.
TOWER_BATCH = 32

Finished = tuple[Hashable, Tensor | NonFiniteError]


@dataclass
class _Progress:
    """Features of a video that are there, and how many frames are still to come."""

    missing: int
    features: list[Tensor] = field(default_factory=list)
    error: NonFiniteError | None = None


class FrameBatcher:
    """Sends frames through one encoder, ``batch_size`` at a time, in steps of 32.

    Args:
        encoder: what embeds the frames.
        batch_size: how many frames are gathered, moved to the encoder's device and fetched back at once, at least 1;
            rounded up to whole steps. It decides about memory and speed, never about the features.
    """

    def __init__(self, encoder: Encoder, batch_size: int = 128) -> None:
        """Start empty."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 frame, got {batch_size}.")
        self.encoder = encoder
        self.batch_size = -(-batch_size // TOWER_BATCH) * TOWER_BATCH
        self._waiting: list[tuple[Hashable, Tensor]] = []
        self._progress: dict[Hashable, _Progress] = {}

    def add(self, key: Hashable, frames: Tensor) -> Iterator[Finished]:
        """Take the frames of a video.

        Args:
            key: the caller's name for it.
            frames: ``(T, 3, S, S)`` uint8 or float in [0, 1], in the size that the encoder's tower expects.

        Yields:
            ``(key, (T, D) float32 features on the CPU)`` of every video that is now finished, or the error that says
            the encoder gave no numbers for it.
        """
        self._progress[key] = _Progress(len(frames))
        self._waiting.extend((key, frame) for frame in frames)
        while len(self._waiting) >= self.batch_size:
            yield from self._step(self.batch_size)

    def flush(self) -> Iterator[Finished]:
        """Embed what waits, however little; yields as :meth:`add` does."""
        while self._waiting:
            yield from self._step(self.batch_size)

    def _step(self, count: int) -> Iterator[Finished]:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        frames = torch.stack([frame for _, frame in batch])
        keys = [key for key, _ in batch]
        try:
            features = embed(self.encoder, frames)
        except NonFiniteError:
            yield from self._one_by_one(keys, frames)
            return
        for key, places in _runs(keys):
            yield from self._note(key, len(places), features[places])

    def _one_by_one(self, keys: list[Hashable], frames: Tensor) -> Iterator[Finished]:
        """Find out which videos of a batch the encoder cannot embed."""
        for key, places in _runs(keys):
            try:
                yield from self._note(key, len(places), embed(self.encoder, frames[places]))
            except NonFiniteError as error:
                yield from self._note(key, len(places), error)

    def _note(self, key: Hashable, count: int, found: Tensor | NonFiniteError) -> Iterator[Finished]:
        video = self._progress[key]
        video.missing -= count
        if isinstance(found, NonFiniteError):
            video.error = found
        else:
            video.features.append(found)
        if not video.missing:
            del self._progress[key]
            yield key, video.error or torch.cat(video.features)


def _runs(keys: list[Hashable]) -> Iterator[tuple[Hashable, list[int]]]:
    """Group the places of ``keys``, in which those of one video are neighbours."""
    for key, group in groupby(range(len(keys)), key=lambda place: keys[place]):
        yield key, list(group)


@torch.no_grad()
def embed(encoder: Encoder, frames: Tensor) -> Tensor:
    """Embed frames in batches of one shape, the last one filled up with copies of its last frame.

    Args:
        encoder: what embeds them.
        frames: ``(N, 3, H, W)`` uint8 or float in [0, 1].

    Returns:
        ``(N, D)`` float32 unit vectors on the CPU; those of a frame do not depend on the other frames.

    Raises:
        NonFiniteError: if the encoder returns NaN or infinity.
    """
    short = -len(frames) % TOWER_BATCH
    full = torch.cat([frames, frames[-1:].expand(short, *frames.shape[1:])]).to(encoder.device)
    return torch.cat([encoder.encode_image(chunk) for chunk in torch.split(full, TOWER_BATCH)])[: len(frames)].cpu()
