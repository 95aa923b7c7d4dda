"""Opening a video file: everything that can be wrong before the first frame, in one sentence each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vrm.errors import DecodeError, DecodeErrorKind

MAX_PIXELS = 8192 * 8192  # of one frame; a flipped bit in a header can claim any size
_NO_VIDEO = {"tty", "subviewer", "srt", "ass"}  # libav draws text files as pictures


def checked_file(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file that is there and not empty.

    Raises:
        DecodeError: of kind "missing" (also a folder or a dangling link) or "empty".
    """
    file = Path(os.path.abspath(path))  # libav would take the start of a relative "cat:x.mp4" for a protocol
    if not file.is_file():
        raise DecodeError(f"There is no video file {file}.", "missing")
    if file.stat().st_size == 0:
        raise DecodeError(f"{file} is empty (0 bytes).", "empty")
    return file


@contextmanager
def open_stream(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a file and turn what libav raises meanwhile into one sentence.

    Pictures attached to music (covers) are no video. Nothing but local files is ever opened.

    Raises:
        DecodeError: if the file is missing, empty, no video, damaged, or has larger frames than ``max_pixels``.
    """
    file = checked_file(path)
    opened = False
    try:
        # A "%03d" in a file name is no pattern here, and a playlist must not reach into the network.
        options = {"protocol_whitelist": "file", "pattern_type": "none"}
        with av.open(str(file), container_options=options) as container:
            opened = True
            if container.format.name in _NO_VIDEO:
                raise DecodeError(f"{file} is damaged or not a video: it is text.", "not_video")
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise DecodeError(f"{file} holds no video stream.", "no_video_stream")
            context = streams[0].codec_context
            if context is None:
                raise DecodeError(f"{file} is coded in a way that this build of PyAV cannot decode.", "damaged")
            if context.width * context.height > max_pixels:
                raise DecodeError(
                    f"{file} claims frames of {context.width}x{context.height} pixels, more than {max_pixels} in all; "
                    "raise max_pixels if that is true.",
                    "too_large",
                )
            context.thread_count = 1
            yield container, streams[0]
    except (av.FFmpegError, EOFError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        kind: DecodeErrorKind = "damaged" if opened else "not_video"
        raise DecodeError(f"{file} is damaged or not a video: {reason}.", kind) from error
