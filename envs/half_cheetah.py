"""MuJoCo's half cheetah as a text goal: from its feet, which it starts on, onto its back."""

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

CAMERA = Camera(distance=2.8, azimuth=90, elevation=-9, lookat=(0.0, 0.0, 0.6), follow="torso")
COAT, FRONT, BACK = (0.90, 0.65, 0.20), (0.75, 0.16, 0.14), (0.13, 0.28, 0.62)
CROUCH = np.array([0.95, 0.0, 0.0, -0.9, -0.6, 0.0])  # radians of the joints, both legs drawn up
MASS = 14.0  # kilograms of the whole body
RADIUS = 0.046  # metres, of every limb


@dataclass(frozen=True)
class Posture:
    """What a frame shows of the cheetah; index 0 of each pair is the front leg, 1 the hind leg.

    Attributes:
        up: cosine between the back's own up axis and the vertical; -1 is upside down.
        nose: vertical component of the torso's forward axis; 1 is rearing straight up, -1 standing on the head.
        trunk: height of the torso's centre in metres.
        clearance: height of the lowest point.
        feet: heights ``(2,)`` of the lowest points of the feet.
        foot_at: feet from their hips in the torso frame ``(2, 2)``: forward, up.
    """

    up: float
    nose: float
    trunk: float
    clearance: float
    feet: Vector
    foot_at: Vector


class TextGoalHalfCheetah(TextGoalPlanar):
    """Gymnasium's HalfCheetah without its pay for speed.

    Observation: 18 numbers, height and pitch of the torso, 6 joint angles, 9 velocities. Action: 6 torques in
    [-1, 1], held for 50 ms. Reward: how far the body is turned over and how low its torso is, the lesser of both in
    [0, 1]; it is the ground truth of evaluation. ``info["success"]``: whether the back points down within 37 degrees
    and the torso's centre is less than 0.3 m from the ground.
    """

    metadata = render_metadata(20)
    xml, skip, view, noise, girth, shape_tells = "half_cheetah.xml", 5, CAMERA, 0.1, 1.5, True
    colours: ClassVar[dict[str, Colour]] = {
        "torso": COAT, "head": COAT, "fthigh": FRONT, "fshin": FRONT, "ffoot": FRONT, "bthigh": BACK, "bshin": BACK,
        "bfoot": BACK,
    }  # fmt: skip

    def _edit(self, spec: mujoco.MjSpec) -> None:
        spec.compiler.settotalmass = -1  # MuJoCo asks to do it on the compiled model

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, data = super()._initialize_simulation()
        mujoco.mj_setTotalmass(model, MASS)
        mujoco.mj_setConst(model, data)
        return model, data

    def measure(self) -> Posture:
        """Read the posture from the present state."""
        data = self.data
        torso = data.body("torso")
        frame = torso.xmat.reshape(3, 3)
        tips = np.stack([2 * data.geom(f"{s}foot").xpos - data.body(f"{s}foot").xpos for s in "fb"])
        hips = np.stack([data.body(f"{s}thigh").xpos for s in "fb"])
        ankles = np.stack([data.body(f"{s}foot").xpos for s in "fb"])
        return Posture(
            up=float(frame[2, 2]),
            nose=float(frame[2, 0]),
            trunk=float(torso.xpos[2]),
            clearance=self.clearance(),
            feet=np.minimum(tips, ankles)[:, 2] - RADIUS,
            foot_at=((tips - hips) @ frame)[:, [0, 2]],
        )

    def reached(self) -> float:
        """How nearly the cheetah lies on its back."""
        torso = self.data.body("torso")
        return min(rise(float(torso.xmat[8]), 1.0, -0.8), rise(float(torso.xpos[2]), 1.0, 0.3))

    def draw_pose(self, rng: np.random.Generator) -> tuple[Vector, float]:
        """Draw a posture: on the feet, on the back, or at any angle; on the ground or above it."""
        kind = rng.random()
        level = 0.0 if kind < 0.35 else np.pi if kind < 0.65 else rng.uniform(-np.pi, np.pi)
        low, high = self.joint_limits
        limbs = rng.random()
        angles = between(rng, low, high)
        if limbs < 0.4:
            angles = (rng.normal(0, 0.2, 6) + (CROUCH if limbs < 0.15 else 0)).clip(low, high)
        gap = rng.uniform(0.05, 0.6) if rng.random() < 0.25 else 0.0
        return self.pose(level + rng.normal(0, 0.25), angles), gap


def upright(p: Posture) -> float:
    """The back points up."""
    return rise(p.up, 0.45, 0.8)


def upside_down(p: Posture) -> float:
    """The back points down."""
    return rise(p.up, -0.45, -0.8)


def lifted(p: Posture, leg: int) -> float:
    """One foot is off the ground and the other is not; the back is up."""
    return min(upright(p), rise(float(p.feet[leg]), 0.1, 0.25), rise(float(p.feet[1 - leg]), 0.12, 0.05))


def span(p: Posture) -> float:
    """Metres along the torso between hind and front foot; its hips are 1 m apart."""
    return float(1 + p.foot_at[0, 0] - p.foot_at[1, 0])


CAPTIONER: Captioner[Posture] = Captioner(
    subjects=("a cheetah robot", "a cheetah robot", "a half cheetah", "a two-legged cheetah", "a four-footed runner",
              "a robot cat", "the cheetah", "a running robot"),
    facts=(
        Fact("upright", upright, (
            "the right way up", "right side up", "with its back up", "with its belly towards the ground",
        ), ("the right way up",)),
        Fact("standing", lambda p: min(upright(p), rise(float(p.feet.max()), 0.12, 0.04), rise(p.trunk, 0.25, 0.4)), (
            "standing on its feet", "standing on both legs", "on its feet", "standing with both feet on the ground",
        )),
        Fact("upside_down", upside_down, (
            "upside down", "turned over", "flipped over", "with its back towards the ground", "the wrong way up",
        ), ("turned upside down",)),
        Fact("on_back", lambda p: min(upside_down(p), rise(p.trunk, 0.5, 0.3), rise(p.clearance, 0.12, 0.04)), (
            "lying on its back", "upside down on its back", "on its back with its legs in the air",
            "flat on its back", "sliding on its back",
        ), ("lying on its back",)),
        Fact("crouching", lambda p: min(upright(p), rise(p.trunk, 0.55, 0.42)), (
            "crouching low", "with its belly near the ground", "ducking close to the ground", "keeping its body low",
        ), ("its belly near the ground",)),
        Fact("rearing", lambda p: rise(p.nose, 0.45, 0.8), (
            "rearing up", "standing on its hind leg", "with its head up and its tail end down", "pointing straight up",
        ), ("rearing up",)),
        Fact("headstand", lambda p: rise(p.nose, -0.45, -0.8), (
            "standing on its head", "diving head first into the ground", "with its nose down and its tail end up",
            "doing a headstand",
        ), ("with its nose down",)),
        Fact("level", lambda p: rise(abs(p.nose), 0.4, 0.15), (
            "with a level body", "stretched parallel to the ground", "with its trunk horizontal",
        ), ("its body level",)),
        Fact("airborne", lambda p: rise(p.clearance, 0.02, 0.12), (
            "in the air", "leaping", "in mid-air", "jumping off the ground", "flying above the ground",
        ), ("in mid-air",)),
        Fact("front_forward", lambda p: rise(float(p.foot_at[0, 0]), 0.15, 0.32), (
            "stretching its front leg forward", "reaching forward with its front leg",
        ), ("with its front leg stretched forward",)),
        Fact("front_tucked", lambda p: rise(float(p.foot_at[0, 0]), -0.08, -0.25), (
            "pulling its front leg back under its body", "with its front leg swept backwards",
        ), ("with its front leg swept back",)),
        Fact("hind_back", lambda p: rise(float(p.foot_at[1, 0]), -0.28, -0.45), (
            "stretching its hind leg backward", "kicking out with its hind leg", "with its hind leg far behind it",
        ), ("with its hind leg stretched back",)),
        Fact("hind_tucked", lambda p: rise(float(p.foot_at[1, 0]), 0.0, 0.2), (
            "drawing its hind leg forward under its body", "with its hind leg tucked in beneath it",
        ), ("with its hind leg drawn forward",)),
        Fact("front_lifted", lambda p: lifted(p, 0), (
            "lifting its front foot off the ground", "with only the front foot raised", "resting on its hind foot",
        )),
        Fact("hind_lifted", lambda p: lifted(p, 1), (
            "lifting its hind foot off the ground", "with only the hind foot raised", "resting on its front foot",
        )),
        Fact("apart", lambda p: rise(span(p), 1.25, 1.5), (
            "with its legs spread far apart", "at full stretch", "in a long stride",
        ), ("with its legs far apart",)),
        Fact("gathered", lambda p: rise(span(p), 0.9, 0.65), (
            "with its feet close together", "with both legs gathered under it", "bunched up",
        ), ("with its feet close together",)),
    ),
)  # fmt: skip


def sample(env: TextGoalHalfCheetah, rng: np.random.Generator, vary: bool = True) -> Iterator[Posture]:
    """Put the environment into varied states for ever, yielding each; see :func:`vrm.envs.locomotion.sample`."""
    return locomotion.sample(env, rng, vary)
