"""Prompts that no caption contains: for every fact of a family, what means the same, and what must not score for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from vrm.errors import UnknownNameError

FOLDER = Path(__file__).parent / "heldout_phrases"
# A phrase that begins so is a remark of its own: "a robot arm, the claw is against the cube".
REMARKS = frozenset(("a", "all", "both", "each", "every", "its", "lots", "one", "the"))


@dataclass(frozen=True)
class HeldOutPrompts:
    """Whole prompts about one fact.

    Attributes:
        means: at least four ways to say the fact in words that no caption uses.
        near_misses: what is said of much the same, and is false where the fact is true.
    """

    means: tuple[str, ...]
    near_misses: tuple[str, ...]


@cache
def held_out_prompts(family: str, subject: str) -> dict[str, HeldOutPrompts]:
    """Read the prompts about every fact of a family, in the order of its captioner.

    Args:
        family: a name in :data:`vrm.envs.FAMILIES`.
        subject: what the prompts are to speak of, such as the captioner's first subject.

    Raises:
        UnknownNameError: if there are no phrases for the family.

    Example:
        >>> held_out_prompts("cartpole", "a pole on a cart")["upright"].means[0]
        'a pole on a cart straight as a candle'
    """
    path = FOLDER / f"{family}.yaml"
    if not path.is_file():
        raise UnknownNameError("family with held-out phrases", family, sorted(p.stem for p in FOLDER.glob("*.yaml")))
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        fact: HeldOutPrompts(*(tuple(prompt(subject, p) for p in entry[kind]) for kind in ("means", "near_misses")))
        for fact, entry in written.items()
    }


def prompt(subject: str, phrase: str) -> str:
    """Let a phrase follow its subject.

    Example:
        >>> prompt("a robot arm", "its elbow bent"), prompt("a car", "in the trough")
        ('a robot arm, its elbow bent', 'a car in the trough')
    """
    return f"{subject}{',' if phrase.split()[0] in REMARKS else ''} {phrase}"
