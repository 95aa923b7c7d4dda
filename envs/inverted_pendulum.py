"""MuJoCo's inverted pendulum as a text goal: it may fall, and has to come back by what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.rendering import Camera, Quality, RendererName, RendersScene, prepare, render_metadata

CAMERA = Camera(distance=2.9, azimuth=90, elevation=-8, lookat=(0.0, 0.0, 0.05))
UPRIGHT = 0.2  # radians, Gymnasium's own limit


class TextGoalInvertedPendulum(RendersScene, InvertedPendulumEnv):
    """The inverted pendulum without termination; the pole swings all around.

    Reward and ``info["success"]``: 1 while the pole is within 0.2 radians of upright.

    Args:
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.
    """

    metadata = render_metadata(25)

    def __init__(
        self,
        size: int = 64,
        quality: Quality = "fast",
        camera: Camera = CAMERA,
        render_mode: str | None = None,
        renderer: RendererName = "opengl",
    ) -> None:
        """Build the edited model; nothing is rendered until :meth:`render` is called."""
        self.quality, self.camera, self.renderer = quality, camera, renderer
        super().__init__(width=size, height=size, render_mode=render_mode)
        self.metadata = type(self).metadata  # the base class lists more modes
        EzPickle.__init__(self, size, quality, camera, render_mode, renderer)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        spec.worldbody.add_light(pos=(0, -3, 3), dir=(0, 0.7, -0.7), type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
        spec.visual.headlight.ambient = spec.visual.headlight.diffuse = (0.4, 0.4, 0.4)
        spec.add_texture(
            type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
            rgb1=(0.70, 0.82, 0.92), rgb2=(0.9, 0.94, 0.97), width=64, height=384,
        )  # fmt: skip
        spec.geom("cpole").rgba = (0.85, 0.45, 0.15, 1)
        spec.geom("cart").rgba = (0.2, 0.22, 0.3, 1)
        spec.joint("hinge").range[:] = (-180, 180)
        spec.joint("hinge").limited = mujoco.mjtLimited.mjLIMITED_FALSE
        prepare(spec, self.width, self.quality, self.camera, self.renderer)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Advance 40 ms."""
        self.do_simulation(action, self.frame_skip)
        success = self.success()
        observation = self._get_obs()  # type: ignore[no-untyped-call]  # gymnasium leaves it untyped
        return observation, np.float64(success), False, False, {"success": success}

    def _get_reset_info(self) -> dict[str, Any]:
        return {"success": self.success()}

    def success(self) -> bool:
        """Whether the pole stands upright."""
        return bool(np.cos(self.data.qpos[1]) > np.cos(UPRIGHT))


def _tilt(state: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arccos(np.clip(np.cos(state[1]), -1, 1))))


CAPTIONER: Captioner[NDArray[np.float64]] = Captioner(
    subjects=("an inverted pendulum", "a pole on a sliding cart", "a rod on a rail", "the pendulum",
              "a rod on a slider"),
    facts=(
        Fact("upright", lambda s: rise(_tilt(s), 40, 6), (
            "balanced upright", "standing straight up", "pointing up vertically", "balanced vertically above the cart",
            "upright", "perfectly balanced",
        )),
        Fact("tilted", lambda s: min(rise(_tilt(s), 10, 30), rise(_tilt(s), 85, 65)), (
            "tilted to one side", "leaning over", "tipping over",
        )),
        Fact("fallen", lambda s: rise(_tilt(s), 60, 85), (
            "fallen over", "fallen down", "not standing any more", "dropped",
        )),
        Fact("horizontal", lambda s: rise(abs(_tilt(s) - 90), 35, 15), ("lying horizontally", "sticking out sideways")),
        Fact("hanging", lambda s: rise(_tilt(s), 130, 165), ("hanging straight down", "dangling below the cart")),
        Fact("centred", lambda s: rise(abs(float(s[0])), 0.5, 0.2), (
            "in the middle of the rail",
        ), ("in the middle of the rail",)),
        Fact("at_edge", lambda s: rise(abs(float(s[0])), 0.6, 0.85), (
            "at the end of the rail",
        ), ("at the end of the rail",)),
    ),
)  # fmt: skip


def sample(env: TextGoalInvertedPendulum, rng: np.random.Generator, vary: bool = True) -> Iterator[NDArray[np.float64]]:
    """Put the environment into varied states for ever, yielding each."""
    env.reset(seed=int(rng.integers(2**31)))
    colours = env.model.geom_rgba.copy()
    while True:
        angle = rng.normal(0, 0.3) if rng.random() < 0.4 else rng.uniform(-np.pi, np.pi)
        env.set_state(np.array([rng.uniform(-0.95, 0.95), angle]), np.zeros(2))  # type: ignore[no-untyped-call]  # gymnasium leaves it untyped
        if vary:
            env.camera = CAMERA.jitter(rng, scale=float(rng.uniform(0, 0.7)))
            env.model.geom_rgba[:, :3] = np.clip(colours[:, :3] * rng.uniform(0.8, 1.2, (len(colours), 3)), 0, 1)
        yield env.data.qpos.copy()
