"""Reward arithmetic: sums, products, gates and targets built from other rewards.

VLM-RL's hierarchical synthesis (Huang et al. 2024, arXiv 2412.15544) lets the vision-language model set how fast the
car should go and lets state factors scale that. Here it is an expression::

    Product({
        "speed": TargetSpeed(ContrastiveGoalReward(encoder, clear, collided), key="speed", target=25),
        "centre": StateFalloff("centre_distance", maximum=3),
        "angle": StateFalloff("angle", maximum=90),
        "steady": StateSteadiness("centre_distance", maximum=0.4, window=10),
    })

A composed reward is a reward: its window, causality, range, state keys and gradients follow from its parts, every term
of a part is visible as ``"part/term"``, and parts that share an encoder share one call to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from itertools import product
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from vrm.encoders import Encoder
from vrm.errors import UnknownNameError
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, from_spec, supply_part, to_spec

Range = tuple[float, float]


class _Composite(RewardModel):
    """Asks each part for its terms and keeps them under the part's name; subclasses say how values become one."""

    def __init__(self, parts: Mapping[str, RewardModel]) -> None:
        super().__init__()
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one part, got none.")
        for name, part in parts.items():
            if not name or "/" in name:
                raise ValueError(f"A part's name must be non-empty and without '/', got {name!r}.")
            if not isinstance(part, RewardModel):
                raise TypeError(f"Part {name!r} must be a RewardModel, got {type(part).__name__}.")
        self.names = tuple(parts)
        self.parts = nn.ModuleList(parts.values())
        self.window = max(part.window for _, part in self._items())
        self.causal = all(part.causal for _, part in self._items())
        self.differentiable = any(part.differentiable for _, part in self._items())
        self.reads_pixels = any(part.reads_pixels for _, part in self._items())
        self.frame_side = max((part.frame_side or 0 for _, part in self._items()), default=0) or None
        self.takes_goals = any(part.takes_goals for _, part in self._items())
        clip = any(part.granularity == "clip" for _, part in self._items())
        self.granularity: Literal["frame", "clip"] = "clip" if clip else "frame"

    def _items(self) -> Iterator[tuple[str, RewardModel]]:
        for name, part in zip(self.names, self.parts, strict=True):
            assert isinstance(part, RewardModel)
            yield name, part

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Every value that some part reads."""
        return tuple(dict.fromkeys(key for _, part in self._items() for key in part.state_keys))

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Every part's terms as ``{"part/term": (B, T)}``."""
        check_call(clips, goals, state, self.state_keys)
        with self._one_call_per_encoder():
            return _prefixed(
                (name, part.terms(clips, self._goals_of(part, goals), state)) for name, part in self._items()
            )

    def latest(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The terms of the last frame; each part sees only as many frames as its own window."""
        check_call(clips, goals, state, self.state_keys)
        tails = {part.window: _tail(clips, part.window) for _, part in self._items()}
        states = {w: None if state is None else {k: _tail(v, w) for k, v in state.items()} for w in tails}
        found = []
        with self._one_call_per_encoder():
            for name, part in self._items():
                tail = tails[part.window]
                recent = (slice(None), slice(-tail.shape[1], None))
                with nullcontext() if tail is clips else supply_part(part, clips, tail, recent):
                    found.append((name, part.latest(tail, self._goals_of(part, goals), states[part.window])))
        return _prefixed(found)

    def dimensions(self, clips: Tensor, goals: Goals = None, state: State = None) -> dict[str, Tensor]:
        """Each part's own score ``(B,)`` under its name, and the dimensions of parts that are composed themselves."""
        check_call(clips, goals, state, self.state_keys)
        found: dict[str, Tensor] = {}
        with self._one_call_per_encoder():
            for name, part in self._items():
                own = self._goals_of(part, goals)
                found[name] = part.score(clips, own, state)
                if isinstance(part, _Composite):
                    found |= {f"{name}/{k}": v for k, v in part.dimensions(clips, own, state).items()}
        return found

    def _goals_of(self, part: RewardModel, goals: Goals) -> Goals:
        """Keep goals from parts that have their own; if no part takes any, the first will refuse them."""
        return goals if part.takes_goals or not self.takes_goals else None

    def _one_call_per_encoder(self) -> ExitStack:
        stack = ExitStack()
        for module in self.modules():
            if isinstance(module, Encoder):
                stack.enter_context(module.memoize())
        return stack

    def _values(self, terms: Terms) -> dict[str, Tensor]:
        """Each part's own reward, from the terms that carry its name."""
        return {
            name: part.combine({k.removeprefix(f"{name}/"): v for k, v in terms.items() if k.startswith(f"{name}/")})
            for name, part in self._items()
        }

    def config(self) -> dict[str, Any]:
        """The parts by class and config."""
        return {"parts": {name: to_spec(part) for name, part in self._items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build the parts, then the whole."""
        parts = {name: from_spec(spec, encoder) for name, spec in config["parts"].items()}
        return cls(**{**config, "parts": parts})


class Sum(_Composite):
    """Weighted sum of rewards.

    Args:
        parts: rewards by name.
        weights: factor by name; 1 where not given.

    Raises:
        ValueError: if there is no part or a weight is not finite.
        UnknownNameError: if a weight names no part.

    Example:
        >>> from vrm.rewards import StateValue
        >>> reward = Sum({"speed": StateValue("speed"), "effort": StateValue("torque")}, weights={"effort": -0.1})
        >>> state = {"speed": torch.tensor([[1.0, 2.0]]), "torque": torch.tensor([[0.0, 5.0]])}
        >>> reward(torch.zeros(1, 2, 3, 8, 8), state=state)
        tensor([[1.0000, 1.5000]])
    """

    def __init__(self, parts: Mapping[str, RewardModel], weights: Mapping[str, float] | None = None) -> None:
        """Fill in the weights and add up the ranges."""
        super().__init__(parts)
        weights = weights or {}
        for name, weight in weights.items():
            if name not in parts:
                raise UnknownNameError("part in weights", name, parts)
            if not math.isfinite(weight):
                raise ValueError(f"The weight of {name!r} must be finite, got {weight}.")
        self.weights = {name: float(weights.get(name, 1.0)) for name in parts}
        bounds = [_multiplied((self.weights[n],), part.range) for n, part in self._items()]
        self.range = (sum(low for low, _ in bounds), sum(high for _, high in bounds))

    def combine(self, terms: Terms) -> Tensor:
        """Add the weighted parts."""
        return self._weighted(self._values(terms))

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """Add the weighted scores ``(B,)`` of the parts, each scored in its own way."""
        found = self.dimensions(clips, goals, state)
        return self._weighted({name: found[name] for name in self.names})

    def _weighted(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in values.items()]).sum(dim=0)

    def config(self) -> dict[str, Any]:
        """Parts and weights."""
        return {**super().config(), "weights": self.weights}


class Product(_Composite):
    """Product of rewards: every part must be good for the whole to be good.

    Args:
        parts: rewards by name, usually with values in [0, 1].

    Raises:
        ValueError: if there is no part.
    """

    def __init__(self, parts: Mapping[str, RewardModel]) -> None:
        """Multiply the ranges."""
        super().__init__(parts)
        self.range = (1.0, 1.0)
        for _, part in self._items():
            self.range = _multiplied(self.range, part.range)

    def combine(self, terms: Terms) -> Tensor:
        """Multiply the parts."""
        return torch.stack(list(self._values(terms).values())).prod(dim=0)


class Gate(_Composite):
    """``reward`` where ``gate >= threshold``, ``otherwise`` elsewhere.

    VLM-RL keeps the environment's reward where it is a penalty:
    ``Gate(synthesis, gate=StateValue("env_reward"), threshold=0, otherwise=StateValue("env_reward"))``.

    Args:
        reward: what is paid while the gate is open.
        gate: what opens the gate; it passes no gradient.
        threshold: smallest value of ``gate`` that opens it.
        otherwise: what is paid while it is closed.
    """

    def __init__(
        self, reward: RewardModel, gate: RewardModel, threshold: float, otherwise: RewardModel | float = 0.0
    ) -> None:
        """Name the parts; the range spans both outcomes."""
        parts = {"reward": reward, "gate": gate}
        super().__init__({**parts, "otherwise": otherwise} if isinstance(otherwise, RewardModel) else parts)
        self.threshold = float(threshold)
        self.fallback = 0.0 if isinstance(otherwise, RewardModel) else float(otherwise)
        outcomes = [part for name, part in self._items() if name != "gate"]
        self.differentiable = any(part.differentiable for part in outcomes)
        spans = [part.range for part in outcomes]
        if "otherwise" not in self.names:
            spans.append((self.fallback, self.fallback))
        self.range = (min(low for low, _ in spans), max(high for _, high in spans))

    def combine(self, terms: Terms) -> Tensor:
        """Choose per frame."""
        values = self._values(terms)
        closed = values.get("otherwise", torch.full_like(values["reward"], self.fallback))
        return torch.where(values["gate"] >= self.threshold, values["reward"], closed)

    def config(self) -> dict[str, Any]:
        """Parts, threshold and the constant fallback."""
        return {**super().config(), "threshold": self.threshold, "otherwise": self.fallback}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build the parts, then the gate."""
        parts = {name: from_spec(spec, encoder) for name, spec in config["parts"].items()}
        return cls(**{"threshold": config["threshold"], "otherwise": config["otherwise"], **parts})


class TargetSpeed(_Composite):
    """``1 - |v - p * target| / target``: the semantic reward ``p`` sets how fast to go (VLM-RL's speed reward).

    Args:
        semantic: reward ``p`` in [0, 1]; 1 asks for the full target speed, 0 for a stop.
        key: name of the speed ``v`` in ``state``.
        target: the speed asked for when all is well, in the unit of ``v``.

    Raises:
        ValueError: unless ``target`` is positive.
    """

    def __init__(self, semantic: RewardModel, key: str, target: float) -> None:
        """Keep the semantic part and the target."""
        super().__init__({"semantic": semantic})
        if not target > 0:
            raise ValueError(f"target must be positive, got {target}.")
        self.key, self.target = key, float(target)
        self.range = (-math.inf, 1.0)

    @property
    def state_keys(self) -> tuple[str, ...]:
        """The speed and what the semantic part reads."""
        return tuple(dict.fromkeys((*super().state_keys, self.key)))

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The semantic part's terms and ``{"speed": (B, T)}``."""
        found = super().terms(clips, goals, state)
        assert state is not None  # checked with the parts' keys
        return {**found, "speed": state[self.key].to(clips.device, torch.float32)}

    def latest(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The same for the last frame."""
        found = super().latest(clips, goals, state)
        assert state is not None  # checked with the parts' keys
        return {**found, "speed": state[self.key][:, -1].to(clips.device, torch.float32)}

    def combine(self, terms: Terms) -> Tensor:
        """Compare the speed with the one asked for."""
        wanted = self._values(terms)["semantic"] * self.target
        return 1 - (terms["speed"] - wanted).abs() / self.target

    def config(self) -> dict[str, Any]:
        """The semantic part, the key and the target."""
        return {**super().config(), "key": self.key, "target": self.target}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build the semantic part, then the whole."""
        return cls(from_spec(config["parts"]["semantic"], encoder), config["key"], config["target"])


def _prefixed(found: Iterable[tuple[str, Terms]]) -> Terms:
    return {f"{name}/{term}": value for name, terms in found for term, value in terms.items()}


def _tail(values: Tensor, width: int) -> Tensor:
    """The last ``width`` frames; the same object if there are no more, so that encoders recognise it."""
    return values if values.shape[1] <= width else values[:, -width:]


def _multiplied(one: tuple[float, ...], other: Range) -> Range:
    """Bounds of a product of intervals, where nothing times infinity is nothing."""
    corners = [0.0 if 0.0 in (a, b) else a * b for a, b in product(one, other)]
    return min(corners), max(corners)
