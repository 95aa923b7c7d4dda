"""decord, for the files and questions where it can be trusted.

decord 0.6 never returns from some ordinary stream-copied cuts, gives wrong frames for others, and reads ahead without
bound while a reader is alive (dmlc/decord #157, #373, #375). Negative entries in its frame time stamps betray the
first two before a frame is asked for; one reader for one batch of few frames avoids the last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vrm.video.indexed import FrameIndex
from vrm.video.opening import MAX_PIXELS, open_stream

MAX_SPARSE = 64  # frames in one batch
_CODECS = frozenset({"h264", "hevc", "vp9", "mpeg4", "mjpeg"})
_CONTAINERS = frozenset({"mp4", "matroska"})
_LAYOUTS = frozenset({"yuv420p", "yuvj420p"})  # 8 bits; others differ from libav in the last digits


@cache
def decord_module() -> ModuleType | None:
    """Import decord, quiet and returning its own arrays; None where it is not installed."""
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return cast(ModuleType, decord)


class UnsafeFileError(Exception):
    """decord cannot be trusted with this file or question; the text says why."""


def decord_frames(
    path: str | os.PathLike[str], index: FrameIndex, wanted: Sequence[int], max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a few frames with decord.

    Args:
        path: the file.
        index: of the file, from libav; decord's must agree with it.
        wanted: strictly rising frame numbers.
        max_pixels: largest frame, height times width.

    Returns:
        ``(T, H, W, 3)`` uint8 RGB.

    Raises:
        UnsafeFileError: if decord is missing, disagrees or fails, or the file is of a kind it gets wrong.
    """
    decord = decord_module()
    if decord is None:
        raise UnsafeFileError("decord is not installed")
    check_request(path, index, wanted, max_pixels)
    decord.bridge.set_bridge("native")  # the bridge is the state of a thread and may have been changed
    try:
        reader = decord.VideoReader(os.path.abspath(path), ctx=decord.cpu(0), num_threads=1)
        check_reader(reader, index)
        batch: NDArray[np.uint8] = reader.get_batch(list(wanted)).asnumpy()
        del reader
    except (RuntimeError, decord.DECORDError, AssertionError, IndexError) as error:
        raise UnsafeFileError(f"decord failed: {str(error).splitlines()[-1] if str(error) else error!r}") from error
    if batch.dtype != np.uint8 or batch.ndim != 4 or len(batch) != len(wanted) or batch.shape[-1] != 3:
        raise UnsafeFileError(f"decord gave {batch.dtype} {batch.shape} for {len(wanted)} frames")
    return batch


def check_request(path: str | os.PathLike[str], index: FrameIndex, wanted: Sequence[int], max_pixels: int) -> None:
    """Refuse what libav already knows to be beyond decord.

    Raises:
        UnsafeFileError: saying why.
    """
    with open_stream(path, max_pixels) as (container, stream):
        context = stream.codec_context
        codec = context.codec.canonical_name
        reasons = {
            f"{len(wanted)} frames are too many at once": len(wanted) > MAX_SPARSE,
            "its frames cannot be indexed": index.counted,
            "its key frames are not all clean starts": not index.closed,  # it seeks to them regardless
            "it promises frames it does not hold": index.claimed is not None,
            "it holds several video streams": len(container.streams.video) > 1,
            f"its codec is {codec}": codec not in _CODECS,
            f"its pixels are {context.pix_fmt}": context.pix_fmt not in _LAYOUTS,
            f"its size is odd, {context.width}x{context.height}": bool(context.width % 2 or context.height % 2),
            f"its container is {container.format.name}": not _CONTAINERS & set(container.format.name.split(",")),
        }
    for reason, holds in reasons.items():
        if holds:
            raise UnsafeFileError(reason)


def check_reader(reader: Any, index: FrameIndex) -> None:
    """Refuse a file that decord sees otherwise than libav, before any frame is asked for.

    Raises:
        UnsafeFileError: saying why.
    """
    if len(reader) != len(index):
        raise UnsafeFileError(f"decord counts {len(reader)} frames, libav {len(index)}")
    starts = np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 0]
    if (starts < 0).any():
        raise UnsafeFileError("decord sees frames before the start: an edit list cuts the file")
    if not np.allclose(starts - starts[0], index.times, atol=2e-3, rtol=1e-5):
        raise UnsafeFileError("decord and libav disagree about the time stamps")
