"""What Gymnasium's walking and swimming machines share: their edited model, steps, pictures and varied states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from vrm.envs.captions import State
from vrm.envs.rendering import Camera, Quality, RendererName, RendersScene, prepare
from vrm.envs.variation import Variation

Vector = NDArray[np.float64]
Grade = Callable[[State], float]  # graded truth of one fact
Colour = tuple[float, float, float]

SKY: tuple[Colour, Colour] = ((0.62, 0.78, 0.92), (0.88, 0.93, 0.97))
GROUND: tuple[Colour, Colour] = ((0.52, 0.56, 0.50), (0.66, 0.69, 0.62))
HALF_GROUND = 40.0  # metres from the origin to the edge of the ground that is drawn
FASTEST = 10.0  # metres or radians a second; beyond it observed velocities are clipped, as Gymnasium's Hopper does
HIDDEN = 3  # the first of MuJoCo's geom groups that are not drawn
STIFFNESS, DAMPING = 3.0, 0.3  # action per radian and per radian a second, where a sampler holds a pose


class TextGoalLocomotion(RendersScene, MujocoEnv, EzPickle, ABC):
    """A MuJoCo body that is asked for a posture in words, and never terminates.

    A subclass names the model and its look and says how to read, observe, pay and draw postures. Action: one number
    in [-1, 1] per motor, a fraction of its torque. Reward: :meth:`reached`, in [0, 1]. ``info["success"]``: whether
    it is 1.

    Args:
        size: height and width of rendered frames in pixels.
        quality: ``"fast"`` for reward models, ``"full"`` for people.
        camera: where to look from; ``None`` is the family's own.
        render_mode: ``"rgb_array"`` or ``None``.
        renderer: ``"opengl"``, or ``"warp"`` for the ray-caster of :mod:`vrm.envs.warp_renderer`.

    Attributes:
        xml: file of Gymnasium's model.
        skip: physics steps per step.
        view: the family's own camera.
        colours: of each geom by its name.
        noise: half the width of the uniform noise on positions at the start, in metres and radians.
        girth: how much thicker than they are limbs are drawn, so that few pixels show them.
        aside: metres by which geoms are drawn away from the camera, by name, where limbs share a plane.
        headlight: ambient and diffuse light of the camera; seen from above, fast and full frames share little of the
            latter on the ground.
        shape_tells: whether shape alone tells every part from the others; then colours may vary freely.
    """

    xml: ClassVar[str]
    skip: ClassVar[int]
    view: ClassVar[Camera]
    colours: ClassVar[dict[str, Colour]]
    noise: ClassVar[float]
    girth: ClassVar[float] = 1.0
    aside: ClassVar[dict[str, float]] = {}
    headlight: ClassVar[tuple[float, float]] = (0.35, 0.35)
    shape_tells: ClassVar[bool]

    def __init__(
        self,
        size: int = 64,
        quality: Quality = "fast",
        camera: Camera | None = None,
        render_mode: str | None = None,
        renderer: RendererName = "opengl",
    ) -> None:
        """Build the edited model; nothing is rendered until :meth:`render` is called."""
        self.quality, self.camera, self.renderer = quality, camera or self.view, renderer
        MujocoEnv.__init__(self, self.xml, self.skip, None, render_mode, size, size)
        joints = self.model.actuator_trnid[:, 0]
        self._angle_at, self._speed_at = self.model.jnt_qposadr[joints], self.model.jnt_dofadr[joints]
        self.observation_space = spaces.Box(-np.inf, np.inf, self._get_obs().shape, np.float64)
        EzPickle.__init__(self, size, quality, camera, render_mode, renderer)

    @abstractmethod
    def measure(self) -> Any:
        """Read the posture from the present state, as the family's captioner reads it."""

    @abstractmethod
    def reached(self) -> float:
        """How nearly the present state is the one that the task asks for, from 0 to 1; 1 is success."""

    @abstractmethod
    def draw_pose(self, rng: np.random.Generator) -> tuple[Vector, float]:
        """Draw positions ``qpos`` of any posture, and how far (metres) its lowest point is to be off the ground."""

    @abstractmethod
    def _get_obs(self) -> Vector:
        """Return positions and velocities without the place on the ground."""

    def _edit(self, spec: mujoco.MjSpec) -> None:
        """Change the model before it is dressed and compiled."""

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        self._edit(spec)
        _dress(spec, self.headlight)
        _draw_limbs(spec, self.colours, self.girth, self.aside)
        prepare(spec, self.width, self.quality, self.camera, self.renderer)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def step(self, action: NDArray[np.float32]) -> tuple[Vector, np.float64, bool, bool, dict[str, Any]]:
        """Advance ``dt`` seconds; see the class for action and reward."""
        self.do_simulation(np.clip(np.asarray(action, dtype=np.float64), -1, 1), self.frame_skip)
        reached = self.reached()
        return self._get_obs(), np.float64(reached), False, False, {"success": reached >= 1}

    def reset_model(self) -> Vector:
        """Start in the model's own stance with a little noise, at rest."""
        noise = self.np_random.uniform(-self.noise, self.noise, self.model.nq)
        self.set_state(self.init_qpos + noise, np.zeros(self.model.nv))  # type: ignore[no-untyped-call]
        return self._get_obs()

    def _get_reset_info(self) -> dict[str, Any]:
        return {"success": self.success()}

    def success(self) -> bool:
        """Whether the task's criterion holds in the present state."""
        return self.reached() >= 1

    @property
    def joint_limits(self) -> tuple[Vector, Vector]:
        """Lower and upper limits (radians) of the joints that motors move, in the order of ``qpos``."""
        low, high = self.model.jnt_range[np.sort(self.model.actuator_trnid[:, 0])].T
        return low, high

    def clearance(self) -> float:
        """Metres between the ground and the lowest point of the body."""
        model, data = self.model, self.data
        body = np.flatnonzero((model.geom_bodyid > 0) & (model.geom_contype + model.geom_conaffinity > 0))
        half = np.where(model.geom_type[body] == mujoco.mjtGeom.mjGEOM_CAPSULE, model.geom_size[body, 1], 0.0)
        reach = model.geom_size[body, 0] + half * np.abs(data.geom_xmat[body, 8])
        return float((data.geom_xpos[body, 2] - reach).min())

    def put(self, qpos: Vector, gap: float) -> None:
        """Put the body at rest in a posture with its lowest point ``gap`` metres above the ground."""
        self.set_state(qpos, np.zeros(self.model.nv))  # type: ignore[no-untyped-call]
        height = self.model.joint("root" if self.model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE else "rootz").id
        index = int(self.model.jnt_qposadr[height])
        index += 2 * int(self.model.jnt_type[height] == mujoco.mjtJoint.mjJNT_FREE)
        lifted = qpos.copy()
        lifted[index] += gap - self.clearance()
        self.set_state(lifted, np.zeros(self.model.nv))  # type: ignore[no-untyped-call]

    def hold(self, angles: Vector, seconds: float) -> None:
        """Let physics run while the motors steer towards joint angles (radians, in the order of actuators)."""
        for _ in range(max(1, round(seconds / self.dt))):
            error = angles - self.data.qpos[self._angle_at]
            action = STIFFNESS * error - DAMPING * self.data.qvel[self._speed_at]
            self.do_simulation(np.clip(action, -1, 1), self.frame_skip)


class TextGoalPlanar(TextGoalLocomotion):
    """A body that moves in the vertical plane of the picture, right being forward.

    Observation: height of the root, cosine and sine of its pitch, the joint angles, then all velocities.
    """

    def _get_obs(self) -> Vector:
        qpos, speeds = self.data.qpos, np.clip(self.data.qvel, -FASTEST, FASTEST)
        return np.concatenate([qpos[1:2], [np.cos(qpos[2]), np.sin(qpos[2])], qpos[3:], speeds])

    def pose(self, pitch: float, angles: Vector) -> Vector:
        """Return ``qpos`` of a body pitched forward by ``pitch`` radians with joint angles in the order of ``qpos``."""
        return np.concatenate([[0.0, self.init_qpos[1], pitch], angles])


class Wardrobe:
    """Varies what should not matter about a body's pictures: what :class:`Variation` does, the ground and a backdrop.

    Args:
        env: whose look to vary; what it has now is what the variations are about.
        rng: source of all randomness.
    """

    def __init__(self, env: TextGoalLocomotion, rng: np.random.Generator) -> None:
        """Remember the present look."""
        self.env, self.rng, model = env, rng, env.model
        self._vary = Variation(env, shift=0.05, turn=1.2)
        self._floor, self._wall = model.geom("floor").id, model.geom("backdrop").id
        self._body = np.flatnonzero(model.geom_bodyid > 0)
        self._grounds = [model.material(name).id for name in GROUNDS]

    def change(self) -> None:
        """Draw another look."""
        model, rng = self.env.model, self.rng
        self._vary(rng)
        if self.env.shape_tells and rng.random() < 0.15:  # one colour all over, as the bodies of others have
            shades = rng.uniform(0.1, 0.9, 3) + rng.uniform(-0.08, 0.08, (len(self._body), 3))
            model.geom_rgba[self._body, :3] = shades.clip(0, 1)
        model.geom_matid[self._floor] = rng.choice(self._grounds)
        model.geom_rgba[self._floor, :3] = rng.uniform(0.65, 1.15, 3) * rng.uniform(0.75, 1.1)
        self._raise_wall()
        mujoco.mj_forward(model, self.env.data)

    def _raise_wall(self) -> None:
        """Stand a wall of any colour behind the body, or take it away."""
        model, rng, camera = self.env.model, self.rng, self.env.camera
        show = rng.random() < 0.5
        model.geom_rgba[self._wall] = (*rng.uniform(0.15, 1.0, 3), float(show))
        turn = np.radians(camera.azimuth)
        ahead = np.array([np.cos(turn), np.sin(turn), 0.0])
        body = self.env.data.body(camera.follow or 1).xpos * (1, 1, 0)
        model.geom_pos[self._wall] = body + ahead * rng.uniform(3, 9)
        side = np.cross((0, 0, 1), -ahead)
        mujoco.mju_mat2Quat(model.geom_quat[self._wall], np.stack([side, (0, 0, 1), -ahead], axis=1).ravel())


def sample(env: TextGoalLocomotion, rng: np.random.Generator, vary: bool = True) -> Iterator[Any]:
    """Put the environment into varied states for ever, yielding each posture.

    Two in five states are postures as they were drawn, one in five such postures after physics had some time with
    them while the motors held on, and the rest moments of play between drawn postures.

    Args:
        env: the body to move.
        rng: source of all randomness.
        vary: also vary its look, as pre-training wants; without it the task's own look stays.
    """
    env.reset(seed=int(rng.integers(2**31)))
    wardrobe = Wardrobe(env, rng) if vary else None
    for _ in _moments(env, rng):
        if wardrobe:
            wardrobe.change()
        yield env.measure()


def _moments(env: TextGoalLocomotion, rng: np.random.Generator) -> Iterator[None]:
    while True:
        kind = rng.random()
        env.put(*env.draw_pose(rng))
        angles = env.data.qpos[env._angle_at].copy()
        if kind < 0.55:
            yield
        elif kind < 0.85:
            env.hold(angles, rng.uniform(0.05, 0.6))
            yield
        else:
            yield from _play(env, rng)


def _play(env: TextGoalLocomotion, rng: np.random.Generator) -> Iterator[None]:
    """Move towards one drawn posture after another with noise, pausing now and then."""
    for _ in range(int(rng.integers(2, 6))):
        angles = env.draw_pose(rng)[0][env._angle_at]
        env.hold(angles + rng.normal(0, 0.2, angles.shape), rng.uniform(0.05, 0.3))
        yield


def between(rng: np.random.Generator, low: Vector, high: Vector) -> Vector:
    """Draw joint angles between limits, the ends more often than the middle."""
    drawn: Vector = low + (high - low) * rng.beta(0.5, 0.5, len(low))
    return drawn


GROUNDS = ("MatPlane", "tiles", "boards", "speckles", "bare")


def _dress(spec: mujoco.MjSpec, headlight: tuple[float, float]) -> None:
    """Give the model's world an appearance that a vision model can read: sky, tiled ground, light from one side."""
    for texture in spec.textures:
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            texture.rgb1, texture.rgb2 = SKY
            texture.width, texture.height = 32, 192  # six sides of a gradient, which needs few pixels
        elif texture.name == "texplane":
            texture.rgb1, texture.rgb2 = GROUND
        else:
            texture.width = texture.height = 1  # of the limbs, which are drawn in one colour
    _lay_grounds(spec)
    floor = spec.geom("floor")
    floor.rgba, floor.size[:2] = (1, 1, 1, 1), (HALF_GROUND, HALF_GROUND)
    spec.worldbody.add_geom(
        name="backdrop", type=mujoco.mjtGeom.mjGEOM_PLANE, size=(30, 30, 1), pos=(0, 0, -50),
        quat=(1, 1, 0, 0), rgba=(1, 1, 1, 0), contype=0, conaffinity=0,
    )  # fmt: skip  # MuJoCo never turns a geom that is compiled unturned
    light = spec.lights[0]
    light.pos, light.dir, light.diffuse = (0, 0, 4), (-0.3, 0.4, -1.0), (0.6, 0.6, 0.6)
    ambient, diffuse = headlight
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = (ambient,) * 3, (diffuse,) * 3


def _draw_limbs(spec: mujoco.MjSpec, colours: dict[str, Colour], girth: float, aside: dict[str, float]) -> None:
    """Hide the geoms that touch and weigh, and draw one without mass for each, thicker and in its colour."""
    model = spec.compile()
    for name, colour in colours.items():
        geom = spec.geom(name)
        geom.group = HIDDEN
        at = model.geom(name).id
        geom.parent.add_geom(
            name=f"{name}_drawn", type=geom.type, size=model.geom_size[at] * (girth, 1, 1), mass=0,
            pos=model.geom_pos[at] + (0, aside.get(name, 0.0), 0), quat=model.geom_quat[at],
            contype=0, conaffinity=0, material="", rgba=(*colour, 1),
        )  # fmt: skip


def _lay_grounds(spec: mujoco.MjSpec) -> None:
    """Dull the model's own ground, and add others that a body can be put on by its material."""
    own = spec.material("MatPlane")
    own.reflectance, own.specular, own.texrepeat = 0.0, 0.0, (HALF_GROUND * 1.5, HALF_GROUND * 1.5)
    flat, checker = mujoco.mjtBuiltin.mjBUILTIN_FLAT, mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    edge, dots = mujoco.mjtMark.mjMARK_EDGE, mujoco.mjtMark.mjMARK_RANDOM
    looks = (
        ("tiles", flat, edge, GROUND[1], 1.0), ("boards", checker, mujoco.mjtMark.mjMARK_NONE, (0.5, 0.45, 0.4), 0.5),
        ("speckles", flat, dots, GROUND[0], 0.5), ("bare", flat, mujoco.mjtMark.mjMARK_NONE, GROUND[1], 1.0),
    )  # fmt: skip
    for name, builtin, mark, colour, repeat in looks:
        spec.add_texture(
            name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=builtin, mark=mark, rgb1=colour,
            rgb2=(0.8, 0.76, 0.7), markrgb=(0.35, 0.36, 0.38), random=0.02, width=64, height=64,
        )  # fmt: skip
        squares = HALF_GROUND * 2 * repeat
        material = spec.add_material(name=name, specular=0.0, texrepeat=(squares, squares))
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
