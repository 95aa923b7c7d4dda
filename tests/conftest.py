"""Settings every test shares; this file's place also lets tests import ``tiny`` and ``contract`` beside it."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

import pytest
import torch
from tiny import TinyEncoder

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder():
    return TinyEncoder()
