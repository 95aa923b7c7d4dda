"""MuJoCo's one-legged hopper as a text goal: down on the ground, its leg up in the air behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np

from vrm.envs import locomotion
from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.locomotion import Colour, TextGoalPlanar, Vector, between
from vrm.envs.rendering import Camera, render_metadata

CAMERA = Camera(distance=3.0, azimuth=90, elevation=-9, lookat=(0.0, 0.0, 0.75), follow="knee")
HALF_TORSO, THIGH = 0.2, 0.45  # metres


@dataclass(frozen=True)
class Posture:
    """What a frame shows of the hopper.

    Attributes:
        up: cosine between the torso's own up axis and the vertical.
        lean: horizontal component of that axis; positive leans forward, to the right of the picture.
        head: height of the torso's upper end in metres.
        hip: height of the hip.
        foot: height of the foot's lowest point.
        clearance: height of the lowest point of all.
        hip_bend: degrees by which the thigh is swung back from the torso's line.
        knee_bend: degrees between thigh and shank; 0 is a straight knee.
        toes: degrees by which the toes are lifted from a right angle with the shank.
    """

    up: float
    lean: float
    head: float
    hip: float
    foot: float
    clearance: float
    hip_bend: float
    knee_bend: float
    toes: float


class TextGoalHopper(TextGoalPlanar):
    """Gymnasium's Hopper without its pay for speed; it may fall.

    Observation: 12 numbers, height and pitch of the torso, 3 joint angles, 6 velocities. Action: 3 torques in
    [-1, 1], held for 20 ms. Reward: how low the head and the hip are and how high the foot is, the least of the
    three in [0, 1]; it is the ground truth of evaluation. ``info["success"]``: whether the upper end of the torso and
    the hip are less than 0.35 m and the foot is more than 0.6 m above the ground.
    """

    metadata = render_metadata(50)
    xml, skip, view, noise, girth, shape_tells = "hopper.xml", 10, CAMERA, 0.005, 1.5, True
    colours: ClassVar[dict[str, Colour]] = {
        "torso_geom": (0.90, 0.60, 0.15), "thigh_geom": (0.13, 0.33, 0.62), "leg_geom": (0.20, 0.52, 0.40),
        "foot_geom": (0.78, 0.16, 0.14),
    }  # fmt: skip

    def _edit(self, spec: mujoco.MjSpec) -> None:
        spec.body("thigh").add_body(name="knee", pos=(0, 0, -THIGH))  # the camera looks at the middle of the body

    def measure(self) -> Posture:
        """Read the posture from the present state."""
        data = self.data
        torso, foot = data.body("torso"), self.model.geom("foot_geom").id
        axis = torso.xmat.reshape(3, 3)[:, 2]
        size = self.model.geom_size[foot]
        hip, knee, ankle = np.degrees(data.qpos[3:])
        return Posture(
            up=float(axis[2]),
            lean=float(axis[0]),
            head=float(torso.xpos[2] + HALF_TORSO * axis[2]),
            hip=float(data.body("thigh").xpos[2]),
            foot=float(data.geom_xpos[foot, 2] - size[1] * abs(data.geom_xmat[foot, 8]) - size[0]),
            clearance=self.clearance(),
            hip_bend=-float(hip),
            knee_bend=-float(knee),
            toes=float(ankle),
        )

    def reached(self) -> float:
        """How nearly the hopper lies on the ground with its leg in the air."""
        p = self.measure()
        return min(rise(p.head, 1.5, 0.35), rise(p.hip, 1.2, 0.35), rise(p.foot, -0.1, 0.6))

    def draw_pose(self, rng: np.random.Generator) -> tuple[Vector, float]:
        """Draw a posture: upright, lying, or at any angle; leg straight, bent or anything; now and then in the air."""
        low, high = self.joint_limits
        kind = rng.random()
        if kind < 0.2:  # down on its front, the leg behind it and up
            pitch, angles = np.pi / 2, rng.uniform((-2.2, -1.0, low[2]), (-0.8, 0.0, high[2]))
        elif kind < 0.35:  # crouching: the shank leans as far forward as the thigh leans back
            bend = rng.uniform(0.5, 1.1)
            pitch, angles = -bend, np.array([0.0, -2 * bend, min(bend, high[2])])
        else:
            pitch = rng.choice([0.0, 0.0, 0.5, -0.5, np.pi / 2, -np.pi / 2, -np.pi / 2, np.pi])
            angles = between(rng, low, high) * (1.0 if rng.random() < 0.6 else rng.uniform(0, 0.2))
        gap = rng.uniform(0.05, 0.5) if rng.random() < 0.25 else 0.0
        angles = (angles + rng.normal(0, 0.1, 3)).clip(low, high)
        return self.pose(pitch + rng.normal(0, 0.2), angles), gap


def upright(p: Posture) -> float:
    """The torso points up."""
    return rise(p.up, 0.75, 0.94)


def footed(p: Posture) -> float:
    """The foot is on the ground."""
    return rise(p.foot, 0.1, 0.03)


def lying(p: Posture) -> float:
    """The torso is near the ground and not upright, the body on the ground."""
    return min(rise(max(p.head, p.hip), 0.6, 0.35), rise(abs(p.up), 0.9, 0.75), rise(p.clearance, 0.12, 0.04))


def straight(p: Posture) -> float:
    """Torso, thigh and shank are in one line."""
    return rise(max(p.hip_bend, p.knee_bend), 45, 20)


def headstand(p: Posture) -> float:
    """The torso points down and the foot is higher than the hip."""
    return min(rise(p.up, -0.35, -0.75), rise(p.foot - p.hip, 0.0, 0.3))


def crouching(p: Posture) -> float:
    """On the foot with a deeply bent knee."""
    return min(footed(p), rise(p.knee_bend, 45, 80), rise(p.hip, 0.85, 0.7), rise(p.hip, 0.2, 0.35), rise(p.up, 0, 0.3))


CAPTIONER: Captioner[Posture] = Captioner(
    subjects=("a one-legged hopper", "a one-legged hopper", "a hopping robot", "a hopper", "a robot with one leg",
              "the hopper", "a jumping leg", "a pogo-stick robot"),
    facts=(
        Fact("upright", upright, (
            "upright", "with its torso upright", "holding its body vertical", "with its trunk straight up",
        ), ("with its torso upright",)),
        Fact("standing", lambda p: min(upright(p), footed(p), rise(p.head, 0.9, 1.2)), (
            "standing on its foot", "standing up", "standing tall", "on its foot",
        )),
        Fact("leaning_forward", lambda p: min(rise(p.lean, 0.2, 0.45), rise(p.up, 0.1, 0.4)), (
            "leaning forward", "tilting forwards", "bowing forward", "leaning to the right of the picture",
        ), ("leaning forward",)),
        Fact("leaning_back", lambda p: min(rise(p.lean, -0.2, -0.45), rise(p.up, 0.1, 0.4)), (
            "leaning backward", "tilting back", "leaning to the left of the picture",
        ), ("leaning backward",)),
        Fact("airborne", lambda p: rise(p.clearance, 0.02, 0.12), (
            "in mid-air", "in the air", "jumping", "off the ground", "hopping above the ground",
        ), ("in mid-air",)),
        Fact("lying", lying, (
            "lying on the ground", "fallen over", "lying down", "fallen to the floor", "down on the ground",
        ), ("lying on the ground",)),
        Fact("lying_front", lambda p: min(lying(p), rise(p.lean, 0.5, 0.8)), (
            "lying on its front", "lying face down", "fallen forward onto the ground",
        )),
        Fact("lying_back", lambda p: min(lying(p), rise(p.lean, -0.5, -0.8)), (
            "lying on its back", "lying face up", "fallen over backwards",
        )),
        Fact("head_down", lambda p: rise(p.up, -0.35, -0.75), (
            "with its head below its hip", "with its torso pointing down", "hanging its head", "head down",
        ), ("with its torso pointing down",)),
        Fact("headstand", headstand, (
            "upside down", "standing on its head", "doing a headstand", "with its foot above its head",
        ), ("turned upside down",)),
        Fact("leg_up", lambda p: min(lying(p), rise(p.foot, 0.3, 0.6)), (
            "lying on the ground with its leg in the air", "on the floor with its leg sticking up",
            "lying down with its foot raised high", "down on the ground, pointing its foot at the sky",
        )),
        Fact("foot_high", lambda p: rise(p.foot, 0.25, 0.5), (
            "with its foot high above the ground", "with its foot in the air", "lifting its foot high",
        ), ("with its foot in the air",)),
        Fact("crouching", crouching, (
            "crouching on its foot", "squatting", "ready to jump", "crouched over its foot",
        )),
        Fact("straight", straight, (
            "straight from head to heel", "stretched out", "with its leg straight", "fully extended",
        ), ("with a straight leg",)),
        Fact("knee_bent", lambda p: rise(p.knee_bend, 45, 80), (
            "bending its knee", "with its knee bent", "with its shank folded back",
        ), ("with a bent knee",)),
        Fact("hip_bent", lambda p: rise(p.hip_bend, 50, 85), (
            "bent sharply at the hip", "with its leg swung far back", "folded at the hip",
        ), ("its thigh swung back",)),
        Fact("toes_up", lambda p: rise(p.toes, 8, 28), (
            "with its toes pulled up", "flexing its foot",
        ), ("its toes pulled up",)),
        Fact("toes_down", lambda p: rise(p.toes, -8, -28), (
            "with its toes pointed", "pointing its foot away from its shin",
        ), ("its toes pointed",)),
    ),
)  # fmt: skip


def sample(env: TextGoalHopper, rng: np.random.Generator, vary: bool = True) -> Iterator[Posture]:
    """Put the environment into varied states for ever, yielding each; see :func:`vrm.envs.locomotion.sample`."""
    return locomotion.sample(env, rng, vary)
