"""What is made of one reward: its change from frame to frame, as shaping or as progress; its scale; its limits.

With a potential ``Phi``, any causal reward, and ``x_t`` the frames up to ``t``::

    PotentialShaping   r_t = gamma * Phi(x_t) * (1 - terminated_t) - Phi(x_{t-1})
    Difference         r_t = Phi(x_t) - Phi(x_{t-1})

Discounted shaping rewards of an episode of ``H`` steps sum to ``-Phi(x_0)`` if it terminates and to
``gamma^H Phi(x_H) - Phi(x_0)`` if a time limit cuts it, whatever the agent did, so they speed learning up or slow it
down but leave the best policy as it is (Ng, Harada and Russell 1999). That holds for the learner's own ``gamma`` only,
and only if the last potential counts for nothing where an episode truly ends: kept there, it would reward or punish
ending early. A time limit is no end; there it stays.

``Difference`` is what VIP (Ma et al. 2022, arXiv 2210.00030) pays: ``V' - V = (gamma V' - V) + (1 - gamma) V'``, so it
is the state reward ``(1 - gamma) V'`` up to shaping.
"""

from __future__ import annotations

import math
import sys
import warnings
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from vrm.rewards.base import TERMINATED, Encoders, Goals, RewardModel, State, Terms, check_call, from_spec, to_spec

PART = "potential/"
BEFORE, FACTOR = "before", "factor"


class _Change(RewardModel):
    """``scale * (factor_t * Phi(x_t) - Phi(x_{t-1}))``, 0 at the first frame; subclasses say what the factor is."""

    def __init__(self, potential: RewardModel, scale: float) -> None:
        super().__init__()
        if not potential.causal:
            raise ValueError(
                f"{type(potential).__name__} needs frames from the future, so it has no value before an episode's end "
                f"that {type(self).__name__} could compare; use a causal reward."
            )
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be positive and finite, got {scale}.")
        self.potential = potential
        self.scale = float(scale)
        self.window = min(potential.window + 1, sys.maxsize)
        self.granularity = potential.granularity
        self.differentiable = potential.differentiable
        self.reads_pixels, self.frame_side = potential.reads_pixels, potential.frame_side
        self.takes_goals = potential.takes_goals

    @property
    def state_keys(self) -> tuple[str, ...]:
        """What the potential reads."""
        return self.potential.state_keys

    @abstractmethod
    def _factor(self, values: Tensor, state: State) -> Tensor:
        """What ``Phi(x_t)`` is multiplied by, ``(B, T)`` like ``values``."""

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The potential's own terms as ``"potential/<term>"``, the ``"factor"`` of it, and its value ``"before"``.

        At the first frame, which no step leads to, ``"before"`` is what makes the reward 0.
        """
        check_call(clips, goals, state, self.state_keys)
        found = self.potential.terms(clips, goals, state)
        values = self.potential.combine(found)
        factor = self._factor(values, state)
        before = torch.cat([(factor * values)[:, :1], values[:, :-1]], dim=1)
        return {**{f"{PART}{name}": term for name, term in found.items()}, FACTOR: factor, BEFORE: before}

    def combine(self, terms: Terms) -> Tensor:
        """Subtract the value before from the discounted value now."""
        found = {name.removeprefix(PART): term for name, term in terms.items() if name.startswith(PART)}
        return self.scale * (terms[FACTOR] * self.potential.combine(found) - terms[BEFORE])

    def config(self) -> dict[str, Any]:
        """The potential by class and config, and the scale."""
        return {"potential": to_spec(self.potential), "scale": self.scale}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build the potential, then the whole."""
        return cls(**{**config, "potential": from_spec(config["potential"], encoder)})


class PotentialShaping(_Change):
    """``scale * (gamma * Phi(x_t) * (1 - terminated_t) - Phi(x_{t-1}))``: guidance that leaves the best policy alone.

    Add it to the reward that defines the task, ``Sum({"task": ..., "guide": PotentialShaping(progress, gamma=0.99)})``.
    Every wrapper fills the state ``"terminated"`` from its steps' flags, with 0 for time limits; in a call of the
    reward itself it is 0 everywhere unless ``state`` gives it.

    Args:
        potential: any causal reward; the nearer the goal, the higher.
        gamma: discount in (0, 1], the same as the learner's.
        scale: factor of the whole, positive.

    Raises:
        ValueError: if ``potential`` needs the future, ``gamma`` is outside (0, 1] or ``scale`` is not positive.

    Example:
        >>> from vrm.rewards import StateValue
        >>> reward = PotentialShaping(StateValue("height"), gamma=0.5)
        >>> state = {"height": torch.tensor([[1.0, 4.0, 6.0]]), "terminated": torch.tensor([[0.0, 0.0, 1.0]])}
        >>> reward(torch.zeros(1, 3, 3, 8, 8), state=state)
        tensor([[ 0.,  1., -4.]])
    """

    def __init__(self, potential: RewardModel, gamma: float, scale: float = 1.0) -> None:
        """Keep the discount; the range includes the 0 of a terminal potential."""
        super().__init__(potential, scale)
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {gamma}.")
        self.gamma = float(gamma)
        low, high = potential.range
        ends = (scale * (min(gamma * low, 0.0) - high), scale * (max(gamma * high, 0.0) - low))
        self.range = (min(ends[0], 0.0), max(ends[1], 0.0))

    @property
    def state_keys(self) -> tuple[str, ...]:
        """What the potential reads, and ``"terminated"``."""
        return tuple(dict.fromkeys((*super().state_keys, TERMINATED)))

    def _factor(self, values: Tensor, state: State) -> Tensor:
        if state is None or TERMINATED not in state:
            return torch.full_like(values, self.gamma)
        return self.gamma * (1 - state[TERMINATED].to(values.device, values.dtype))

    def config(self) -> dict[str, Any]:
        """The potential, the discount and the scale."""
        return {**super().config(), "gamma": self.gamma}


class Difference(_Change):
    """``scale * (Phi(x_t) - Phi(x_{t-1}))``: pays for progress; over an episode, for how far it came.

    It is paid in full at terminal states too, so it is a task of its own, not shaping: undiscounted, an episode earns
    ``Phi(x_H) - Phi(x_0)``. Values are never clipped: whoever clips differences pays for going back and forth.

    Args:
        potential: any causal reward; the nearer the goal, the higher.
        scale: factor of the whole, positive.

    Raises:
        ValueError: if ``potential`` needs the future or ``scale`` is not positive.

    Example:
        >>> from vrm.rewards import StateValue
        >>> reward = Difference(StateValue("height"))
        >>> reward(torch.zeros(1, 3, 3, 8, 8), state={"height": torch.tensor([[1.0, 4.0, 6.0]])})
        tensor([[0., 3., 2.]])
    """

    def __init__(self, potential: RewardModel, scale: float = 1.0) -> None:
        """The range is that of two values' difference."""
        super().__init__(potential, scale)
        low, high = potential.range
        self.range = (scale * (low - high), scale * (high - low))

    def _factor(self, values: Tensor, state: State) -> Tensor:
        return torch.ones_like(values)


class _Elementwise(RewardModel):
    """A function of the value of ``reward`` at each frame; its terms are that reward's own."""

    def __init__(self, reward: RewardModel) -> None:
        super().__init__()
        self.reward = reward
        self.window, self.causal, self.granularity = reward.window, reward.causal, reward.granularity
        self.differentiable, self.reads_pixels = reward.differentiable, reward.reads_pixels
        self.takes_goals, self.frame_side = reward.takes_goals, reward.frame_side

    @property
    def state_keys(self) -> tuple[str, ...]:
        """What the reward reads."""
        return self.reward.state_keys

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The reward's own terms."""
        return self.reward.terms(clips, goals, state)

    def latest(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The reward's own terms of the last frame."""
        return self.reward.latest(clips, goals, state)

    def config(self) -> dict[str, Any]:
        """The reward by class and config."""
        return {"reward": to_spec(self.reward)}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build the reward, then the whole."""
        return cls(**{**config, "reward": from_spec(config["reward"], encoder)})


class Standardise(_Elementwise):
    """A reward divided by its root mean square over clips of varied behaviour, so that its size suits the learner.

    Dividing leaves every comparison of episodes as it is. Centring does not where episodes differ in length: a constant
    added to each step pays for staying or for ending, so it is off unless asked for, and then warned of.

    Args:
        reward: what is scaled; as it is until :meth:`calibrate`.
        centre: whether its mean is subtracted first, and the divisor is the standard deviation.

    Example:
        >>> from vrm.rewards import StateValue
        >>> state = {"x": torch.tensor([[0.0, 3.0, -3.0]])}
        >>> reward = Standardise(StateValue("x")).calibrate(torch.zeros(1, 3, 3, 8, 8), state)
        >>> reward(torch.zeros(1, 3, 3, 8, 8), state=state)
        tensor([[ 0.,  1., -1.]])
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, reward: RewardModel, centre: bool = False) -> None:
        """Change nothing before calibration."""
        super().__init__(reward)
        self.centre = centre
        self.register_buffer("factor", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def combine(self, terms: Terms) -> Tensor:
        """Shift and scale the reward."""
        values = self.reward.combine(terms)
        return (values - self.shift.to(values.device)) * self.factor.to(values.device)

    @torch.no_grad()
    def calibrate(self, clips: Tensor, state: State = None) -> Self:
        """Measure the reward's size over all frames but the first of ``clips``; saved with the reward.

        Args:
            clips: ``(B, T, 3, H, W)`` clips of varied behaviour, such as random rollouts; ``T`` at least 2.
            state: per-frame values that the reward reads.

        Returns:
            This reward.

        Raises:
            ValueError: if clips are of one frame, which is never paid, or the reward is constant over them.
        """
        if clips.shape[1] < 2:
            raise ValueError(
                f"Calibration needs clips of at least 2 frames, the first is never paid; got {clips.shape[1]}."
            )
        values = self.reward(clips, state=state)[:, 1:].double()
        mean = values.mean() if self.centre else torch.zeros_like(values.mean())
        size = float((values - mean).square().mean().sqrt())
        if not size > 1e-6:
            raise ValueError(
                f"Calibration clips give a constant reward (size {size:.3g}); use clips of varied behaviour."
            )
        if self.centre:
            warnings.warn(
                "Standardise(centre=True) changes what longer episodes are worth; where episodes differ in length, "
                "use centre=False.",
                stacklevel=2,
            )
        self.factor.fill_(1 / size)
        self.shift.fill_(float(mean))
        return self

    def config(self) -> dict[str, Any]:
        """The reward and whether it is centred."""
        return {**super().config(), "centre": self.centre}


class Clip(_Elementwise):
    """A reward cut to ``[low, high]``, against outliers; refused for differences.

    Args:
        reward: what is cut.
        low: smallest value paid.
        high: largest value paid.

    Raises:
        ValueError: unless ``low < high`` are finite, or if ``reward`` holds a difference of values: those sum up to
            what an episode is worth, and cut ones do not.

    Example:
        >>> from vrm.rewards import StateValue
        >>> Clip(StateValue("x"), -1, 1)(torch.zeros(1, 2, 3, 8, 8), state={"x": torch.tensor([[-3.0, 0.5]])})
        tensor([[-1.0000,  0.5000]])
    """

    def __init__(self, reward: RewardModel, low: float, high: float) -> None:
        """Check that cutting does no harm."""
        super().__init__(reward)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"Clip needs finite low < high, got low={low} and high={high}.")
        if changes := [module for module in reward.modules() if isinstance(module, _Change)]:
            raise ValueError(
                f"Clip would destroy what {type(changes[0]).__name__} is for, because clipped differences no longer "
                "add up to a difference of potentials; clip the potential instead."
            )
        self.low, self.high = float(low), float(high)
        self.range = (max(low, min(reward.range[0], high)), min(high, max(reward.range[1], low)))

    def combine(self, terms: Terms) -> Tensor:
        """Cut the reward."""
        return self.reward.combine(terms).clamp(self.low, self.high)

    def config(self) -> dict[str, Any]:
        """The reward and the bounds."""
        return {**super().config(), "low": self.low, "high": self.high}
