"""A slow teacher that pays every step against a student of it that saw 5 % of the frames labelled: success and speed.

Weights of a ViT-B/32 that know the tasks do not come with the library. So the teacher is the goal reward of the bundled
encoder, made as slow as one of a ViT-B/32 by a tower of that size with random weights, which runs on every frame beside
it and changes nothing. Success is that of the bundled encoder's goal reward; the speed is a ViT-B/32's.

Each row is written as soon as it is measured; run again, only what is missing is measured.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from vrm.agents.callbacks import deterministic
from vrm.agents.distillation import DistillationCallback
from vrm.agents.rollouts import Examiner, make_envs
from vrm.agents.train import build, calibrate_on_random_play
from vrm.configuration import build_algorithm, build_task, compose
from vrm.encoders import load_encoder
from vrm.envs import TextGoalTask
from vrm.rewards import GoalReward, RewardModel
from vrm.rewards.base import Goals, State, Terms
from vrm.rewards.distilled import DistilledReward
from vrm.wrappers import attach_reward

SIZE = 64
STEPS = {"inverted_pendulum": 10_000, "humanoid_kneeling": 50_000}
ARMS = ("teacher pays", "student pays")
FIELDS = ("task", "arm", "form", "seed", "steps", "seconds", "steps_per_second", "success_rate", "labelled", "dropped")


class SlowGoalReward(GoalReward):
    """A goal reward beside which a random ViT-B/32 tower looks at every frame, for the time that takes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Build the tower; it is no part of the model's file."""
        import open_clip

        super().__init__(*arguments, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._beside = (open_clip.create_model("ViT-B-32", pretrained=None).visual.eval().requires_grad_(False),)

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The goal reward's terms, later."""
        frames = clips.flatten(0, 1).float() / 255
        with torch.no_grad():
            for chunk in frames.split(32):
                self._beside[0](torch.nn.functional.interpolate(chunk, (224, 224)))
        return super().terms(clips, goals, state)


def measure(config: dict[str, Any], arm: str, steps: int, form: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train once and return a row; what is evaluated is not timed."""
    task = build_task(config)
    exact = GoalReward(load_encoder("vrm-sim"), task.goal, task.baseline)
    calibrate_on_random_play(exact, task, SIZE)
    teacher = SlowGoalReward(exact.encoder, task.goal, task.baseline)
    teacher.load_state_dict(exact.state_dict())
    reward: RewardModel = teacher
    callbacks: list[Any] = []
    if arm == "student pays":
        reward = student = DistilledReward(None, teacher, form=form, seed=seed, annotate=config["annotate"])
        callbacks = [DistillationCallback(student, folder, seed=seed)]
    venv = make_envs(task, config["agent"]["n_envs"], SIZE)
    venv.seed(seed)
    algorithm = build(build_algorithm(config), venv, seed)
    algorithm.set_logger(Logger(None, []))
    callbacks.append(attach_reward(algorithm, reward))
    began = time.perf_counter()
    algorithm.learn(steps, callbacks)
    seconds = time.perf_counter() - began
    told = callbacks[0].statistics if len(callbacks) > 1 else {"labelled": steps, "dropped": 0}
    success = succeed(task, exact, algorithm, seed)
    venv.close()
    return {
        "arm": arm, "form": form if len(callbacks) > 1 else "", "seed": seed, "steps": algorithm.num_timesteps,
        "seconds": round(seconds, 1), "steps_per_second": round(algorithm.num_timesteps / seconds, 1),
        "success_rate": round(success, 4), "labelled": int(told["labelled"]), "dropped": int(told["dropped"]),
    }  # fmt: skip


def succeed(task: TextGoalTask, reward: RewardModel, algorithm: Any, seed: int) -> float:
    """The success rate over ten episodes."""
    examiner = Examiner(task, reward, SIZE)
    try:
        return examiner.play(deterministic(algorithm), 10, seed + 10_000).success_rate
    finally:
        examiner.close()


def main() -> None:
    """Measure what is missing in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(STEPS), default="inverted_pendulum")
    parser.add_argument("--form", default="regression", help="of the student")
    parser.add_argument("--fraction", type=float, default=0.05, help="of the frames labelled for the student")
    parser.add_argument("--every", type=int, default=2000, help="steps between refits of the student")
    parser.add_argument("--steps", type=int, help="environment steps; 10000 of the pendulum, 50000 of the humanoid")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/distilled"), help="folder of rows and labels")
    options = parser.parse_args()
    config = compose("train", [f"task={options.task}", "agent=sac"])
    config["annotate"] = {"fraction": options.fraction, "every": options.every}
    table = options.out / "rows.csv"
    for seed in options.seeds:
        for arm in ARMS:
            steps = options.steps or STEPS[options.task]
            folder = options.out / f"{options.task}_{options.form}_{seed}_{steps}"
            key = (options.task, arm, options.form if arm == ARMS[1] else "", str(seed))
            if any(
                tuple(row[name] for name in FIELDS[:4]) == key and int(row["steps"]) >= steps for row in read(table)
            ):
                continue
            row = {"task": options.task, **measure(config, arm, steps, options.form, seed, folder)}
            append(table, row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def read(table: Path) -> list[dict[str, str]]:
    """Rows measured before."""
    if not table.is_file():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def append(table: Path, row: dict[str, Any]) -> None:
    """Write a row, after the names of its fields if it is the first."""
    table.parent.mkdir(parents=True, exist_ok=True)
    new = not table.is_file()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
