"""MuJoCo's four-legged ant as a text goal: it has to rear up on its hind legs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np

from vrm.envs import locomotion
from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.locomotion import FASTEST, Colour, TextGoalLocomotion, Vector, between
from vrm.envs.rendering import Camera, render_metadata

CAMERA = Camera(distance=3.5, azimuth=90, elevation=-18, lookat=(0.0, 0.0, 0.5), follow="torso")
TRUNK, LEG = 0.25, 0.08  # metres: radii of the torso and of the legs
# Front is +x, the way that Gymnasium pays for: front left, front right, hind left, hind right, by the model's
# names of thighs and shins, whose "front" and "back" are other ones.
THIGHS = ("left_leg_geom", "rightback_leg_geom", "right_leg_geom", "back_leg_geom")
SHINS = ("left_ankle_geom", "fourth_ankle_geom", "right_ankle_geom", "third_ankle_geom")
PAINT = ((0.85, 0.20, 0.12), (0.95, 0.55, 0.15), (0.12, 0.30, 0.65), (0.20, 0.62, 0.70))
ORDER = (0, 3, 1, 2)  # where the joints of these legs come in the model, one hip and one ankle each


@dataclass(frozen=True)
class Posture:
    """What a frame shows of the ant; legs come as front left, front right, hind left, hind right.

    Attributes:
        up: cosine between the torso's own up axis and the vertical; -1 is upside down.
        nose: vertical component of its forward axis; 1 is rearing straight up, -1 standing on its head.
        left: vertical component of its left axis; 1 or -1 is lying on a side.
        trunk: height of the torso's lowest point in metres.
        clearance: height of the lowest point of all.
        feet: heights ``(4,)`` of the lowest points of the feet.
        bends: degrees ``(4,)`` between thighs and shins, from 30 to 70.
        swings: degrees ``(4,)`` by which legs are swung about the torso's up axis, counterclockwise.
    """

    up: float
    nose: float
    left: float
    trunk: float
    clearance: float
    feet: Vector
    bends: Vector
    swings: Vector


class TextGoalAnt(TextGoalLocomotion):
    """Gymnasium's Ant without its pay for speed; it may fall over.

    Observation: 29 numbers, height of the torso, its forward and left axes, 8 joint angles, 14 velocities. Action: 8
    torques in [-1, 1], held for 50 ms. Reward: how far the torso's front is turned up, whether it is not turned over
    and how high the lower front foot is, the least of the three in [0, 1]; it is the ground truth of evaluation.
    ``info["success"]``: whether the front is turned up by at least 45 degrees, the back at most 12 degrees beyond the
    vertical, and both front feet more than 0.4 m above the ground.
    """

    metadata = render_metadata(20)
    xml, skip, view, noise, shape_tells = "ant.xml", 5, CAMERA, 0.1, False
    colours: ClassVar[dict[str, Colour]] = {
        "torso_geom": (0.55, 0.50, 0.42), "head": (0.12, 0.10, 0.10),
        **{f"aux_{k}_geom": (0.45, 0.40, 0.34) for k in (1, 2, 3, 4)},
        **dict(zip(THIGHS, PAINT, strict=True)), **dict(zip(SHINS, PAINT, strict=True)),
    }  # fmt: skip

    def _edit(self, spec: mujoco.MjSpec) -> None:
        spec.body("torso").add_geom(
            name="head", type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=(0.24, 0, 0.08), size=(0.12, 0, 0), mass=0,
            contype=0, conaffinity=0,
        )  # fmt: skip

    def _get_obs(self) -> Vector:
        qpos, speeds = self.data.qpos, np.clip(self.data.qvel, -FASTEST, FASTEST)
        axes = np.zeros(9)
        mujoco.mju_quat2Mat(axes, qpos[3:7])
        return np.concatenate([qpos[2:3], axes.reshape(3, 3)[:, :2].T.ravel(), qpos[7:], speeds])

    def measure(self) -> Posture:
        """Read the posture from the present state."""
        data, model = self.data, self.model
        torso = data.body("torso")
        shins = np.array([model.geom(name).id for name in SHINS])
        knees = data.xpos[model.geom_bodyid[shins]]
        joints = np.degrees(data.qpos[7:]).reshape(4, 2)[list(ORDER)]
        return Posture(
            up=float(torso.xmat[8]),
            nose=float(torso.xmat[6]),
            left=float(torso.xmat[7]),
            trunk=float(torso.xpos[2]) - TRUNK,
            clearance=self.clearance(),
            feet=(2 * data.geom_xpos[shins] - knees)[:, 2] - LEG,
            bends=np.abs(joints[:, 1]),
            swings=joints[:, 0],
        )

    def reached(self) -> float:
        """How nearly the ant rears up on its hind legs."""
        p = self.measure()
        return min(rise(p.nose, 0.0, 0.7071), rise(p.up, -0.9, -0.2), rise(float(p.feet[:2].min()), 0.0, 0.4))

    def draw_pose(self, rng: np.random.Generator) -> tuple[Vector, float]:
        """Draw a posture: on its feet, rearing, on its back, on a side, or at any angle; now and then in the air."""
        low, high = self.joint_limits
        rest = (low + high) / 2
        angles = rest + rng.normal(0, 0.15, 8) if rng.random() < 0.25 else between(rng, low, high)
        kind = rng.random()
        yaw = rng.normal(0, 0.5) if rng.random() < 0.6 else rng.uniform(-np.pi, np.pi)
        steep, side = rng.uniform(0.7, 1.6), rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.8)
        tilts = ((0, 0), (-steep, 0), (steep, 0), (0, np.pi), (0, side), rng.uniform(-np.pi, np.pi, 2))
        pitch, roll = tilts[np.searchsorted(np.cumsum([0.28, 0.22, 0.12, 0.14, 0.14]), kind)]
        quat = turned(yaw, pitch + rng.normal(0, 0.12), roll + rng.normal(0, 0.12))
        gap = rng.uniform(0.05, 0.6) if rng.random() < 0.2 else 0.0
        return np.concatenate([[0.0, 0.0, 1.0], quat, angles.clip(low, high)]), gap


def turned(yaw: float, pitch: float, roll: float) -> Vector:
    """Quaternion of a body turned about the vertical, then about its left axis (nose down), then its forward axis."""
    quat = np.zeros(4)
    mujoco.mju_euler2Quat(quat, np.array([yaw, pitch, roll]), "zyx")
    return quat


def upright(p: Posture) -> float:
    """The back points up."""
    return rise(p.up, 0.5, 0.85)


def upside_down(p: Posture) -> float:
    """The back points down."""
    return rise(p.up, -0.4, -0.8)


def standing(p: Posture) -> float:
    """Upright on the ground, no foot lifted high."""
    return min(upright(p), rise(float(p.feet.max()), 0.3, 0.15), rise(p.clearance, 0.12, 0.03))


def raised(p: Posture, legs: tuple[int, ...]) -> float:
    """The feet of these legs are clearly higher than all others."""
    others = [leg for leg in range(4) if leg not in legs]
    return rise(float(p.feet[list(legs)].min() - p.feet[others].max()), 0.08, 0.3)


def rearing(steep: float, up: float, feet: Vector) -> float:
    """One end of the torso is turned up, without turning over, and the feet at that end are in the air."""
    return min(rise(steep, 0.4, 0.7), rise(up, -0.5, -0.2), rise(float(feet.min()), 0.15, 0.4))


def one_raised(p: Posture) -> float:
    """One foot is clearly higher than the three others."""
    return max(raised(p, (leg,)) for leg in range(4))


CAPTIONER: Captioner[Posture] = Captioner(
    subjects=("a four-legged robot", "a four-legged robot", "an ant robot", "a robot ant", "a quadruped", "an ant",
              "a robot with four legs", "the ant", "a four-legged machine"),
    facts=(
        Fact("upright", upright, (
            "the right way up", "right side up", "with its back up", "with a level body",
        ), ("the right way up",)),
        Fact("standing", standing, (
            "standing on all four legs", "standing on its four feet", "standing up", "on all fours",
        )),
        Fact("low", lambda p: min(upright(p), rise(p.trunk, 0.37, 0.27)), (
            "crouching low", "with its body close to the ground", "keeping low", "squatting on its legs",
        ), ("its body close to the ground",)),
        Fact("tall", lambda p: min(upright(p), rise(p.trunk, 0.34, 0.44)), (
            "holding its body high above the ground", "with its body lifted high", "on tiptoe",
        ), ("its body high above the ground",)),
        Fact("upside_down", upside_down, (
            "upside down", "turned over", "flipped over", "the wrong way up", "with its belly to the sky",
        ), ("turned upside down",)),
        Fact("on_back", lambda p: min(upside_down(p), rise(p.trunk, 0.25, 0.1)), (
            "lying on its back", "on its back like a beetle", "on its back, legs in the air", "fallen on its back",
        ), ("lying on its back",)),
        Fact("on_side", lambda p: rise(abs(p.left), 0.5, 0.85), (
            "lying on its side", "tipped over sideways", "fallen on its side", "with two legs in the air on one side",
        ), ("tipped on its side",)),
        Fact("rearing", lambda p: rearing(p.nose, p.up, p.feet[:2]), (
            "rearing up on its hind legs", "standing on its hind legs", "with its front legs in the air",
            "rearing up like a horse", "lifting both front legs off the ground",
        ), ("with its front legs in the air",)),
        Fact("headstand", lambda p: rearing(-p.nose, p.up, p.feet[2:]), (
            "standing on its front legs", "with its hind legs in the air", "doing a headstand",
            "lifting both hind legs off the ground", "tipped forward onto its head",
        ), ("with its hind legs in the air",)),
        Fact("nose_up", lambda p: rise(p.nose, 0.25, 0.5), (
            "with its front end up", "tilted backward", "with its head higher than its tail",
        ), ("with its head up",)),
        Fact("nose_down", lambda p: rise(p.nose, -0.25, -0.5), (
            "with its front end down", "tilted forward", "with its head lower than its tail",
        ), ("with its head down",)),
        Fact("airborne", lambda p: rise(p.clearance, 0.02, 0.15), (
            "in the air", "jumping", "in mid-air", "leaping off the ground", "floating above the ground",
        ), ("in mid-air",)),
        Fact("left_raised", lambda p: raised(p, (0, 2)), (
            "with both left legs raised", "leaning over to its right", "lifting its left legs",
        )),
        Fact("right_raised", lambda p: raised(p, (1, 3)), (
            "with both right legs raised", "leaning over to its left", "lifting its right legs",
        )),
        Fact("one_raised", one_raised, (
            "with one leg raised higher than the others", "lifting one leg", "waving one leg",
        ), ("with one leg raised",)),
        Fact("stretched", lambda p: rise(float(p.bends.mean()), 48, 39), (
            "with its legs stretched out", "sprawling with straight legs", "spreading its legs wide",
        ), ("with its legs stretched out",)),
        Fact("curled", lambda p: rise(float(p.bends.mean()), 52, 61), (
            "with its legs bent sharply", "with its legs drawn in", "curling up its legs",
        ), ("with its legs drawn in",)),
    ),
)  # fmt: skip


def sample(env: TextGoalAnt, rng: np.random.Generator, vary: bool = True) -> Iterator[Posture]:
    """Put the environment into varied states for ever, yielding each; see :func:`vrm.envs.locomotion.sample`."""
    return locomotion.sample(env, rng, vary)
