"""What the humanoid's simulator state says about its posture, in body-relative metres."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import mujoco
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
FOOT_RADIUS = 0.075


@dataclass(frozen=True)
class BodyState:
    """Posture facts; index 0 of each pair is the right side, 1 the left.

    Attributes:
        up: cosine between the torso's own up axis and the vertical.
        facing_up: vertical component of the torso's forward axis; 1 is lying on the back, -1 face down.
        side_up: vertical component of the torso's left axis; near 1 or -1 is lying on a side.
        head, pelvis: heights of their centres above the ground.
        knees, feet, hands: heights ``(2,)``; feet measured at the sole.
        hand_at: hands in the torso frame ``(2, 3)``: forward, outward (its own side positive), up.
        elbow_at: elbows in the torso frame, likewise.
        knee_at, foot_at: in the pelvis frame turned upright (heading only): forward, outward, up.
        knee_bend: knee flexion ``(2,)`` in degrees.
        speed: of the torso, metres per second.
    """

    up: float
    facing_up: float
    side_up: float
    head: float
    pelvis: float
    knees: Vector
    feet: Vector
    hands: Vector
    hand_at: Vector
    elbow_at: Vector
    knee_at: Vector
    foot_at: Vector
    knee_bend: Vector
    speed: float


@dataclass(frozen=True)
class _Index:
    """Ids of what :func:`measure` reads, looked up once per model."""

    torso: int
    pelvis: int
    head: int
    butt: int
    shins: list[int]
    forearms: list[int]
    feet: list[int]
    hands: list[int]
    knee_qpos: list[int]


_INDEX: WeakKeyDictionary[mujoco.MjModel, _Index] = WeakKeyDictionary()


def measure(model: mujoco.MjModel, data: mujoco.MjData) -> BodyState:
    """Read the posture from the present state of a humanoid model."""
    index = _INDEX.get(model)
    if index is None:
        index = _INDEX[model] = _make_index(model)
    torso = data.xmat[index.torso].reshape(3, 3)
    centre = data.xpos[index.torso]
    pelvis = data.geom_xpos[index.butt]
    heading = _heading(data.xmat[index.pelvis].reshape(3, 3))
    feet = data.geom_xpos[index.feet]
    knees = data.xpos[index.shins]
    hands = data.geom_xpos[index.hands]
    return BodyState(
        up=float(torso[2, 2]),
        facing_up=float(torso[2, 0]),
        side_up=float(torso[2, 1]),
        head=float(data.geom_xpos[index.head, 2]),
        pelvis=float(pelvis[2]),
        knees=knees[:, 2].copy(),
        feet=feet[:, 2] - FOOT_RADIUS,
        hands=hands[:, 2].copy(),
        hand_at=_outward((hands - centre) @ torso),
        elbow_at=_outward((data.xpos[index.forearms] - centre) @ torso),
        knee_at=_outward((knees - pelvis) @ heading),
        foot_at=_outward((feet - pelvis) @ heading),
        knee_bend=-np.degrees(data.qpos[index.knee_qpos]),
        speed=float(np.linalg.norm(data.qvel[:3])),
    )


def _outward(points: Vector) -> Vector:
    """Mirror the right side, so that both sides count outward as positive."""
    mirrored: Vector = points * np.array([[1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    return mirrored


def _heading(rotation: Vector) -> Vector:
    """Keep the part of a rotation that turns about the vertical: columns forward, left, up."""
    forward = rotation[:, 0] * (1, 1, 0)
    if np.linalg.norm(forward) < 1e-6:
        forward = np.array([1.0, 0.0, 0.0])
    forward = forward / np.linalg.norm(forward)
    return np.stack([forward, (-forward[1], forward[0], 0.0), (0.0, 0.0, 1.0)], axis=1)


def _make_index(model: mujoco.MjModel) -> _Index:
    sides = ("right", "left")
    return _Index(
        torso=model.body("torso").id,
        pelvis=model.body("pelvis").id,
        head=model.geom("head").id,
        butt=model.geom("butt").id,
        shins=[model.body(f"{s}_shin").id for s in sides],
        forearms=[model.body(f"{s}_lower_arm").id for s in sides],
        feet=[model.geom(f"{s}_foot").id for s in sides],
        hands=[model.geom(f"{s}_hand").id for s in sides],
        knee_qpos=[int(model.jnt_qposadr[model.joint(f"{s}_knee").id]) for s in sides],
    )
