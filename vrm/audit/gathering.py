"""Gathering from a task what it can tell about a reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.agents.rollouts import make_envs
from vrm.audit.evidence import Evidence
from vrm.envs import TextGoalTask
from vrm.frames import from_hwc
from vrm.metrics.inputs import Floats

HOLD = 5  # steps that random play keeps an action for


def gather(task: TextGoalTask, states: int = 512, episodes: int = 64, seed: int = 0, size: int = 64) -> Evidence:
    """Sample states of ``task`` and play it at random.

    Args:
        task: where states and roll-outs come from.
        states: how many states, at least 2.
        episodes: how many roll-outs, at least 2.
        seed: of both.
        size: pixels of the frames.

    Raises:
        ValueError: if ``states`` or ``episodes`` is below 2.
    """
    if states < 2 or episodes < 2:
        raise ValueError(f"Evidence needs at least 2 states and 2 episodes, got {states} and {episodes}.")
    sample = task.sample(states, seed=seed, size=size)
    play, gold = _play(task, episodes, seed, size)
    return Evidence(from_hwc(sample.frames), sample.success, play, gold)


def _play(task: TextGoalTask, episodes: int, seed: int, size: int) -> tuple[Tensor, Floats]:
    """Play at random: every action is held for a few steps, continuous ones with a random strength."""
    lanes = min(episodes, 16)
    venv = make_envs(task, lanes, size)
    rng = np.random.default_rng(seed)
    venv.action_space.seed(seed)
    rounds = []
    for begin in range(0, episodes, lanes):
        venv.seed(seed + begin)
        venv.reset()
        first = from_hwc(np.stack([info["frame"] for info in venv.reset_infos]))
        rounds.append(_round(venv.step, first, lambda: _actions(venv.action_space, lanes, rng), task.episode_steps))
    venv.close()
    clips, gold = zip(*rounds, strict=True)
    return torch.cat(clips)[:episodes], np.concatenate(gold)[:episodes]


def _round(step: Callable[[Any], Any], first: Tensor, choose: Callable[[], Any], steps: int) -> tuple[Tensor, Floats]:
    frames, gold = [first], []
    actions = None
    for index in range(steps):
        actions = choose() if index % HOLD == 0 else actions
        _, paid, _, infos = step(actions)
        frames.append(from_hwc(np.stack([info["frame"] for info in infos])))
        gold.append(np.asarray(paid, np.float64))
    return torch.stack(frames, dim=1), np.stack(gold, axis=1)


def _actions(space: Any, lanes: int, rng: np.random.Generator) -> NDArray[Any]:
    drawn = np.stack([space.sample() for _ in range(lanes)])
    if drawn.dtype.kind != "f":
        return drawn
    strength = rng.random((lanes,) + (1,) * (drawn.ndim - 1))
    return np.asarray((drawn * strength).astype(drawn.dtype))
