"""Strips of small frames as text, for pages that carry their pictures inside."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from vrm.errors import DecodeError
from vrm.video import sample_video

HEIGHT = 96  # pixels
WIDEST = 3 * HEIGHT  # pixels; panoramas lose their sides
COUNT = 8
MAX_BYTES = 10_000_000  # of all strips of a page together


class Strip(TypedDict, total=False):
    """Frames of one video in the order of time, or the sentence that says why there are none."""

    images: list[str]  # data URIs, 96 pixels high
    times: list[float]  # in seconds
    note: str


class StripBook:
    """Makes the strip of each video once, and stops when all of them together reach a size.

    Attributes:
        strips: those made so far.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """Start an empty book that holds about ``max_bytes`` of text at most."""
        self.strips: list[Strip] = []
        self._places: dict[Path, int] = {}
        self._left = max_bytes

    def add(self, video: Path) -> int:
        """Make the strip of a file, or a note if it is missing or broken, and say where in ``strips`` it is."""
        if video not in self._places:
            self._places[video] = len(self.strips)
            self.strips.append(self._strip(video))
        return self._places[video]

    def _strip(self, video: Path) -> Strip:
        if not video.is_file():
            return Strip(note="The video file is not where it was scored, so it cannot be shown.")
        if self._left <= 0:
            return Strip(note="No frames here: the pictures of this page have reached their size limit.")
        strip = _read(video)
        self._left -= sum(map(len, strip.get("images", ())))
        return strip


def _read(video: Path) -> Strip:
    try:
        sample = sample_video(video, f"uniform:{COUNT}", backend="av")
    except DecodeError as error:
        return Strip(note=f"The frames cannot be read: {error}")
    distinct = {index: place for place, index in enumerate(sample.indices)}.values()
    return Strip(
        images=[_data_uri(sample.frames[place]) for place in distinct],
        times=[round(sample.times[place], 4) for place in distinct],
    )


def _data_uri(frame: Tensor) -> str:
    """Turn ``(3, H, W)`` uint8 into a small JPEG inside a URI."""
    picture = Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy()))
    width = max(round(picture.width * HEIGHT / picture.height), 1)
    small = ImageOps.fit(picture, (min(width, WIDEST), HEIGHT), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
