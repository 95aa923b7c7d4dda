"""Settings every test shares; this file's place also lets tests import ``tiny`` and ``contract`` beside it."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

import pytest
import torch
from hypothesis import settings
from tiny import TinyEncoder

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None)  # tests assert no times
settings.load_profile("suite")


@pytest.fixture(scope="session")
def encoder():
    return TinyEncoder()
