"""Text-goal tasks: an environment, what to ask of it, and when it counts as done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vrm.envs.families import FAMILIES, Family
from vrm.envs.humanoid_poses import POSES
from vrm.envs.rendering import FULL_SIZE, Frame, Quality
from vrm.errors import UnknownNameError


@dataclass(frozen=True)
class TextGoalTask:
    """An environment with a sentence for a goal.

    Attributes:
        name: the task's name in configs, ``humanoid_kneeling``.
        env_id: the Gymnasium id it is registered under, ``vrm/HumanoidKneeling-v0``.
        family: name of the environment family it belongs to.
        goal: goal prompts; several form an ensemble.
        baseline: prompts that describe the environment without the goal, for goal-baseline regularisation.
        criterion: in words, when a state counts as success; evaluated on simulator state, never used in training.
        episode_steps: steps until truncation; tasks never terminate.
        options: keyword arguments of the environment, for instance ``control``.
    """

    name: str
    env_id: str
    family: str
    goal: tuple[str, ...]
    baseline: tuple[str, ...]
    criterion: str
    episode_steps: int
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, *, size: int = 64, quality: Quality = "fast", render_mode: str | None = "rgb_array") -> gym.Env:
        """Build the environment with its time limit.

        Args:
            size: height and width of rendered frames in pixels.
            quality: ``"fast"`` for reward models, ``"full"`` for people.
            render_mode: ``"rgb_array"`` or ``None``.
        """
        return gym.make(self.env_id, size=size, quality=quality, render_mode=render_mode, **self.options)

    def make_for_viewing(self) -> gym.Env:
        """Build the environment with the rendering that people watch."""
        return self.make(size=FULL_SIZE, quality="full")

    def sample(self, count: int, seed: int = 0, size: int = 64) -> TaskSample:
        """Render ``count`` varied states in the task's own appearance, with the truth of its criterion."""
        servo = {key: value for key, value in self.options.items() if key != "control"}
        env = replace(self, options=servo).make(size=size)  # samplers move the body by its joint servos
        env.reset(seed=seed)
        frames, success = [], []
        base: Any = env.unwrapped
        for _, _state in zip(range(count), self._family.sample(base, np.random.default_rng(seed), False), strict=False):
            frames.append(base.render().copy())
            success.append(base.success())
        env.close()
        return TaskSample(np.stack(frames), np.array(success))

    @property
    def _family(self) -> Family:
        return FAMILIES[self.family]


@dataclass(frozen=True)
class TaskSample:
    """Varied states of a task: ``frames (N, H, W, 3)`` uint8 and ``success (N,)`` bool."""

    frames: Frame
    success: NDArray[np.bool_]


HUMANOID_GOALS = {
    "kneeling": "a humanoid robot kneeling",
    "lotus": "a humanoid robot seated down, meditating in the lotus position",
    "standing": "a humanoid robot standing up",
    "arms_raised": "a humanoid robot standing up, with both arms raised",
    "splits": "a humanoid robot practicing gymnastics, doing the side splits",
    "hands_on_hips": "a humanoid robot standing up with hands on hips",
    "one_leg": "a humanoid robot standing up on one leg",
    "arms_crossed": "a humanoid robot standing up, with its arms crossed",
}  # Rocamonde et al. 2023, table 1


def _humanoid_task(pose: str, goal: str) -> TextGoalTask:
    title = pose.title().replace("_", "")
    return TextGoalTask(
        name=f"humanoid_{pose}",
        env_id=f"vrm/Humanoid{title}-v0",
        family="humanoid",
        goal=(goal,),
        baseline=("a humanoid robot",),
        criterion=POSES[pose].criterion,
        episode_steps=100,
    )


_TASKS = (
    *(_humanoid_task(pose, goal) for pose, goal in HUMANOID_GOALS.items()),
    TextGoalTask(
        "cartpole", "vrm/CartPole-v0", "cartpole",
        ("pole vertically upright on top of the cart",), ("pole and cart",),
        "the pole is within 12 degrees of upright and the cart on its track", 200,
    ),
    TextGoalTask(
        "mountain_car", "vrm/MountainCar-v0", "mountain_car",
        ("a car at the peak of the mountain, next to the yellow flag",), ("a car in the mountain",),
        "the car has reached the flag", 200,
    ),
    TextGoalTask(
        "inverted_pendulum", "vrm/InvertedPendulum-v0", "inverted_pendulum",
        ("a pole on a sliding cart balanced upright",), ("a pole on a sliding cart",),
        "the pole is within 0.2 radians of upright", 100,
    ),
    TextGoalTask(
        "reacher_reach", "vrm/ReacherReach-v0", "reacher",
        ("the tip of the two-link arm touches the red target",), ("a two-link arm",),
        "the fingertip is less than 0.025 m from the target, which always lies in one place", 50,
    ),
    TextGoalTask(
        "reacher_reach_anywhere", "vrm/ReacherReachAnywhere-v0", "reacher",
        ("the tip of the two-link arm touches the red target",), ("a two-link arm",),
        "the fingertip is less than 0.025 m from the target, which lies elsewhere each episode", 50, {"target": None},
    ),
    TextGoalTask(
        "fetch_reach", "vrm/FetchReach-v0", "fetch_reach",
        ("the fingers of the robot arm touch the red ball",), ("a robot arm over a table",),
        "the point between the finger tips is less than 0.05 m from the ball's centre", 50,
    ),
    TextGoalTask(
        "fetch_push", "vrm/FetchPush-v0", "fetch_push",
        ("a robot arm has pushed the blue block onto the red spot",), ("a robot arm with a blue block on a table",),
        "the block's centre is less than 0.05 m from the spot's", 50,
    ),
    TextGoalTask(
        "ant_rearing", "vrm/AntRearing-v0", "ant",
        ("a four-legged robot rearing up on its hind legs",), ("a four-legged robot",),
        "the front is turned up by at least 45 degrees without falling over, both front feet more than 0.4 m above the "
        "ground", 100,
    ),
    TextGoalTask(
        "half_cheetah_on_back", "vrm/HalfCheetahOnBack-v0", "half_cheetah",
        ("a cheetah robot lying upside down on its back",), ("a cheetah robot",),
        "the back points down within 37 degrees and the torso's centre is less than 0.3 m above the ground", 100,
    ),
    TextGoalTask(
        "hopper_leg_up", "vrm/HopperLegUp-v0", "hopper",
        ("a one-legged hopper lying on the ground with its leg in the air",), ("a one-legged hopper",),
        "the upper end of the torso and the hip are below 0.35 m, the foot is more than 0.6 m above the ground", 100,
    ),
    TextGoalTask(
        "walker2d_kneeling", "vrm/Walker2dKneeling-v0", "walker2d",
        ("a two-legged walker kneeling on both knees",), ("a two-legged walker",),
        "the torso is within 32 degrees of upright, both knees' centres are below 0.15 m and the hips above 0.35 m",
        100,
    ),
    TextGoalTask(
        "swimmer_u_shape", "vrm/SwimmerUShape-v0", "swimmer",
        ("a swimmer bent into a U shape",), ("a swimmer made of three links",),
        "both joints are bent by at least 70 degrees to the same side", 100,
    ),
    TextGoalTask(
        "humanoid_standup", "vrm/HumanoidStandup-v0", "humanoid_standup",
        ("a humanoid robot standing upright on its feet",), ("a humanoid robot lying on the floor",),
        "it stands upright on both feet, not bent or fallen; it starts lying on its back", 150,
    ),
    TextGoalTask(
        "pusher", "vrm/Pusher-v0", "pusher",
        ("the robot arm has pushed the blue cylinder onto the red target",),
        ("a robot arm with a blue cylinder on a table",),
        "the cylinder's centre is less than 0.05 m from the target's", 100,
    ),
    TextGoalTask(
        "inverted_double_pendulum", "vrm/InvertedDoublePendulum-v0", "inverted_double_pendulum",
        ("a double pendulum balanced straight up on the cart",), ("a double pendulum on a cart",),
        "both links are within 0.2 radians of upright", 100,
    ),
    TextGoalTask(
        "pendulum", "vrm/Pendulum-v0", "pendulum",
        ("the pendulum is standing straight up",), ("a pendulum",), "the rod is within 0.2 radians of upright", 200,
    ),
)  # fmt: skip
TASKS = {task.name: task for task in _TASKS}


def make_task(
    name: str,
    goal: str | Sequence[str] | None = None,
    baseline: str | Sequence[str] | None = None,
    episode_steps: int | None = None,
    **options: Any,
) -> TextGoalTask:
    """Look a task up by name, with other prompts or environment options if given.

    Args:
        name: one of :data:`TASKS`.
        goal: goal prompt(s) instead of the task's own.
        baseline: baseline prompt(s) instead of the task's own.
        episode_steps: another time limit.
        options: keyword arguments of the environment, for instance ``control="torque"``.

    Raises:
        UnknownNameError: if there is no such task.
        ValueError: if ``episode_steps`` is not positive.

    Example:
        >>> make_task("humanoid_kneeling").goal
        ('a humanoid robot kneeling',)
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    task = TASKS[name]
    changes: dict[str, Any] = {"options": task.options | options}
    if goal is not None:
        changes["goal"] = (goal,) if isinstance(goal, str) else tuple(goal)
    if baseline is not None:
        changes["baseline"] = (baseline,) if isinstance(baseline, str) else tuple(baseline)
    if episode_steps is not None:
        if episode_steps < 1:
            raise ValueError(f"episode_steps must be at least 1, got {episode_steps}.")
        changes["episode_steps"] = changes["options"]["max_episode_steps"] = episode_steps
    return replace(task, **changes)


def register_tasks() -> None:
    """Register every task with Gymnasium, once."""
    for task in TASKS.values():
        if task.env_id not in gym.registry:
            options = {"pose": task.name.removeprefix("humanoid_")} if task.family == "humanoid" else task.options
            gym.register(
                task.env_id,
                entry_point=FAMILIES[task.family].make,
                max_episode_steps=task.episode_steps,
                kwargs=options,
                disable_env_checker=True,
            )
