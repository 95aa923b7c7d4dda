"""Captions written from simulator state: named facts with graded truth, phrases for each, and a small grammar.

A captioner for a new environment is a tuple of :class:`Fact` and the words for its subject. A caption is a text and
the clauses it asserts, so its truth is known for every frame of every environment, not only for the one it was
written for: ``min`` over its clauses (Goedel conjunction), ``1 - truth`` for a negated one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

State = TypeVar("State")
Truths = NDArray[np.float32]


@dataclass(frozen=True)
class Fact(Generic[State]):
    """Something that may be true of a state.

    Attributes:
        name: short identifier.
        truth: maps a state to its graded truth in [0, 1].
        phrases: ways to say it that may follow the subject: "kneeling", "on both knees".
        details: ways to say it that may follow another phrase: "with both arms raised"; empty if there are none.
    """

    name: str
    truth: Callable[[State], float]
    phrases: tuple[str, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caption:
    """A text and what it asserts: pairs of fact index and whether it is affirmed."""

    text: str
    clauses: tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Captioner(Generic[State]):
    """Writes captions for one environment family.

    Attributes:
        subjects: noun phrases for what is seen.
        facts: everything that can be said about it.
        likely: the chance that a composed caption adds a second clause, and that a clause is negated.
    """

    subjects: tuple[str, ...]
    facts: tuple[Fact[State], ...]
    likely: tuple[float, float] = (0.45, 0.15)

    def truths(self, state: State) -> Truths:
        """Graded truth ``(K,)`` of every fact in ``state``."""
        return np.array([fact.truth(state) for fact in self.facts], dtype=np.float32)

    def compose(self, rng: np.random.Generator, weights: Truths | None = None) -> Caption:
        """Write a random caption.

        Args:
            rng: source of randomness.
            weights: truths ``(K,)`` of a state to describe; only facts on their true side are asserted. Without it,
                any combination may come out, true of nothing in particular.
        """
        if rng.random() < 0.04:
            return Caption(str(rng.choice(self.subjects)), ())
        clauses = [self._clause(rng, weights, set())]
        if rng.random() < self.likely[0]:
            clauses.append(self._clause(rng, weights, {clauses[0][0]}))
        return Caption(self._say(rng, clauses), tuple(clauses))

    def _clause(self, rng: np.random.Generator, weights: Truths | None, used: set[int]) -> tuple[int, bool]:
        affirm = bool(rng.random() >= self.likely[1])
        chance = np.ones(len(self.facts)) if weights is None else (weights if affirm else 1 - weights).astype(float)
        chance = np.where(chance > 0.5, chance, 0.0)
        chance[list(used)] = 0
        if not chance.any():
            chance, affirm = np.where(np.isin(np.arange(len(chance)), list(used)), 0.0, 1.0), not affirm
        return int(rng.choice(len(chance), p=chance / chance.sum())), affirm

    def _say(self, rng: np.random.Generator, clauses: Sequence[tuple[int, bool]]) -> str:
        subject = str(rng.choice(self.subjects))
        (first, affirm), rest = clauses[0], clauses[1:]
        head = str(rng.choice(self.facts[first].phrases))
        text = f"{subject} {head}" if affirm else f"{subject} {deny(rng, head)}"
        for index, affirmed in rest:
            text += self._add(rng, index, affirmed)
        return text.removeprefix(f"{subject} ") if affirm and rng.random() < 0.15 else text

    def _add(self, rng: np.random.Generator, index: int, affirmed: bool) -> str:
        fact = self.facts[index]
        if not affirmed:
            return f"{rng.choice((' but', ' and', ','))} {deny(rng, str(rng.choice(fact.phrases)))}"
        if fact.details and rng.random() < 0.7:
            return f"{rng.choice(('', ','))} {rng.choice(fact.details)}"
        return f"{rng.choice((' and', ',', ' while'))} {rng.choice(fact.phrases)}"


def deny(rng: np.random.Generator, phrase: str) -> str:
    """Negate a phrase: "not kneeling", "without its arms crossed"."""
    if phrase.startswith("with "):
        return f"without {phrase.removeprefix('with ')}"
    if phrase.startswith(("that ", "whose ", "which ")):
        return f"not one {phrase}"
    return f"{rng.choice(('not', 'not', 'that is not'))} {phrase}"


def caption_truth(truths: Truths, captions: Sequence[Caption]) -> Truths:
    """Truth ``(N, M)`` of every caption for every state, given fact truths ``(N, K)`` of one environment family."""
    signed = np.concatenate([truths, 1 - truths, np.ones_like(truths[:, :1])], axis=1)
    k = truths.shape[1]
    columns = [[i if affirm else k + i for i, affirm in c.clauses] for c in captions]
    width = max((len(c) for c in columns), default=0)
    padded = np.array([c + [2 * k] * (width + 1 - len(c)) for c in columns], dtype=np.intp).reshape(-1, width + 1)
    truth: Truths = signed[:, padded].min(axis=2)
    return truth


def rise(value: float, start: float, end: float) -> float:
    """Graded threshold: 0 at ``start``, 1 at ``end``, linear between; ``end < start`` makes it fall."""
    return float(np.clip((value - start) / (end - start), 0, 1))
