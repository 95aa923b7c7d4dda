"""Video files and tensors: write, read, sample.

Reading decodes from the first frame on and counts what really comes out, because containers often promise another
number of frames than they hold: slower than seeking, and exact for every codec and cut.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrm.errors import DecodeError, FrameError, UnknownNameError
from vrm.frames import from_hwc

Sampling = Literal["uniform", "middle"]
Picture = NDArray[np.uint8]
MAX_GIF_FPS = 50  # viewers slow down anything that changes faster than every 20 ms


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        frames: number of frames that can be shown (counted, not the container's claim).
        fps: mean frame rate, in frames per second.
        height: of a frame as shown, in pixels.
        width: of a frame as shown, in pixels.
        duration: in seconds.
        codec: name of the decoder, for example "h264".
    """

    frames: int
    fps: float
    height: int
    width: int
    duration: float
    codec: str


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


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe a video file, decoding all of it to count its frames.

    Raises:
        DecodeError: if the file is missing, damaged or holds no video.
    """
    with _open(path) as (container, stream):
        frames, start, end, height, width = 0, math.inf, -math.inf, 0, 0
        for frame in container.decode(stream):
            height, width = (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)
            if frame.time is not None:
                lasts = float((frame.duration or 0) * (frame.time_base or 0))
                start, end = min(start, frame.time), max(end, frame.time + lasts)
            frames += 1
        if frames == 0:
            raise DecodeError(f"{Path(path)} holds no frame that can be decoded.")
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        duration = end - start if end > start else frames / nominal if nominal else 0.0
        fps = frames / duration if duration else nominal
        return VideoInfo(frames, fps, height, width, duration, stream.codec_context.name)


def read_video(path: str | os.PathLike[str], num_frames: int | None = None, sampling: Sampling = "uniform") -> Tensor:
    """Decode a video, all of it or some frames.

    Args:
        path: any video file libav can read.
        num_frames: how many frames to take, None for all.
        sampling: see :func:`sample_indices`.

    Returns:
        ``(T, C, H, W)`` uint8, RGB, turned upright where the file says so.

    Raises:
        DecodeError: if the file is missing, damaged, holds no video or changes its size midway.
        ValueError: if ``num_frames`` is below 1 or ``sampling`` is unknown.
    """
    if num_frames is None:
        pictures = _decode(path, None)
    else:
        expected = _count_packets(path)
        pictures = _decode(path, sample_indices(expected, num_frames, sampling))
        if pictures.total != expected:  # the packets promised another number than the decoder gave
            pictures = _decode(path, sample_indices(pictures.total, num_frames, sampling))
    if len({picture.shape for picture in pictures.kept}) != 1:
        raise DecodeError(f"{Path(path)} changes its frame size midway; re-encode it at one size.")
    return from_hwc(np.stack(pictures.kept))


def sample_indices(total: int, count: int, sampling: Sampling = "uniform") -> list[int]:
    """Choose ``count`` of ``total`` frames, in order; a clip that is too short repeats frames.

    Args:
        total: number of frames there are, at least 1.
        count: number of frames wanted, at least 1.
        sampling: "uniform" spreads them evenly with both ends, "middle" takes the middle of ``count`` equal intervals.

    Returns:
        ``count`` indices in [0, total).

    Raises:
        ValueError: if ``total`` or ``count`` is below 1 or ``sampling`` is unknown.

    Example:
        >>> sample_indices(120, 8), sample_indices(120, 8, "middle")
        ([0, 17, 34, 51, 68, 85, 102, 119], [7, 22, 37, 52, 67, 82, 97, 112])
    """
    if total < 1 or count < 1:
        raise ValueError(f"A sample needs at least one frame, got {count} of {total}.")
    if sampling == "uniform":
        chosen = np.linspace(0, total - 1, count).round() if count > 1 else np.array([(total - 1) // 2])
    elif sampling == "middle":
        chosen = (((2 * np.arange(count) + 1) * total - count) // (2 * count)).clip(0)
    else:
        raise UnknownNameError("sampling", sampling, ("uniform", "middle"))
    return [int(index) for index in chosen]


@dataclass
class _Decoded:
    """Pictures kept from one pass over a file, and how many frames it gave."""

    kept: list[Picture]
    total: int


def _decode(path: str | os.PathLike[str], indices: list[int] | None) -> _Decoded:
    """Decode a file from end to end and keep the frames at ``indices`` (rising, perhaps repeated), or all."""
    wanted = None if indices is None else set(indices)
    found: dict[int, Picture] = {}
    total = 0
    with _open(path) as (container, stream):
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DecodeError(f"{Path(path)} is damaged: frame {total} cannot be decoded.")
            if wanted is None or total in wanted:
                found[total] = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            total += 1
    if total == 0:
        raise DecodeError(f"{Path(path)} holds no frame that can be decoded.")
    order = range(total) if indices is None else [index for index in indices if index in found]
    return _Decoded([found[index] for index in order], total)


def _count_packets(path: str | os.PathLike[str]) -> int:
    """Count the packets that should give a frame, without decoding."""
    with _open(path) as (container, stream):
        count = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
    return max(count, 1)


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a file and turn what libav raises meanwhile into one sentence."""
    file = Path(os.path.abspath(path))  # libav would take the start of a relative "cat:x.mp4" for a protocol
    if not file.is_file():
        raise DecodeError(f"There is no video file {file}.")
    if file.stat().st_size == 0:
        raise DecodeError(f"{file} is empty (0 bytes).")
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise DecodeError(f"{file} holds no video stream.")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise DecodeError(f"{file} is damaged or not a video: {error.strerror}.") from error


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
