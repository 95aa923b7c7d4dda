"""MuJoCo's HumanoidStandup as a text goal: a humanoid on its back that is asked to get up.

The body is the humanoid's with other axes (its model is built lying down) and slightly other proportions, so facts
and sampling are the humanoid's; only axes, example poses and what is particular to getting up are given here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mujoco
import numpy as np
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs import humanoid_facts, humanoid_state
from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.humanoid import Control, TextGoalHumanoid
from vrm.envs.humanoid_poses import Pose, both, joint_vector
from vrm.envs.humanoid_sampling import HumanoidSampler
from vrm.envs.humanoid_state import BodyState
from vrm.envs.rendering import Camera, Quality, RendererName
from vrm.envs.variation import Variation

CAMERA = Camera(distance=2.75, azimuth=145, elevation=-18, lookat=(0.0, 0.0, 0.55), follow="torso")
AXES = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # forward, left and up in this model's frames


class TextGoalHumanoidStandup(TextGoalHumanoid):
    """Gymnasium's HumanoidStandup: starts lying on its back.

    Observation, action and control as for :class:`~vrm.envs.humanoid.TextGoalHumanoid`. Reward: height of the torso's
    centre in metres, 0.1 lying and 0.9 to 1.3 standing; HumanoidStandup-v5's without its scale of 1 / 0.003 s and its
    small costs; it is the ground truth of evaluation. ``info["success"]``: whether it stands, by the humanoid's
    own criterion: upright on both feet, not bent or fallen.

    Args:
        control: ``"position"`` or ``"torque"``.
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.

    Raises:
        UnknownNameError: on an unknown control.
    """

    def __init__(
        self,
        control: Control = "position",
        size: int = 64,
        quality: Quality = "fast",
        camera: Camera = CAMERA,
        render_mode: str | None = None,
        renderer: RendererName = "opengl",
    ) -> None:
        """Build the edited model; nothing is rendered until :meth:`render` is called."""
        super().__init__("standing", control, size, quality, camera, render_mode, renderer)
        EzPickle.__init__(self, control, size, quality, camera, render_mode, renderer)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        self.fullpath = str(Path(self.fullpath).with_name("humanoidstandup.xml"))
        return super()._initialize_simulation()

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Advance 30 ms of simulated time (15 ms with torque control)."""
        observation, _, _, _, info = super().step(action)
        return observation, np.float64(self.data.qpos[2]), False, False, info

    def success(self) -> bool:
        """Whether it stands."""
        return self.pose.holds(measure(self.model, self.data))


@dataclass(frozen=True)
class _Turned:
    """The part of the simulator's state that :func:`~vrm.envs.humanoid_state.measure` reads, in the humanoid's axes."""

    xmat: NDArray[np.float64]
    xpos: NDArray[np.float64]
    geom_xpos: NDArray[np.float64]
    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]


def measure(model: mujoco.MjModel, data: mujoco.MjData) -> BodyState:
    """Read the posture from the present state of a HumanoidStandup model."""
    turned = _Turned(data.xmat.reshape(-1, 3, 3) @ AXES, data.xpos, data.geom_xpos, data.qpos, data.qvel)
    return humanoid_state.measure(model, cast(mujoco.MjData, turned))


ARMS_DOWN = both({"right_shoulder1": 3, "right_shoulder2": 0, "right_elbow": -19})
ARMS_UP = both({"right_shoulder1": -82, "right_shoulder2": -82, "right_elbow": -87})
ARMS_OUT = both({"right_shoulder1": -43, "right_shoulder2": -67, "right_elbow": -33})
ARMS_FORWARD = both({"right_shoulder1": 48, "right_shoulder2": 60, "right_elbow": 22})
ARMS_BACK = both({"right_shoulder1": 34, "right_shoulder2": -22, "right_elbow": -54})
STRAIGHT = both({"right_knee": -2})
TUCKED = both({"right_knee": -140, "right_hip_y": -105})

# pitch 0 lies on the back, 90 stands upright, 180 lies face down; roll turns about the body's long axis
_EXAMPLES = (
    Pose("lying_back", ARMS_DOWN | STRAIGHT),
    Pose("lying_back_arms_out", ARMS_OUT | STRAIGHT),
    Pose("lying_back_knees_up", ARMS_DOWN | both({"right_knee": -100, "right_hip_y": -60})),
    Pose("lying_front", ARMS_DOWN | STRAIGHT, pitch=180),
    Pose("lying_front_arms_out", ARMS_OUT | STRAIGHT, pitch=180),
    Pose("lying_right", ARMS_DOWN | STRAIGHT, roll=90),
    Pose("lying_left", ARMS_DOWN | STRAIGHT, roll=-90),
    Pose("lying_curled", ARMS_FORWARD | TUCKED, roll=90),
    Pose("half_sitting", ARMS_BACK | both({"right_knee": -5, "right_hip_y": -25}), pitch=35),
    Pose("half_sitting_knees_up", ARMS_BACK | both({"right_knee": -100, "right_hip_y": -85}), pitch=45),
    Pose("sitting", ARMS_DOWN | both({"right_knee": -10, "right_hip_y": -90}), pitch=90),
    Pose("sitting_arms_out", ARMS_OUT | both({"right_knee": -5, "right_hip_y": -85, "right_hip_z": -20}), pitch=88),
    Pose("all_fours", ARMS_FORWARD | both({"right_knee": -85, "right_hip_y": -95}), pitch=185),
    Pose("kneeling", ARMS_DOWN | both({"right_knee": -95, "right_hip_y": -5}), pitch=90),
    Pose(
        "one_knee",
        ARMS_DOWN | {"right_knee": -90, "right_hip_y": -90, "left_knee": -95, "left_hip_y": -5},
        pitch=90,
    ),
    Pose("squatting", ARMS_FORWARD | both({"right_knee": -125, "right_hip_y": -105, "abdomen_y": -30}), pitch=95),
    Pose("crouching", ARMS_DOWN | both({"right_knee": -70, "right_hip_y": -60, "abdomen_y": -20}), pitch=105),
    Pose("bent_over", ARMS_FORWARD | STRAIGHT | both({"right_hip_y": -70, "abdomen_y": -50}), pitch=165),
    Pose("standing", ARMS_DOWN | STRAIGHT, pitch=90),
    Pose("standing_arms_out", ARMS_OUT | STRAIGHT, pitch=90),
    Pose("standing_arms_up", ARMS_UP | STRAIGHT, pitch=90),
    Pose("standing_legs_apart", ARMS_DOWN | both({"right_knee": -2, "right_hip_z": -28}), pitch=90),
    Pose("one_leg", ARMS_OUT | STRAIGHT | {"right_knee": -90, "right_hip_y": -60}, pitch=90),
    Pose("leaning_back", ARMS_DOWN | both({"right_knee": -60, "abdomen_y": 25}), pitch=55),
)
EXAMPLES = {pose.name: pose for pose in _EXAMPLES}
OFTEN = {
    "standing": 6.0, "standing_arms_out": 2.0, "standing_legs_apart": 7.0, "one_knee": 2.0, "kneeling": 6.0,
    "all_fours": 11.0, "squatting": 5.0, "bent_over": 7.0, "sitting": 4.0, "lying_front": 2.0, "half_sitting": 2.0,
}  # fmt: skip

REUSED = (
    "standing", "kneeling", "sitting", "squatting", "lying", "lying_back", "lying_front", "lying_side", "on_floor",
    "upright", "bent_over", "all_fours", "leaning_back", "legs_apart",
)  # fmt: skip


def half_up(s: BodyState) -> float:
    """The head is between lying and standing height."""
    return min(rise(s.head, 0.35, 0.55), rise(s.head, 1.2, 1.0))


def sitting_up(s: BodyState) -> float:
    """The pelvis on the floor, face up, the upper body raised part of the way."""
    return min(rise(s.pelvis, 0.4, 0.25), rise(s.up, 0.2, 0.45), rise(s.up, 0.95, 0.8), rise(s.facing_up, 0.2, 0.45))


CAPTIONER: Captioner[BodyState] = Captioner(
    subjects=humanoid_facts.CAPTIONER.subjects,
    facts=(
        *(fact for fact in humanoid_facts.FACTS if fact.name in REUSED),
        Fact("half_up", half_up, (
            "halfway up", "getting up from the floor", "partly risen", "between lying and standing",
            "not fully up yet",
        )),
        Fact("sitting_up", sitting_up, (
            "sitting up from its back", "raising its upper body off the floor", "halfway through a sit-up",
            "propped up on its backside",
        )),
        Fact("head_high", lambda s: rise(s.head, 0.95, 1.2), (
            "with its head high above the floor", "with its head at full height", "risen to its full height",
            "with its head far from the ground",
        ), ("its head high up",)),
        Fact("head_low", lambda s: rise(s.head, 0.45, 0.22), (
            "with its head on the floor", "with its head down at the ground", "resting its head on the ground",
            "with its head as low as it goes",
        ), ("its head on the floor",)),
        Fact("knees_bent", lambda s: rise(float(s.knee_bend.min()), 40, 75), (
            "with both knees bent", "bending both knees", "with its legs drawn up", "with its legs folded",
        ), ("both knees bent",)),
        Fact("legs_straight", lambda s: rise(float(s.knee_bend.max()), 45, 20), (
            "with straight legs", "with both knees stretched", "with its legs out straight", "stretching both legs",
        ), ("its legs straight",)),
    ),
)  # fmt: skip


class _Sampler(HumanoidSampler):
    """The humanoid's sampler with this body's poses, axes and camera."""

    def __init__(self, env: TextGoalHumanoidStandup, rng: np.random.Generator, vary: bool) -> None:
        super().__init__(env, rng, vary)
        self._poses = list(EXAMPLES.values())
        self._angles = [joint_vector(env.model, pose.joints) for pose in self._poses]
        often = np.array([OFTEN.get(pose.name, 1.0) for pose in self._poses])
        self._chance = often / often.sum()
        self._variation = Variation(env, shift=0.05, backdrops=("floor",))

    def __iter__(self) -> Iterator[BodyState]:
        """Yield postures for ever, two in five from rollouts; these mostly lie, and each yields a dozen."""
        while True:
            if self.rng.random() < 0.05:
                yield from self._rollout()
            else:
                self._place_pose()
                yield self._seen()

    def _seen(self) -> BodyState:
        if self.vary:
            self._variation(self.rng)
            mujoco.mj_forward(self.env.model, self.env.data)
        return measure(self.env.model, self.env.data)


def sample(env: TextGoalHumanoidStandup, rng: np.random.Generator, vary: bool = True) -> Iterator[BodyState]:
    """Put the environment into varied states for ever, yielding each: poses, blends of them, and rollouts."""
    env.reset(seed=int(rng.integers(2**31)))
    return iter(_Sampler(env, rng, vary))
