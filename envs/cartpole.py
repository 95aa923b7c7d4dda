"""CartPole that never terminates: the goal is said, not leaked by the end of the episode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.drawing import Canvas, Colour, turned
from vrm.envs.rendering import Frame, Quality, render_metadata

UPRIGHT = np.radians(12)
Look = tuple[Colour, Colour, Colour]  # background, cart, pole
LOOK: Look = ((238, 241, 245), (40, 44, 52), (202, 130, 60))


class TextGoalCartPole(CartPoleEnv):
    """CartPole with a wrapping pole, a clipped track and no failure.

    Reward and ``info["success"]``: 1 while the pole is within 12 degrees of upright and the cart on the track.

    Args:
        size: height and width of rendered frames in pixels.
        quality: accepted for symmetry with MuJoCo tasks; drawings cost the same either way.
        render_mode: ``"rgb_array"`` or ``None``.
    """

    metadata = render_metadata(50)
    state: NDArray[np.float64]

    def __init__(self, size: int = 64, quality: Quality = "fast", render_mode: str | None = None) -> None:
        """Widen the observation space to what a fallen pole reaches."""
        super().__init__(render_mode=render_mode)
        self.size, self.quality, self.look = size, quality, LOOK
        high = np.array([self.x_threshold, np.inf, np.pi, np.inf], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)

    def step(self, action: int | NDArray[Any]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Advance 20 ms; the pole's angle wraps to [-pi, pi] and the cart stops at the ends of the track."""
        super().step(action)  # type: ignore[no-untyped-call]  # gymnasium leaves it untyped
        self.steps_beyond_terminated = None
        x, x_dot, theta, theta_dot = (float(v) for v in self.state)
        inside = abs(x) < self.x_threshold
        x, x_dot = float(np.clip(x, -self.x_threshold, self.x_threshold)), x_dot if inside else 0.0
        theta = (theta + np.pi) % (2 * np.pi) - np.pi
        self.state = np.array([x, x_dot, theta, np.clip(theta_dot, -12, 12)])
        return self.state.astype(np.float32), float(self.success()), False, False, {"success": self.success()}

    def reset(self, **kwargs: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start near the upright balance, as CartPole does."""
        observation, info = super().reset(**kwargs)
        return observation, info | {"success": self.success()}

    def success(self) -> bool:
        """Whether the pole stands."""
        return bool(abs(self.state[2]) < UPRIGHT and abs(self.state[0]) < self.x_threshold)

    def render(self) -> Frame | None:
        """Return the frame ``(size, size, 3)`` uint8, or ``None`` without ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            return None
        x, _, theta, _ = self.state
        background, cart, pole = self.look
        canvas = Canvas(self.size, (-2.8, 2.8, -2.6), background)
        canvas.line([(-2.8, 0), (2.8, 0)], (120, 120, 130), 0.04)
        body = [(-0.4, -0.15), (0.4, -0.15), (0.4, 0.2), (-0.4, 0.2)]
        canvas.polygon(turned(body, 0, (x, 0)), cart)
        rod = [(-0.09, 0), (0.09, 0), (0.09, 1.7), (-0.09, 1.7)]
        canvas.polygon(turned(rod, -theta, (x, 0.2)), pole)
        canvas.disc((x, 0.2), 0.1, (90, 100, 190))
        return canvas.frame()

    def close(self) -> None:
        """Nothing to free."""


def _tilt(state: NDArray[np.float64]) -> float:
    return float(np.degrees(abs(state[2])))


CAPTIONER: Captioner[NDArray[np.float64]] = Captioner(
    subjects=("a pole on a cart", "pole and cart", "a cart with a pole", "a cart-pole", "the pole",
              "a pole and a cart"),
    facts=(
        Fact("upright", lambda s: rise(_tilt(s), 40, 5), (
            "vertically upright on top of the cart", "balanced upright", "standing vertically", "pointing straight up",
            "upright", "balanced on top of the cart", "standing on end",
        )),
        Fact("tilted", lambda s: min(rise(_tilt(s), 10, 30), rise(_tilt(s), 85, 65)), (
            "tilted to one side", "leaning over", "falling over", "at a slant",
        )),
        Fact("left", lambda s: rise(np.degrees(s[2]), -8, -25) * rise(_tilt(s), 170, 150), (
            "leaning to the left", "tipped over to the left", "falling left",
        )),
        Fact("right", lambda s: rise(np.degrees(s[2]), 8, 25) * rise(_tilt(s), 170, 150), (
            "leaning to the right", "tipped over to the right", "falling right",
        )),
        Fact("horizontal", lambda s: rise(abs(_tilt(s) - 90), 35, 15), (
            "lying horizontally", "sticking out sideways", "level with the ground",
        )),
        Fact("hanging", lambda s: rise(_tilt(s), 130, 165), (
            "hanging down below the cart", "pointing straight down", "fallen down", "dangling upside down",
        )),
        Fact("centred", lambda s: rise(abs(float(s[0])), 1.0, 0.4), (
            "in the middle of the track", "at the centre of the picture",
        ), ("in the middle of the track",)),
        Fact("at_edge", lambda s: rise(abs(float(s[0])), 1.4, 2.0), (
            "at the end of the track", "far to one side of the picture",
        ), ("at the end of the track",)),
    ),
)  # fmt: skip


def sample(env: TextGoalCartPole, rng: np.random.Generator, vary: bool = True) -> Iterator[NDArray[np.float64]]:
    """Put the environment into varied states for ever, yielding each."""
    env.reset(seed=int(rng.integers(2**31)))
    while True:
        theta = rng.normal(0, 0.25) if rng.random() < 0.4 else rng.uniform(-np.pi, np.pi)
        env.state = np.array([rng.uniform(-2.4, 2.4), 0.0, theta, 0.0])
        if vary:
            shades = [np.clip(np.array(c) + rng.normal(0, 18, 3), 0, 255).astype(int) for c in LOOK]
            env.look = tuple(tuple(int(v) for v in shade) for shade in shades)  # type: ignore[assignment]
        yield env.state
