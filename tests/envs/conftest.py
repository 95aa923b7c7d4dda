"""One humanoid to pose, and many sampled states of every family, made once."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from vrm.envs import FAMILIES, TASKS

COUNTS = {"humanoid": 1000}


@dataclass
class Sampled:
    """States as the captioner reads them, their fact truths ``(N, K)``, and the first task's criterion."""

    states: list[Any]
    truths: np.ndarray
    success: np.ndarray


def first_task(family):
    return next(task for task in TASKS.values() if task.family == family)


def sample_family(name):
    family, env = FAMILIES[name], first_task(name).make(render_mode=None).unwrapped
    states, success = [], []
    for _, state in zip(
        range(COUNTS.get(name, 400)), family.sample(env, np.random.default_rng(0), False), strict=False
    ):
        states.append(np.copy(state) if isinstance(state, np.ndarray) else state)
        success.append(env.success())
    return Sampled(states, np.stack([family.captioner.truths(s) for s in states]), np.array(success))


@pytest.fixture(scope="session")
def sampled():
    return cache(sample_family)


@pytest.fixture(scope="session")
def humanoid():
    return TASKS["humanoid_kneeling"].make(render_mode=None).unwrapped
