"""The humanoid of Gymnasium as a body for text goals: never terminating, textured, position or torque controlled."""

from __future__ import annotations

from typing import Any, Literal

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs.humanoid_poses import POSES
from vrm.envs.humanoid_state import measure
from vrm.envs.rendering import Camera, Quality, RendererName, RendersScene, prepare, render_metadata
from vrm.errors import UnknownNameError

Control = Literal["position", "torque"]
CAMERA = Camera(distance=2.75, azimuth=145, elevation=-12, lookat=(0.0, 0.0, 0.8), follow="torso")

# kp (N m / rad) and kd (N m s / rad) of the joint servos, by the joint's own torque limit (N m)
SERVO_GAINS = {40.0: (100.0, 8.0), 120.0: (200.0, 12.0), 80.0: (160.0, 10.0), 10.0: (20.0, 1.5)}

SMOOTHING = 0.8  # of joint targets from step to step: a low-pass filter with a time constant of 134 ms
FRAME_SKIP = {"position": 10, "torque": 5}  # physics steps of 3 ms: servos steered at 33 Hz, motors at 67 as in VLM-RM

SHIRT, TROUSERS, SKIN, SHOES = (
    (0.16, 0.38, 0.72, 1),
    (0.25, 0.25, 0.30, 1),
    (0.90, 0.68, 0.52, 1),
    (0.75, 0.20, 0.15, 1),
)
COLOURS = {
    "torso1": SHIRT, "uwaist": SHIRT, "lwaist": SHIRT, "butt": TROUSERS, "head": SKIN,
    "right_uarm1": SHIRT, "left_uarm1": SHIRT, "right_larm": SKIN, "left_larm": SKIN, "right_hand": SKIN,
    "left_hand": SKIN, "right_thigh1": TROUSERS, "left_thigh1": TROUSERS, "right_shin1": TROUSERS,
    "left_shin1": TROUSERS, "right_foot": SHOES, "left_foot": SHOES,
}  # fmt: skip


class TextGoalHumanoid(RendersScene, HumanoidEnv):
    """A humanoid that is asked for a pose in words.

    Observation: 45 numbers, joint positions without the ground position and joint velocities, then with
    ``control="position"`` the 17 smoothed targets in units of actions. Action: 17 numbers in
    [-1, 1]; with ``control="position"`` joint targets (0 is the upright stance, the ends are the joint's limits),
    tracked by a PD servo at every physics step within the actuators' own torque limits; with ``control="torque"``
    fractions of those limits, the setting of VLM-RM. Reward: 1 where the pose's predicate holds, else 0; it is
    the ground truth of evaluation, and text rewards replace it. ``info["success"]`` repeats it.

    Args:
        pose: a name of :data:`~vrm.envs.humanoid_poses.POSES` whose predicate defines success.
        control: ``"position"`` or ``"torque"``.
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.

    Raises:
        UnknownNameError: on an unknown pose or control.
    """

    metadata = render_metadata(33)

    def __init__(
        self,
        pose: str = "kneeling",
        control: Control = "position",
        size: int = 64,
        quality: Quality = "fast",
        camera: Camera = CAMERA,
        render_mode: str | None = None,
        renderer: RendererName = "opengl",
    ) -> None:
        """Build the edited model; nothing is rendered until :meth:`render` is called."""
        if pose not in POSES:
            raise UnknownNameError("humanoid pose", pose, POSES)
        if control not in ("position", "torque"):
            raise UnknownNameError("control", control, ("position", "torque"))
        self.pose, self.control, self.quality = POSES[pose], control, quality
        self.camera, self.renderer = camera, renderer
        self.metadata = metadata = render_metadata(round(1 / (0.003 * FRAME_SKIP[control])))
        super().__init__(
            width=size,
            height=size,
            render_mode=render_mode,
            frame_skip=FRAME_SKIP[control],
            terminate_when_unhealthy=False,
            include_cinert_in_observation=False,
            include_cvel_in_observation=False,
            include_qfrc_actuator_in_observation=False,
            include_cfrc_ext_in_observation=False,
        )
        self._aim = np.zeros(self.model.nu)
        self.observation_space = spaces.Box(-np.inf, np.inf, self._get_obs().shape, np.float64)
        self.metadata = metadata  # the base class lists more modes
        EzPickle.__init__(self, pose, control, size, quality, camera, render_mode, renderer)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        dress(spec)
        prepare(spec, self.width, self.quality, self.camera, self.renderer)
        limits = {a.target: 0.4 * a.gear[0] for a in spec.actuators}
        for actuator in spec.actuators:
            limit = limits[actuator.target]
            actuator.ctrlrange[:] = (-1.0, 1.0)
            if self.control == "torque":
                actuator.gear[0] = limit
            else:
                _make_servo(actuator, spec.joint(actuator.target), limit)
        model = spec.compile()
        self._targets = _joint_targets(model)
        return model, mujoco.MjData(model)

    def _set_action_space(self) -> spaces.Box:
        self.action_space = spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        return self.action_space

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Advance 30 ms of simulated time (15 ms with torque control); see the class for action and reward."""
        control = np.clip(np.asarray(action, dtype=np.float64), -1, 1)
        if self.control == "position":
            self._aim += (1 - SMOOTHING) * (control - self._aim)
            control = self.joint_targets(self._aim)
        self.do_simulation(control, self.frame_skip)
        success = self.success()
        return self._get_obs(), np.float64(success), False, False, {"success": success}

    def _get_obs(self) -> NDArray[np.float64]:
        state: NDArray[np.float64] = super()._get_obs()  # type: ignore[no-untyped-call]  # gymnasium leaves it untyped
        return np.concatenate([state, self._aim]) if self.control == "position" else state

    def reset_model(self) -> NDArray[np.float64]:
        """Start upright with a little noise, the servos aiming at the upright stance."""
        self._aim = np.zeros(self.model.nu)
        observation: NDArray[np.float64] = super().reset_model()  # type: ignore[no-untyped-call]
        return observation

    def _get_reset_info(self) -> dict[str, Any]:
        return {"success": self.success()}

    def joint_targets(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map actions in [-1, 1] to joint angles in radians: piecewise linear through the upright stance at 0."""
        low, rest, high = self._targets
        return rest + np.where(action > 0, (high - rest) * action, (rest - low) * action)

    def action_for(self, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Invert :meth:`joint_targets` for joint angles in actuator order, radians."""
        low, rest, high = self._targets
        delta = angles - rest
        reach = np.where(delta > 0, high - rest, rest - low)
        return np.clip(delta / np.maximum(reach, 1e-9), -1, 1)

    def success(self) -> bool:
        """Whether the pose's written criterion holds in the present state."""
        return self.pose.holds(measure(self.model, self.data))


def dress(spec: mujoco.MjSpec) -> None:
    """Give the model an appearance that a vision model can read: sky, tiled ground, clothes, skin, shoes."""
    for texture in spec.textures:
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            texture.rgb1, texture.rgb2 = (0.62, 0.78, 0.92), (0.88, 0.93, 0.97)
        elif texture.name == "texplane":
            texture.rgb1, texture.rgb2 = (0.52, 0.56, 0.50), (0.66, 0.69, 0.62)
    spec.material("MatPlane").reflectance = 0.0
    spec.material("MatPlane").specular = 0.1
    spec.geom("floor").rgba = (1, 1, 1, 1)
    for name, colour in COLOURS.items():
        geom = spec.geom(name)
        geom.material, geom.rgba = "", colour
    spec.lights[0].pos = (0, 0, 4)
    spec.lights[0].dir = (-0.4, 0.3, -1.0)
    spec.lights[0].diffuse = (0.7, 0.7, 0.7)
    spec.visual.headlight.ambient = (0.35, 0.35, 0.35)
    spec.visual.headlight.diffuse = (0.35, 0.35, 0.35)


def _make_servo(actuator: mujoco.MjsActuator, joint: mujoco.MjsJoint, limit: float) -> None:
    """Turn a motor into a PD position servo with the same torque limit (N m)."""
    kp, kd = SERVO_GAINS[limit]
    actuator.gear[0] = 1.0
    actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = kp
    actuator.biasprm[:3] = (0.0, -kp, -kd)
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.forcerange[:] = (-limit, limit)
    actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE


def _joint_targets(model: mujoco.MjModel) -> tuple[NDArray[np.float64], ...]:
    """Return lower limit, rest angle and upper limit (radians) of the actuated joints."""
    low, high = model.jnt_range[model.actuator_trnid[:, 0]].T
    return low, np.clip(np.zeros_like(low), low, high), high
