"""MuJoCo's three-link swimmer as a text goal: it has to bend into a U and stay so."""

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

CAMERA = Camera(distance=4.3, azimuth=90, elevation=-72, lookat=(0.0, 0.0, 0.0), follow="middle")


@dataclass(frozen=True)
class Posture:
    """What a frame shows of the swimmer, which is seen from above.

    Attributes:
        bends: degrees ``(2,)`` by which the body turns to its right at the front joint and at the rear joint;
            negative to its left.
        head: where the front link points ``(2,)``: x to the right of the picture, y up.
    """

    bends: Vector
    head: Vector


class TextGoalSwimmer(TextGoalLocomotion):
    """Gymnasium's Swimmer without its pay for speed.

    Observation: 9 numbers, cosine and sine of the front link's heading, 2 joint angles, 5 velocities. Action: 2
    torques in [-1, 1], held for 40 ms. Reward: the lesser of the two bends to the same side, as a share of 70
    degrees in [0, 1]; it is the ground truth of evaluation. ``info["success"]``: whether both joints are bent by at
    least 70 degrees to the same side.
    """

    metadata = render_metadata(25)
    xml, skip, view, noise, girth, shape_tells = "swimmer.xml", 4, CAMERA, 0.1, 1.4, False
    headlight = (0.5, 0.02)
    colours: ClassVar[dict[str, Colour]] = {
        "front": (0.85, 0.25, 0.12), "middle": (0.90, 0.72, 0.20), "rear": (0.13, 0.33, 0.68),
        "snout": (0.15, 0.12, 0.12),
    }  # fmt: skip

    def _edit(self, spec: mujoco.MjSpec) -> None:
        for name, body in (("front", "torso"), ("middle", "mid"), ("rear", "back")):
            spec.body(body).geoms[0].name = name
        spec.body("mid").add_body(name="middle", pos=(-0.5, 0, 0))  # the camera looks at the middle of the body
        spec.body("torso").add_geom(
            name="snout", type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=(1.5, 0, 0), size=(0.13, 0, 0), mass=0
        )

    def _get_obs(self) -> Vector:
        qpos, speeds = self.data.qpos, np.clip(self.data.qvel, -FASTEST, FASTEST)
        return np.concatenate([[np.cos(qpos[2]), np.sin(qpos[2])], qpos[3:], speeds])

    def measure(self) -> Posture:
        """Read the posture from the present state."""
        heading = self.data.qpos[2]
        return Posture(np.degrees(self.data.qpos[3:]), np.array([np.cos(heading), np.sin(heading)]))

    def reached(self) -> float:
        """How nearly the body is bent into a U."""
        return rise(curl(self.measure().bends), 0, 70)

    def put(self, qpos: Vector, gap: float) -> None:
        """Put the body at rest in a posture; it floats, so ``gap`` is of no matter."""
        self.set_state(qpos, np.zeros(self.model.nv))  # type: ignore[no-untyped-call]

    def draw_pose(self, rng: np.random.Generator) -> tuple[Vector, float]:
        """Draw a posture: straight, curled to one side, zigzag, bent at one joint, or anything."""
        low, high = self.joint_limits
        kind, side = rng.random(), rng.choice([-1.0, 1.0])
        if kind < 0.2:
            bends = np.zeros(2)
        elif kind < 0.45:
            bends = side * rng.uniform(0.9, 1.7, 2)
        elif kind < 0.65:
            bends = side * rng.uniform(0.6, 1.7, 2) * (1, -1)
        elif kind < 0.8:
            bends = side * rng.uniform(0.8, 1.7) * rng.permutation([1.0, 0.0])
        else:
            bends = between(rng, low, high)
        bends = (bends + rng.normal(0, 0.08, 2)).clip(low, high)
        return np.concatenate([[0.0, 0.0, rng.uniform(-np.pi, np.pi)], bends]), 0.0


def curl(bends: Vector) -> float:
    """Degrees of the lesser bend where both are to the same side; negative where they are not."""
    return float(np.abs(bends).min() * np.sign(bends).prod())


def _points(axis: int, sign: int) -> locomotion.Grade[Posture]:
    """Truth of the front link pointing to one side of the picture."""
    return lambda p: rise(sign * float(p.head[axis]), 0.6, 0.88)


def _one_bent(joint: int) -> locomotion.Grade[Posture]:
    """Truth of one joint being bent while the other is straight."""
    return lambda p: min(rise(abs(float(p.bends[joint])), 30, 55), rise(abs(float(p.bends[1 - joint])), 35, 18))


CAPTIONER: Captioner[Posture] = Captioner(
    subjects=("a swimmer", "a swimmer made of three links", "a three-link snake", "a swimming robot", "a robot snake",
              "the swimmer", "a worm of three segments", "a jointed swimmer seen from above"),
    facts=(
        Fact("straight", lambda p: rise(float(np.abs(p.bends).max()), 35, 15), (
            "stretched out straight", "straight as a stick", "lying in a straight line", "with all its links in line",
        ), ("its body straight",)),
        Fact("bent", lambda p: rise(float(np.abs(p.bends).max()), 25, 50), (
            "bending its body", "with a bent body", "with at least one joint bent", "crooked",
        ), ("its body bent",)),
        Fact("u_shape", lambda p: rise(curl(p.bends), 45, 70), (
            "bent into a U shape", "curled into a U", "shaped like a horseshoe", "with head and tail on the same side",
            "curled up", "forming the letter U",
        ), ("bent like a horseshoe",)),
        Fact("z_shape", lambda p: rise(curl(p.bends), -30, -55), (
            "bent into a zigzag", "in an S shape", "shaped like the letter Z", "forming the letter S",
            "with head and tail on opposite sides",
        ), ("bent like a zigzag",)),
        Fact("front_bent", _one_bent(0), (
            "with only its front joint bent", "with its head turned aside and its tail straight",
            "bent at the front like the letter L",
        ), ("with only its head end turned",)),
        Fact("rear_bent", _one_bent(1), (
            "with only its rear joint bent", "with its tail turned aside and the rest straight",
            "bent at the tail like the letter L",
        ), ("with only its tail end turned",)),
        Fact("curls_right", lambda p: rise(float(p.bends.sum()), 50, 90), (
            "curling to its right", "with its body curved to its right side",
        ), ("curved to its right",)),
        Fact("curls_left", lambda p: rise(float(p.bends.sum()), -50, -90), (
            "curling to its left", "with its body curved to its left side",
        ), ("curved to its left",)),
        Fact("points_left", _points(0, -1), ("with its head pointing to the left of the picture", "heading left")),
        Fact("points_right", _points(0, 1), ("with its head pointing to the right of the picture", "heading right")),
        Fact("points_up", _points(1, 1), ("with its head pointing to the top of the picture", "heading away")),
        Fact("points_down", _points(1, -1), (
            "with its head pointing to the bottom of the picture", "heading towards the viewer",
        )),
    ),
)  # fmt: skip


def sample(env: TextGoalSwimmer, rng: np.random.Generator, vary: bool = True) -> Iterator[Posture]:
    """Put the environment into varied states for ever, yielding each; see :func:`vrm.envs.locomotion.sample`."""
    return locomotion.sample(env, rng, vary)
