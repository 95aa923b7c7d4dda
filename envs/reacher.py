"""MuJoCo's two-link arm as a text goal: its tip has to touch a ball that lies on the floor of a small arena."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.rendering import Camera, Quality, RendererName, RendersScene, prepare, render_metadata

CAMERA = Camera(distance=0.74, azimuth=90, elevation=-78, lookat=(0.0, 0.0, 0.0))
REACHED = 0.025  # metres between the centres of fingertip and target; they are drawn 0.016 and 0.022 large
TARGET = (-0.13, 0.08)  # metres, of the task with a fixed target
LINKS = (0.10, 0.11)  # metres, shoulder to elbow and elbow to fingertip
RADIUS = (0.03, 0.19)  # metres from the shoulder: where targets may lie
TURN = 2.5  # radians the elbow is bent at most when an episode starts; its joint ends at 3
LOOKS = {
    "ground": ((0.84, 0.86, 0.88), None), "root": ((0.25, 0.27, 0.32), 0.020),
    "link0": ((0.13, 0.33, 0.62), 0.013), "link1": ((0.20, 0.55, 0.75), 0.012),
    "fingertip": ((0.95, 0.75, 0.15), 0.016), "target": ((0.90, 0.12, 0.12), 0.022),
    **{f"side{side}": ((0.55, 0.45, 0.40), None) for side in "NESW"},
}  # fmt: skip


class TextGoalReacher(RendersScene, ReacherEnv):
    """Gymnasium's Reacher whose arm starts anywhere and whose target may stay in one place.

    Observation: the 10 numbers of Reacher-v5; cosines and sines of both joint angles, the target's position, both
    joint velocities and the way from the target to the fingertip. Action: 2 torques in [-1, 1]. Reward: Reacher-v5's,
    minus the distance between fingertip and target in metres minus the squared norm of the action; it is the ground
    truth of evaluation. ``info["success"]``: whether fingertip and target are less than 0.025 m apart.

    Args:
        target: where the ball lies ``(x, y)`` in metres from the shoulder, or ``None`` for another place each episode.
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.

    Raises:
        ValueError: if the arm cannot reach ``target``.
    """

    metadata = render_metadata(50)

    def __init__(
        self,
        target: Sequence[float] | None = TARGET,
        size: int = 64,
        quality: Quality = "fast",
        camera: Camera = CAMERA,
        render_mode: str | None = None,
        renderer: RendererName = "opengl",
    ) -> None:
        """Build the edited model; nothing is rendered until :meth:`render` is called."""
        if target is not None and (len(target) != 2 or not RADIUS[0] <= np.linalg.norm(target) <= RADIUS[1]):
            raise ValueError(
                f"target must be (x, y) between {RADIUS[0]} and {RADIUS[1]} m from the shoulder, got {target}."
            )
        self.target = None if target is None else np.array(target, dtype=np.float64)
        self.quality, self.camera, self.renderer = quality, camera, renderer
        super().__init__(width=size, height=size, render_mode=render_mode)
        self.metadata = type(self).metadata  # the base class lists more modes
        EzPickle.__init__(self, target, size, quality, camera, render_mode, renderer)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        for geom in spec.geoms:
            colour, radius = LOOKS[geom.name]
            geom.rgba = (*colour, 1)
            geom.size[0] = radius or geom.size[0]  # heavier links change nothing beside the armature of 1 kg m^2
        light = spec.worldbody.add_light(
            pos=(0, 0, 2), dir=(0.3, 0.2, -1), type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        )
        light.diffuse = (0.3, 0.3, 0.3)
        spec.visual.headlight.ambient = spec.visual.headlight.diffuse = (0.33, 0.33, 0.33)
        prepare(spec, self.width, self.quality, self.camera, self.renderer)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Advance 20 ms."""
        observation, reward, _, _, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation, np.float64(reward), False, False, info | {"success": self.success()}

    def reset_model(self) -> NDArray[np.float64]:
        """Start at rest in any posture whose fingertip is at least 0.1 m from the target."""
        self.goal = draw_target(self.np_random) if self.target is None else self.target
        while True:
            joints = self.np_random.uniform((-np.pi, -TURN), (np.pi, TURN))
            if np.linalg.norm(fingertip(joints) - self.goal) > 0.1:
                break
        self.set_state(np.concatenate([joints, self.goal]), np.zeros(4))  # type: ignore[no-untyped-call]
        observation: NDArray[np.float64] = self._get_obs()  # type: ignore[no-untyped-call]
        return observation

    def _get_reset_info(self) -> dict[str, Any]:
        return {"success": self.success()}

    def success(self) -> bool:
        """Whether the fingertip touches the target."""
        return bool(measure(self).distance < REACHED)


def draw_target(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a place ``(2,)`` in metres that the arm can reach, uniform over the ring."""
    radius, angle = np.sqrt(rng.uniform(RADIUS[0] ** 2, RADIUS[1] ** 2)), rng.uniform(-np.pi, np.pi)
    return np.array([radius * np.cos(angle), radius * np.sin(angle)])


def fingertip(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Position ``(2,)`` of the fingertip in metres for the two joint angles in radians."""
    first, second = joints[0], joints[0] + joints[1]
    return np.array(
        [LINKS[0] * np.cos(first) + LINKS[1] * np.cos(second), LINKS[0] * np.sin(first) + LINKS[1] * np.sin(second)]
    )


def joint_angles(point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Both postures ``(2, 2)`` in radians that bring the fingertip to ``point``, or as near as the arm comes."""
    a, b = LINKS
    radius = float(np.clip(np.hypot(*point), abs(a - b), a + b))
    elbow = np.arccos(np.clip((radius**2 - a**2 - b**2) / (2 * a * b), -1, 1)) * np.array([1.0, -1.0])
    shoulder = np.arctan2(point[1], point[0]) - np.arctan2(b * np.sin(elbow), a + b * np.cos(elbow))
    return np.stack([shoulder, elbow], axis=1)


def expert(env: gym.Env[Any, Any]) -> NDArray[np.float32]:
    """Act on a :class:`TextGoalReacher` as one who knows how: steer to the nearer posture that touches the target."""
    base: Any = env.unwrapped
    joints, speeds = base.data.qpos[:2], base.data.qvel[:2]
    turns = joint_angles(base.goal) - joints
    turns[:, 0] = (turns[:, 0] + np.pi) % (2 * np.pi) - np.pi
    turn = turns[np.abs(turns).sum(axis=1).argmin()]
    action: NDArray[np.float32] = np.clip(SPRING * turn - DAMPER * speeds, -1, 1).astype(np.float32)
    return action


SPRING, DAMPER = 0.5, 0.1  # action per radian and per radian a second: critically damped at 10 per second


@dataclass(frozen=True)
class Posture:
    """What a frame shows of the arm.

    Attributes:
        tip: fingertip ``(2,)`` in metres from the shoulder; x to the right of the picture, y up.
        target: the ball, likewise.
        bend: degrees between the two links; 0 is a straight arm.
    """

    tip: NDArray[np.float64]
    target: NDArray[np.float64]
    bend: float

    @property
    def distance(self) -> float:
        """Metres between fingertip and target."""
        return float(np.linalg.norm(self.tip - self.target))


def measure(env: TextGoalReacher) -> Posture:
    """Read the posture from the simulator's present state."""
    joints, target = env.data.qpos[:2], env.data.qpos[2:].copy()
    bend = abs((np.degrees(joints[1]) + 180) % 360 - 180)
    return Posture(fingertip(joints), target, float(bend))


def _beside(axis: int, sign: int) -> Any:
    """Truth of the fingertip lying on one side of the target: 1 beyond 7 cm, 0 below 2."""
    return lambda p: rise(sign * (p.tip[axis] - p.target[axis]), 0.02, 0.07)


def _towards(axis: int, sign: int) -> Any:
    """Truth of the arm as a whole pointing to one side of the picture; a folded one points nowhere."""
    return lambda p: rise(sign * p.tip[axis] / max(float(np.hypot(*p.tip)), 0.06), 0.55, 0.85)


CAPTIONER: Captioner[Posture] = Captioner(
    subjects=("a two-link arm", "a two-link robot arm", "a jointed arm seen from above", "a small robot arm",
              "an arm with two links", "the arm"),
    facts=(
        Fact("reached", lambda p: rise(p.distance, 0.06, 0.02), (
            "touching the red ball with its tip", "reaching the red target", "with the tip at the red target",
            "with its fingertip at the red ball", "holding its tip on the target",
        ), ("with its tip on the red ball",)),
        Fact("near", lambda p: rise(p.distance, 0.14, 0.06), (
            "close to the red target", "with its tip near the red ball", "almost at the target",
        ), ("close to the ball",)),
        Fact("far", lambda p: rise(p.distance, 0.12, 0.22), (
            "far away from the red target", "with its tip far from the red ball", "nowhere near the target",
            "missing the red ball by a wide margin",
        ), ("far from the ball",)),
        Fact("left", _beside(0, -1), ("with its tip to the left of the target", "left of the red ball")),
        Fact("right", _beside(0, 1), ("with its tip to the right of the target", "right of the red ball")),
        Fact("above", _beside(1, 1), ("with its tip above the target", "higher in the picture than the red ball")),
        Fact("below", _beside(1, -1), ("with its tip below the target", "lower in the picture than the red ball")),
        Fact("stretched", lambda p: rise(p.bend, 60, 20), (
            "stretched out", "fully extended", "straight from end to end", "with its elbow straight",
        ), ("stretched out straight",)),
        Fact("bent", lambda p: min(rise(p.bend, 35, 65), rise(p.bend, 135, 110)), (
            "bent at the elbow", "with its two links at an angle", "forming a corner",
        ), ("its elbow bent",)),
        Fact("folded", lambda p: rise(p.bend, 110, 145), (
            "folded up", "folded back on itself", "with its links lying on each other",
        ), ("folded together",)),
        Fact("points_left", _towards(0, -1), ("pointing to the left", "extending to the left of the picture")),
        Fact("points_right", _towards(0, 1), ("pointing to the right", "extending to the right of the picture")),
        Fact("points_up", _towards(1, 1), ("pointing to the top of the picture", "extending upwards in the picture")),
        Fact("points_down", _towards(1, -1), ("pointing to the bottom of the picture", "extending downwards")),
    ),
)  # fmt: skip


def sample(env: TextGoalReacher, rng: np.random.Generator, vary: bool = True) -> Iterator[Posture]:
    """Put the environment into varied states for ever, yielding each; three in ten touch the target or nearly do."""
    env.reset(seed=int(rng.integers(2**31)))
    model = env.model
    colours, headlight, lights = model.geom_rgba.copy(), model.vis.headlight.diffuse.copy(), model.light_diffuse.copy()
    while True:
        goal = draw_target(rng) if vary or env.target is None else env.target
        if rng.random() < 0.3:
            joints = joint_angles(goal + rng.normal(0, rng.choice([0.005, 0.03]), 2))[rng.integers(2)]
        else:
            joints = np.array([rng.uniform(-np.pi, np.pi), np.clip(rng.normal(0, 1.5), -3, 3)])
        if vary:
            near = CAMERA.jitter(rng, scale=float(rng.uniform(0, 0.7)))
            env.camera = replace(near, lookat=(*rng.normal(0, 0.015, 2), 0.0))  # the arena is small
            model.geom_rgba[:, :3] = np.clip(colours[:, :3] * rng.uniform(0.8, 1.2, (len(colours), 3)), 0, 1)
            brightness = rng.uniform(0.75, 1.25)
            model.vis.headlight.diffuse[:], model.light_diffuse[:] = headlight * brightness, lights * brightness
        env.goal = goal
        env.set_state(np.concatenate([joints, goal]), np.zeros(4))  # type: ignore[no-untyped-call]
        yield measure(env)
