"""MuJoCo's inverted double pendulum as a text goal: two links on a cart that may fall, fold and swing all around."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.rendering import Camera, Quality, RendererName, RendersScene, prepare, render_metadata
from vrm.envs.variation import Variation

CAMERA = Camera(distance=3.5, azimuth=90, elevation=-6, lookat=(0.0, 0.0, 0.05))
UPRIGHT = 0.2  # radians that either link may lean


class TextGoalInvertedDoublePendulum(RendersScene, InvertedDoublePendulumEnv):
    """The inverted double pendulum without termination; both links swing all around.

    Observation: the 9 numbers of InvertedDoublePendulum-v5; the cart's position, sines then cosines of both joint
    angles, the three velocities and the constraint force on the cart. Action: one number in [-1, 1], the force on the
    cart in units of 500 N. Reward: InvertedDoublePendulum-v5's, 10 while the tip is above 1 m minus penalties for the
    tip's distance from straight up and for joint velocities; it is the ground truth of evaluation.
    ``info["success"]``: whether both links are within 0.2 radians of upright.

    Args:
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.
    """

    metadata = render_metadata(20)

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
        spec.worldbody.add_geom(
            name="wall", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=(0, 2, 0), size=(12, 12, 12),
            quat=(0.70710678, 0.70710678, 0, 0), rgba=(1, 1, 1, 0), contype=0, conaffinity=0,
        )  # fmt: skip
        spec.geom("cart").rgba = (0.2, 0.22, 0.3, 1)
        for body, colour in (("pole", (0.85, 0.40, 0.12, 1)), ("pole2", (0.10, 0.55, 0.45, 1))):
            spec.body(body).geoms[0].rgba = colour
            spec.body(body).add_geom(  # thick enough for small pictures, and without mass
                type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=(0, 0, 0, 0, 0, 0.6), size=(0.07, 0, 0), rgba=colour,
                mass=0, contype=0, conaffinity=0,
            )  # fmt: skip
        prepare(spec, self.width, self.quality, self.camera, self.renderer)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Advance 50 ms."""
        observation, reward, _, _, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation, np.float64(reward), False, False, info | {"success": self.success()}

    def _get_reset_info(self) -> dict[str, Any]:
        return {"success": self.success()}

    def success(self) -> bool:
        """Whether both links stand upright."""
        links = measure(self)
        return bool(max(abs(links.lower), abs(links.upper)) < np.degrees(UPRIGHT))


@dataclass(frozen=True)
class Links:
    """What a frame shows of the two links.

    Attributes:
        cart: its place on the rail in metres, from -1 at the left end to 1 at the right.
        lower: degrees in [-180, 180) that the link on the cart leans from upright; positive to the right.
        upper: likewise, of the link at its end.
    """

    cart: float
    lower: float
    upper: float

    @property
    def bend(self) -> float:
        """Degrees between the links; 0 is a straight line, 180 folded."""
        return abs(_wrapped(self.upper - self.lower))

    @property
    def tip(self) -> tuple[float, float]:
        """Metres that the tip lies right of and above the cart, each in [-1.2, 1.2]."""
        angles = np.radians([self.lower, self.upper])
        return float(0.6 * np.sin(angles).sum()), float(0.6 * np.cos(angles).sum())


def measure(env: TextGoalInvertedDoublePendulum) -> Links:
    """Read the links from the simulator's present state."""
    cart, first, second = env.data.qpos
    return Links(float(cart), _wrapped(np.degrees(first)), _wrapped(np.degrees(first + second)))


def _wrapped(angle: float) -> float:
    return float((angle + 180) % 360 - 180)


def _leans(link: str, sign: int) -> Callable[[Links], float]:
    """Truth of one link leaning to a side: 1 where it points half a right angle or more that way."""
    return lambda s: rise(sign * float(np.sin(np.radians(getattr(s, link)))), 0.15, 0.5)


CAPTIONER: Captioner[Links] = Captioner(
    subjects=("a double pendulum", "a double pendulum on a cart", "two linked rods on a sliding cart",
              "a two-link pendulum", "the double pendulum", "two jointed poles on a cart"),
    facts=(
        Fact("upright", lambda s: min(rise(abs(s.lower), 35, 8), rise(abs(s.upper), 35, 8)), (
            "balanced straight up on the cart", "standing straight up", "balanced upright", "with both links upright",
            "pointing straight up from end to end", "perfectly balanced",
        )),
        Fact("hanging", lambda s: min(rise(abs(s.lower), 130, 165), rise(abs(s.upper), 130, 165)), (
            "hanging straight down", "dangling below the cart", "with both links hanging down",
            "hanging limp from the cart",
        )),
        Fact("fallen", lambda s: rise(s.tip[1], 0.5, -0.1), (
            "fallen over", "collapsed", "not standing any more", "with its tip fallen below the cart",
        )),
        Fact("straight", lambda s: rise(s.bend, 40, 12), (
            "stretched out in one line", "with both links in line", "straight as one rod", "not bent anywhere",
        ), ("both links in line",)),
        Fact("bent", lambda s: min(rise(s.bend, 25, 55), rise(s.bend, 145, 120)), (
            "bent in the middle", "with its two links at an angle", "forming a corner", "kinked at the joint",
        ), ("bent at the joint",)),
        Fact("folded", lambda s: rise(s.bend, 120, 155), (
            "folded together", "folded back on itself", "with one link lying on the other", "doubled up",
        ), ("folded together",)),
        Fact("lower_up", lambda s: rise(abs(s.lower), 40, 12), (
            "with the lower link upright", "with the orange link upright", "with the link on the cart standing up",
            "with its orange rod standing vertically",
        ), ("the orange link upright",)),
        Fact("lower_down", lambda s: rise(abs(s.lower), 125, 160), (
            "with the orange link hanging down", "with the first link pointing down from the cart",
            "with its orange rod below the rail", "with the link on the cart hanging",
        ), ("the orange link hanging",)),
        Fact("lower_left", _leans("lower", -1), (
            "with the orange link leaning to the left", "with the first link tilted left",
            "with its orange rod pointing left", "with the link on the cart fallen to the left",
        )),
        Fact("lower_right", _leans("lower", 1), (
            "with the orange link leaning to the right", "with the first link tilted right",
            "with its orange rod pointing right", "with the link on the cart fallen to the right",
        )),
        Fact("upper_up", lambda s: rise(abs(s.upper), 40, 12), (
            "with the green link upright", "with the outer link pointing up", "with its green rod vertical, tip up",
            "with the second link standing up",
        ), ("the green link pointing up",)),
        Fact("upper_down", lambda s: rise(abs(s.upper), 125, 160), (
            "with the green link hanging down", "with the outer link pointing down", "with its green rod dangling",
            "with the second link drooping",
        ), ("the green link hanging",)),
        Fact("upper_left", _leans("upper", -1), (
            "with the green link pointing to the left", "with the outer link tilted left",
            "with its green rod leaning left", "with the second link turned left",
        )),
        Fact("upper_right", _leans("upper", 1), (
            "with the green link pointing to the right", "with the outer link tilted right",
            "with its green rod leaning right", "with the second link turned right",
        )),
        Fact("high", lambda s: rise(s.tip[1], 0.6, 1.0), (
            "with its tip high above the cart", "reaching high up", "with the tip near its highest point",
            "raised high",
        ), ("the tip high up",)),
        Fact("left", lambda s: rise(s.cart, -0.25, -0.55), (
            "with the cart on the left of the rail", "with the cart to the left", "left of the middle of the rail",
            "with the cart slid to the left",
        ), ("the cart on the left",)),
        Fact("right", lambda s: rise(s.cart, 0.25, 0.55), (
            "with the cart on the right of the rail", "with the cart to the right", "right of the middle of the rail",
            "with the cart slid to the right",
        ), ("the cart on the right",)),
        Fact("centred", lambda s: rise(abs(s.cart), 0.45, 0.2), (
            "in the middle of the rail", "with the cart at the centre of the rail", "with the cart half way",
            "with the cart right in the middle",
        ), ("in the middle of the rail",)),
        Fact("at_edge", lambda s: rise(abs(s.cart), 0.6, 0.85), (
            "at the end of the rail", "with the cart at one end", "with the cart as far as the rail goes",
            "with no rail left on one side",
        ), ("at the end of the rail",)),
    ),
)  # fmt: skip


def sample(env: TextGoalInvertedDoublePendulum, rng: np.random.Generator, vary: bool = True) -> Iterator[Links]:
    """Put the environment into varied states for ever, yielding each: balanced, straight, folded, hanging, or any."""
    env.reset(seed=int(rng.integers(2**31)))
    restyle = Variation(env, shift=0.05, turn=0.7, backdrops=("wall",)) if vary else None
    while True:
        lower, bend = rng.uniform(-180, 180), rng.uniform(-180, 180)
        kind = rng.random()
        if kind < 0.25:
            lower, bend = rng.normal(0, rng.choice([4, 12]), 2)
        elif kind < 0.35:
            bend = rng.normal(0, 8)
        elif kind < 0.45:
            bend = 180 + rng.normal(0, 12)
        elif kind < 0.55:
            lower, bend = 180 + rng.normal(0, 12), rng.normal(0, 15)
        elif kind < 0.65:
            lower = rng.normal(0, 12)
        env.set_state(np.array([rng.uniform(-0.95, 0.95), *np.radians([lower, bend])]), np.zeros(3))  # type: ignore[no-untyped-call]
        if restyle is not None:
            restyle(rng)
        yield measure(env)
