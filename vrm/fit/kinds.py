"""The kinds of rewards that demonstrations make, and their options as somebody types them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vrm.errors import UnknownNameError, VrmError
from vrm.fit.held_out import Fit
from vrm.rewards.critic import ProgressCritic
from vrm.rewards.discriminator import Rank2Reward
from vrm.rewards.goal_image import GoalImageReward
from vrm.rewards.matching import MatchingReward
from vrm.rewards.perceptual import PerceptualReward
from vrm.rewards.progress import ProgressReward, objective_options
from vrm.rewards.rewind import RewindReward
from vrm.rewards.time_objectives import OBJECTIVES

KINDS: dict[str, Any] = {
    "perceptual": PerceptualReward,
    "matching": MatchingReward,
    "progress": ProgressReward,
    "rank2reward": Rank2Reward,
    "rewind": RewindReward,
    "critic": ProgressCritic,
    "goal_image": GoalImageReward,
}
GIVEN_ELSEWHERE = ("encoder", "demos", "seed", "options", "return")
SAID = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "null"}


class OptionError(VrmError, ValueError):
    """An option that a kind of reward cannot have."""


def check_kind(name: str) -> str:
    """Return ``name`` if there is such a kind.

    Raises:
        UnknownNameError: if not.
    """
    if name not in KINDS:
        raise UnknownNameError("kind of reward", name, KINDS)
    return name


def defaults(kind: str) -> dict[str, Any]:
    """Options of a kind with their defaults; those of single objectives are not among them.

    Example:
        >>> defaults("goal_image")
        {'metric': 'cosine'}
    """
    parameters = inspect.signature(KINDS[kind].fit).parameters
    return {name: p.default for name, p in parameters.items() if name not in GIVEN_ELSEWHERE}


def parse_options(kind: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` options, values as YAML, and check their names and types; their range is the reward's affair.

    Args:
        kind: one of :data:`KINDS`.
        arguments: such as ``"steps=4"`` or ``"matcher={name: sinkhorn, eps: 0.02}"``.

    Raises:
        UnknownNameError: if the kind has no such option.
        OptionError: if a value is malformed or of another type, or an option is given twice.

    Example:
        >>> parse_options("progress", ["objective=tcc", "lr=1e-3", "hidden=[64, 64]"])
        {'objective': 'tcc', 'lr': 0.001, 'hidden': [64, 64]}
    """
    hints, options = _hints(kind), dict[str, Any]()
    for argument in arguments:
        name = argument.partition("=")[0]
        if name not in hints:
            raise UnknownNameError(f"option of {kind}", name, hints)
        if name in options:
            raise OptionError(f"Option {name!r} of {kind} is given twice; give it once.")
        options[name] = _value(argument)
        if not _suits(options[name], hints[name]):
            raise OptionError(f"Option {name!r} of {kind} must be {_said(hints[name])}, got {options[name]!r}.")
    return options


def make_fit(kind: str, options: Mapping[str, Any]) -> Fit:
    """The kind's ``fit`` with these options."""
    fit: Fit = partial(KINDS[kind].fit, **options)
    return fit


def _hints(kind: str) -> dict[str, Any]:
    """Types of all options by name, those of objectives included."""
    hints = dict[str, Any]()
    if kind == "progress":
        for objective, loss in OBJECTIVES.items():
            known = get_type_hints(loss)
            hints |= {name: known[name] for name in objective_options(objective)}
    own = get_type_hints(KINDS[kind].fit)
    return hints | {name: hint for name, hint in own.items() if name not in GIVEN_ELSEWHERE}


def _value(argument: str) -> Any:
    try:
        (value,) = OmegaConf.to_container(OmegaConf.from_dotlist([argument]), resolve=False).values()  # type: ignore[union-attr]
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise OptionError(f"Option {argument!r} is malformed ({_first_line(error)}); put texts in quotes.") from error
    return value


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _suits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML is of a type; words of a ``Literal`` are left to the reward, which suggests one."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_suits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) for one in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list) and all(_suits(one, inner[0]) for one in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _said(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_said, inner))))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner)) if len(inner) > 1 else repr(inner[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping such as {name: ..., option: ...}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {_said(inner[0])}"
    return SAID.get(hint, "")
