"""A round of hard-negative mining: frames in which an agent was paid well and had not done the task."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vrm.adapt.data import AdaptError, Labelled
from vrm.agents.callbacks import deterministic
from vrm.agents.rollouts import Policy, make_envs
from vrm.agents.run import RunFolder
from vrm.agents.train import build
from vrm.encoders import Preprocess
from vrm.envs import TextGoalTask
from vrm.frames import from_hwc
from vrm.rewards import RewardModel, load_reward

LANES = 10
HIGH = 0.75  # quantile of the rewards above which one is high, where the agent never succeeds
ANCHORS_PER_GROUP = 10


def mine_run(path: Path, preprocess: Preprocess, *, episodes: int = 20, anchors: int = 600, seed: int = 0) -> Labelled:
    """Play the newest checkpoint of a run and label what the reward got wrong.

    Good are the frames in which the task's criterion holds. Bad are those in which it does not although the reward is
    high: at least the median reward of the good ones, or, if there are none, the upper quarter of all rewards. Varied
    states of the task with the truth of its criterion are added, so that a run that always or never succeeds still
    shows both, and the encoder does not learn the looks of one policy instead of the goal.

    Args:
        path: folder of the run.
        preprocess: frames are resized for this.
        episodes: how many to play.
        anchors: how many varied states to add.
        seed: of episodes and states.

    Raises:
        CheckpointError: if ``path`` is no run or has no checkpoint.
        AdaptError: if all that was seen is good, or all bad.
    """
    from vrm.configuration import build_algorithm, build_task

    run = RunFolder(path)
    config = run.read_config()
    task, reward = build_task(config), load_reward(run.reward_file)
    venv = make_envs(task, 1, config["size"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about batch sizes, which do not matter for play
            algorithm = build(build_algorithm(config), venv, seed=0)
        run.load_checkpoint(algorithm, with_buffer=False)
    finally:
        venv.close()
    frames, success = _play(task, deterministic(algorithm), episodes, config["size"], seed)
    paid = _pay(reward, frames)
    label = label_played(paid, success)
    print(
        f"{path}: the criterion holds in {success.mean():.0%} of {success.size} frames; "
        f"{int((label == 0).sum())} more are paid well without it"
    )
    sample = task.sample(anchors, seed=seed, size=config["size"])
    kept = ~np.isnan(label)
    groups = [f"episode {i}" for i in np.flatnonzero(kept.any(1)) for _ in range(int(kept[i].sum()))]
    groups += [f"states {i // ANCHORS_PER_GROUP}" for i in range(anchors)]
    pixels = torch.cat([preprocess.fit(frames[torch.from_numpy(kept)]), preprocess.fit(from_hwc(sample.frames))])
    known = np.concatenate([label[kept], sample.success.astype(np.float32)])
    return Labelled(f"run {path.name}", pixels, groups, dict.fromkeys(task.goal, known))


def label_played(paid: NDArray[np.float32], success: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Label frames of play ``(E, T)``: 1 where the task is done, 0 where it is not and the reward is high, else nan.

    Example:
        >>> label_played(np.float32([[0.1, 0.9, 0.8, 0.2]]), np.array([[False, False, True, False]])).tolist()
        [[nan, 0.0, 1.0, nan]]
    """
    high = np.median(paid[success]) if success.any() else np.quantile(paid, HIGH)
    label = np.full(paid.shape, np.nan, np.float32)
    label[success] = 1
    label[~success & (paid >= high)] = 0
    return label


def _play(task: TextGoalTask, policy: Policy, episodes: int, size: int, seed: int) -> tuple[Tensor, NDArray[np.bool_]]:
    """Play episodes: frames ``(E, T, 3, H, W)`` of arriving at every step, and whether the task is done ``(E, T)``."""
    if episodes < 1:
        raise AdaptError(f"At least 1 episode of the run must be played, got {episodes}.")
    clips, success = [], []
    venv = make_envs(task, min(LANES, episodes), size)
    try:
        for start in tqdm(range(0, episodes, venv.num_envs), desc="play", unit="round", leave=False):
            venv.seed(seed + start)
            observation = venv.reset()
            seen, done = [], []
            for _ in range(task.episode_steps):
                observation, _, _, infos = venv.step(policy(observation))  # type: ignore[arg-type]  # never a dict here
                seen.append(from_hwc(np.stack([info["frame"] for info in infos])))
                done.append([info["success"] for info in infos])
            clips.append(torch.stack(seen, dim=1))
            success.append(np.array(done, dtype=np.bool_).T)
    finally:
        venv.close()
    return torch.cat(clips)[:episodes], np.concatenate(success)[:episodes]


@torch.no_grad()
def _pay(reward: RewardModel, clips: Tensor) -> NDArray[np.float32]:
    paid: NDArray[np.float32] = np.concatenate([reward(clip).float().cpu().numpy() for clip in torch.split(clips, 1)])
    return paid
