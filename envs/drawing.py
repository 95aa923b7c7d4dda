"""Small antialiased pictures of flat worlds, drawn straight at the size that a reward model reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vrm.envs.rendering import Frame

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
OVERSAMPLE = 3


class Canvas:
    """A square picture of the world window ``x in [x0, x1]``, ``y`` from ``y0`` upwards, in world units.

    Args:
        size: height and width of the finished frame in pixels.
        window: ``(x0, x1, y0)``.
        background: a colour, or a picture ``(S, S, 3)`` uint8 that is resized to fit.
    """

    def __init__(self, size: int, window: tuple[float, float, float], background: Colour | Frame) -> None:
        """Start from the background."""
        self.size, (self._x0, x1, self._y0) = size, window
        side = size * OVERSAMPLE
        self._scale = side / (x1 - self._x0)
        if isinstance(background, tuple):
            self._image = Image.new("RGB", (side, side), background)
        else:
            self._image = Image.fromarray(background).resize((side, side))
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._at(p) for p in points], fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """Draw a polyline of ``width`` world units."""
        self._draw.line([self._at(p) for p in points], fill=colour, width=max(1, round(width * self._scale)))

    def disc(self, centre: tuple[float, float], radius: float, colour: Colour) -> None:
        """Fill a disc."""
        x, y = self._at(centre)
        r = radius * self._scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def frame(self) -> Frame:
        """Return the picture ``(size, size, 3)`` uint8 RGB."""
        return np.array(self._image.reduce(OVERSAMPLE), dtype=np.uint8)

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        return (point[0] - self._x0) * self._scale, self._image.height - (point[1] - self._y0) * self._scale


def turned(points: Points, angle: float, shift: tuple[float, float]) -> list[tuple[float, float]]:
    """Rotate points counter-clockwise by ``angle`` radians, then move them."""
    c, s = np.cos(angle), np.sin(angle)
    return [(c * x - s * y + shift[0], s * x + c * y + shift[1]) for x, y in points]


def mottled(rng: np.random.Generator, low: Colour, high: Colour, size: int = 48) -> Frame:
    """Return a cloudy texture ``(size, size, 3)`` between two colours, like grass or rock seen from afar."""
    coarse = rng.random((size // 8, size // 8))
    cloud = np.asarray(Image.fromarray((coarse * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC))
    mix = np.clip(0.7 * cloud / 255 + 0.3 * rng.random((size, size)), 0, 1)[..., None]
    texture: Frame = ((1 - mix) * np.array(low) + mix * np.array(high)).astype(np.uint8)
    return texture
