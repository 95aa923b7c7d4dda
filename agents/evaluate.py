"""Measure a trained agent and show what it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vrm.agents.callbacks import deterministic
from vrm.agents.rollouts import Episodes, Examiner, film, make_envs
from vrm.agents.run import RunFolder, write_atomically
from vrm.agents.train import MakeAlgorithm, build
from vrm.envs import TextGoalTask
from vrm.pictures import film_strip, reward_curve_video
from vrm.rewards import RewardModel
from vrm.video import write_video


def evaluate(
    task: TextGoalTask,
    reward: RewardModel,
    make_algorithm: MakeAlgorithm,
    run: str | Path,
    *,
    episodes: int = 20,
    videos: int = 2,
    size: int = 64,
    seed: int = 20_000,
) -> Episodes:
    """Play the newest checkpoint of a run without exploration.

    Writes ``evaluation.json``, ``videos/evaluation_*.mp4`` with the reward curve under the frames, and
    ``evaluation.png`` into the run's folder.

    Args:
        task: the environment.
        reward: pays; the same as in training, or another one to compare.
        make_algorithm: as for :func:`~vrm.agents.train`.
        run: folder of the run.
        episodes: how many episodes are played.
        videos: how many of further episodes are filmed.
        size: pixels of the frames that the reward sees.
        seed: of the first episode.

    Raises:
        CheckpointError: if the run has no checkpoint.
        ValueError: if ``episodes`` is not positive.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}.")
    folder = RunFolder(run)
    venv = make_envs(task, 1, size)
    algo = build(make_algorithm, venv, seed=0)
    step = folder.load_checkpoint(algo, with_buffer=False)
    venv.close()
    policy = deterministic(algo)
    examiner = Examiner(task, reward, size, lanes=min(episodes, 10))
    played = examiner.play(policy, episodes, seed)
    examiner.close()
    rows, values = [], []
    for index in range(videos):
        shot = film(policy, task, reward, size, seed + 500 + index)
        video = reward_curve_video(shot.frames, shot.reward, shot.success, caption=task.goal[0])
        write_video(folder.videos / f"evaluation_{index}.mp4", video, fps=30)
        rows.append((f"episode {index + 1}: {task.goal[0]}", shot.frames))
        values.append(np.nan_to_num(shot.reward))
    if rows:
        film_strip(folder.path / "evaluation.png", rows, values, height=200)
    write_atomically(folder.path / "evaluation.json", json.dumps(report(played, step), indent=1))
    return played


def report(played: Episodes, step: int) -> dict[str, Any]:
    """What ``evaluation.json`` holds: the summary, and each episode's success rate."""
    rates = [round(float(v), 4) for v in played.per_episode()]
    return {"step": step, "episodes": len(rates), **played.summary(), "success_per_episode": rates}
