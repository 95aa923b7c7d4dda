"""The Fetch robot of gymnasium-robotics, made to run with present MuJoCo and dressed to be recognised at 64 pixels.

gymnasium-robotics 1.4.2 asks whether a joint's type is among ``(mjJNT_HINGE, mjJNT_SLIDE)``; with the bindings of
MuJoCo 4 a NumPy integer never is, so the environments cannot be built. Only the three functions that ask are
replaced here, for these environments alone.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from vrm.envs.rendering import Camera, Quality, RendererName, prepare
from vrm.errors import MissingExtraError

try:
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():  # it advertises and warns when imported
        warnings.simplefilter("ignore")
        from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv  # type: ignore[import-untyped]  # no stubs
        from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv  # type: ignore[import-untyped]  # no stubs
except ImportError as error:
    raise MissingExtraError("gymnasium-robotics", "robotics", "The Fetch tasks") from error

Vector = NDArray[np.float64]
FINGERS = ("robot0:r_gripper_finger_joint", "robot0:l_gripper_finger_joint")
TABLE = 0.4  # metres, height of the table's top
FAR = (
    "base_link",
    "head_pan_link",
    "head_tilt_link",
    "estop_link",
    "laser_link",
    "torso_fixed_link",
    "torso_lift_link",
)
ARM, JOINT, GRIPPER, FINGER = (0.80, 0.81, 0.83, 1), (0.45, 0.47, 0.52, 1), (0.30, 0.32, 0.38, 1), (0.12, 0.13, 0.16, 1)
BLOCK, RED = (0.10, 0.35, 0.85, 1), (0.90, 0.12, 0.12, 1)
PARTS = {
    "shoulder_pan_link": ARM, "shoulder_lift_link": JOINT, "upperarm_roll_link": ARM, "elbow_flex_link": JOINT,
    "forearm_roll_link": ARM, "wrist_flex_link": JOINT, "wrist_roll_link": ARM, "gripper_link": GRIPPER,
    "r_gripper_finger_link": FINGER, "l_gripper_finger_link": FINGER,
}  # fmt: skip


class _Dressed:
    """What both simulations share; mixed in before the class of gymnasium-robotics."""

    model: mujoco.MjModel
    data: mujoco.MjData

    def __init__(self, size: int, quality: Quality, camera: Camera, renderer: RendererName) -> None:
        self._look = size, quality, camera, renderer
        super().__init__(reward_type="dense", width=size, height=size)  # type: ignore[call-arg]  # of the other base

    def _initialize_simulation(self: Any) -> None:
        self._utils = _corrected(self._utils)
        spec = mujoco.MjSpec.from_file(self.fullpath)
        dress(spec, flat=self.has_object)
        prepare(spec, *self._look)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._model_names = self._utils.MujocoModelNames(self.model)
        self._env_setup(initial_qpos=self.initial_qpos)
        self.initial_time = self.data.time
        self.initial_qpos, self.initial_qvel = self.data.qpos.copy(), self.data.qvel.copy()

    def restart(self: Any, goal: Vector, block: Vector | None) -> None:
        """Put the arm where it starts, the block at ``block`` and the goal at ``goal``, both ``(3,)`` in metres."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.time, self.data.qpos[:], self.data.qvel[:] = self.initial_time, self.initial_qpos, self.initial_qvel
        self.place(goal, block)

    def place(self: Any, goal: Vector, block: Vector | None) -> None:
        """Move block and goal and nothing else."""
        if block is not None:
            joint = self.data.joint("object0:joint")
            joint.qpos[:], joint.qvel[:] = (*block, 1.0, 0.0, 0.0, 0.0), 0.0
        self.goal = goal.copy()
        drawn = (*goal[:2], TABLE + 0.001) if self.has_object else goal
        self.model.site("target0").pos = drawn - self.model.body("floor0").pos
        mujoco.mj_forward(self.model, self.data)


class FetchReach(_Dressed, MujocoFetchReachEnv):  # type: ignore[misc]  # gymnasium-robotics is untyped
    """FetchReach-v4 with the dense reward."""


class FetchPush(_Dressed, MujocoFetchPushEnv):  # type: ignore[misc]  # gymnasium-robotics is untyped
    """FetchPush-v4 with the dense reward."""


def _corrected(utils: ModuleType) -> SimpleNamespace:
    """Return gymnasium-robotics' helpers with those that ask for joint types replaced."""

    def set_joint_qpos(_: mujoco.MjModel, data: mujoco.MjData, name: str, value: Any) -> None:
        data.joint(name).qpos[:] = value

    def get_joint_qpos(_: mujoco.MjModel, data: mujoco.MjData, name: str) -> Vector:
        qpos: Vector = data.joint(name).qpos.copy()
        return qpos

    def robot_get_obs(_: mujoco.MjModel, data: mujoco.MjData, __: Any) -> tuple[Vector, Vector]:
        joints = [data.joint(name) for name in FINGERS]  # all that observations keep of the robot's joints
        return np.concatenate([j.qpos for j in joints]), np.concatenate([j.qvel for j in joints])

    replaced = {f.__name__: f for f in (set_joint_qpos, get_joint_qpos, robot_get_obs)}
    return SimpleNamespace(**(vars(utils) | replaced))


def dress(spec: mujoco.MjSpec, flat: bool) -> None:
    """Colour what matters, hide what is never in the picture, and draw the goal as a ball or as a ``flat`` spot."""
    for texture in spec.textures:
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            texture.rgb1, texture.rgb2 = (0.62, 0.78, 0.92), (0.88, 0.93, 0.97)
    for geom in spec.geoms:
        part = geom.name.removeprefix("robot0:")
        if geom.parent.name == "robot0:mocap" or part in FAR:
            geom.rgba[3] = 0.0
        elif part in PARTS:
            geom.material, geom.rgba = "", PARTS[part]
    spec.geom("floor0").material, spec.geom("floor0").rgba = "", (0.45, 0.46, 0.48, 1)
    table = spec.body("table0").first_geom()
    table.name, table.material, table.rgba = "table", "", (0.80, 0.74, 0.64, 1)
    target = spec.site("target0")
    target.rgba = RED
    if flat:
        spec.geom("object0").material, spec.geom("object0").rgba = "", BLOCK
        spec.site("object0").rgba[3] = 0.0
        target.type, target.size = mujoco.mjtGeom.mjGEOM_CYLINDER, (0.05, 0.001, 0.0)
    else:
        target.size[0] = 0.03
    spec.lights[0].dir = (-0.3, -0.3, -1.0)
    spec.lights[0].ambient, spec.lights[0].diffuse = (0.0, 0.0, 0.0), (0.4, 0.4, 0.4)
    spec.visual.headlight.ambient = spec.visual.headlight.diffuse = (0.35, 0.35, 0.35)
