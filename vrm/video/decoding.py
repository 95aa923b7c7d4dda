"""Decoding without torch, so that decoding processes start at once: exactly the frames that a sampler names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

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
    upright,
)
from vrm.video.opening import MAX_PIXELS, open_stream
from vrm.video.sampling import FrameSampler

Backend = Literal["auto", "av", "decord"]
Pictures = NDArray[np.uint8]
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
class Decoded:
    """Frames of one clip as numpy, with all there is to know about where they come from.

    Attributes:
        pictures: ``(T, H, W, 3)`` uint8, RGB, in the file's own size, turned upright.
        indices: the frames' numbers in the clip, rising; a short clip repeats some.
        times: their time stamps, in seconds from the clip's first frame.
        info: the file's facts.
        backend: decoder and version, as in "av 18.1.0".
        warning: what looks wrong although frames came out, or None.
        video_hash: of the file's bytes, where it was asked for.
    """

    pictures: Pictures
    indices: tuple[int, ...]
    times: tuple[float, ...]
    info: VideoInfo
    backend: str
    warning: str | None = None
    video_hash: str | None = None


def decode_sample(
    path: str | os.PathLike[str],
    sampler: FrameSampler | str,
    backend: Backend = "auto",
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
    on_duration: Callable[[float], None] | None = None,
) -> Decoded:
    """Do the work of :func:`vrm.video.sample_video`; arguments and errors are its own.

    Args:
        path: of the file.
        sampler: which frames.
        backend: with what.
        max_pixels: largest frame.
        max_frames: largest sample.
        on_duration: called with the file's duration in seconds before the sampled frames are decoded.
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

    index = scan(path, max_pixels)
    if on_duration is not None:
        on_duration(index.duration)
    found: tuple[Pictures, VideoInfo] | None = None
    used = f"av {av.__version__}"
    if backend == "decord" or (backend == "auto" and index.codec != "h264"):  # libav may leave H.264 pictures out
        found = _try_decord(path, index, choose, backend, max_pixels, sparse=rule.kind != "all")
        used = f"decord {getattr(decord_module(), '__version__', '')}" if found is not None else used
    if found is None:
        pictures, info, index = read_frames(path, index, choose, max_pixels)
    else:
        pictures, info = found
    indices = tuple(rule.indices(index.times))
    times = tuple(float(index.times[i]) for i in indices)
    return Decoded(pictures, indices, times, info, used, _warning(pictures, indices, index))


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


def describe(path: str | os.PathLike[str], index: FrameIndex, max_pixels: int) -> tuple[VideoInfo, str | None]:
    """Describe a file from its index and its first frame.

    Returns:
        The facts, and what is special about its pictures, in words, or None.

    Raises:
        DecodeError: if no frame can be decoded.
    """
    with open_stream(path, max_pixels) as (container, stream):
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            raise no_frames(path, index.claimed)
        special = "it is rotated" if frame.rotation else "it is interlaced" if frame.interlaced_frame else None
        return _info(stream, frame, index), special


def _info(stream: VideoStream, frame: VideoFrame, index: FrameIndex) -> VideoInfo:
    """Collect a file's facts; the size is that of a frame as shown."""
    height, width = (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)
    nominal = float(stream.average_rate or stream.guessed_rate or 0)
    fps = len(index) / index.duration if index.duration > 0 else nominal
    codec = stream.codec_context.codec.canonical_name
    return VideoInfo(len(index), fps, height, width, index.duration, codec)


def read_frames(
    path: str | os.PathLike[str], index: FrameIndex, choose: Choose, max_pixels: int = MAX_PIXELS
) -> tuple[Pictures, VideoInfo, FrameIndex]:
    """Decode chosen frames with libav, and count them all where the index proves wrong.

    Returns:
        ``(T, H, W, 3)`` uint8 frames, the facts, and the index that held.

    Raises:
        DecodeError: if the file is damaged, changes its frame size midway or the sample is too large.
    """
    straight = replace(index, entries=())
    for attempt in (index, straight):
        try:
            return *_read_once(path, attempt, choose(index.times), max_pixels), index
        except IndexMissError as miss:
            if not miss.astray:
                break
    index = count_frames(path, index.claimed, max_pixels)
    try:
        return *_read_once(path, index, choose(index.times), max_pixels), index
    except IndexMissError as error:
        raise DecodeError(f"{os.path.abspath(path)} changes while it is read.", "damaged") from error


def _read_once(
    path: str | os.PathLike[str], index: FrameIndex, indices: Sequence[int], max_pixels: int
) -> tuple[Pictures, VideoInfo]:
    """Decode frames into one array; frames that are wanted again are copied."""
    unique = sorted(set(indices))
    out: Pictures | None = None
    info: VideoInfo | None = None
    reformatter = VideoReformatter()
    with open_stream(path, max_pixels) as (container, stream):
        row = 0
        for number, frame in zip(unique, frames_at(container, stream, index, unique), strict=True):
            picture = upright(frame, reformatter)
            out = _room(path, len(indices), picture) if out is None else out
            info = info or _info(stream, frame, index)
            if out.shape[1:] != picture.shape:
                raise DecodeError(
                    f"{Path(os.path.abspath(path))} changes its frame size midway; re-encode it at one size.", "damaged"
                )
            while row < len(indices) and indices[row] == number:
                out[row] = picture
                row += 1
    assert out is not None
    assert info is not None
    return out, info


def _room(path: str | os.PathLike[str], count: int, picture: Pictures) -> Pictures:
    """Allocate a sample, if it is not absurdly large."""
    if count * picture.size > MAX_BYTES:
        raise DecodeError(
            f"{count} frames of {picture.shape[1]}x{picture.shape[0]} pixels from {os.path.abspath(path)} need more "
            f"than {MAX_BYTES >> 30} GiB; sample fewer.",
            "too_large",
        )
    return np.empty((count, *picture.shape), dtype=np.uint8)


def _try_decord(
    path: str | os.PathLike[str], index: FrameIndex, choose: Choose, backend: Backend, max_pixels: int, sparse: bool
) -> tuple[Pictures, VideoInfo] | None:
    """Decode with decord; None if "auto" may fall back to av."""
    info, special = describe(path, index, max_pixels)
    try:
        if not sparse:
            raise UnsafeFileError("it is for sparse sampling only")
        if special is not None:
            raise UnsafeFileError(special)
        unique, place = np.unique(choose(index.times), return_inverse=True)
        return decord_frames(path, index, unique.tolist(), max_pixels)[place], info
    except UnsafeFileError as reason:
        if backend == "decord":
            raise DecodeError(
                f"decord is not safe for {os.path.abspath(path)}: {reason}; use backend 'auto'."
            ) from reason
        return None


def _warning(frames: Pictures, indices: Sequence[int], index: FrameIndex) -> str | None:
    """Say what looks wrong although frames came out."""
    if index.claimed is not None and index.claimed > len(index):
        return f"truncated: {len(index)} frames decode, the container claims {index.claimed} frames"
    if len(index) > 1 and len(set(indices)) > 1 and all(np.array_equal(frames[0], frame) for frame in frames[1:]):
        return "static"
    return None
