"""From recorded frames to demonstrations: sampled by time, shrunk once, with the labels of the frames that stay."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vrm.data.demos import Demo, DemoError
from vrm.frames import from_hwc
from vrm.video.decoding import MAX_BYTES, describe, read_frames
from vrm.video.indexed import Choose, FrameIndex, scan, truncated
from vrm.video.opening import MAX_PIXELS
from vrm.video.read import as_frames
from vrm.video.sampling import FrameSampler

BATCH_BYTES = 256 << 20  # of full-size frames held at once; each batch decodes anew from the key frame before it
RATE_SLACK = 1.01  # containers round their rates: 30 for 29.97


class Stack(Protocol):
    """Frames ``(T, H, W, 3)`` uint8 that can be sliced: an array, or a dataset in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its axes."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Read some frames."""


@dataclass(frozen=True)
class Reading:
    """How every demonstration of a call is read.

    Attributes:
        fps: frames per second to sample at, by time; None for every frame.
        max_side: frames whose longer side has more pixels are shrunk to it.
        text: replaces what the sources say about themselves; None to keep that.
        camera: which of several cameras; None for the first.
    """

    fps: float | None = None
    max_side: int = 256
    text: str | None = None
    camera: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            DemoError: if ``fps`` or ``max_side`` is not above 0, or ``text`` is blank.
        """
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise DemoError(f"fps must be a positive number of frames per second, got {self.fps}.")
        if self.max_side < 1:
            raise DemoError(f"max_side must be at least 1 pixel, got {self.max_side}.")
        if self.text is not None and not self.text.strip():
            raise DemoError("text must say what the demonstrations show, got a blank one; leave it out instead.")

    def rows(self, times: NDArray[np.float64], rate: float | None, where: str) -> list[int]:
        """Choose frames.

        Args:
            times: ``(T,)`` rising time stamps in seconds; any if ``rate`` is None.
            rate: frames per second of the source, None if it does not say.
            where: the source, for messages.

        Raises:
            DemoError: if ``fps`` is asked of a source that has fewer or does not say how many it has.
        """
        if self.fps is None:
            return list(range(len(times)))
        if rate is None:
            raise DemoError(
                f"{where} does not say its frame rate, so it cannot be sampled at {self.fps:g} fps; omit fps."
            )
        if self.fps > rate * RATE_SLACK:
            raise DemoError(f"{where} has {rate:.4g} frames per second, fewer than fps={self.fps:g}; ask for fewer.")
        return FrameSampler("fps", self.fps).indices(times)

    def even_rows(self, total: int, rate: float | None, where: str) -> list[int]:
        """Choose among ``total`` frames at a constant rate; otherwise as :meth:`rows`."""
        return self.rows(np.arange(total) / (rate or 1), rate, where)

    def demo(
        self,
        frames: Tensor,
        name: str,
        rows: Sequence[int],
        total: int,
        *,
        rate: float | None = None,
        text: str | None = None,
        success: bool | None = None,
        stages: Any = None,
        actions: Any = None,
    ) -> Demo:
        """Put a demonstration together.

        Args:
            frames: ``(T', 3, H, W)`` uint8, those of ``rows``.
            name: of the demonstration.
            rows: the numbers of ``frames`` among all.
            total: number of all frames, T.
            rate: frames per second of all.
            text: what is done, if the source says so.
            success: whether it ends with the task done.
            stages: ``(T,)`` integers or None.
            actions: ``(T - 1, A)``, ``(T, A)`` whose last led nowhere, either without the A, or None. They are
                dropped where frames are left out: no single one leads from a frame to the next.

        Raises:
            DemoError: if labels have another length or type.
        """
        whole = list(rows) == list(range(total))
        return Demo(
            frames,
            name,
            text=self.text or (text.strip() if text else None) or None,
            success=success,
            stages=None if stages is None else _stages(stages, total, name)[list(rows)],
            actions=_actions(actions, total, name) if whole and actions is not None else None,
            fps=self.fps or rate,
        )

    def shrink(self, frames: Tensor) -> Tensor:
        """Resize ``(T, 3, H, W)`` uint8 so that the longer side has at most ``max_side`` pixels; never enlarges."""
        height, width = frames.shape[-2:]
        scale = self.max_side / max(height, width)
        if scale >= 1:
            return frames
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        return functional.interpolate(frames, size, mode="bilinear", antialias=True)

    def stack(self, frames: Stack, rows: Sequence[int]) -> Tensor:
        """Take ``rows`` of a stack of frames and shrink them: ``(T', 3, H, W)`` uint8."""
        pieces = []
        for batch in _batches(rows, math.prod(frames.shape[1:])):
            block = np.asarray(frames[slice(batch[0], batch[-1] + 1)])
            pieces.append(self.shrink(from_hwc(block[[row - batch[0] for row in batch]])))
        return torch.cat(pieces)


class Clip:
    """A video file, indexed once, from which frames are taken by number and shrunk on the way.

    Args:
        path: any video that :mod:`vrm.video` reads.

    Raises:
        DecodeError: if it is missing, damaged, cut off or no video.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Index the file."""
        self.path = path
        self._index = scan(path)
        if self._index.claimed is not None:
            raise truncated(path, len(self._index), self._index.claimed)
        self.info = describe(path, self._index, MAX_PIXELS)[0]

    @property
    def times(self) -> NDArray[np.float64]:
        """Time stamps ``(T,)`` in seconds from the first frame."""
        times: NDArray[np.float64] = self._index.times
        return times

    def take(self, choose: Choose, reading: Reading) -> tuple[Tensor, list[int]]:
        """Decode the frames that ``choose`` picks from the time stamps.

        Returns:
            ``(T', 3, H, W)`` uint8 and their numbers.

        Raises:
            DecodeError: if the file is damaged.
            DemoError: if the frames need more than 4 GiB.
        """
        rows = list(choose(self.times))
        found, frames = self._decode(rows, reading)
        if found is not self._index:  # packets had promised other frames than there are
            self._index = found
            rows = list(choose(self.times))
            frames = self._decode(rows, reading)[1]
        return frames, rows

    def _decode(self, rows: list[int], reading: Reading) -> tuple[FrameIndex, Tensor]:
        height, width = self.info.height, self.info.width
        scale = min(reading.max_side / max(height, width), 1)
        if len(rows) * height * width * 3 * scale**2 > MAX_BYTES:
            raise DemoError(
                f"{len(rows)} frames of {os.path.abspath(self.path)} need more than {MAX_BYTES >> 30} GiB; "
                "sample them with fps or lower max_side."
            )
        pieces, found = [], self._index
        for batch in _batches(rows, height * width * 3):

            def choose(times: NDArray[np.float64], batch: Sequence[int] = batch) -> list[int]:
                return [min(row, len(times) - 1) for row in batch]

            pictures, _, found = read_frames(self.path, found, choose)
            pieces.append(reading.shrink(as_frames(pictures)).contiguous())
        return found, torch.cat(pieces)


def natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts numbers in names by value.

    Example:
        >>> sorted(["frame_10.png", "frame_2.png"], key=natural)
        ['frame_2.png', 'frame_10.png']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name.casefold())]


def _batches(rows: Sequence[int], frame_bytes: int) -> Iterator[Sequence[int]]:
    """Split rising ``rows`` so that the frames from the first to the last of each part fit into ``BATCH_BYTES``."""
    room = max(BATCH_BYTES // max(frame_bytes, 1), 1)
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] - rows[start] >= room:
            yield rows[start:end]
            start = end


def _stages(values: Any, total: int, name: str) -> NDArray[np.int64]:
    stages = np.asarray(values)
    if stages.shape != (total,) or stages.dtype.kind not in "iu":
        raise DemoError(
            f"Demonstration {name!r} has {total} frames, so its stages must be {total} integers, got {stages.dtype} "
            f"with shape {stages.shape}."
        )
    return stages.astype(np.int64)


def _actions(values: Any, total: int, name: str) -> NDArray[np.float32]:
    actions = np.asarray(values)
    if actions.dtype.kind not in "iufb" or actions.ndim == 0 or len(actions) not in (total - 1, total):
        raise DemoError(
            f"Demonstration {name!r} has {total} frames, so its actions must be numbers in {total - 1} rows (or "
            f"{total}, the last of which led nowhere), got {actions.dtype} with shape {actions.shape}."
        )
    return actions[: total - 1].reshape(total - 1, -1).astype(np.float32)
