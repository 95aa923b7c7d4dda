"""Make the clips of this folder and their manifest: ``python videos/make.py``.

Scripted controllers act in the library's own tasks: postures held by the humanoid's joint servos, linear feedback for
poles, energy pumping for the car; ``kneeling.mp4`` is a trained agent's and stays as it is.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vrm.envs import make_task
from vrm.envs.humanoid_poses import POSES, joint_vector
from vrm.frames import from_hwc
from vrm.video import write_video

FOLDER = Path(__file__).parent
SIZE = 192  # pixels
STEPS = 60
Controller = Callable[[NDArray[Any], int], Any]  # observation and step to action


@dataclass(frozen=True)
class Clip:
    """One film: a task, who acts in it, and a sentence that is true of it."""

    name: str
    task: str
    prompt: str
    policy: str
    controller: Callable[[gym.Env[Any, Any]], Controller]
    steps: int = STEPS
    fps: int = 30
    seed: int = 0


def hold(*schedule: tuple[int, str]) -> Callable[[gym.Env[Any, Any]], Controller]:
    """Aim the humanoid's servos at one posture after another, each from its step on."""

    def build(env: gym.Env[Any, Any]) -> Controller:
        body: Any = env.unwrapped
        order = body.model.actuator_trnid[:, 0] - 1
        actions = [
            (start, body.action_for(joint_vector(body.model, POSES[pose].joints)[order])) for start, pose in schedule
        ]
        return lambda _, step: [action for start, action in actions if start <= step][-1].astype(np.float32)

    return build


def flail(env: gym.Env[Any, Any]) -> Controller:
    """Throw the joints about."""
    rng = np.random.default_rng(3)
    targets = rng.uniform(-1, 1, (STEPS // 6 + 1, *env.action_space.shape)).astype(np.float32)
    return lambda _, step: targets[step // 6]


def balance_cart(_: gym.Env[Any, Any]) -> Controller:
    """Push the cart under the falling pole."""
    return lambda obs, _: int(obs @ (0.3, 0.6, 8.0, 2.0) > 0)


def let_go(env: gym.Env[Any, Any]) -> Controller:
    """Balance for a second, then push one way."""
    good = balance_cart(env)
    return lambda obs, step: good(obs, step) if step < 20 else 1


def balance_pendulum(_: gym.Env[Any, Any]) -> Controller:
    """Linear feedback on the slider's position and the pole's angle."""
    return lambda obs, _: np.clip(np.array([obs @ (1.0, 25.0, 1.5, 4.0)]), -3, 3).astype(np.float32)


def drop_pendulum(env: gym.Env[Any, Any]) -> Controller:
    """Balance, then hold still."""
    good = balance_pendulum(env)
    return lambda obs, step: good(obs, step) if step < 15 else np.array([0.3], np.float32)


def pump(_: gym.Env[Any, Any]) -> Controller:
    """Push the car the way it moves."""
    return lambda obs, _: np.array([1.0 if obs[1] >= 0 else -1.0], np.float32)


def idle(_: gym.Env[Any, Any]) -> Controller:
    """Hardly push at all."""
    return lambda _obs, _step: np.array([0.0], np.float32)


CLIPS = (
    Clip("standing", "humanoid_standing", "a humanoid robot standing", "servos", hold((0, "standing")), steps=26),
    Clip("arms_out", "humanoid_standing", "a humanoid robot standing with its arms stretched out", "servos",
         hold((0, "t_pose")), steps=26),
    Clip("sitting_down", "humanoid_kneeling", "a humanoid robot sitting on its heels", "servos",
         hold((0, "standing"), (8, "sitting_on_heels"))),
    Clip("falling", "humanoid_standing", "a humanoid robot falling over", "servos",
         hold((0, "lying_side"), (6, "bowing"))),
    Clip("flailing", "humanoid_standing", "a humanoid robot tumbling on the floor", "random", flail),
    Clip("pole_balanced", "cartpole", "a pole standing upright on a cart", "feedback", balance_cart),
    Clip("pole_dropped", "cartpole", "a pole falling off its balance on a cart", "feedback, then pushed",
         let_go, seed=1),
    Clip("pendulum_balanced", "inverted_pendulum", "an inverted pendulum standing upright", "feedback",
         balance_pendulum),
    Clip("pendulum_dropped", "inverted_pendulum", "an inverted pendulum falling down", "feedback, then none",
         drop_pendulum),
    Clip("car_climbing", "mountain_car", "a car on top of the mountain", "energy pumping", pump, steps=120, fps=60),
    Clip("car_idle", "mountain_car", "a car at the bottom of the valley", "none", idle, steps=120, fps=60),
)  # fmt: skip


def film(clip: Clip) -> None:
    """Play one episode and write it."""
    env = make_task(clip.task).make(size=SIZE, quality="full")
    observation, _ = env.reset(seed=clip.seed)
    act = clip.controller(env)
    frames = [env.render()]
    for step in range(clip.steps):
        observation = env.step(act(observation, step))[0]
        frames.append(env.render())
    env.close()
    write_video(FOLDER / f"{clip.name}.mp4", from_hwc(np.stack(frames)), fps=clip.fps)


def main() -> None:
    """Write every clip and ``manifest.csv``."""
    for clip in CLIPS:
        film(clip)
    with (FOLDER / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", "path", "prompt", "policy"])
        rows.writerow(["kneeling", "kneeling.mp4", "a humanoid robot kneeling", "SAC on the sentence"])
        rows.writerows([clip.name, f"{clip.name}.mp4", clip.prompt, clip.policy] for clip in CLIPS)


if __name__ == "__main__":
    main()
