"""Frames from video files as tensors: all of them, or exactly those a sampler names, however the file was made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.video.decoding import (
    MAX_FRAMES,
    Backend,
    Decoded,
    Pictures,
    VideoInfo,
    decode_sample,
    describe,
    read_frames,
)
from vrm.video.indexed import scan, truncated
from vrm.video.opening import MAX_PIXELS
from vrm.video.sampling import FrameSampler, Sampling, sample_indices


@dataclass(frozen=True)
class Sample:
    """Frames of one clip, with all there is to know about where they come from.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8, RGB, in the file's own size, turned upright; or what a pool made of them.
        indices: the frames' numbers in the clip, rising; a short clip repeats some.
        times: their time stamps, in seconds from the clip's first frame.
        info: the file's facts.
        backend: decoder and version, as in "av 18.1.0".
        warning: None; "static" if all sampled frames are the same although the clip has several; or a text that
            starts with "truncated" if the container claims more frames than decode.
        video_hash: of the file's bytes, where it was asked for.
    """

    frames: Any
    indices: tuple[int, ...]
    times: tuple[float, ...]
    info: VideoInfo
    backend: str
    warning: str | None = None
    video_hash: str | None = None

    @classmethod
    def of(cls, decoded: Decoded, frames: Any = None) -> Self:
        """Give what was decoded, with ``frames`` in place of its pictures if anything was made of them."""
        d = decoded
        frames = as_frames(d.pictures) if frames is None else frames
        return cls(frames, d.indices, d.times, d.info, d.backend, d.warning, d.video_hash)


def as_frames(pictures: Pictures) -> Tensor:
    """View decoded pictures ``(T, H, W, 3)`` as frames ``(T, 3, H, W)``; the channels stay last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def sample_video(
    path: str | os.PathLike[str],
    sampler: FrameSampler | str,
    backend: Backend = "auto",
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> Sample:
    """Decode the frames a sampler picks, exactly those, without decoding the rest where that can be avoided.

    Args:
        path: any video, animation or still picture that libav can read.
        sampler: see :class:`FrameSampler`.
        backend: "av" is exact for every file. "auto" takes decord for the few frames of an ordinary file where it
            gives the same pixels, unless av is quicker, as it is for H.264. "decord" insists, and refuses other files.
        max_pixels: largest frame, height times width; above 0.
        max_frames: largest sample, in frames; above 0. A sample is also limited to 4 GiB.

    Raises:
        DecodeError: if the file is missing, damaged, no video or too large; its ``kind`` says which.
        ValueError: if ``sampler`` or ``backend`` is unknown.
    """
    return Sample.of(decode_sample(path, sampler, backend, max_pixels, max_frames))


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe a video file, from its packets and its first frame.

    Raises:
        DecodeError: if the file is missing, damaged or holds no video.
    """
    return describe(path, scan(path), MAX_PIXELS)[0]


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
    return as_frames(read_frames(path, index, choose)[0]).contiguous()
