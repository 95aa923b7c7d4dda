"""Which of two pieces of behaviour is better: both orders are asked, and where they contradict there is no preference.

The two-question form is that of RL-VLM-F (Wang et al. 2024, arXiv 2402.03681, section 4.1): the judge first describes
both and the difference with respect to the goal, then concludes from its own description, without images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vrm.judges.base import Meaning, Question
from vrm.judges.runner import JudgeRunner
from vrm.judges.shown import as_pictures, check_goals

Form = Literal["two", "one"]
CHOICES = ("1", "2", "0")
FLOOR = 1e-6  # of probabilities before their logarithm; an answer in words gives the others 0
CONCLUDE = (
    "Which one achieves the goal better? Answer with one digit only: 1 if the first does, 2 if the second does, 0 if "
    "there is no difference or it cannot be told."
)


@dataclass(frozen=True)
class Preferences:
    """What a judge said about pairs.

    Attributes:
        probabilities: ``(N, 3)`` that the first is better, the second, neither; both orders combined.
        forward: ``(N, 3)`` the same as answered with the first shown first.
        backward: ``(N, 3)`` as answered with the second shown first, read back so that columns mean the same; None if
            not asked.
        agree: ``(N,)`` bool, whether both orders have the same most likely answer; True if only one was asked, False
            where there was no answer.
    """

    probabilities: Tensor
    forward: Tensor
    backward: Tensor | None
    agree: Tensor

    @property
    def label(self) -> Tensor:
        """How likely the first is preferred ``(N,)``: 0.5 where the orders contradict, NaN where there is no answer."""
        soft = 0.5 + (self.probabilities[:, 0] - self.probabilities[:, 1]) / 2
        return torch.where(self.agree | soft.isnan(), soft, torch.full_like(soft, 0.5))

    @property
    def verdict(self) -> Tensor:
        """The most likely answer ``(N,)``: 1 for the first, 0 for the second, 0.5 for neither or contradiction."""
        hard = torch.where(self.agree, (1 + _decided(self.probabilities)) / 2, 0.5)
        return torch.where(self.probabilities.isnan().any(dim=1), torch.full_like(hard, float("nan")), hard)

    @property
    def agreement(self) -> float:
        """Share of the answered pairs whose orders agree; NaN if there are none."""
        answered = ~self.probabilities.isnan().any(dim=1)
        return float(self.agree[answered].float().mean()) if bool(answered.any()) else float("nan")


def prefer(
    runner: JudgeRunner, first: Tensor, second: Tensor, goals: Sequence[str], form: Form = "two", swap: bool = True
) -> Preferences:
    """Ask which of each pair achieves its goal better.

    Args:
        runner: who answers.
        first: ``(N, K, 3, H, W)`` frames shown of the first of each pair, uint8 or float in [0, 1].
        second: ``(N, K, 3, H, W)`` of the second.
        goals: one sentence per pair.
        form: ``"two"`` questions, describe and conclude, or ``"one"``.
        swap: whether the other order is asked too.

    Returns:
        Their preferences. The orders are combined as the normalised geometric mean, so that what a judge adds to the
        logit of whatever it sees first cancels exactly.

    Raises:
        FrameError: if frames break the layout.
        ValueError: if the sides have different shapes, or ``form`` is unknown.
        JudgeError: as :meth:`JudgeRunner.ask`.
    """
    if form not in get_args(Form) or first.shape != second.shape:
        raise ValueError(
            f"prefer() needs form 'two' or 'one' and sides of one shape, got {form!r}, {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )
    goals = check_goals(goals, len(first))
    sides = list(zip(as_pictures(first), as_pictures(second), goals, strict=True))
    shown = sides + [(b, a, goal) for a, b, goal in sides] if swap else sides
    answers = _two_questions(runner, shown) if form == "two" else _one_question(runner, shown)
    forward = answers[: len(sides)]
    if not swap:
        return Preferences(forward, forward, None, ~forward.isnan().any(dim=1))
    backward = answers[len(sides) :][:, [1, 0, 2]]
    return Preferences(combine_orders(forward, backward), forward, backward, _same_verdict(forward, backward))


def combine_orders(forward: Tensor, backward: Tensor) -> Tensor:
    """Normalised geometric mean ``(N, 3)`` of what both orders say about a pair, columns meaning the same.

    Example:
        >>> bias = torch.tensor([[0.7, 0.2, 0.1]])  # whatever it shows: the one seen first
        >>> combine_orders(bias, bias[:, [1, 0, 2]])[0, :2].diff().item()
        0.0
    """
    logs = (forward.clamp(min=FLOOR).log() + backward.clamp(min=FLOOR).log()) / 2
    return logs.softmax(dim=1)


def _same_verdict(forward: Tensor, backward: Tensor) -> Tensor:
    answered = ~(forward.isnan() | backward.isnan()).any(dim=1)
    return (_decided(forward) == _decided(backward)) & answered


def _decided(probabilities: Tensor) -> Tensor:
    """1 for the first, -1 for the second, 0 where neither is likelier than the other and than no difference."""
    first, second, neither = probabilities.nan_to_num().unbind(dim=1)
    return torch.where(neither >= torch.maximum(first, second), 0.0, torch.sign(first - second))


def _one_question(runner: JudgeRunner, shown: Sequence[tuple[Tensor, Tensor, str]]) -> Tensor:
    return runner.choose(
        [
            Question((*_images(a, b), f"The goal is: {goal}.\n{CONCLUDE}"), CHOICES, Meaning("prefer", goal))
            for a, b, goal in shown
        ]
    )


def _two_questions(runner: JudgeRunner, shown: Sequence[tuple[Tensor, Tensor, str]]) -> Tensor:
    described = runner.write(
        [
            Question((*_images(a, b), _describe(goal, len(a))), meaning=Meaning("describe", goal))
            for a, b, goal in shown
        ],
        lambda text, _: text.strip() or None,
    )
    found = torch.full((len(shown), len(CHOICES)), float("nan"))
    known = [i for i, text in enumerate(described) if text is not None]
    if known:
        concluding = [(shown[i][2], described[i]) for i in known]
        found[known] = runner.choose(
            [
                Question((f"{text}\n\nThe goal is: {goal}.\n{CONCLUDE}",), CHOICES, Meaning("conclude", goal))
                for goal, text in concluding
            ]
        )
    return found


def _describe(goal: str, count: int) -> str:
    what = "image" if count == 1 else "sequence"
    return (
        f"1. What does the first {what} show? 2. What does the second {what} show? 3. The goal is: {goal}. Is there a "
        "difference between the two in how well the goal is achieved, and which one achieves it better?"
    )


def _images(first: Tensor, second: Tensor) -> tuple[str | Tensor, ...]:
    what = "image" if len(first) == 1 else "sequence of images, in order of time"
    return (f"The first {what}:", *first, f"The second {what}:", *second)
