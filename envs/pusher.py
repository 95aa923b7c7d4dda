"""MuJoCo's Pusher as a text goal: a seven-joint arm has to push a cylinder along a table onto a round target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.pusher_v5 import PusherEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.rendering import Camera, Quality, RendererName, RendersScene, prepare, render_metadata
from vrm.envs.variation import Variation

Vector = NDArray[np.float64]
CAMERA = Camera(distance=1.45, azimuth=180, elevation=-52, lookat=(0.42, -0.2, -0.22))
REACHED = 0.05  # metres between the centres of cylinder and target, which are 0.05 and 0.08 m wide from the centre
LYING = (0.45, -0.05)  # metres, where cylinder and target lie when their joints are at zero
LOW = np.array([[0.07, -0.48, -0.32], [0.83, 0.32, -0.19]])  # metres, corners of where a fork near the table is drawn
ANYWHERE = np.array([[-0.05, -0.75, -0.32], [0.85, 0.40, 0.30]])  # and of where any is, so that the picture shows it
GREY, DARK, ORANGE, HAND = (0.62, 0.64, 0.68, 1), (0.16, 0.17, 0.2, 1), (0.95, 0.55, 0.12, 1), (0.45, 0.2, 0.6, 1)
LOOKS = {
    "table": (0.78, 0.74, 0.66, 1), "sp": DARK, "sl": GREY, "uar": DARK, "ua": ORANGE, "ef": DARK, "fr": DARK,
    "fa": GREY, "wf": DARK, "e1": (0.9, 0.9, 0.9, 1), "e2": (0.9, 0.9, 0.9, 1), "e1p": DARK, "e2p": DARK,
    "tip_arml": HAND, "tip_armr": HAND,
}  # fmt: skip


class TextGoalPusher(RendersScene, PusherEnv):
    """Gymnasium's Pusher in colours that a vision model can tell apart: a blue cylinder, a red target, a purple fork.

    Observation: the 23 numbers of Pusher-v5; angles and velocities of the seven joints, then the places of the fork,
    the cylinder and the target. Action: 7 torques in [-2, 2] N m. Reward: Pusher-v5's, minus the distance in metres
    from cylinder to target, minus half of that from fork to cylinder, minus a tenth of the action's squared norm; it
    is the ground truth of evaluation. ``info["success"]``: whether cylinder and target are less than 0.05 m apart,
    centre to centre. The target stays in one place; the cylinder starts at another each episode, at least 0.17 m off.

    Args:
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.
    """

    metadata = render_metadata(20)

    def __init__(
        self,
        size: int = 64,
        quality: Quality = "fast",
        camera: Camera = CAMERA,
        render_mode: str | None = None,
        renderer: RendererName = "opengl",
    ) -> None:
        """Build the edited model; nothing is rendered until :meth:`render` is called."""
        self.quality, self.camera, self.renderer = quality, camera, renderer
        super().__init__(width=size, height=size, render_mode=render_mode)
        self.metadata = type(self).metadata  # the base class lists more modes
        EzPickle.__init__(self, size, quality, camera, render_mode, renderer)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        dress(spec)
        prepare(spec, self.width, self.quality, self.camera, self.renderer)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def step(self, action: NDArray[np.float32]) -> tuple[Vector, np.float64, bool, bool, dict[str, Any]]:
        """Advance 50 ms."""
        observation, reward, _, _, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation, np.float64(reward), False, False, info | {"success": self.success()}

    def _get_reset_info(self) -> dict[str, Any]:
        return {"success": self.success()}

    def success(self) -> bool:
        """Whether the cylinder lies on the target."""
        return measure(self).miss < REACHED


def dress(spec: mujoco.MjSpec) -> None:
    """Colour arm, cylinder and target, and put a ground under the table."""
    for name, colour in LOOKS.items():
        spec.geom(name).rgba = colour
    for body, colour in (("r_wrist_roll_link", HAND), ("object", (0.1, 0.3, 0.85, 1)), ("goal", (0.9, 0.1, 0.1, 1))):
        for geom in spec.body(body).geoms:
            geom.rgba = colour
    spec.worldbody.add_geom(
        name="ground", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=(0, 0, -1.2), size=(12, 12, 12),
        rgba=(0.45, 0.52, 0.58, 1), contype=0, conaffinity=0,
    )  # fmt: skip
    matte = spec.add_material(name="matte", specular=0.0)  # highlights would differ between the two qualities
    for name in ("table", "ground"):
        spec.geom(name).material = matte.name
    spec.visual.headlight.ambient = spec.visual.headlight.diffuse = (0.4, 0.4, 0.4)


@dataclass(frozen=True)
class Scene:
    """Where things are, ``(3,)`` in metres: x towards the camera, y to its right, z up.

    Attributes:
        fork: the point of the hand that Pusher's reward measures from, between the roots of its two prongs.
        cylinder: its centre.
        target: its centre.
        elbow: degrees that the elbow is bent; 0 is a straight arm.
    """

    fork: Vector
    cylinder: Vector
    target: Vector
    elbow: float

    @property
    def miss(self) -> float:
        """Metres along the table between cylinder and target."""
        return float(np.linalg.norm((self.cylinder - self.target)[:2]))

    @property
    def reach(self) -> float:
        """Metres between the fork and the cylinder."""
        return float(np.linalg.norm(self.fork - self.cylinder))


def measure(env: TextGoalPusher) -> Scene:
    """Read the scene from the simulator's present state."""
    fork, cylinder, target = (env.data.body(name).xpos.copy() for name in ("tips_arm", "object", "goal"))
    return Scene(fork, cylinder, target, -float(np.degrees(env.data.joint("r_elbow_flex_joint").qpos[0])))


def _side(of: str, to: str, axis: int, sign: int, start: float = 0.02, end: float = 0.08) -> Callable[[Scene], float]:
    """Truth of one thing lying on one side of another, graded between two distances in metres."""
    return lambda s: rise(sign * (getattr(s, of)[axis] - getattr(s, to)[axis]), start, end)


CAPTIONER: Captioner[Scene] = Captioner(
    subjects=("a robot arm with a blue cylinder", "a robot arm and a cylinder on a table", "a robot arm over a table",
              "a jointed arm pushing things about", "the robot arm", "a table with a blue cylinder and a red disc"),
    facts=(
        Fact("on_target", lambda s: rise(s.miss, 0.09, 0.035), (
            "with the cylinder on the target", "with the blue cylinder on the red disc",
            "with the cylinder pushed onto the target", "with the cylinder covering the red disc",
            "with the cylinder at its goal",
        ), ("the cylinder on the target",)),
        Fact("near_target", lambda s: rise(s.miss, 0.2, 0.11), (
            "with the cylinder close to the target", "with the blue cylinder beside the red disc",
            "with the cylinder almost at its goal", "with only a small gap between cylinder and target",
        ), ("the cylinder near the target",)),
        Fact("far_target", lambda s: rise(s.miss, 0.16, 0.27), (
            "with the cylinder far away from the target", "with the cylinder nowhere near the red disc",
            "with a wide gap between cylinder and target", "with the cylinder a long way from its goal",
        ), ("the cylinder far from the target",)),
        Fact("cylinder_left", _side("cylinder", "target", 1, -1), (
            "with the cylinder to the left of the target", "with the red disc to the right of the cylinder",
            "with the blue cylinder left of the red disc", "with the target on the cylinder's right",
        )),
        Fact("cylinder_right", _side("cylinder", "target", 1, 1), (
            "with the cylinder to the right of the target", "with the red disc to the left of the cylinder",
            "with the blue cylinder right of the red disc", "with the target on the cylinder's left",
        )),
        Fact("cylinder_front", _side("cylinder", "target", 0, 1), (
            "with the cylinder in front of the target", "with the cylinder nearer to the viewer than the target",
            "with the red disc behind the cylinder", "with the cylinder lower in the picture than the target",
        )),
        Fact("cylinder_behind", _side("cylinder", "target", 0, -1), (
            "with the cylinder behind the target", "with the cylinder farther from the viewer than the target",
            "with the red disc in front of the cylinder", "with the cylinder higher in the picture than the target",
        )),
        Fact("touching", lambda s: rise(s.reach, 0.19, 0.13), (
            "with its fork at the cylinder", "pushing the cylinder", "touching the blue cylinder",
            "holding the cylinder between its prongs", "with its hand at the cylinder",
        ), ("its fork at the cylinder",)),
        Fact("apart", lambda s: rise(s.reach, 0.2, 0.32), (
            "with its fork far from the cylinder", "leaving the cylinder alone", "with its hand away from the cylinder",
            "not reaching the cylinder by far",
        ), ("its fork away from the cylinder",)),
        Fact("fork_left", _side("fork", "cylinder", 1, -1, 0.04, 0.12), (
            "with its fork to the left of the cylinder", "with the cylinder to the right of its hand",
            "with its purple hand left of the cylinder", "with the cylinder on the hand's right",
        )),
        Fact("fork_right", _side("fork", "cylinder", 1, 1, 0.04, 0.12), (
            "with its fork to the right of the cylinder", "with the cylinder to the left of its hand",
            "with its purple hand right of the cylinder", "with the cylinder on the hand's left",
        )),
        Fact("raised", lambda s: rise(s.fork[2], -0.12, 0.05), (
            "with its hand raised above the table", "with its fork up in the air", "holding its hand high",
            "with its hand well clear of the table",
        ), ("its hand high up",)),
        Fact("low", lambda s: rise(s.fork[2], -0.14, -0.24), (
            "with its hand down at the table", "with its fork low over the table", "sweeping over the table top",
            "with its hand close to the table top",
        ), ("its hand down low",)),
        Fact("stretched", lambda s: rise(s.elbow, 50, 20), (
            "stretched out", "with a straight elbow", "fully extended", "reaching out with a straight arm",
        ), ("its elbow straight",)),
        Fact("folded", lambda s: rise(s.elbow, 55, 90), (
            "with its elbow bent", "folded at the elbow", "with the forearm drawn in", "crooked at the elbow",
        ), ("its elbow bent",)),
    ),
)  # fmt: skip


def sample(env: TextGoalPusher, rng: np.random.Generator, vary: bool = True) -> Iterator[Scene]:
    """Put the environment into varied states for ever, yielding each: the arm anywhere, often with its fork low.

    With ``vary`` the target moves too; without it, it stays where the task has it.
    """
    env.reset(seed=int(rng.integers(2**31)))
    restyle = Variation(env, shift=0.03, turn=0.7, backdrops=("table", "ground")) if vary else None
    lowered = [_draw_arm(env, rng, LOW) for _ in range(32)]
    while True:
        if rng.random() < 0.67:
            arm = _draw_arm(env, rng, LOW, around=lowered[rng.integers(len(lowered))])
        else:
            arm = _draw_arm(env, rng, ANYWHERE)
        target = rng.uniform((-0.25, -0.25), (0.25, 0.25)) if vary else np.zeros(2)
        while True:
            cylinder = _draw_cylinder(env, target, rng)
            _place(env, arm, cylinder, target)
            if not _overlaps(env):
                break
        if restyle is not None:
            restyle(rng)
        yield measure(env)


def _place(env: TextGoalPusher, arm: Vector, cylinder: Vector, target: Vector) -> None:
    """Put arm (7 angles), cylinder and target at rest; both slide along y first."""
    qpos = np.concatenate([arm, cylinder[::-1], target[::-1]])
    env.set_state(qpos, np.zeros(env.model.nv))  # type: ignore[no-untyped-call]


def _draw_arm(env: TextGoalPusher, rng: np.random.Generator, box: Vector, around: Vector | None = None) -> Vector:
    """Draw joint angles that keep the arm above the table, anywhere or ``around`` given ones.

    Args:
        env: receives the angles.
        rng: source of randomness.
        box: corners ``(2, 3)`` in metres of where the fork has to be.
        around: seven angles in radians to start from; few uniform ones bring the fork down to the table.
    """
    low, high = env.model.jnt_range[:7].T
    while True:
        arm: Vector = rng.uniform(low, high) if around is None else np.clip(around + rng.normal(0, 0.25, 7), low, high)
        if rng.random() < 0.3:
            arm[3] *= 0.3  # a straight elbow is rare among uniform angles
        env.data.qpos[:7] = arm
        mujoco.mj_kinematics(env.model, env.data)
        fork = env.data.body("tips_arm").xpos
        if (fork > box[0]).all() and (fork < box[1]).all() and _clear(env):
            return arm


def _clear(env: TextGoalPusher) -> bool:
    """Whether no moving part of the arm dips into the table."""
    model, data = env.model, env.data
    arm = (model.geom_bodyid >= model.body("r_upper_arm_link").id) & (model.geom_bodyid < model.body("object").id)
    half = np.abs(data.geom_xmat[arm, 8]) * model.geom_size[arm, 1]
    lowest = float((data.geom_xpos[arm, 2] - half - model.geom_size[arm, 0]).min())
    return lowest > float(env.data.geom("table").xpos[2]) - 0.005


def _draw_cylinder(env: TextGoalPusher, target: Vector, rng: np.random.Generator) -> Vector:
    """Draw where the cylinder lies: on the target or nearly, at the fork, or anywhere in reach."""
    kind = rng.random()
    if kind < 0.35:
        place: Vector = target + rng.normal(0, rng.choice([0.025, 0.08]), 2)
    elif kind < 0.65:
        fork = env.data.body("tips_arm")
        place = (fork.xpos + fork.xmat.reshape(3, 3) @ (rng.uniform(0.02, 0.16), rng.uniform(-0.17, 0.17), 0))[:2]
        place = place - LYING
    else:
        place = rng.uniform((-0.35, -0.35), (0.3, 0.3))
    return np.clip(place, -0.4, 0.4)


def _overlaps(env: TextGoalPusher) -> bool:
    """Whether the arm reaches into the cylinder by more than a hair."""
    cylinder = env.model.body("object").geomadr[0]
    return any(bool(contact.dist < -0.004) and cylinder in contact.geom for contact in env.data.contact)
