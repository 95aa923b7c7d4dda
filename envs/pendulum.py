"""Pendulum with a picture that a vision model can read: a rod on a pivot, its free end marked by a ball."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.drawing import Canvas, Colour, mottled, turned
from vrm.envs.rendering import Frame, Quality, render_metadata

UPRIGHT = 0.2  # radians


@dataclass(frozen=True, eq=False)  # a background may be an array
class Look:
    """What a picture shows apart from the state.

    Attributes:
        background: a colour, or a picture ``(S, S, 3)`` uint8.
        rod, ball, pivot: colours.
        window: ``(x0, x1, y0)`` of what is seen, in rod lengths from the pivot.
        width: of the rod, in rod lengths.
    """

    background: Colour | Frame
    rod: Colour
    ball: Colour
    pivot: Colour
    window: tuple[float, float, float]
    width: float


LOOK = Look((236, 240, 245), (204, 77, 77), (240, 180, 40), (40, 44, 52), (-1.4, 1.4, -1.4), 0.16)


class TextGoalPendulum(PendulumEnv):
    """Gymnasium's Pendulum, drawn small and fast.

    Observation: the 3 numbers of Pendulum-v1; cosine and sine of the angle from upright and the angular velocity.
    Action: one torque in [-2, 2] N m, too weak to lift the rod without swinging. Reward: Pendulum-v1's, minus the
    squared angle from upright minus small costs of velocity and torque, at best 0 and at worst -16.3; it is the
    ground truth of evaluation. ``info["success"]``: whether the rod is within 0.2 radians of upright. Episodes start
    at any angle, turning at up to 1 radian a second.

    Args:
        size: height and width of rendered frames in pixels.
        quality: accepted for symmetry with MuJoCo tasks; drawings cost the same either way.
        render_mode: ``"rgb_array"`` or ``None``.
    """

    metadata = render_metadata(20)
    state: NDArray[np.float64]

    def __init__(self, size: int = 64, quality: Quality = "fast", render_mode: str | None = None) -> None:
        """Nothing is drawn until :meth:`render` is called."""
        super().__init__(render_mode=render_mode)
        self.size, self.quality, self.look = size, quality, LOOK

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Advance 50 ms."""
        observation, reward, _, _, _ = super().step(action)  # type: ignore[no-untyped-call]
        return observation, float(reward), False, False, {"success": self.success()}

    def reset(self, **kwargs: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start at any angle."""
        observation, info = super().reset(**kwargs)
        return observation, info | {"success": self.success()}

    def success(self) -> bool:
        """Whether the rod stands upright."""
        return bool(np.cos(self.state[0]) > np.cos(UPRIGHT))

    def render(self) -> Frame | None:
        """Return the frame ``(size, size, 3)`` uint8, or ``None`` without ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            return None
        angle, half = float(self.state[0]), self.look.width / 2
        canvas = Canvas(self.size, self.look.window, self.look.background)
        rod = [(-half, 0), (half, 0), (half, 1), (-half, 1)]
        canvas.polygon(turned(rod, angle, (0, 0)), self.look.rod)
        canvas.disc(turned([(0, 1)], angle, (0, 0))[0], 1.1 * self.look.width, self.look.ball)
        canvas.disc((0, 0), half, self.look.pivot)
        return canvas.frame()

    def close(self) -> None:
        """Nothing to free."""


def turn(state: NDArray[np.float64]) -> float:
    """Degrees in [-180, 180) by which the rod is turned from upright, positive to the left as Gymnasium draws it."""
    return float((np.degrees(state[0]) + 180) % 360 - 180)


def _within(centre: float, start: float, end: float) -> Callable[[NDArray[np.float64]], float]:
    """Truth of the rod pointing a certain way: 1 within ``end`` degrees of it, 0 from ``start`` degrees on."""
    return lambda s: rise(abs((turn(s) - centre + 180) % 360 - 180), start, end)


def _side(sign: int) -> Callable[[NDArray[np.float64]], float]:
    """Truth of the ball lying on one side of the pivot; ``sign`` -1 is the left."""
    return lambda s: rise(-sign * float(np.sin(np.radians(turn(s)))), 0.08, 0.35)


CAPTIONER: Captioner[NDArray[np.float64]] = Captioner(
    subjects=("a pendulum", "the pendulum", "a swinging rod", "a rod on a pivot", "a pendulum with a ball at its end",
              "a red rod with a yellow ball"),
    facts=(
        Fact("upright", _within(0, 30, 6), (
            "standing straight up", "balanced upright", "pointing straight up", "upright above its pivot",
            "swung all the way up", "with its ball right above the pivot",
        )),
        Fact("nearly_upright", lambda s: min(rise(abs(turn(s)), 4, 14), rise(abs(turn(s)), 60, 40)), (
            "nearly upright", "almost balanced but leaning", "a little off vertical at the top",
            "about to tip over from the top",
        )),
        Fact("high", lambda s: rise(float(np.cos(np.radians(turn(s)))), 0.0, 0.35), (
            "raised above its pivot", "in the upper half of the circle", "with its ball higher than the pivot",
            "swung up high",
        ), ("the ball above the pivot",)),
        Fact("low", lambda s: rise(float(np.cos(np.radians(turn(s)))), 0.0, -0.35), (
            "sunk below its pivot", "in the lower half of the circle", "with its ball lower than the pivot",
            "fallen down",
        ), ("the ball below the pivot",)),
        Fact("hanging", _within(180, 35, 10), (
            "hanging straight down", "dangling at the bottom", "at rest below its pivot", "pointing straight down",
        )),
        Fact("horizontal", lambda s: rise(abs(abs(turn(s)) - 90), 30, 12), (
            "sticking out sideways", "level with its pivot", "lying horizontally", "held out flat to one side",
        )),
        Fact("left", _side(-1), (
            "turned to the left", "with its ball left of the pivot", "swung out to the left", "leaning left",
        ), ("the ball on the left",)),
        Fact("right", _side(1), (
            "turned to the right", "with its ball right of the pivot", "swung out to the right", "leaning right",
        ), ("the ball on the right",)),
        Fact("flat_left", _within(90, 30, 12), (
            "pointing due left", "at nine o'clock", "horizontal with its ball on the left",
            "sticking out flat to the left",
        )),
        Fact("flat_right", _within(-90, 30, 12), (
            "pointing due right", "at three o'clock", "horizontal with its ball on the right",
            "sticking out flat to the right",
        )),
        Fact("upper_left", _within(45, 40, 20), (
            "pointing to the upper left", "pointing up and to the left", "halfway up on the left",
            "with its ball in the top left corner",
        )),
        Fact("upper_right", _within(-45, 40, 20), (
            "pointing to the upper right", "pointing up and to the right", "halfway up on the right",
            "with its ball in the top right corner",
        )),
        Fact("lower_left", _within(135, 40, 20), (
            "pointing to the lower left", "pointing down and to the left", "swung a little to the left of hanging",
            "with its ball in the bottom left corner",
        )),
        Fact("lower_right", _within(-135, 40, 20), (
            "pointing to the lower right", "pointing down and to the right", "swung a little to the right of hanging",
            "with its ball in the bottom right corner",
        )),
    ),
)  # fmt: skip


def sample(env: TextGoalPendulum, rng: np.random.Generator, vary: bool = True) -> Iterator[NDArray[np.float64]]:
    """Put the environment into varied states for ever, yielding each; a quarter stand upright or nearly do."""
    env.reset(seed=int(rng.integers(2**31)))
    while True:
        angle = rng.normal(0, 0.15) if rng.random() < 0.25 else rng.uniform(-np.pi, np.pi)
        env.state = np.array([angle, 0.0])
        if vary:
            env.look = _another_look(rng)
        yield env.state


def _another_look(rng: np.random.Generator) -> Look:
    """Vary colours, light, background, rod width, and how near and from where the pendulum is seen."""
    brightness, spread = rng.uniform(0.75, 1.2), rng.choice([12, 30])

    def shade(colour: Any) -> Colour:
        red, green, blue = np.clip((np.array(colour) + rng.normal(0, spread, 3)) * brightness, 0, 255).astype(int)
        return int(red), int(green), int(blue)

    plain = rng.uniform(90, 255, 3) if rng.random() < 0.4 else LOOK.background
    flat = shade(plain)
    background = mottled(rng, flat, shade(plain)) if rng.random() < 0.3 else flat
    side, (x, y) = 2.8 * rng.uniform(0.92, 1.35), rng.normal(0, 0.08, 2)
    window = (x - side / 2, x + side / 2, y - side / 2)
    return Look(background, shade(LOOK.rod), shade(LOOK.ball), shade(LOOK.pivot), window, rng.uniform(0.11, 0.2))
