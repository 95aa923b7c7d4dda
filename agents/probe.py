"""Is this sentence a good reward? Asked before any training, over varied states of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vrm.encoders import Encoder
from vrm.envs import TaskSample, TextGoalTask
from vrm.frames import from_hwc
from vrm.metrics import epic_distance, roc_auc
from vrm.pictures import probe_sheet
from vrm.rewards import GoalReward


@dataclass(frozen=True)
class Finding:
    """How well one sentence tells success from the rest.

    Attributes:
        goal: the sentence.
        auc: chance that a successful state is paid more than another one; 0.5 is chance, 1 is perfect.
        epic: EPIC distance to the criterion in [0, 1]; 0 is the same reward, 0.707 an unrelated one.
        gap: mean reward of success minus mean of the rest, in standard deviations of all rewards.
        reward: ``(N,)`` reward of each sampled state.
    """

    goal: str
    auc: float
    epic: float
    gap: float
    reward: NDArray[np.float32]


def probe(
    task: TextGoalTask,
    encoder: Encoder,
    goals: Sequence[str] | None = None,
    out: str | Path | None = None,
    *,
    states: int = 2000,
    alpha: float = 0.0,
    seed: int = 0,
    size: int = 64,
) -> list[Finding]:
    """Score varied states of ``task`` by each sentence and compare with the task's criterion.

    Args:
        task: where states come from, and what success is.
        encoder: embeds frames and sentences.
        goals: sentences to try; the task's own goal if omitted.
        out: folder for one picture per sentence: histogram, ROC curve, best and worst frames.
        states: how many states.
        alpha: goal-baseline regularisation with the task's baseline.
        seed: of the states.
        size: pixels of the frames.

    Returns:
        One finding per sentence, best AUC first; AUC and EPIC are nan where no sampled state is a success.
    """
    sample = task.sample(states, seed=seed, size=size)
    frames = from_hwc(sample.frames)
    findings = [_try(goal, task, encoder, frames, sample, alpha) for goal in goals or task.goal]
    if out is not None:
        for index, finding in enumerate(findings):
            path = Path(out) / f"probe_{task.name}_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            probe_sheet(path, frames, finding.reward, sample.success, title=finding.goal)
    return sorted(findings, key=lambda f: -np.nan_to_num(f.auc))


def _try(
    goal: str, task: TextGoalTask, encoder: Encoder, frames: torch.Tensor, sample: TaskSample, alpha: float
) -> Finding:
    model = GoalReward(encoder, goal, task.baseline if alpha else None, alpha)
    with torch.inference_mode():
        reward = model(frames[None])[0].cpu().numpy()
    success = sample.success
    known = bool(success.any() and not success.all())
    gap = (reward[success].mean() - reward[~success].mean()) / reward.std() if known else float("nan")
    auc = roc_auc(reward, success) if known else float("nan")
    epic = epic_distance(reward, success.astype(float)) if known else float("nan")
    return Finding(goal, auc, epic, float(gap), reward)
