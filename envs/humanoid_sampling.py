"""Varied humanoid states: structured poses, blends of them, random limbs, and short rollouts between poses."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np
from numpy.typing import NDArray

from vrm.envs.humanoid import CAMERA, COLOURS, TextGoalHumanoid
from vrm.envs.humanoid_poses import POSES, joint_vector, place
from vrm.envs.humanoid_state import BodyState, measure

Angles = NDArray[np.float64]


class HumanoidSampler:
    """Moves one humanoid through varied states.

    Args:
        env: a position-controlled humanoid.
        rng: source of all randomness.
        vary: also vary camera, colours and light, as pre-training wants; without it the task's own appearance stays.
    """

    def __init__(self, env: TextGoalHumanoid, rng: np.random.Generator, vary: bool = True) -> None:
        """Look up every pose's joint angles once."""
        self.env, self.rng, self.vary = env, rng, vary
        self._poses = list(POSES.values())
        self._angles = [joint_vector(env.model, pose.joints) for pose in self._poses]
        tasks = np.array([1.0 + 2.0 * bool(pose.criterion) for pose in self._poses])
        self._chance = tasks / tasks.sum()
        self._actuated = [int(a) - 7 for a in env.model.jnt_qposadr[env.model.actuator_trnid[:, 0]]]
        self._colours = env.model.geom_rgba.copy()
        self._lights = env.model.vis.headlight.diffuse.copy(), env.model.light_diffuse.copy()

    def __iter__(self) -> Iterator[BodyState]:
        """Yield the posture of the state the environment was just put in, for ever."""
        while True:
            if self.rng.random() < 0.5:
                yield from self._rollout()
            else:
                self._place_pose()
                yield self._seen()

    def _seen(self) -> BodyState:
        if self.vary:
            self._restyle()
        return measure(self.env.model, self.env.data)

    def _place_pose(self) -> None:
        """Put the body in a noisy pose, a blend of two, or anything at all; sometimes let physics settle it."""
        kind = self.rng.random()
        i, j = self.rng.choice(len(self._poses), size=2, p=self._chance)
        spread = np.radians(self.rng.choice([2, 6, 14]))
        blend = self.rng.random() if kind > 0.65 else 0.0
        angles = (1 - blend) * self._angles[i] + blend * self._angles[j]
        tilt = np.radians([self._poses[i].pitch, self._poses[i].roll]) * (1 - blend)
        low, high = self.env.model.jnt_range[1:].T
        if kind > 0.92:
            angles, tilt = self.rng.uniform(low, high), self.rng.uniform(-np.pi, np.pi, 2)
        angles = np.clip(angles + self.rng.normal(0, spread, angles.shape), low, high)
        tilt = tilt + self.rng.normal(0, spread, 2)
        place(self.env.model, self.env.data, angles, np.array([self._yaw(), *tilt]))
        if self.rng.random() < 0.4:
            targets = self.env.joint_targets(self.env.action_for(angles[self._actuated]))
            self.env.do_simulation(targets, int(self.rng.integers(1, 60)))

    def _yaw(self) -> float:
        return self.rng.normal(0, 0.45) if self.rng.random() < 0.6 else self.rng.uniform(-np.pi, np.pi)

    def _rollout(self) -> Iterator[BodyState]:
        """Play one episode towards random poses with noise, yielding now and then."""
        if self.rng.random() < 0.5:
            self._place_pose()
        else:
            self.env.reset(seed=int(self.rng.integers(2**31)))
        action = np.zeros(self.env.model.nu)
        for step in range(int(self.rng.integers(20, 100))):
            if step % 12 == 0:
                action = self._aim()
            noisy = action + self.rng.normal(0, 0.15, action.shape)
            self.env.do_simulation(self.env.joint_targets(np.clip(noisy, -1, 1)), 5)
            if self.rng.random() < 0.2:
                yield self._seen()

    def _aim(self) -> Angles:
        if self.rng.random() < 0.35:
            anything: Angles = self.rng.uniform(-1, 1, self.env.model.nu)
            return anything
        angles = self._angles[self.rng.choice(len(self._poses), p=self._chance)][self._actuated]
        aim: Angles = self.env.action_for(angles) + self.rng.normal(0, self.rng.choice([0.05, 0.3]), angles.shape)
        return aim

    def _restyle(self) -> None:
        """Vary what should not matter: viewpoint, colours and light."""
        self.env.camera = CAMERA.jitter(self.rng, scale=float(self.rng.uniform(0, 1.2)))
        model = self.env.model
        for name in COLOURS:
            geom = model.geom(name).id
            model.geom_rgba[geom, :3] = self._colours[geom, :3] * self.rng.uniform(0.85, 1.15, 3)
        headlight, lights = self._lights
        brightness = self.rng.uniform(0.8, 1.2)
        model.vis.headlight.diffuse[:] = headlight * brightness
        model.light_diffuse[:] = lights * brightness
        mujoco.mj_forward(model, self.env.data)
