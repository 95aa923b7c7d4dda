"""MountainCar with a landscape that a vision model can read, and no termination at the top."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.drawing import Canvas, mottled, turned
from vrm.envs.rendering import Frame, Quality, render_metadata

SKY, FLAG, POLE = (150, 200, 240), (250, 210, 30), (90, 60, 40)
CAR, WINDOW, WHEEL = (200, 40, 45), (220, 235, 245), (30, 30, 30)


class TextGoalMountainCar(Continuous_MountainCarEnv):
    """MountainCarContinuous that stays at the flag once it is there.

    Reward and ``info["success"]``: 1 once the car has reached the flag in this episode.

    Args:
        textured: draw grass, snow and clouds; without it, one flat colour as in Gymnasium's own picture.
        size: height and width of rendered frames in pixels.
        quality: accepted for symmetry with MuJoCo tasks; drawings cost the same either way.
        render_mode: ``"rgb_array"`` or ``None``.
    """

    metadata = render_metadata(30)

    def __init__(
        self, textured: bool = True, size: int = 64, quality: Quality = "fast", render_mode: str | None = None
    ) -> None:
        """Paint the landscape once."""
        super().__init__(render_mode=render_mode)
        self.size, self.quality, self.textured, self.tint = size, quality, textured, 0.0
        self._backdrop = paint_landscape(textured)
        self._reached = False

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Advance one step; at the flag the car is held on the summit."""
        super().step(action)
        if self.state[0] >= self.goal_position:
            self._reached = True
        if self._reached:
            self.state = np.array([self.goal_position, 0.0], dtype=np.float32)
        return np.asarray(self.state, np.float32), float(self._reached), False, False, {"success": self._reached}

    def reset(self, **kwargs: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start in the valley; what was reached before is forgotten."""
        self._reached = False
        observation, info = super().reset(**kwargs)
        return observation, info | {"success": False}

    def success(self) -> bool:
        """Whether the car is at the flag."""
        return bool(self._reached or self.state[0] >= self.goal_position)

    def render(self) -> Frame | None:
        """Return the frame ``(size, size, 3)`` uint8, or ``None`` without ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            return None
        canvas = Canvas(self.size, WINDOW_AREA, shade(self._backdrop, self.tint))
        x = float(self.state[0])
        slope = float(np.arctan(1.35 * np.cos(3 * x)))
        where = (x, height(x) + 0.03)
        canvas.polygon(turned([(-0.13, 0.02), (0.13, 0.02), (0.13, 0.09), (-0.13, 0.09)], slope, where), CAR)
        canvas.polygon(turned([(-0.07, 0.09), (0.06, 0.09), (0.03, 0.15), (-0.05, 0.15)], slope, where), WINDOW)
        for wheel in turned([(-0.08, 0.02), (0.08, 0.02)], slope, where):
            canvas.disc(wheel, 0.04, WHEEL)
        return canvas.frame()

    def close(self) -> None:
        """Nothing to free."""


WINDOW_AREA = (-1.25, 0.65, -0.35)


def height(x: float) -> float:
    """Height of the track at ``x``, as in Gymnasium."""
    return float(np.sin(3 * x) * 0.45 + 0.55)


def paint_landscape(textured: bool, side: int = 192) -> Frame:
    """Draw sky, mountains and the flag, ``(side, side, 3)`` uint8."""
    canvas = Canvas(side, WINDOW_AREA, SKY if textured else (255, 255, 255))
    xs = np.linspace(WINDOW_AREA[0], WINDOW_AREA[1], 120)
    ridge = [(float(x), height(float(x))) for x in xs]
    ground = [*ridge, (WINDOW_AREA[1], -1.0), (WINDOW_AREA[0], -1.0)]
    if textured:
        for x, y, r in ((-0.9, 1.35, 0.09), (-0.8, 1.38, 0.11), (0.0, 1.42, 0.08), (0.09, 1.4, 0.1)):
            canvas.disc((x, y), r, (250, 250, 250))
        canvas.polygon(ground, (92, 150, 72))
        picture = _grow_grass(canvas.frame())
        canvas = Canvas(side, WINDOW_AREA, picture)
        canvas.line(ridge, (120, 95, 70), 0.03)
    else:
        canvas.line(ridge, (0, 0, 0), 0.015)
    top = height(0.45)
    canvas.line([(0.45, top), (0.45, top + 0.32)], POLE, 0.02)
    canvas.polygon([(0.45, top + 0.32), (0.62, top + 0.25), (0.45, top + 0.18)], FLAG)
    return canvas.frame()


def _grow_grass(picture: Frame) -> Frame:
    """Replace the flat green of the mountains by a mottled texture."""
    side = len(picture)
    texture = mottled(np.random.default_rng(7), (70, 120, 55), (130, 165, 85), size=side)
    green = (picture == (92, 150, 72)).all(axis=2, keepdims=True)
    return np.where(green, texture, picture).astype(np.uint8)


def shade(picture: Frame, tint: float) -> Frame:
    """Brighten (``tint > 0``) or darken a picture."""
    return picture if tint == 0 else np.clip(picture * (1 + tint), 0, 255).astype(np.uint8)


CAPTIONER: Captioner[NDArray[np.float32]] = Captioner(
    subjects=("a car in the mountain", "a car", "a red car", "the car", "a car in a hilly landscape", "a vehicle"),
    facts=(
        Fact("at_flag", lambda s: rise(float(s[0]), 0.2, 0.43), (
            "at the peak of the mountain, next to the yellow flag", "at the top of the mountain", "at the summit",
            "next to the yellow flag", "beside the flag", "on the mountain top", "at the peak of the right hill",
        )),
        Fact("valley", lambda s: rise(abs(float(s[0]) + 0.52), 0.4, 0.15), (
            "at the bottom of the valley", "down in the valley", "between two hills", "at the lowest point",
        )),
        Fact("right_slope", lambda s: rise(float(s[0]), -0.4, -0.2) * rise(float(s[0]), 0.42, 0.25), (
            "on the right slope", "climbing the right hill", "halfway up the mountain with the flag",
        )),
        Fact("left_slope", lambda s: rise(float(s[0]), -0.6, -0.8), (
            "on the left slope", "up the left hill", "far from the flag on the left",
        )),
        Fact("high", lambda s: rise(height(float(s[0])), 0.55, 0.85), (
            "high up", "far up the hill", "high above the valley",
        )),
        Fact("far", lambda s: rise(float(s[0]), 0.0, -0.3), ("far away from the flag", "nowhere near the yellow flag")),
    ),
)  # fmt: skip


def sample(env: TextGoalMountainCar, rng: np.random.Generator, vary: bool = True) -> Iterator[NDArray[np.float32]]:
    """Put the environment into varied states for ever, yielding each."""
    env.reset(seed=int(rng.integers(2**31)))
    while True:
        x = rng.uniform(0.3, 0.45) if rng.random() < 0.2 else rng.uniform(-1.2, 0.45)
        if not vary and x > 0.43:
            x = env.goal_position  # where a car that has arrived is held
        env.state = np.array([x, 0.0], dtype=np.float32)
        env.tint = float(rng.normal(0, 0.08)) if vary else 0.0
        yield env.state
