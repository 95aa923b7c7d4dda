"""Numbers about one piece of behaviour: does it show the goal, how well, and by which criteria.

All are expectations over the judge's probabilities, not sampled words, where the judge gives probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vrm.judges.base import Meaning, Question
from vrm.judges.runner import JudgeRunner
from vrm.judges.shown import as_pictures, check_goals

Claim = Literal["question", "statement"]
CLAIMS = {
    "question": ("Do the images show this: {goal}? Answer with one word, yes or no.", ("yes", "no")),
    "statement": (
        "The images show this: {goal}. Decide whether the statement is true. Answer with one word, True or False.",
        ("True", "False"),
    ),
}


@dataclass(frozen=True)
class Criterion:
    """One question of a rubric.

    Attributes:
        name: what its score is called.
        statement: what the images should show, "both knees on the floor".
        weight: its share in the total, relative to the others; positive.
    """

    name: str
    statement: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check that nothing is empty.

        Raises:
            ValueError: if the name or statement is empty or the weight not positive.
        """
        if not self.name.strip() or not self.statement.strip() or not self.weight > 0:
            raise ValueError(f"A criterion needs a name, a statement and a positive weight, got {self}.")


@dataclass(frozen=True)
class RubricScores:
    """What a rubric gave.

    Attributes:
        total: ``(N,)`` weighted mean of the criteria in [0, 1]; NaN where one has no answer.
        criteria: every criterion's probability ``(N,)`` by name.
    """

    total: Tensor
    criteria: Mapping[str, Tensor]


def holds(runner: JudgeRunner, clips: Tensor, goals: Sequence[str], claim: Claim = "question") -> Tensor:
    """Probability that clips show their goals: that of the affirming word, of affirming and denying together.

    Args:
        runner: who answers.
        clips: ``(N, K, 3, H, W)`` frames shown of each, uint8 or float in [0, 1].
        goals: one sentence per clip.
        claim: a ``"question"`` to be answered yes or no (RewardDance, Wu et al. 2025, arXiv 2509.08826), or a
            ``"statement"`` that is True or False (TOPReward, arXiv 2602.19313).

    Returns:
        ``(N,)`` float32 in [0, 1]; NaN where there is no answer.

    Raises:
        FrameError, PromptError: if frames or goals cannot be shown.
        JudgeError: as :meth:`JudgeRunner.ask`.
    """
    return runner.choose(claim_questions(clips, goals, claim))[:, 0]


def log_true(runner: JudgeRunner, clips: Tensor, goals: Sequence[str]) -> Tensor:
    """TOPReward's ``log p(True | frames, statement)`` (arXiv 2602.19313), of all words the judge could say.

    As published the model is prompted without chat template, which here it has.

    Args:
        runner: who answers.
        clips: ``(N, K, 3, H, W)`` frames shown of each, in order of time: the episode so far.
        goals: one sentence per clip.

    Returns:
        ``(N,)`` float32 in [-20.7, 0]; NaN where the judge gives no token probabilities.

    Raises:
        As :func:`holds`.
    """
    replies = runner.ask(claim_questions(clips, goals, "statement"))
    spoken = [
        float("nan") if r.probabilities is None or r.mass is None else r.probabilities[0] * r.mass for r in replies
    ]
    return torch.tensor(spoken, dtype=torch.float32).clamp(1e-9, 1).log()


def claim_questions(clips: Tensor, goals: Sequence[str], claim: Claim) -> list[Question]:
    """The questions that :func:`holds` asks, to look at or to ask in another way.

    Raises:
        As :func:`holds`; ValueError if ``claim`` is unknown.
    """
    if claim not in get_args(Claim):
        raise ValueError(f"claim must be one of {', '.join(get_args(Claim))}, got {claim!r}.")
    text, choices = CLAIMS[claim]
    return [
        Question((*_intro(clip), text.format(goal=goal)), choices, Meaning("holds", goal))
        for clip, goal in zip(as_pictures(clips), check_goals(goals, len(clips)), strict=True)
    ]


def rate(runner: JudgeRunner, clips: Tensor, goals: Sequence[str], levels: int = 5) -> Tensor:
    """Rating as its expectation over the rating tokens.

    Args:
        runner: who answers.
        clips: ``(N, K, 3, H, W)`` frames shown of each.
        goals: one sentence per clip.
        levels: ratings go from 1 to this, at most 9, so that each is one token everywhere; five as in RoboReward
            (arXiv 2601.00675).

    Returns:
        ``(N,)`` float32 in [1, levels]; NaN where there is no answer.

    Raises:
        As :func:`holds`; ValueError if ``levels`` is outside [2, 9].
    """
    if not 2 <= levels <= 9:
        raise ValueError(f"levels must lie in [2, 9], got {levels}.")
    choices = tuple(str(i) for i in range(1, levels + 1))
    text = (
        "The goal is: {goal}. How well do the images show that it is achieved? Answer with one digit only, from 1, not "
        f"at all, to {levels}, completely."
    )
    questions = [
        Question((*_intro(clip), text.format(goal=goal)), choices, Meaning("rate", goal))
        for clip, goal in zip(as_pictures(clips), check_goals(goals, len(clips)), strict=True)
    ]
    return runner.choose(questions) @ torch.arange(1.0, levels + 1)


def judge_by(
    runner: JudgeRunner, clips: Tensor, criteria: Sequence[Criterion], goals: Sequence[str] | None = None
) -> RubricScores:
    """Ask every criterion of every clip, one question each.

    Args:
        runner: who answers.
        clips: ``(N, K, 3, H, W)`` frames shown of each.
        criteria: what to look for.
        goals: one sentence per clip that says what the whole is about, as context; None for none.

    Raises:
        As :func:`holds`; ValueError if there are no criteria or two of one name.
    """
    names = [criterion.name for criterion in criteria]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"A rubric needs one or more criteria of different names, got {names}.")
    about = [""] * len(clips) if goals is None else [f"The goal is: {g}. " for g in check_goals(goals, len(clips))]
    text, choices = CLAIMS["question"]
    questions = [
        Question((*_intro(clip), context + text.format(goal=c.statement)), choices, Meaning("holds", c.statement))
        for c in criteria
        for clip, context in zip(as_pictures(clips), about, strict=True)
    ]
    scores = runner.choose(questions)[:, 0].reshape(len(criteria), len(clips))
    return RubricScores(weighted_mean(scores, criteria), dict(zip(names, scores, strict=True)))


def weighted_mean(scores: Tensor, criteria: Sequence[Criterion]) -> Tensor:
    """The total ``(...)`` of criteria's scores ``(C, ...)``."""
    weights = torch.tensor([criterion.weight for criterion in criteria], device=scores.device)
    total: Tensor = torch.tensordot(weights / weights.sum(), scores, dims=1)
    return total


def _intro(clip: Tensor) -> tuple[str | Tensor, ...]:
    return ("The image:" if len(clip) == 1 else "Images in order of time:", *clip)
