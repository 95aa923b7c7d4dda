"""MuJoCo's two-legged walker as a text goal: from its feet down onto both knees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vrm.envs import locomotion
from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.locomotion import Colour, TextGoalPlanar, Vector, between
from vrm.envs.rendering import Camera, render_metadata

CAMERA = Camera(distance=3.1, azimuth=90, elevation=-9, lookat=(0.0, 0.0, 0.75), follow="thigh")
HALF_TORSO, THIGH, SOLE = 0.2, 0.45, 0.06  # metres
LEGS = ("", "_left")  # what follows "thigh", "leg" and "foot" in the model's names: right, left
RIGHT, LEFT = (0.82, 0.18, 0.14), (0.13, 0.33, 0.72)
BESIDE = 0.09  # metres between the middle and where a leg is drawn; the right one is nearer to the camera


@dataclass(frozen=True)
class Posture:
    """What a frame shows of the walker; index 0 of each pair is the right leg, 1 the left.

    Attributes:
        up: cosine between the torso's own up axis and the vertical.
        lean: horizontal component of that axis; positive leans forward, to the right of the picture.
        head: height of the torso's upper end in metres.
        hip: height of the hips.
        clearance: height of the lowest point.
        knees, feet: heights ``(2,)``, at the knees' centres and at the soles.
        hip_bend: degrees ``(2,)`` by which the thighs are swung back from the torso's line.
        knee_bend: degrees ``(2,)`` between thigh and shank; 0 is a straight knee.
        apart: degrees between the lines from the hips to the two ankles.
    """

    up: float
    lean: float
    head: float
    hip: float
    clearance: float
    knees: Vector
    feet: Vector
    hip_bend: Vector
    knee_bend: Vector
    apart: float


class TextGoalWalker2d(TextGoalPlanar):
    """Gymnasium's Walker2d without its pay for speed; it may fall.

    Observation: 18 numbers, height and pitch of the torso, 6 joint angles, 9 velocities. Action: 6 torques in
    [-1, 1], held for 20 ms. Reward: how upright the torso is, how low both knees are and whether the hips are above
    them, the least of the three in [0, 1]; it is the ground truth of evaluation. ``info["success"]``: whether the
    torso is within 32 degrees of upright, both knees' centres are less and the hips are more than 0.15 and 0.35 m
    above the ground.
    """

    metadata = render_metadata(50)
    xml, skip, view, noise, girth, shape_tells = "walker2d_v5.xml", 10, CAMERA, 0.005, 1.5, False
    colours: ClassVar[dict[str, Colour]] = {
        "torso_geom": (0.90, 0.72, 0.25),
        **{f"{part}{side}_geom": colour for side, colour in zip(LEGS, (RIGHT, LEFT), strict=True)
           for part in ("thigh", "leg", "foot")},
    }  # fmt: skip
    aside: ClassVar[dict[str, float]] = {
        name: 0.0 if name == "torso_geom" else BESIDE if "left" in name else -BESIDE for name in colours
    }

    def measure(self) -> Posture:
        """Read the posture from the present state."""
        data, model = self.data, self.model
        torso = data.body("torso")
        axis = torso.xmat.reshape(3, 3)[:, 2]
        thighs = np.array([model.body(f"thigh{side}").id for side in LEGS])
        feet = np.array([model.geom(f"foot{side}_geom").id for side in LEGS])
        knees = data.xpos[thighs] - THIGH * data.xmat[thighs].reshape(2, 3, 3)[:, :, 2]
        ankles = (data.geom_xpos[feet] - data.xpos[thighs])[:, [0, 2]]
        cosine = float(np.prod(ankles, axis=0).sum() / np.linalg.norm(ankles, axis=1).prod())
        bends = -np.degrees(data.qpos[3:]).reshape(2, 3)
        return Posture(
            up=float(axis[2]),
            lean=float(axis[0]),
            head=float(torso.xpos[2] + HALF_TORSO * axis[2]),
            hip=float(data.xpos[thighs[0], 2]),
            clearance=self.clearance(),
            knees=knees[:, 2],
            feet=data.geom_xpos[feet, 2] - model.geom_size[feet, 1] * np.abs(data.geom_xmat[feet, 8]) - SOLE,
            hip_bend=bends[:, 0],
            knee_bend=bends[:, 1],
            apart=float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
        )

    def reached(self) -> float:
        """How nearly the walker kneels on both knees."""
        p = self.measure()
        return min(rise(p.up, -0.2, 0.85), rise(float(p.knees.max()), 0.6, 0.15), rise(p.hip, -0.2, 0.35))

    def draw_pose(self, rng: np.random.Generator) -> tuple[Vector, float]:
        """Draw a posture: standing, kneeling, striding, on one leg, on the head, or anything; some in the air."""
        low, high = self.joint_limits
        kind = rng.random()
        pitch, angles = 0.0, np.zeros(6)
        if kind < 0.20:
            angles[[1, 4]] = rng.uniform(-2.2, -1.5, 2)
        elif kind < 0.36:
            angles[3 * rng.integers(2) + np.arange(2)] = rng.uniform(-1.7, -0.4, 2)
        elif kind < 0.46:  # torso back, so that one leg is in front and one behind
            pitch = -rng.uniform(0.2, 0.8)
            angles[3 * rng.integers(2)] = 2 * pitch
        elif kind < 0.54:
            pitch, angles = np.pi, -rng.uniform(0, 0.8, 6)
        elif kind < 0.66:
            bend = rng.uniform(0.5, 1.0)
            pitch, angles = -bend, np.array([0, -2 * bend, 0.75] * 2)
        else:
            pitch = rng.choice(
                [0.0, 0.5, -0.5, np.pi / 2, -np.pi / 2, -np.pi / 2, -np.pi / 2, np.pi, rng.uniform(-np.pi, np.pi)]
            )
            angles = between(rng, low, high) * (1.0 if rng.random() < 0.6 else rng.uniform(0, 0.2))
        gap = rng.uniform(0.05, 0.5) if rng.random() < 0.2 else 0.0
        angles = (angles + rng.normal(0, 0.1, 6)).clip(low, high)
        return self.pose(pitch + rng.normal(0, 0.15), angles), gap


def upright(p: Posture) -> float:
    """The torso points up."""
    return rise(p.up, 0.7, 0.92)


def lying(p: Posture) -> float:
    """The torso is near the ground and not upright, the body on the ground."""
    return min(rise(max(p.head, p.hip), 0.6, 0.35), rise(abs(p.up), 0.9, 0.75), rise(p.clearance, 0.12, 0.04))


def kneeling(p: Posture) -> float:
    """Upright on both knees."""
    return min(rise(p.up, 0.6, 0.85), rise(float(p.knees.max()), 0.3, 0.15), rise(p.hip, 0.2, 0.35))


def lifted(p: Posture, leg: int) -> float:
    """One foot is off the ground and the other is not, the torso up."""
    return min(rise(p.up, 0.3, 0.7), rise(float(p.feet[leg]), 0.12, 0.3), rise(float(p.feet[1 - leg]), 0.15, 0.06),
               rise(p.hip, 0.55, 0.75))  # fmt: skip


def headstand(p: Posture) -> float:
    """The torso points down and both feet are higher than the hips."""
    return min(rise(p.up, -0.35, -0.75), rise(float(p.feet.min()) - p.hip, 0.0, 0.3))


def crouching(p: Posture) -> float:
    """On both feet with the knees deeply bent."""
    bent = min(rise(float(p.knee_bend.min()), 40, 70), rise(p.hip, 0.85, 0.72), rise(float(p.knees.min()), 0.22, 0.34))
    return min(bent, rise(float(p.feet.max()), 0.18, 0.08), rise(p.up, -0.1, 0.3))


CAPTIONER: Captioner[Posture] = Captioner(
    subjects=("a two-legged walker", "a two-legged walker", "a walking robot", "a biped", "a walker",
              "a pair of legs with a torso", "the walker", "a two-legged robot"),
    facts=(
        Fact("upright", upright, (
            "upright", "with its torso upright", "holding its trunk vertical", "with a straight back",
        ), ("with its torso upright",)),
        Fact("standing", lambda p: min(upright(p), rise(float(p.feet.max()), 0.15, 0.06), rise(p.hip, 0.75, 0.95)), (
            "standing on both feet", "standing up", "standing tall", "planted on both feet",
        )),
        Fact("leaning_forward", lambda p: min(rise(p.lean, 0.2, 0.45), rise(p.up, 0.1, 0.4)), (
            "leaning forward", "tilting forwards", "bowing forward", "leaning to the right of the picture",
        ), ("leaning forward",)),
        Fact("leaning_back", lambda p: min(rise(p.lean, -0.2, -0.45), rise(p.up, 0.1, 0.4)), (
            "leaning backward", "tilting back", "leaning to the left of the picture",
        ), ("leaning backward",)),
        Fact("kneeling", kneeling, (
            "kneeling", "kneeling on both knees", "down on both knees", "on its knees", "kneeling on the ground",
        )),
        Fact("one_leg", lambda p: max(lifted(p, 0), lifted(p, 1)), (
            "standing on one leg", "balancing on one foot", "with one foot off the ground", "lifting one leg",
        )),
        Fact("right_lifted", lambda p: lifted(p, 0), (
            "standing on its left leg", "lifting its right leg", "with only the right foot off the ground",
            "lifting its red leg",
        )),
        Fact("left_lifted", lambda p: lifted(p, 1), (
            "standing on its right leg", "lifting its left leg", "with only the left foot off the ground",
            "lifting its blue leg",
        )),
        Fact("crouching", crouching, (
            "crouching on both feet", "squatting", "crouching down", "in a deep squat",
        )),
        Fact("lying", lying, (
            "lying on the ground", "fallen over", "lying down", "collapsed on the floor",
        )),
        Fact("lying_front", lambda p: min(lying(p), rise(p.lean, 0.5, 0.8)), (
            "lying on its front", "lying face down", "fallen forward onto the ground",
        )),
        Fact("lying_back", lambda p: min(lying(p), rise(p.lean, -0.5, -0.8)), (
            "lying on its back", "lying face up", "fallen over backwards",
        )),
        Fact("head_down", lambda p: rise(p.up, -0.35, -0.75), (
            "with its head below its hips", "with its torso pointing down", "hanging its head", "head down",
        ), ("with its torso pointing down",)),
        Fact("headstand", headstand, (
            "upside down", "standing on its head", "doing a headstand", "with its legs above its torso",
        ), ("turned upside down",)),
        Fact("airborne", lambda p: rise(p.clearance, 0.02, 0.12), (
            "in mid-air", "in the air", "jumping", "off the ground",
        ), ("in mid-air",)),
        Fact("legs_apart", lambda p: rise(p.apart, 35, 65), (
            "with its legs wide apart", "in a long stride", "spreading its legs",
        ), ("with its legs wide apart",)),
        Fact("legs_together", lambda p: rise(p.apart, 25, 10), (
            "with its legs together", "with one leg hiding the other", "with its legs side by side",
        ), ("with its legs together",)),
        Fact("knees_bent", lambda p: rise(float(p.knee_bend.min()), 40, 75), (
            "with both knees bent", "bending its knees",
        ), ("with both knees bent",)),
        Fact("legs_straight", lambda p: rise(float(p.knee_bend.max()), 40, 20), (
            "with both legs straight", "with straight knees",
        ), ("with straight legs",)),
        Fact("one_knee_bent", lambda p: rise(abs(float(p.knee_bend[0] - p.knee_bend[1])), 40, 75), (
            "with one knee bent and one leg straight", "bending one knee only",
        ), ("with only one knee bent",)),
    ),
)  # fmt: skip


def sample(env: TextGoalWalker2d, rng: np.random.Generator, vary: bool = True) -> Iterator[Posture]:
    """Put the environment into varied states for ever, yielding each; see :func:`vrm.envs.locomotion.sample`."""
    return locomotion.sample(env, rng, vary)
