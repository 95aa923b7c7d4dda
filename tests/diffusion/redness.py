"""A toy reward of frames: red minus the mean of green and blue, and a version that hides its gradient."""

from __future__ import annotations

from typing import Any

from vrm.rewards import RewardModel
from vrm.rewards.base import check_call


class Redness(RewardModel):
    takes_goals = False
    range = (-1.0, 1.0)

    def terms(self, clips, goals=None, state=None):
        colours = check_call(clips, goals, state).mean(dim=(-1, -2))
        return {"red": colours[..., 0] - colours[..., 1:].mean(dim=-1)}

    def combine(self, terms):
        return terms["red"]

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls()


class OpaqueRedness(Redness):
    """The same, as a judge that only says numbers."""

    differentiable = False

    def terms(self, clips, goals=None, state=None):
        return super().terms(clips.detach(), goals, state)
