"""What can be said of the Fetch tasks' frames, and varied states to say it of; left and right as the camera sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.fetch import CAMERA, REACH, TextGoalFetch, TextGoalFetchPush, approach, on_table

Vector = NDArray[np.float64]
FLOATING = 0.56  # metres, above which the gripper is well clear of the table
APART = 0.045  # metres, nearer than this block and fingers would lie in each other


@dataclass(frozen=True)
class Scene:
    """Where things are, ``(3,)`` in metres: x towards the camera, y to its right, z up.

    Attributes:
        gripper: the point between the finger tips.
        goal: the ball or the spot.
        block: the block's centre; the gripper again where there is no block.
    """

    gripper: Vector
    goal: Vector
    block: Vector

    @property
    def reach(self) -> float:
        """Metres between gripper and goal."""
        return float(np.linalg.norm(self.gripper - self.goal))

    @property
    def miss(self) -> float:
        """Metres between block and goal."""
        return float(np.linalg.norm(self.block - self.goal))

    @property
    def grasp(self) -> float:
        """Metres between gripper and block."""
        return float(np.linalg.norm(self.gripper - self.block))


def measure(env: TextGoalFetch) -> Scene:
    """Read the scene from the simulator's present state."""
    block = env.block if isinstance(env, TextGoalFetchPush) else env.gripper
    return Scene(env.gripper, env.goal.copy(), block)


def _side(of: str, to: str, axis: int, sign: int, start: float = 0.02, end: float = 0.07) -> Callable[[Scene], float]:
    """Truth of one thing lying on one side of another, graded between two distances in metres."""
    return lambda s: rise(sign * (getattr(s, of)[axis] - getattr(s, to)[axis]), start, end)


REACH_CAPTIONER: Captioner[Scene] = Captioner(
    subjects=("a robot arm over a table", "a robot gripper", "the gripper of a robot arm", "a robot arm",
              "a grey robot hand", "the robot"),
    facts=(
        Fact("reached", lambda s: rise(s.reach, 0.09, 0.035), (
            "touching the red ball", "reaching the red ball", "with its fingers at the red ball",
            "holding its fingertips to the red ball", "arrived at the red ball",
        ), ("with its fingers on the red ball",)),
        Fact("near", lambda s: rise(s.reach, 0.17, 0.09), (
            "close to the red ball", "almost at the ball", "with the red ball nearby",
        ), ("close to the ball",)),
        Fact("far", lambda s: rise(s.reach, 0.15, 0.26), (
            "far away from the red ball", "nowhere near the ball", "with the red ball out of reach",
        ), ("far from the ball",)),
        Fact("left", _side("gripper", "goal", 1, -1), ("left of the red ball", "with the ball to its right")),
        Fact("right", _side("gripper", "goal", 1, 1), ("right of the red ball", "with the ball to its left")),
        Fact("above", _side("gripper", "goal", 2, 1), ("above the red ball", "higher than the ball")),
        Fact("below", _side("gripper", "goal", 2, -1), ("below the red ball", "lower than the ball")),
        Fact("raised", lambda s: rise(s.gripper[2], 0.48, FLOATING), (
            "raised high above the table", "well clear of the table", "up in the air",
        ), ("high above the table",)),
        Fact("low", lambda s: rise(s.gripper[2], 0.50, 0.44), (
            "down at the table top", "just over the table", "lowered to the table",
        ), ("low over the table",)),
    ),
)  # fmt: skip

PUSH_CAPTIONER: Captioner[Scene] = Captioner(
    subjects=("a robot arm with a blue block", "a robot arm and a block on a table", "a robot gripper and a blue block",
              "a table with a blue block and a red spot", "a robot arm over a table"),
    facts=(
        Fact("on_spot", lambda s: rise(s.miss, 0.075, 0.03), (
            "with the block on the red spot", "with the blue block inside the red circle", "with the block at its goal",
            "with the block pushed onto the red target", "with the block covering the red spot",
        ), ("the block on the red spot",)),
        Fact("near_spot", lambda s: rise(s.miss, 0.17, 0.10), (
            "with the block close to the red spot", "with the block almost at its goal",
        ), ("the block near the red spot",)),
        Fact("far_spot", lambda s: rise(s.miss, 0.12, 0.20), (
            "with the block far away from the red spot", "with a wide gap between block and red spot",
            "with the block nowhere near its goal",
        ), ("the block far from the red spot",)),
        Fact("block_left", _side("block", "goal", 1, -1), (
            "with the block to the left of the red spot", "with the red spot to the right of the block",
        )),
        Fact("block_right", _side("block", "goal", 1, 1), (
            "with the block to the right of the red spot", "with the red spot to the left of the block",
        )),
        Fact("block_front", _side("block", "goal", 0, 1), ("with the block in front of the red spot",)),
        Fact("block_behind", _side("block", "goal", 0, -1), ("with the block behind the red spot",)),
        Fact("touching", lambda s: rise(s.grasp, 0.085, 0.055), (
            "with the fingers at the block", "pushing the block", "touching the blue block",
            "with the gripper right beside the block",
        ), ("the fingers at the block",)),
        Fact("apart", lambda s: rise(s.grasp, 0.10, 0.17), (
            "with the gripper far from the block", "leaving the block alone", "with the gripper away from the block",
        ), ("the gripper away from the block",)),
        Fact("left", _side("gripper", "block", 1, -1), (
            "with the gripper to the left of the block", "with the block to the right of the gripper",
        )),
        Fact("right", _side("gripper", "block", 1, 1), (
            "with the gripper to the right of the block", "with the block to the left of the gripper",
        )),
        Fact("raised", lambda s: rise(s.gripper[2], 0.48, FLOATING), (
            "with the gripper raised above the table", "with the gripper up in the air",
        ), ("the gripper high up",)),
        Fact("low", lambda s: rise(s.gripper[2], 0.50, 0.44), (
            "with the gripper down at the table", "with the fingers just over the table top",
        ), ("the gripper low",)),
    ),
)  # fmt: skip


def sample(env: TextGoalFetch, rng: np.random.Generator, vary: bool = True) -> Iterator[Scene]:
    """Put the environment into varied states for ever, yielding each; the arm moves as in episodes, by its motors."""
    if isinstance(env, TextGoalFetchPush):
        env.lift = True
    env.reset(seed=int(rng.integers(2**31)))
    restyle = _Restyle(env) if vary else None
    low, high = np.array(REACH)
    while True:
        if rng.random() < 0.03:
            env.reset(seed=int(rng.integers(2**31)))
        goal = rng.uniform(low, high) if vary or env.target is None else env.goal.copy()
        aim = goal + rng.normal(0, 0.03, 3) if rng.random() < 0.4 else rng.uniform(low, high)
        if rng.random() < 0.4:
            aim[2] = rng.uniform(0.42, 0.47)
        for _ in range(int(rng.integers(3, 10))):
            env.step(approach(env, aim))
        for _ in range(3):
            if isinstance(env, TextGoalFetchPush):
                env.place(on_table(goal[:2]), on_table(_block(env, goal[:2], rng)))
            else:
                env.place(goal)
            if restyle is not None:
                restyle(rng)
            yield measure(env)


def _block(env: TextGoalFetch, spot: Vector, rng: np.random.Generator) -> Vector:
    """Draw where the block lies ``(2,)``: on or near the spot, beside the gripper, or anywhere."""
    while True:
        kind = rng.random()
        if kind < 0.35:
            place = spot + rng.normal(0, 0.035, 2)
        elif kind < 0.6:
            angle, radius = rng.uniform(-np.pi, np.pi), rng.uniform(APART, 0.08)
            place = env.gripper[:2] + radius * np.array([np.cos(angle), np.sin(angle)])
        else:
            place = rng.uniform(REACH[0][:2], REACH[1][:2])
        free = env.gripper[2] > 0.48 or np.linalg.norm(place - env.gripper[:2]) > APART
        if free and (np.abs(place - (1.3, 0.75)) < (0.23, 0.33)).all():  # on the table
            return place


class _Restyle:
    """Varies what should not matter: viewpoint, colours and light."""

    def __init__(self, env: TextGoalFetch) -> None:
        """Keep the task's own look."""
        self._env, model = env, env.model
        self._colours = model.geom_rgba[:, :3].copy()
        self._lights = model.vis.headlight.diffuse.copy(), model.light_diffuse.copy()

    def __call__(self, rng: np.random.Generator) -> None:
        """Draw another look."""
        near = CAMERA.jitter(rng, scale=float(rng.uniform(0, 0.8)))
        self._env.camera = replace(near, lookat=tuple(np.array(CAMERA.lookat) + rng.normal(0, 0.02, 3)))
        model, brightness = self._env.model, rng.uniform(0.75, 1.25)
        shades = rng.uniform(0.8, 1.2, self._colours.shape)
        model.geom_rgba[:, :3] = np.clip(self._colours * shades, 0, 1)
        model.vis.headlight.diffuse[:], model.light_diffuse[:] = (light * brightness for light in self._lights)
