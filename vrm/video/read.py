"""Frames from video files: all of them, or exactly those a sampler names, however the file was made."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.errors import DecodeError, UnknownNameError, VrmError
from vrm.video.decord_backend import UnsafeFileError, decord_frames, decord_module
from vrm.video.indexed import (
    Choose,
    FrameIndex,
    IndexMissError,
    count_frames,
    frames_at,
    no_frames,
    scan,
    truncated,
    upright,
)
from vrm.video.opening import MAX_PIXELS, open_stream
from vrm.video.sampling import FrameSampler, Sampling, sample_indices

Backend = Literal["auto", "av", "decord"]
MAX_FRAMES = 4096
MAX_BYTES = 4 << 30  # of one sample


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        frames: number of frames that can be shown (not the container's claim).
        fps: mean frame rate, in frames per second.
        height: of a frame as shown, in pixels.
        width: of a frame as shown, in pixels.
        duration: in seconds.
        codec: name of the codec, for example "h264".
    """

    frames: int
    fps: float
    height: int
    width: int
    duration: float
    codec: str


@dataclass(frozen=True)
class Sample:
    """Frames of one clip, with all there is to know about where they come from.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8, RGB, in the file's own size, turned upright.
        indices: the frames' numbers in the clip, rising; a short clip repeats some.
        times: their time stamps, in seconds from the clip's first frame.
        info: the file's facts.
        backend: decoder and version, as in "av 18.1.0".
        warning: None; "static" if all sampled frames are the same although the clip has several; or a text that
            starts with "truncated" if the container claims more frames than decode.
        video_hash: of the file's bytes, where it was asked for.
    """

    frames: Tensor
    indices: tuple[int, ...]
    times: tuple[float, ...]
    info: VideoInfo
    backend: str
    warning: str | None = None
    video_hash: str | None = None


def sample_video(
    path: str | os.PathLike[str],
    sampler: FrameSampler | str,
    backend: Backend = "auto",
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
    on_info: Callable[[VideoInfo], None] | None = None,
) -> Sample:
    """Decode the frames a sampler picks, exactly those, without decoding the rest where seeking is cheaper.

    Args:
        path: any video, animation or still picture that libav can read.
        sampler: see :class:`FrameSampler`.
        backend: "av" is exact for every file. "auto" takes decord for the few frames of an ordinary file where it
            gives the same pixels, else av. "decord" insists, and refuses other files.
        max_pixels: largest frame, height times width; above 0.
        max_frames: largest sample, in frames; above 0. A sample is also limited to 4 GiB.
        on_info: called with the file's facts before the sampled frames are decoded.

    Raises:
        DecodeError: if the file is missing, damaged, no video or too large; its ``kind`` says which.
        ValueError: if ``sampler`` or ``backend`` is unknown.
    """
    rule = FrameSampler.parse(sampler)
    check_backend(backend)

    def choose(times: NDArray[np.float64]) -> list[int]:
        count = rule.count(times)
        if count > max_frames:
            raise DecodeError(
                f"{rule} takes {count} frames of {os.path.abspath(path)}, more than {max_frames}; "
                f"add ',max={max_frames}' to the sampler or raise max_frames.",
                "too_large",
            )
        return rule.indices(times)

    index, info, special = describe(path, max_pixels)
    if on_info is not None:
        on_info(info)
    frames: Tensor | None = None
    used = f"av {av.__version__}"
    if backend != "av":
        reason = "it is for sparse sampling only" if rule.kind == "all" else special
        frames = _try_decord(path, index, choose, backend, max_pixels, reason)
        used = f"decord {getattr(decord_module(), '__version__', '')}" if frames is not None else used
    if frames is None:
        frames, index = read_frames(path, index, choose, max_pixels)
        info = _with_index(info, index)
    indices = tuple(rule.indices(index.times))
    times = tuple(float(index.times[i]) for i in indices)
    return Sample(frames, indices, times, info, used, _warning(frames, indices, index))


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe a video file, from its packets and its first frame.

    Raises:
        DecodeError: if the file is missing, damaged or holds no video.
    """
    return describe(path)[1]


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

    def choose(times: NDArray[np.float64]) -> list[int]:
        return list(range(len(times))) if num_frames is None else sample_indices(len(times), num_frames, sampling)

    index = scan(path)
    if index.claimed is not None:
        raise truncated(path, len(index), index.claimed)
    return read_frames(path, index, choose)[0]


def check_backend(backend: str) -> None:
    """Refuse a backend that is unknown or not installed.

    Raises:
        UnknownNameError: if there is none of that name.
        VrmError: if it is decord, and decord is not installed.
    """
    if backend not in get_args(Backend):
        raise UnknownNameError("video backend", backend, get_args(Backend))
    if backend == "decord" and decord_module() is None:
        raise VrmError("Backend 'decord' needs the package decord, which is not installed; use 'auto' or 'av'.")


def describe(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[FrameIndex, VideoInfo, str | None]:
    """Index a file and describe it from its packets and its first frame.

    Returns:
        The index, the facts, and what is special about its pictures, in words, or None.

    Raises:
        DecodeError: if the file is missing, damaged, no video or too large.
    """
    index = scan(path, max_pixels)
    with open_stream(path, max_pixels) as (container, stream):
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            raise no_frames(path, index.claimed)
        height, width = (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)
        special = "it is rotated" if frame.rotation else "it is interlaced" if frame.interlaced_frame else None
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        codec = stream.codec_context.codec.canonical_name
    info = VideoInfo(len(index), nominal, height, width, index.duration, codec)
    return index, _with_index(info, index), special


def _with_index(info: VideoInfo, index: FrameIndex) -> VideoInfo:
    """Take count, rate and duration from the index."""
    fps = len(index) / index.duration if index.duration > 0 else info.fps
    return replace(info, frames=len(index), fps=fps, duration=index.duration)


def read_frames(
    path: str | os.PathLike[str], index: FrameIndex, choose: Choose, max_pixels: int = MAX_PIXELS
) -> tuple[Tensor, FrameIndex]:
    """Decode chosen frames with libav, and count them all where the index proves wrong.

    Returns:
        ``(T, 3, H, W)`` uint8 frames, and the index that held.

    Raises:
        DecodeError: if the file is damaged, changes its frame size midway or the sample is too large.
    """
    straight = replace(index, entries=())
    for attempt in (index, straight):
        try:
            return _read_once(path, attempt, choose(index.times), max_pixels), index
        except IndexMissError as miss:
            if not miss.sought:
                break
    index = count_frames(path, index.claimed, max_pixels)
    try:
        return _read_once(path, index, choose(index.times), max_pixels), index
    except IndexMissError as error:
        raise DecodeError(f"{os.path.abspath(path)} changes while it is read.", "damaged") from error


def _read_once(path: str | os.PathLike[str], index: FrameIndex, indices: Sequence[int], max_pixels: int) -> Tensor:
    """Decode frames into one tensor; frames that are wanted again are copied."""
    unique = sorted(set(indices))
    out: Tensor | None = None
    with open_stream(path, max_pixels) as (container, stream):
        row = 0
        for number, frame in zip(unique, frames_at(container, stream, index, unique), strict=True):
            picture = torch.from_numpy(np.ascontiguousarray(upright(frame))).permute(2, 0, 1)
            out = _room(path, len(indices), picture) if out is None else out
            if out.shape[1:] != picture.shape:
                raise DecodeError(
                    f"{Path(os.path.abspath(path))} changes its frame size midway; re-encode it at one size.", "damaged"
                )
            while row < len(indices) and indices[row] == number:
                out[row] = picture
                row += 1
    assert out is not None
    return out


def _room(path: str | os.PathLike[str], count: int, picture: Tensor) -> Tensor:
    """Allocate a sample, if it is not absurdly large."""
    if count * picture.numel() > MAX_BYTES:
        raise DecodeError(
            f"{count} frames of {picture.shape[2]}x{picture.shape[1]} pixels from {os.path.abspath(path)} need more "
            f"than {MAX_BYTES >> 30} GiB; sample fewer.",
            "too_large",
        )
    return torch.empty((count, *picture.shape), dtype=torch.uint8)


def _try_decord(
    path: str | os.PathLike[str],
    index: FrameIndex,
    choose: Choose,
    backend: Backend,
    max_pixels: int,
    reason_against: str | None,
) -> Tensor | None:
    """Decode with decord; None if "auto" may fall back to av."""
    try:
        if reason_against is not None:
            raise UnsafeFileError(reason_against)
        indices = choose(index.times)
        unique, place = np.unique(indices, return_inverse=True)
        batch = torch.from_numpy(decord_frames(path, index, unique.tolist(), max_pixels))
        return batch.permute(0, 3, 1, 2)[torch.from_numpy(place)].contiguous()
    except UnsafeFileError as reason:
        if backend == "decord":
            raise DecodeError(
                f"decord is not safe for {os.path.abspath(path)}: {reason}; use backend 'auto'."
            ) from reason
        return None


def _warning(frames: Tensor, indices: Sequence[int], index: FrameIndex) -> str | None:
    """Say what looks wrong although frames came out."""
    if index.claimed is not None and index.claimed > len(index):
        return f"truncated: {len(index)} frames decode, the container claims {index.claimed} frames"
    if len(index) > 1 and len(set(indices)) > 1 and bool((frames == frames[:1]).all()):
        return "static"
    return None
