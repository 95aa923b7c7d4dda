"""What the bundled generators can show: motions of the simulators that a person recognises, and words for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrm.envs import cartpole, half_cheetah, humanoid, mountain_car, pendulum, reacher
from vrm.envs.humanoid_poses import POSES, joint_vector, place

Vector = NDArray[np.float64]
Move = Callable[[Any, np.random.Generator, int], Iterator[None]]
SIDE = {-1: "left", 1: "right"}
STEADY = 0.12  # of the camera's usual jitter


@dataclass(frozen=True)
class Motion:
    """One thing that happens in one environment family.

    Attributes:
        name: short identifier.
        family: name in :data:`vrm.envs.FAMILIES`.
        move: puts an environment of the family into one state after another, ``frames`` of them.
        prompts: ways to say it that training sees.
        unseen: ways to say it that are kept for evaluation.
        share: how often it is seen in training, against 1 of the others.
    """

    name: str
    family: str
    move: Move
    prompts: tuple[str, ...]
    unseen: tuple[str, ...]
    share: float = 1.0


def ease(rng: np.random.Generator, frames: int) -> Vector:
    """Progress ``(frames,)`` from 0 to 1, slow at both ends, that starts and arrives a little early or late."""
    start, end = rng.uniform(0.0, 0.15), rng.uniform(0.75, 0.95)
    time = np.clip((np.linspace(0, 1, frames) - start) / (end - start), 0, 1)
    progress: Vector = time * time * (3 - 2 * time)
    return progress


def between_poses(first: str, last: str, *, turn: float = 0.12, spread: float = 2.5) -> Move:
    """Blend from one of the humanoid's postures into another; ``turn`` radians of heading, ``spread`` degrees."""

    def move(env: humanoid.TextGoalHumanoid, rng: np.random.Generator, frames: int) -> Iterator[None]:
        ends = [POSES[first], POSES[last]]
        joints = [joint_vector(env.model, pose.joints) for pose in ends]
        joints = [angles + np.radians(rng.normal(0, spread, angles.shape)) for angles in joints]
        tilts = [np.radians([pose.pitch, pose.roll]) for pose in ends]
        yaw = rng.normal(0, turn)
        env.camera = humanoid.CAMERA.jitter(rng, STEADY)
        low, high = env.model.jnt_range[1:].T
        for part in ease(rng, frames):
            angles = np.clip((1 - part) * joints[0] + part * joints[1], low, high)
            place(env.model, env.data, angles, np.array([yaw, *((1 - part) * tilts[0] + part * tilts[1])]))
            yield

    return move


def topple(env: humanoid.TextGoalHumanoid, rng: np.random.Generator, frames: int) -> Iterator[None]:
    """Tip the humanoid backwards over its heels, ever faster, until it lies on its back."""
    joints = joint_vector(env.model, POSES["standing"].joints)
    flung = joint_vector(env.model, POSES["t_pose"].joints)
    low, high = env.model.jnt_range[1:].T
    yaw, noise = rng.normal(0, 0.12), np.radians(rng.normal(0, 2.5, joints.shape))
    env.camera = humanoid.CAMERA.jitter(rng, STEADY)
    landing = rng.uniform(0.7, 0.9)
    for time in np.linspace(0, 1, frames):
        part = min(time / landing, 1.0) ** 2
        angles = np.clip((1 - part) * joints + part * flung + noise, low, high)
        place(env.model, env.data, angles, np.array([yaw, -part * np.pi / 2, 0.0]))
        yield


def drop_pole(side: int) -> Move:
    """Let the pole fall to one side of the cart."""

    def move(env: cartpole.TextGoalCartPole, rng: np.random.Generator, frames: int) -> Iterator[None]:
        x, tilt, growth = rng.uniform(-1, 1), rng.uniform(0.05, 0.12), rng.uniform(3.2, 4.2)
        for time in np.linspace(0, 1, frames):
            angle = min(tilt * np.exp(growth * time), 1.75)
            env.state = np.array([x - side * 0.25 * angle, 0.0, side * angle, 0.0])
            yield

    return move


def balance_pole(env: cartpole.TextGoalCartPole, rng: np.random.Generator, frames: int) -> Iterator[None]:
    """Keep the pole upright over a cart that hardly moves."""
    x, phase, swing = rng.uniform(-1, 1), rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.07)
    for time in np.linspace(0, 1, frames):
        wave = np.sin(phase + 2 * np.pi * time)
        env.state = np.array([x + 0.06 * wave, 0.0, swing * wave, 0.0])
        yield


def drive_cart(side: int) -> Move:
    """Drive the cart from one end of the track towards the other, the pole upright on it."""

    def move(env: cartpole.TextGoalCartPole, rng: np.random.Generator, frames: int) -> Iterator[None]:
        start, end = -side * rng.uniform(1.4, 1.9), side * rng.uniform(1.4, 1.9)
        lean = rng.normal(0, 0.04)
        for part in ease(rng, frames):
            env.state = np.array([start + part * (end - start), 0.0, lean, 0.0])
            yield

    return move


def swing_up(env: pendulum.TextGoalPendulum, rng: np.random.Generator, frames: int) -> Iterator[None]:
    """Lift the pendulum from hanging to the top."""
    side, start = rng.choice([-1, 1]), np.pi - rng.uniform(0, 0.3)
    for part in ease(rng, frames):
        env.state = np.array([side * (1 - part) * start, 0.0])
        yield


def swing_low(env: pendulum.TextGoalPendulum, rng: np.random.Generator, frames: int) -> Iterator[None]:
    """Swing the pendulum to and fro below its pivot."""
    reach, phase = rng.uniform(0.5, 0.9), rng.uniform(0, 2 * np.pi)
    for time in np.linspace(0, 1, frames):
        env.state = np.array([np.pi + reach * np.sin(phase + 1.6 * np.pi * time), 0.0])
        yield


def gallop(env: half_cheetah.TextGoalHalfCheetah, rng: np.random.Generator, frames: int) -> Iterator[None]:
    """Run to the right in long strides, off the ground once in each."""
    phase, stride, x = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.1), rng.uniform(0, 2)
    env.camera = half_cheetah.CAMERA.jitter(rng, STEADY)
    low, high = env.joint_limits
    for time in np.linspace(0, 1, frames):
        turn = phase + 2 * np.pi * 1.25 * time
        hind, front = np.sin(turn), np.sin(turn + 2.2)
        bends = np.array([0.75 * hind, -0.5 * np.cos(turn), 0.4 * hind])
        arms = np.array([0.75 * front, -0.6 * np.cos(turn + 2.2), 0.3 * front])
        angles = np.clip(stride * np.concatenate([bends, arms]), low, high)
        qpos = env.pose(0.08 * np.sin(turn + 1), angles)
        qpos[0] = x + 1.3 * time
        env.put(qpos, 0.12 * max(0.0, np.cos(turn + 1.1)))
        yield


def kick_on_back(env: half_cheetah.TextGoalHalfCheetah, rng: np.random.Generator, frames: int) -> Iterator[None]:
    """Lie upside down with kicking legs."""
    phase, tilt, reach = rng.uniform(0, 2 * np.pi, 2), rng.normal(0, 0.06), rng.uniform(0.4, 0.7)
    env.camera = half_cheetah.CAMERA.jitter(rng, STEADY)
    low, high = env.joint_limits
    for time in np.linspace(0, 1, frames):
        hind, front = np.sin(phase + 2 * np.pi * time)
        angles = np.clip(reach * np.array([hind, 0.6 * hind, 0.0, front, 0.6 * front, 0.0]), low, high)
        env.put(env.pose(np.pi + tilt, angles), 0.0)
        yield


def reach(env: reacher.TextGoalReacher, rng: np.random.Generator, frames: int) -> Iterator[None]:
    """Bring the arm's tip from anywhere onto the target."""
    env.camera = reacher.CAMERA.jitter(rng, STEADY * 0.05)
    goal = np.array(reacher.TARGET)
    ends = reacher.joint_angles(goal)
    end = ends[rng.integers(len(ends))]
    start = end + rng.choice([-1, 1], 2) * rng.uniform((0.9, 0.3), (2.2, 1.0))
    for part in ease(rng, frames):
        joints = (1 - part) * start + part * end
        env.set_state(np.concatenate([joints, goal]), np.zeros(4))  # type: ignore[no-untyped-call]
        yield


def drive_car(start: tuple[float, float], end: tuple[float, float]) -> Move:
    """Drive the car from one stretch of the track to another."""

    def move(env: mountain_car.TextGoalMountainCar, rng: np.random.Generator, frames: int) -> Iterator[None]:
        first, last = rng.uniform(*start), rng.uniform(*end)
        for part in ease(rng, frames):
            env.state = np.array([first + part * (last - first), 0.0], dtype=np.float32)
            yield

    return move


def _say(subjects: tuple[str, ...], actions: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{subject} {action}" for subject in subjects for action in actions)


ROBOT = ("a humanoid robot", "a humanoid", "a robot", "the humanoid robot")
POLE = ("a pole", "a pole on a cart", "the pole")
CART = ("a cart", "a cart with a pole", "the cart")
ROD = ("a pendulum", "the pendulum", "a rod with a ball")
CHEETAH = ("a cheetah robot", "a cheetah", "the robot cheetah")
ARM = ("a two-link arm", "the two-link arm", "a robot arm")
CAR = ("a car", "a red car", "the car")

_MOTIONS = (
    Motion("kneel", "humanoid", between_poses("standing", "kneeling"), _say(ROBOT, (
        "kneeling down", "going down on its knees", "dropping to its knees", "kneeling"
    )), ("a humanoid robot getting down on both knees",), 2),
    Motion("stand_up", "humanoid", between_poses("squatting", "standing"), _say(ROBOT, (
        "standing up", "getting up", "rising from a squat", "getting to its feet"
    )), ("a humanoid robot rising to its feet",), 2),
    Motion("raise_arms", "humanoid", between_poses("standing", "arms_raised"), _say(ROBOT, (
        "raising its arms", "raising both arms", "lifting its arms above its head", "putting both hands up"
    )), ("a humanoid robot lifting both arms up",), 2),
    Motion("fall", "humanoid", topple, _say(ROBOT, (
        "falling over", "falling on its back", "falling backwards", "toppling over"
    )), ("a humanoid robot falling down onto its back",), 2),
    Motion("splits", "humanoid", between_poses("standing", "splits"), _say(ROBOT, (
        "doing the splits", "going down into the splits", "sliding into the side splits"
    )), ("a humanoid robot performing the splits",), 2),
    Motion("stand_still", "humanoid", between_poses("standing", "standing"), _say(ROBOT, (
        "standing still", "standing", "standing upright without moving", "staying where it stands"
    )), ("a humanoid robot that stands motionless",), 1.5),
    *(Motion(f"pole_falls_{SIDE[side]}", "cartpole", drop_pole(side), _say(POLE, (
        f"falling to the {SIDE[side]}", f"tipping over to the {SIDE[side]}", f"falling {SIDE[side]}"
    )), (f"a pole that drops to the {SIDE[side]}",)) for side in SIDE),
    Motion("pole_balanced", "cartpole", balance_pole, _say(POLE, (
        "balanced upright", "standing upright", "staying in balance"
    )), ("a pole kept upright on a cart",)),
    *(Motion(f"cart_{SIDE[side]}", "cartpole", drive_cart(side), _say(CART, (
        f"moving to the {SIDE[side]}", f"driving to the {SIDE[side]}", f"rolling {SIDE[side]}"
    )), (f"a cart that goes to the {SIDE[side]}",)) for side in SIDE),
    Motion("swing_up", "pendulum", swing_up, _say(ROD, (
        "swinging up", "swinging up to the top", "rising until it stands straight up"
    )), ("a pendulum swung all the way up",)),
    Motion("swing_low", "pendulum", swing_low, _say(ROD, (
        "swinging to and fro", "swinging back and forth below its pivot", "hanging down and swinging"
    )), ("a pendulum that dangles and swings",)),
    Motion("run", "half_cheetah", gallop, _say(CHEETAH, (
        "running", "running to the right", "galloping", "running fast"
    )), ("a cheetah robot sprinting",), 1.5),
    Motion("on_back", "half_cheetah", kick_on_back, _say(CHEETAH, (
        "lying on its back", "upside down on its back", "lying upside down and kicking"
    )), ("a cheetah robot turned over on its back",), 1.5),
    Motion("reach", "reacher", reach, _say(ARM, (
        "reaching for the red ball", "touching the red target", "moving its tip to the red ball"
    )), ("a two-link arm reaching the red target",), 1.5),
    Motion("car_up", "mountain_car", drive_car((-0.6, -0.3), (0.36, 0.45)), _say(CAR, (
        "driving up to the flag", "climbing the mountain", "driving up the right hill"
    )), ("a car going up the mountain to the yellow flag",)),
    Motion("car_down", "mountain_car", drive_car((0.1, 0.4), (-0.6, -0.45)), _say(CAR, (
        "rolling down into the valley", "driving down the hill", "rolling back from the mountain"
    )), ("a car going down to the bottom of the valley",)),
)  # fmt: skip
MOTIONS = {motion.name: motion for motion in _MOTIONS}
