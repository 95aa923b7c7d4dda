"""Exact frames by number with libav: an index of the packets first, then seeks only where they save decoding.

A container's frame count and its seek targets are claims. Here a frame's number is its rank among the time stamps of
the packets that are to be shown (edit lists mark the others), every decoded frame is looked up by its own time stamp,
and between two of them none may be missing: whatever breaks this makes the reader count decoded frames instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vrm.errors import DecodeError
from vrm.video.keyframes import disposable, refreshes
from vrm.video.matroska import cut_off
from vrm.video.opening import MAX_PIXELS, open_stream

# Codecs whose key frames decode without anything before them; a GIF calls all its frames key frames.
SEEKABLE = frozenset(
    {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "prores", "dnxhd", "h263"}
)
SEEK_COST = 12  # frames that could be decoded while libav seeks and refills its reorder buffer
UNKNOWN = -2  # place of the decoder right after a seek


class IndexMissError(Exception):
    """The decoder gave other frames than the index promised.

    Attributes:
        astray: whether a seek or a shortcut was taken, which may be at fault while the index is right.
    """

    def __init__(self, astray: bool = False) -> None:
        """Keep whether a seek or shortcut was taken."""
        super().__init__(astray)
        self.astray = astray


@dataclass(frozen=True)
class EntryPoint:
    """A key frame where decoding can start.

    Attributes:
        seek: time stamp to seek to, in ticks.
        pts: when it is shown, in ticks; frames before it need an earlier entry point.
        first: number of the first frame that needs no earlier entry point.
    """

    seek: int
    pts: int
    first: int


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a file in the order they are shown.

    Attributes:
        times: ``(N,)`` rising time stamps in seconds, from the first frame on.
        duration: in seconds, the last frame included.
        pts: ``(N,)`` the same in ticks; empty if frames can only be counted.
        entries: key frames in order; empty if the file can only be read from its start.
        claimed: how many frames the container says there are, if that is more than it holds; else None.
        closed: whether no frame refers to anything before the last key frame in front of it.
        codec: name of the codec, for example "h264".
    """

    times: NDArray[np.float64]
    duration: float
    pts: NDArray[np.int64]
    entries: tuple[EntryPoint, ...] = field(repr=False)
    claimed: int | None
    closed: bool = False
    codec: str = ""

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.times)

    @property
    def counted(self) -> bool:
        """Whether frames are told apart by their order alone."""
        return not len(self.pts)

    def entry_for(self, position: int) -> int:
        """Give the number of the last entry point from which this frame can be decoded, 0 if there is none."""
        low, high = 0, len(self.entries)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.entries[middle].first <= position else (low, middle)
        return max(low - 1, 0)

    def position(self, pts: int | None, astray: bool = False) -> int:
        """Find a decoded frame's number.

        Raises:
            IndexMissError: if the index does not know it.
        """
        place = int(np.searchsorted(self.pts, pts)) if pts is not None else len(self.pts)
        if place == len(self.pts) or self.pts[place] != pts:
            raise IndexMissError(astray)
        return place


class Choose(Protocol):
    """Picks frame numbers, rising and perhaps repeated, from time stamps."""

    def __call__(self, times: NDArray[np.float64], /) -> Sequence[int]:
        """Choose from ``(N,)`` seconds."""


@dataclass
class _Packets:
    """What demuxing alone tells about a stream."""

    pts: list[int | None] = field(default_factory=list)  # of packets to be shown
    entries: list[tuple[int, int]] = field(default_factory=list)  # (seek, pts) of key frames
    leading: bool = False  # some packets at the start refer to what is not in the file
    closed: bool = True  # no group of pictures refers to the one before
    last_duration: int = 0
    stored: int = 0  # packets of every kind


def scan(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> FrameIndex:
    """Index a file without decoding it; decodes where the packets do not tell what will be shown.

    Raises:
        DecodeError: if the file cannot be opened or holds no frame.
    """
    with open_stream(path, max_pixels) as (container, stream):
        packets = _demux(container, stream)
        claimed = _claimed(path, container, stream, packets.stored)
        codec = stream.codec_context.codec.canonical_name
        # The tables of these hold presentation times: a decoding time would lead to the key frame before.
        by_pts = {"mp4", "matroska"} & set(container.format.name.split(","))
        base = float(stream.time_base or 0)
    known = [pts for pts in packets.pts if pts is not None]
    if not known or len(set(known)) != len(packets.pts) or not packets.entries:
        return count_frames(path, claimed, max_pixels)
    pts = np.sort(np.array(known, dtype=np.int64))
    if packets.leading:
        pts = _decodable(path, pts, packets.entries, max_pixels)
    if not len(pts):
        raise no_frames(path, claimed)
    entries = tuple(
        EntryPoint(at if by_pts else seek, at, int(np.searchsorted(pts, at))) for seek, at in sorted(packets.entries)
    )
    times = (pts - pts[0]) * base
    last = packets.last_duration * base or (float(times[-1]) / (len(times) - 1) if len(times) > 1 else 0.0)
    entries = entries if codec in SEEKABLE else ()
    return FrameIndex(times, float(times[-1]) + last, pts, entries, claimed, packets.closed, codec)


def count_frames(path: str | os.PathLike[str], claimed: int | None = None, max_pixels: int = MAX_PIXELS) -> FrameIndex:
    """Index a file by decoding all of it: the truth, for files whose packets do not tell.

    Raises:
        DecodeError: if the file cannot be opened, is damaged or holds no frame.
    """
    times: list[float] = []
    last = 0.0
    with open_stream(path, max_pixels) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        for number, frame in _ordered(container, stream):
            time = frame.time if frame.time is not None else number / rate
            times.append(max(time, times[-1]) if times else time)
            last = float((frame.duration or 0) * (frame.time_base or 0)) or 1 / rate
    if not times:
        raise no_frames(path, claimed)
    seconds = np.array(times) - times[0]
    return FrameIndex(seconds, float(seconds[-1]) + last, np.empty(0, np.int64), (), claimed)


def frames_at(
    container: InputContainer, stream: VideoStream, index: FrameIndex, wanted: Sequence[int]
) -> Iterator[VideoFrame]:
    """Decode the frames with the given numbers, from a stream that has not been read yet.

    Args:
        container: the open file.
        stream: its video stream.
        index: of the same file.
        wanted: strictly rising numbers in [0, N).

    Raises:
        IndexMissError: if the decoder gives other frames than the index promised.
        DecodeError: if a frame on the way is damaged.
    """
    unused = _Unused.of(stream, index, wanted)
    running = _ordered(container, stream) if index.counted else _matched(container, stream, index, unused)
    at = -1  # number of the last frame decoded
    sought = False
    frame: VideoFrame | None = None
    for target in wanted:
        entry = index.entry_for(target)
        if index.entries and entry > index.entry_for(max(at, 0)) and index.entries[entry].first - at > SEEK_COST:
            container.seek(index.entries[entry].seek, stream=stream)
            sought = True
            running = _matched(container, stream, index, unused, sought)
            at = UNKNOWN
        while at < target:
            position, frame = next(running, (-1, None))
            if frame is None or (at != UNKNOWN and position != unused.next(at)):
                raise IndexMissError(sought or bool(unused.passed))
            at = position
        if frame is None or at != target:
            raise IndexMissError(sought or bool(unused.passed))
        yield frame


@dataclass
class _Unused:
    """Pictures that need no decoding, because nobody wants them and no other picture refers to them.

    Attributes:
        wanted: time stamps of the frames that are wanted, in ticks; None if every picture is decoded.
        passed: numbers of the pictures left out so far.
    """

    wanted: frozenset[int] | None
    passed: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, stream: VideoStream, index: FrameIndex, wanted: Sequence[int]) -> Self:
        """Decide whether a stream's pictures can be told apart; they need lengths of 4 bytes, or start codes."""
        header = stream.codec_context.extradata or b""
        readable = header[:1] != b"\1" or (len(header) > 4 and header[4] & 3 == 3)
        able = index.codec == "h264" and bool(index.entries) and readable
        return cls(frozenset(int(index.pts[number]) for number in wanted) if able else None)

    def take(self, packet: Packet[VideoStream], index: FrameIndex) -> bool:
        """Say whether a packet can be left out, and remember its number."""
        if self.wanted is None or not packet.size or packet.pts is None or packet.pts in self.wanted:
            return False
        try:
            number = index.position(packet.pts)
        except IndexMissError:
            return False  # it is hidden, so its number is nobody's business
        if not disposable(bytes(packet)):
            return False
        self.passed.add(number)
        return True

    def next(self, at: int) -> int:
        """Number of the frame that has to come after ``at``."""
        at += 1
        while at in self.passed:
            at += 1
        return at


def upright(frame: VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Give a decoded frame as ``(H, W, 3)`` uint8 RGB, turned as the file says; transparency is dropped.

    Args:
        frame: from the decoder.
        reformatter: one for all frames of a file; making it costs more than using it.
    """
    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
    return np.rot90(rgb.to_ndarray(), round(frame.rotation / 90))


def no_frames(path: str | os.PathLike[str], claimed: int | None = None) -> DecodeError:
    """Say that there is nothing to show."""
    if claimed is not None:
        return truncated(path, 0, claimed)
    return DecodeError(f"{os.path.abspath(path)} holds no frame that can be decoded.", "no_frames")


def truncated(path: str | os.PathLike[str], held: int, claimed: int) -> DecodeError:
    """Say that a file was cut off."""
    return DecodeError(
        f"{os.path.abspath(path)} is cut off: it holds {held} of the {claimed} frames it claims.", "truncated"
    )


def _demux(container: InputContainer, stream: VideoStream) -> _Packets:
    found = _Packets()
    last = None
    key: int | None = None
    for packet in container.demux(stream):
        if not packet.size or packet.is_corrupt:
            continue
        found.stored += 1
        if packet.is_keyframe and packet.pts is not None:
            key = packet.pts
            found.entries.append((packet.dts if packet.dts is not None else packet.pts, packet.pts))
            found.closed = found.closed and refreshes(bytes(packet), stream.codec_context.codec.canonical_name)
        if packet.is_discard or _hidden(packet, stream):
            continue
        found.pts.append(packet.pts)
        if key is None or (packet.pts is not None and packet.pts < key):
            found.closed = False
            found.leading |= len(found.entries) < 2
        if packet.pts is not None and (last is None or packet.pts > last):
            last, found.last_duration = packet.pts, packet.duration or 0
    return found


def _hidden(packet: Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether a VP8 packet only changes the decoder's state (RFC 6386, 9.1: the show_frame bit)."""
    return stream.codec_context.name.endswith("vp8") and not bytes(packet)[0] & 0x10


def _claimed(path: str | os.PathLike[str], container: InputContainer, stream: VideoStream, stored: int) -> int | None:
    """Say how many frames the container promises, if fewer packets than that are there."""
    if stream.frames:
        return stream.frames if stream.frames > stored else None
    if "matroska" in container.format.name and container.duration and cut_off(path):
        promised = round(container.duration / av.time_base * float(stream.average_rate or 0))
        return max(promised, stored + 1)
    return None


def _decodable(
    path: str | os.PathLike[str], pts: NDArray[np.int64], entries: list[tuple[int, int]], max_pixels: int
) -> NDArray[np.int64]:
    """Drop the frames at the start that refer to what was cut off, by decoding up to the second key frame."""
    end = sorted(at for _, at in entries)[1] if len(entries) > 1 else None
    seen = set()
    with open_stream(path, max_pixels) as (container, stream):
        for _, frame in _ordered(container, stream):
            if end is not None and frame.pts is not None and frame.pts >= end:
                break
            seen.add(frame.pts)
    return np.array([at for at in pts if at in seen or (end is not None and at >= end)], dtype=np.int64)


def _ordered(container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from here to the end, counting."""
    number = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            continue  # the end of a file that was cut off
        for frame in packet.decode():
            yield number, _intact(frame, container, number)
            number += 1


def _matched(
    container: InputContainer, stream: VideoStream, index: FrameIndex, unused: _Unused, sought: bool = False
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from here to the end, looking up each frame's number; after a seek, from the next key frame on."""
    start: int | None = None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            continue
        if sought and start is None:
            if not packet.is_keyframe:
                continue
            start = packet.pts
        if unused.take(packet, index):
            continue
        for frame in packet.decode():
            if start is not None and frame.pts is not None and frame.pts < start:
                continue  # leads a key frame whose predecessors were not decoded
            position = index.position(frame.pts, sought or bool(unused.passed))
            yield position, _intact(frame, container, position)


def _intact(frame: VideoFrame, container: InputContainer, number: int) -> VideoFrame:
    """Return the frame unless the decoder had to make up part of it."""
    if frame.is_corrupt:
        raise DecodeError(f"{container.name} is damaged: frame {number} cannot be decoded.", "damaged")
    return frame
