"""The Fetch robot's arm over a table as text goals: touch a ball, push a block onto a spot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs.rendering import Camera, Quality, RendererName, RendersScene, render_metadata

Vector = NDArray[np.float64]
CAMERA = Camera(distance=0.78, azimuth=180, elevation=-38, lookat=(1.36, 0.83, 0.46))
BALL = (1.40, 0.88, 0.48)  # metres, the ball of ``fetch_reach``; the gripper starts about 0.15 m away
START = (1.363, 0.805)  # metres, where the block of ``fetch_push`` lies, give or take NOISE
SPOT = (1.363, 0.935)  # metres, centre of its red spot, straight on from gripper and block
NOISE = 0.012
BLOCK_HEIGHT = 0.425  # metres, of the block's centre when it lies on the table
FINGERS_LOW = 0.42  # metres, of the gripper when it pushes the block
GRIPPER_START = 0.08  # metres, how far the gripper of ``fetch_reach`` may start from Fetch's own place on each axis
GAIN, CALM = 10.0, 0.4  # of the scripted experts: action per metre, and the largest one near what they aim at
REACH = ((1.20, 0.64, 0.45), (1.48, 1.00, 0.60))  # metres, corners of the box that random goals come from


class TextGoalFetch(RendersScene, gym.Env[Vector, NDArray[np.float32]], EzPickle, ABC):
    """What both tasks share: gymnasium-robotics simulates, this class gives it flat observations and fast frames.

    Action: 4 numbers in [-1, 1]; the gripper's wanted motion along x (away from the robot), y (its left) and z (up), at
    most 5 cm a step of 40 ms, and one for the fingers, which stay closed in these tasks. Reward: minus the distance to
    the goal in metres, Fetch's dense reward; it is the ground truth of evaluation. ``info["success"]``: whether that
    distance is below 0.05 m, Fetch's own criterion.

    Args:
        target: the goal in metres, or ``None`` for another one each episode.
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.

    Raises:
        MissingExtraError: without gymnasium-robotics.
        ValueError: if ``target`` has the wrong length or lies outside the arm's reach.
    """

    metadata: ClassVar[dict[str, Any]] = render_metadata(25)  # type: ignore[misc]  # an instance variable in gymnasium
    simulation: ClassVar[Literal["FetchReach", "FetchPush"]]
    target_length: ClassVar[int]

    def __init__(
        self,
        target: Sequence[float] | None,
        size: int = 64,
        quality: Quality = "fast",
        camera: Camera = CAMERA,
        render_mode: str | None = None,
        renderer: RendererName = "opengl",
    ) -> None:
        """Build the simulation; nothing is rendered until :meth:`render` is called."""
        from vrm.envs import fetch_simulation

        EzPickle.__init__(self, target, size, quality, camera, render_mode, renderer)
        self.target = None if target is None else self._check(np.array(target, dtype=np.float64))
        self.width, self.quality, self.camera, self.render_mode = size, quality, camera, render_mode
        self.renderer = renderer
        self._sim: Any = getattr(fetch_simulation, self.simulation)(size, quality, camera, renderer)
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        length = sum(self._sim.observation_space[part].shape[0] for part in ("observation", "desired_goal"))
        self.observation_space = spaces.Box(-np.inf, np.inf, (length,), np.float64)

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self._sim.model

    @property
    def data(self) -> mujoco.MjData:
        """The simulator's present state."""
        return self._sim.data

    @property
    def goal(self) -> Vector:
        """Where the ball or the spot is now, ``(3,)`` in metres."""
        goal: Vector = self._sim.goal
        return goal

    @property
    def gripper(self) -> Vector:
        """Where the point between the finger tips is, ``(3,)`` in metres."""
        point: Vector = self.data.site("robot0:grip").xpos.copy()
        return point

    def step(self, action: NDArray[np.float32]) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Advance 40 ms."""
        observation, reward, _, _, info = self._sim.step(action)
        return self._flat(observation), float(reward), False, False, {"success": bool(info["is_success"])}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Start an episode; see the task's class for what is drawn."""
        super().reset(seed=seed, options=options)
        self._start()
        return self._flat(self._sim._get_obs()), {"success": self.success()}

    def place(self, goal: Vector, block: Vector | None = None) -> None:
        """Move the goal, and the block if there is one, to places ``(3,)`` in metres."""
        self._sim.place(goal, block)

    def success(self) -> bool:
        """Whether Fetch's own criterion holds."""
        return bool(self._sim._is_success(self._sim._get_obs()["achieved_goal"], self.goal))

    @abstractmethod
    def _start(self) -> None:
        """Restart the simulation and put everything in its place for a new episode."""

    def _check(self, target: Vector) -> Vector:
        """Return ``target`` if it lies over the table within reach."""
        low, high = (np.array(corner[: self.target_length]) for corner in REACH)
        if target.shape != low.shape or (target < low).any() or (target > high).any():
            raise ValueError(
                f"target must lie between {low.tolist()} and {high.tolist()} (metres), got {target.tolist()}."
            )
        return target

    @staticmethod
    def _flat(observation: dict[str, Vector]) -> Vector:
        return np.concatenate([observation["observation"], observation["desired_goal"]])


class TextGoalFetchReach(TextGoalFetch):
    """The gripper has to come to a red ball in the air.

    Observation: 13 numbers; FetchReach-v4's, and the ball's position. The gripper starts up to 8 cm from Fetch's own
    place on each axis, so that no two episodes are alike even with the ball in one place.
    """

    simulation = "FetchReach"
    target_length = 3

    def __init__(self, target: Sequence[float] | None = BALL, *args: Any, **options: Any) -> None:
        """See :class:`TextGoalFetch`; by default the ball stays in one place."""
        super().__init__(target, *args, **options)

    def _start(self) -> None:
        goal = self.np_random.uniform(*REACH) if self.target is None else self.target
        self._sim.restart(goal, None)
        place = self.gripper + self.np_random.uniform(-GRIPPER_START, GRIPPER_START, 3)
        for _ in range(8):
            self._sim.step(approach(self, place))


class TextGoalFetchPush(TextGoalFetch):
    """The closed gripper has to push a blue block along the table onto a red spot 10 cm wide.

    Observation: 28 numbers; FetchPush-v4's, and the spot's position. The block lies right beside the fingers, on the
    robot's left, within 12 mm on both axes of one place; by default the spot lies straight on, 13 cm farther, so
    that a straight push of 7 to 9 cm does it. With ``target=None`` the spot is anywhere in reach but
    at least 10 cm from the block, and the arm may have to go around the block, for which it needs ``lift=True``.

    Args:
        target: where the spot's centre lies ``(x, y)`` in metres, or ``None`` for another place each episode.
        lift: whether actions may raise the gripper; without it the third number of an action counts for nothing and
            the fingers stay at the height of the block, so that exploring agents meet it.
        args: as for :class:`TextGoalFetch`.
        options: as for :class:`TextGoalFetch`.
    """

    simulation = "FetchPush"
    target_length = 2

    def __init__(self, target: Sequence[float] | None = SPOT, lift: bool = False, *args: Any, **options: Any) -> None:
        """By default the spot stays in one place and the gripper on the table."""
        super().__init__(target, *args, **options)
        self.lift = lift
        EzPickle.__init__(self, target, lift, *args, **options)

    def step(self, action: NDArray[np.float32]) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Advance 40 ms."""
        if not self.lift:
            height = np.clip(GAIN * (FINGERS_LOW - self.gripper[2]), -1, 1)
            action = np.array([action[0], action[1], height, action[3]], dtype=np.float32)
        return super().step(action)

    @property
    def block(self) -> Vector:
        """Where the block's centre is, ``(3,)`` in metres."""
        point: Vector = self.data.site("object0").xpos.copy()
        return point

    def _start(self) -> None:
        block = START + self.np_random.uniform(-NOISE, NOISE, 2)
        spot = self.target if self.target is not None else block
        while np.linalg.norm(spot - block) < 0.1:
            spot = self.np_random.uniform(REACH[0][:2], REACH[1][:2])
        self._sim.restart(on_table(spot), on_table(block))


def on_table(point: Vector) -> Vector:
    """Give a place ``(2,)`` on the table the height of a block's centre."""
    return np.append(point, BLOCK_HEIGHT)


def approach(env: TextGoalFetch, point: Vector, speed: float = 1.0) -> NDArray[np.float32]:
    """Action that moves the gripper towards ``point (3,)`` in metres, none of its numbers above ``speed``."""
    return np.append(np.clip(GAIN * (point - env.gripper), -speed, speed), 0.0).astype(np.float32)


def expert(env: gym.Env[Any, Any]) -> NDArray[np.float32]:
    """Act on either task as one who knows how, unhurriedly where it shows."""
    base: Any = env.unwrapped
    return _push(base) if isinstance(base, TextGoalFetchPush) else approach(base, base.goal, CALM)


def _push(env: TextGoalFetchPush) -> NDArray[np.float32]:
    """Go over to the block's far side, down, then through to the spot."""
    gripper, block, way = env.gripper, env.block, env.goal[:2] - env.block[:2]
    distance = float(np.linalg.norm(way))
    if distance < 0.02:
        return approach(env, gripper)
    way = way / distance
    offset = gripper[:2] - block[:2]
    along, aside = float(offset @ way), abs(float(offset @ (-way[1], way[0])))
    low, behind = FINGERS_LOW, block[:2] - 0.07 * way
    down = gripper[2] < low + 0.03
    if down and along < -0.03 and aside < (0.012 if along < -0.055 else 0.025):
        return approach(env, np.append(env.goal[:2] - 0.042 * way, low), CALM if distance < 0.15 else 1.0)
    if np.linalg.norm(gripper[:2] - behind) < 0.02 or (down and along < -0.05 and aside < 0.05):
        return approach(env, np.append(behind, low))
    return approach(env, np.append(behind if gripper[2] > low + 0.06 else gripper[:2], low + 0.1))
