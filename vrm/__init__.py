"""Vision-language and video models as rewards."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrm.encoders import Encoder as Encoder
    from vrm.encoders import load_encoder as load_encoder
    from vrm.rewards import ContrastiveGoalReward as ContrastiveGoalReward
    from vrm.rewards import GoalReward as GoalReward
    from vrm.rewards import RewardModel as RewardModel
    from vrm.rewards import load_reward as load_reward
    from vrm.scoring import score as score
    from vrm.wrappers import FrameCapture as FrameCapture
    from vrm.wrappers import RewardStream as RewardStream
    from vrm.wrappers import wrap as wrap

__version__ = "0.1.0"

_HOMES = {
    "ContrastiveGoalReward": "vrm.rewards",
    "Encoder": "vrm.encoders",
    "FrameCapture": "vrm.wrappers",
    "GoalReward": "vrm.rewards",
    "RewardModel": "vrm.rewards",
    "RewardStream": "vrm.wrappers",
    "load_encoder": "vrm.encoders",
    "load_reward": "vrm.rewards",
    "score": "vrm.scoring",
    "wrap": "vrm.wrappers",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import vrm`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vrm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return __all__
