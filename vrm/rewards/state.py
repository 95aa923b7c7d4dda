"""Rewards of named state values: what a simulator knows, in the same currency as what a model sees."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call


class _StateReward(RewardModel):
    """Reads one state value per frame; the term is that value, under its own name."""

    differentiable = False
    reads_pixels = False

    def __init__(self, key: str) -> None:
        super().__init__()
        if not key or "/" in key:
            raise ValueError(f"A state key must be a name without '/', got {key!r}.")
        self.key = key

    @property
    def state_keys(self) -> tuple[str, ...]:
        """The one value this reward reads."""
        return (self.key,)

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The value itself as ``{key: (B, T)}``."""
        check_call(clips, goals, state, self.state_keys)
        assert state is not None  # check_call saw the key
        return {self.key: state[self.key].to(clips.device, torch.float32)}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`; there is no encoder."""
        return cls(**config)


class StateValue(_StateReward):
    """``scale * x + shift`` of a state value ``x``; by default the value itself.

    Args:
        key: name of the value in ``state`` (in ``info`` for wrappers; ``"env_reward"`` is the original reward).
        scale: factor.
        shift: summand.
    """

    def __init__(self, key: str, scale: float = 1.0, shift: float = 0.0) -> None:
        """Store the affine map."""
        super().__init__(key)
        self.scale, self.shift = float(scale), float(shift)

    def combine(self, terms: Terms) -> Tensor:
        """Apply the affine map."""
        return self.scale * terms[self.key] + self.shift

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"key": self.key, "scale": self.scale, "shift": self.shift}


class StateFalloff(_StateReward):
    """``max(1 - |x| / maximum, 0)``: 1 at zero, 0 from ``maximum`` on (VLM-RL's lane centring and heading factors).

    Args:
        key: name of the value in ``state``.
        maximum: magnitude at which the reward reaches 0.

    Raises:
        ValueError: unless ``maximum`` is positive.
    """

    range = (0.0, 1.0)

    def __init__(self, key: str, maximum: float) -> None:
        """Store where the reward ends."""
        super().__init__(key)
        self.maximum = _positive("maximum", maximum)

    def combine(self, terms: Terms) -> Tensor:
        """Fall linearly from 1 to 0."""
        return (1 - terms[self.key].abs() / self.maximum).clamp(min=0)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"key": self.key, "maximum": self.maximum}


class StateSteadiness(_StateReward):
    """``max(1 - std / maximum, 0)`` of a value over the last ``window`` frames (VLM-RL's stability factor).

    ``std`` is the population standard deviation over the frames of the episode that the window holds, so the first
    frame of an episode gives 1. The term ``"std"`` is that deviation.

    Args:
        key: name of the value in ``state``.
        maximum: deviation at which the reward reaches 0.
        window: number of frames looked at, the present one included.

    Raises:
        ValueError: unless ``maximum`` is positive and ``window`` at least 2.
    """

    range = (0.0, 1.0)

    def __init__(self, key: str, maximum: float, window: int) -> None:
        """Store the window and where the reward ends."""
        super().__init__(key)
        if window < 2:
            raise ValueError(f"window must be at least 2 frames to deviate over, got {window}.")
        self.maximum = _positive("maximum", maximum)
        self.window = int(window)

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The deviation as ``{"std": (B, T)}``."""
        values = super().terms(clips, goals, state)[self.key]
        spans = [values[:, max(t + 1 - self.window, 0) : t + 1] for t in range(values.shape[1])]
        return {"std": torch.stack([span.std(dim=1, correction=0) for span in spans], dim=1)}

    def combine(self, terms: Terms) -> Tensor:
        """Fall linearly from 1 to 0."""
        return (1 - terms["std"] / self.maximum).clamp(min=0)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"key": self.key, "maximum": self.maximum, "window": self.window}


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}.")
    return float(value)
