"""The poses a humanoid can be asked for: a hand-made example of each, and when it counts as reached.

The eight VLM-RM tasks (Rocamonde et al. 2023, table 1) carry a success predicate that follows the paper's written
criteria; the predicates serve evaluation only. The other poses are there for data: what a humanoid may look like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mujoco
import numpy as np
from numpy.typing import NDArray

from vrm.envs.humanoid_state import BodyState, measure

Joints = dict[str, float]  # joint name -> degrees; the rest is 0


@dataclass(frozen=True)
class Pose:
    """One named pose.

    Attributes:
        name: short identifier.
        joints: joint angles in degrees of an example; joints left out are at rest.
        pitch, roll: how the torso of the example is turned, degrees: positive pitch leans forward.
        criterion: in words, when the pose counts as reached; empty for poses that are not tasks.
        holds: the criterion on the simulator's state.
    """

    name: str
    joints: Joints = field(default_factory=dict)
    pitch: float = 0.0
    roll: float = 0.0
    criterion: str = ""
    holds: Callable[[BodyState], bool] = lambda state: False


def both(right: Joints) -> Joints:
    """Mirror right-side joint angles to the left; the shoulders' axes have opposite signs on the two sides."""
    left = {k.replace("right", "left"): -v if "shoulder" in k else v for k, v in right.items()}
    return right | left


def _upright(s: BodyState) -> bool:
    return s.up > 0.85 and s.pelvis > 0.7 and s.head > 1.2


def _standing(s: BodyState) -> bool:
    return _upright(s) and bool((s.feet < 0.06).all())


def _kneeling(s: BodyState) -> bool:
    shins_back = (s.foot_at[:, 0] < s.knee_at[:, 0] - 0.15).all()
    on_knees = s.up > 0.75 and s.head > 0.7 and bool((s.knees < 0.13).all() and shins_back)
    return on_knees and not _lotus(s)


def _lotus(s: BodyState) -> bool:
    knees_out = (s.knee_at[:, 1] > 0.2).all() and (s.knees < 0.16).all()
    feet_in = (s.foot_at[:, 1] < s.knee_at[:, 1] - 0.1).all()
    return s.up > 0.8 and s.pelvis < 0.33 and bool(knees_out and feet_in)


def _arms_raised(s: BodyState) -> bool:
    return _standing(s) and bool((s.hands > s.head).all())


def _splits(s: BodyState) -> bool:
    legs_flat = (s.knees < 0.2).all() and (s.feet < 0.15).all()
    return s.up > 0.6 and s.pelvis < 0.3 and bool(legs_flat and s.foot_at[:, 1].sum() > 1.0)


def _hands_on_hips(s: BodyState) -> bool:
    at_hips = np.linalg.norm(s.hand_at - (0.03, 0.15, -0.33), axis=1) < 0.1
    return _standing(s) and bool(at_hips.all())


def _one_leg(s: BodyState) -> bool:
    return _upright(s) and bool(s.feet.min() < 0.06 and s.feet.max() > 0.15)


def _arms_crossed(s: BodyState) -> bool:
    forward, outward, up = s.hand_at.T
    return _standing(s) and bool(((forward > 0.1) & (outward < 0.03) & (up > -0.3) & (up < 0.2)).all())


ARMS_DOWN = both({"right_shoulder1": 41, "right_shoulder2": -60, "right_elbow": -43})
ARMS_UP = both({"right_shoulder1": -85, "right_shoulder2": -3, "right_elbow": -35})
ARMS_OUT = both({"right_shoulder1": -51, "right_shoulder2": -42, "right_elbow": -73})
ARMS_FORWARD = both({"right_shoulder1": 0, "right_shoulder2": 29, "right_elbow": -58})
ON_HIPS = both({"right_shoulder1": 53, "right_shoulder2": -72, "right_elbow": -5})
CROSSED = both({"right_shoulder1": 60, "right_shoulder2": -8, "right_elbow": 7})
ON_KNEES = both({"right_shoulder1": 25, "right_shoulder2": 2, "right_elbow": -70})
STRAIGHT = both({"right_knee": -2})
TUCKED = both({"right_knee": -150, "right_hip_y": -105})

_POSES = (
    Pose(
        "standing", ARMS_DOWN | STRAIGHT,
        criterion="upright on both feet, not bent or fallen", holds=_standing,
    ),
    Pose(
        "kneeling", ARMS_DOWN | both({"right_knee": -95, "right_hip_y": -5}),
        criterion="both knees on the floor, shins behind them, torso upright and balanced", holds=_kneeling,
    ),
    Pose(
        "lotus", ON_KNEES | both({"right_hip_y": -67, "right_hip_z": -52, "right_knee": -159}),
        criterion="seated low and upright, knees on the floor and facing out, feet drawn in", holds=_lotus,
    ),
    Pose(
        "arms_raised", ARMS_UP | STRAIGHT,
        criterion="standing, both hands above the head", holds=_arms_raised,
    ),
    Pose(
        "splits", ARMS_OUT | both({"right_hip_y": -88, "right_hip_z": -60, "right_hip_x": -8, "right_knee": -5}),
        criterion="seated on the floor, straight legs spread to both sides", holds=_splits,
    ),
    Pose(
        "hands_on_hips", ON_HIPS | STRAIGHT,
        criterion="standing, both hands at the base of the hips", holds=_hands_on_hips,
    ),
    Pose(
        "one_leg", ARMS_OUT | STRAIGHT | {"right_knee": -90, "right_hip_y": -60},
        criterion="upright on one foot, the other foot off the ground", holds=_one_leg,
    ),
    Pose(
        "arms_crossed", CROSSED | STRAIGHT,
        criterion="standing, both hands in front of the chest across its middle", holds=_arms_crossed,
    ),
    Pose("t_pose", ARMS_OUT | STRAIGHT),
    Pose("arms_forward", ARMS_FORWARD | STRAIGHT),
    Pose("right_arm_raised", ARMS_DOWN | STRAIGHT | {k: v for k, v in ARMS_UP.items() if "right" in k}),
    Pose("left_arm_raised", ARMS_DOWN | STRAIGHT | {k: v for k, v in ARMS_UP.items() if "left" in k}),
    Pose("legs_apart", ARMS_DOWN | both({"right_knee": -2, "right_hip_x": -25})),
    Pose("squatting", ARMS_FORWARD | both({"right_knee": -125, "right_hip_y": -105, "abdomen_y": -30})),
    Pose("crouching", ARMS_DOWN | both({"right_knee": -70, "right_hip_y": -60, "abdomen_y": -20}), pitch=10),
    Pose("sitting", ARMS_DOWN | both({"right_knee": -10, "right_hip_y": -90})),
    Pose("sitting_on_heels", ON_KNEES | both({"right_knee": -155, "right_hip_y": -70})),
    Pose("one_knee", ARMS_DOWN | {"right_knee": -90, "right_hip_y": -90, "left_knee": -95, "left_hip_y": -5}),
    Pose("kneeling_arms_raised", ARMS_UP | both({"right_knee": -95, "right_hip_y": -5})),
    Pose("bowing", ARMS_FORWARD | STRAIGHT | both({"right_hip_y": -70, "abdomen_y": -50}), pitch=75),
    Pose("all_fours", ARMS_FORWARD | both({"right_knee": -90, "right_hip_y": -90}), pitch=85),
    Pose("lying_back", ARMS_DOWN | STRAIGHT, pitch=-90),
    Pose("lying_front", ARMS_DOWN | STRAIGHT, pitch=90),
    Pose("lying_side", ARMS_DOWN | STRAIGHT, roll=90),
    Pose("lying_curled", ON_KNEES | TUCKED, roll=90),
    Pose("leaning_back", ARMS_DOWN | both({"right_knee": -60, "abdomen_y": 25}), pitch=-35),
)  # fmt: skip
POSES = {pose.name: pose for pose in _POSES}
TASK_POSES = tuple(pose.name for pose in _POSES if pose.criterion)


def place(model: mujoco.MjModel, data: mujoco.MjData, joints: NDArray[np.float64], turn: NDArray[np.float64]) -> None:
    """Put the humanoid at rest in a pose, its lowest point on the floor.

    Args:
        model: a humanoid.
        data: receives the state.
        joints: angle of every hinge in the model's own order, radians.
        turn: yaw, pitch and roll of the torso, radians.
    """
    mujoco.mj_resetData(model, data)
    data.qpos[7:] = joints
    data.qpos[3:7] = _quaternion(*turn)
    data.qpos[2] = 2.0
    mujoco.mj_kinematics(model, data)
    data.qpos[2] -= _lowest_point(model, data)
    mujoco.mj_forward(model, data)


def joint_vector(model: mujoco.MjModel, joints: Joints) -> NDArray[np.float64]:
    """Angles of every hinge in the model's own order, radians, clipped to the joints' limits."""
    low, high = model.jnt_range[1:].T
    names = [model.joint(i).name for i in range(1, model.njnt)]
    return np.clip(np.radians([joints.get(name, 0.0) for name in names]), low, high)


def show(model: mujoco.MjModel, data: mujoco.MjData, pose: Pose, yaw: float = 0.0) -> BodyState:
    """Put the humanoid in the pose's example and return its posture."""
    place(model, data, joint_vector(model, pose.joints), np.radians([yaw, pose.pitch, pose.roll]))
    return measure(model, data)


def _quaternion(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.array([yaw, pitch, roll]), "zyx")
    return quaternion


def _lowest_point(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """Height of the lowest surface point of the body's spheres and capsules."""
    bodies = model.geom_bodyid > 0
    half = np.where(model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE, model.geom_size[:, 1], 0.0)
    ends = np.abs(data.geom_xmat[:, 8]) * half
    return float((data.geom_xpos[:, 2] - ends - model.geom_size[:, 0])[bodies].min())
