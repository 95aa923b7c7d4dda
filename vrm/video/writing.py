"""Frames to video files: mp4 and GIF, whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrm.errors import FrameError
from vrm.video.sampling import sample_indices

Picture = NDArray[np.uint8]
MAX_GIF_FPS = 50  # viewers slow down anything that changes faster than every 20 ms


def write_video(path: str | os.PathLike[str], frames: Tensor | Iterable[Tensor], fps: float = 30) -> Path:
    """Write frames as an H.264 mp4 (yuv420p, plays everywhere); the file appears only when it is complete.

    Args:
        path: ends in ``.mp4``; missing folders are made, an existing file is replaced.
        frames: ``(T, C, H, W)`` uint8, or an iterable of ``(C, H, W)`` uint8, RGB, all of one size. Odd heights and
            widths grow by one pixel, because the format has none.
        fps: frames per second, above 0.

    Returns:
        The path written.

    Raises:
        ValueError: if ``fps`` or the suffix is wrong.
        FrameError: if there are no frames, or one has another layout, dtype or size.
    """
    rate = Fraction(_positive(fps)).limit_denominator(1001)
    with replacing(path, ".mp4") as partial:
        pictures = _pictures(frames)
        first = next(pictures)
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
            height, width, _ = _even(first).shape
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for picture in chain([first], pictures):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(_even(picture), format="rgb24")))
            container.mux(stream.encode(None))
    return Path(path)


def write_gif(path: str | os.PathLike[str], frames: Tensor | Iterable[Tensor], fps: float = 15) -> Path:
    """Write frames as an endlessly looping GIF with one palette fitted to all of them.

    Args:
        path: ends in ``.gif``; missing folders are made, an existing file is replaced.
        frames: as for :func:`write_video`.
        fps: frames per second, above 0 and at most 50.

    Returns:
        The path written.

    Raises:
        ValueError: if ``fps`` or the suffix is wrong.
        FrameError: if there are no frames, or one has another layout, dtype or size.
    """
    if _positive(fps) > MAX_GIF_FPS:
        raise ValueError(f"fps must be at most {MAX_GIF_FPS} for a GIF, got {fps:g}; skip frames or write an mp4.")
    with replacing(path, ".gif") as partial:
        pictures = [Image.fromarray(picture) for picture in _pictures(frames)]
        palette = _palette(pictures)
        images = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
        ends = np.round(np.arange(1, len(images) + 1) * 100 / fps) * 10  # GIF counts in hundredths of a second
        durations = np.diff(ends, prepend=0).astype(int).tolist()
        images[0].save(partial, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return Path(path)


def _positive(fps: float) -> float:
    """Return ``fps`` if it is a rate."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps}.")
    return fps


@contextmanager
def replacing(path: str | os.PathLike[str], suffix: str) -> Iterator[Path]:
    """Give a partial file beside ``path`` to write to; it takes that name at the end, or vanishes on an error.

    Raises:
        ValueError: if the name does not end in ``suffix``.
    """
    target = Path(os.path.abspath(path))
    if target.suffix.lower() != suffix:
        raise ValueError(f"The file name must end in {suffix}, got {target.name!r}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _pictures(frames: Tensor | Iterable[Tensor]) -> Iterator[Picture]:
    """Yield each frame as ``(H, W, C)`` uint8, checked; never none."""
    size: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        if not isinstance(frame, Tensor) or frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[0] != 3:
            got = f"{frame.dtype} {tuple(frame.shape)}" if isinstance(frame, Tensor) else type(frame).__name__
            raise FrameError(f"A video is made of uint8 RGB tensors (3, H, W), got {got} at frame {index}.")
        size = size or tuple(frame.shape)
        if tuple(frame.shape) != size or 0 in size:
            raise FrameError(f"Frames must be of one size above 0, got {tuple(frame.shape)} after {size}.")
        yield np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy())
    if size is None:
        raise FrameError("A video needs at least one frame, got none.")


def _even(picture: Picture) -> Picture:
    """Repeat the last row and column of ``(H, W, C)`` where H or W is odd."""
    height, width, _ = picture.shape
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """Fit 256 colours to at most 16 pictures spread over the clip."""
    sample = [pictures[index] for index in sample_indices(len(pictures), min(len(pictures), 16))]
    sheet = Image.new("RGB", (sample[0].width, sample[0].height * len(sample)))
    for row, picture in enumerate(sample):
        sheet.paste(picture, (0, row * picture.height))
    return sheet.quantize(256, Image.Quantize.MEDIANCUT)
