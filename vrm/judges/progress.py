"""How far along the frames of an episode are: all at once in random order, or pair by pair with a sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vrm.judges.base import Meaning, Question
from vrm.judges.parse import parse_percentages, parse_signed_percentage
from vrm.judges.runner import JudgeRunner
from vrm.judges.shown import as_pictures, check_goals, spread_indices
from vrm.metrics.correlation import value_order_correlation
from vrm.rewards.critic import Composition, compose_progress

ChangeForm = Literal["scale", "number"]
SCALE = tuple("123456789")
SAME = 0.01  # VLAC: frames that differ by less than 1 % of the pixel range show no progress


@dataclass(frozen=True)
class Progress:
    """How far along an episode is at some of its frames.

    Attributes:
        indices: ``(K,)`` int64 which frames, in order of time; the first is frame 0.
        values: ``(K,)`` float32 share of the task done, in [0, 1], 0 at the first; NaN where the judge gave no answer.
        order: value order correlation (VOC) in [-1, 1] of the values after the first, or of all where each is composed
            from the one before; NaN without answer or if they are all equal.
    """

    indices: Tensor
    values: Tensor
    order: float


@dataclass(frozen=True)
class Changes:
    """Signed progress of pairs.

    Attributes:
        delta: ``(N,)`` share of the remaining task that was done, in [-1, 1], negative if undone; 0 where both orders
            have the same sign, NaN where there is no answer.
        agree: ``(N,)`` bool, whether the signs of both orders are opposite, as they should be; False without answer.
    """

    delta: Tensor
    agree: Tensor

    @property
    def agreement(self) -> float:
        """Share of the answered pairs whose orders agree; NaN if there are none."""
        answered = ~self.delta.isnan()
        return float(self.agree[answered].float().mean()) if bool(answered.any()) else float("nan")


def shuffled_progress(
    runner: JudgeRunner, episodes: Sequence[Tensor], goals: Sequence[str], frames: int = 30, seed: int = 0
) -> list[Progress]:
    """Generative value learning (GVL, Ma et al. 2024, arXiv 2411.04549): one question about all frames of an episode.

    The first frame comes first and is declared 0 %, the anchor for the arrow of time; the others are shuffled, since a
    judge that sees them in order writes down a rising line whatever they show.

    Args:
        runner: who answers.
        episodes: frames ``(T, 3, H, W)`` of each, uint8 or float in [0, 1], at least three.
        goals: one sentence per episode.
        frames: the most frames shown, evenly spaced; 30 as published.
        seed: of the order.

    Raises:
        ValueError: if an episode has fewer than three frames, or fewer may be shown.
        JudgeError: as :meth:`JudgeRunner.ask`.
    """
    goals = check_goals(goals, len(episodes))
    if frames < 3 or any(len(episode) < 3 for episode in episodes):
        raise ValueError(f"Shuffled progress needs at least 3 frames, got {frames} of {[len(e) for e in episodes]}.")
    shown = [torch.tensor(spread_indices(len(episode), frames)) for episode in episodes]
    orders = [torch.randperm(len(s) - 1, generator=torch.Generator().manual_seed(seed)) + 1 for s in shown]
    questions = [
        _shuffled_question(as_pictures(episode[indices][None])[0], order, goal)
        for episode, indices, order, goal in zip(episodes, shown, orders, goals, strict=True)
    ]
    answers = runner.write(questions, lambda text, question: parse_percentages(text, len(question.images) - 1))
    found = []
    for indices, order, answer in zip(shown, orders, answers, strict=True):
        values = torch.full((len(indices),), float("nan"))
        if answer is not None:
            values[0], values[order] = 0.0, answer
        found.append(Progress(indices, values, _order(values[1:])))
    return found


def change(
    runner: JudgeRunner,
    before: Tensor,
    after: Tensor,
    goals: Sequence[str],
    form: ChangeForm = "scale",
    swap: bool = True,
) -> Changes:
    """Signed progress from one frame to another (VLAC, Zhai et al. 2025, arXiv 2509.15937, section 3).

    Pairs whose pixels differ by less than 1 % of their range are 0 without a question, as in VLAC.

    Args:
        runner: who answers.
        before: ``(N, 3, H, W)`` uint8 or float in [0, 1].
        after: ``(N, 3, H, W)``.
        goals: one sentence per pair.
        form: ``"scale"`` is the expectation over nine digits, of which the fifth means no change, each one token
            everywhere; ``"number"`` is VLAC's percentage in words.
        swap: whether the other order is asked too: the delta is half the difference of both.

    Raises:
        ValueError: if both sides have different shapes, or ``form`` is unknown.
        JudgeError: as :meth:`JudgeRunner.ask`.
    """
    if form not in get_args(ChangeForm) or before.shape != after.shape:
        raise ValueError(
            f"change() needs form 'scale' or 'number' and sides of one shape, got {form!r}, {tuple(before.shape)} and "
            f"{tuple(after.shape)}."
        )
    goals = check_goals(goals, len(before))
    a, b = as_pictures(before[:, None])[:, 0], as_pictures(after[:, None])[:, 0]
    moved = (a.float() - b.float()).abs().flatten(1).mean(dim=1) / 255 >= SAME
    places = moved.nonzero()[:, 0].tolist()
    pairs = [(a[i], b[i], goals[i]) for i in places]
    asked = pairs + [(y, x, goal) for x, y, goal in pairs] if swap else pairs
    answers = _signed(runner, asked, form)
    forward, backward = answers[: len(pairs)], answers[len(pairs) :]
    found = torch.zeros(len(a), dtype=torch.float32, device=forward.device)
    agree = torch.ones(len(a), dtype=torch.bool)
    if swap:
        opposite = torch.sign(forward) == -torch.sign(backward)
        mean = (forward - backward) / 2
        found[places] = torch.where(opposite | mean.isnan(), mean, torch.zeros_like(mean))
        agree[places] = opposite
    else:
        found[places], agree[places] = forward, ~forward.isnan()
    return Changes(found, agree)


def signed_progress(
    runner: JudgeRunner,
    episodes: Sequence[Tensor],
    goals: Sequence[str],
    stride: int = 5,
    form: ChangeForm = "scale",
    swap: bool = True,
    composition: Composition = "inverse",
) -> list[Progress]:
    """Values of whole episodes from the signed progress of frames ``stride`` apart, the last frame among them.

    Args:
        runner: who answers.
        episodes: frames ``(T, 3, H, W)`` of each, uint8 or float in [0, 1], at least two.
        goals: one sentence per episode.
        stride: frames between the two compared; VLAC's 5 are one second.
        form: as in :func:`change`.
        swap: as in :func:`change`.
        composition: how deltas become values, as in :func:`vrm.rewards.compose_progress`.

    Raises:
        ValueError: if an episode has fewer than two frames, or ``stride`` is below 1.
        JudgeError: as :meth:`JudgeRunner.ask`.
    """
    goals = check_goals(goals, len(episodes))
    if stride < 1 or any(len(episode) < 2 for episode in episodes):
        raise ValueError(f"Signed progress needs stride >= 1 and 2 frames, got {stride}, {[len(e) for e in episodes]}.")
    found = []
    for episode, goal in zip(episodes, goals, strict=True):
        last = len(episode) - 1
        indices = torch.tensor([*range(0, last, stride), last])
        frames = episode[indices]
        changes = change(runner, frames[:-1], frames[1:], [goal] * (len(indices) - 1), form, swap)
        unknown = changes.delta.isnan()
        values = compose_progress(changes.delta.nan_to_num(), composition)
        values[1:][unknown.cumsum(dim=0) > 0] = float("nan")
        found.append(Progress(indices, values, _order(values)))
    return found


def _order(values: Tensor) -> float:
    return float("nan") if bool(values.isnan().any()) else value_order_correlation(values.tolist())


def _shuffled_question(frames: Tensor, order: Tensor, goal: str) -> Question:
    parts: list[str | Tensor] = [
        f"The goal is: {goal}. You will see frames of one episode. Estimate for each how much of the task is done, "
        "from 0, nothing, to 100, completely. The initial frame comes first; there, 0 percent is done:",
        frames[0],
        "The other frames come in random order, so look at each for itself.",
    ]
    for number, place in enumerate(order.tolist(), start=1):
        parts += [f"Frame {number}:", frames[place]]
    parts.append(
        f"Answer with a JSON list only, one object for each of frames 1 to {len(order)}, like "
        '[{"frame_number": 1, "frame_description": "...", "task_completion_percentage": 0}].'
    )
    return Question(tuple(parts), meaning=Meaning("progress", goal), max_tokens=80 * len(order) + 100)


def _signed(runner: JudgeRunner, pairs: Sequence[tuple[Tensor, Tensor, str]], form: ChangeForm) -> Tensor:
    questions = [_change_question(a, b, goal, form) for a, b, goal in pairs]
    if not questions:
        return torch.zeros(0)
    if form == "scale":
        middle = (len(SCALE) - 1) / 2
        places = torch.arange(float(len(SCALE)))
        return (runner.choose(questions) @ places - middle) / middle
    numbers = runner.write(questions, lambda text, question: parse_signed_percentage(text))
    return torch.tensor([float("nan") if number is None else number for number in numbers])


def _change_question(before: Tensor, after: Tensor, goal: str, form: ChangeForm) -> Question:
    intro = ("The first image:", before, "The second image:", after)
    task = f"The goal is: {goal}. How did the distance to the goal change from the first image to the second? "
    if form == "scale":
        how = (
            "Answer with one digit only, from 1, all progress undone, over 5, no change, to 9, the goal is reached; "
            "digits between for anything between."
        )
        return Question((*intro, task + how), SCALE, Meaning("change", goal))
    how = (
        "Answer with one whole number from -100 to 100 only: the percentage of the remaining task that was done, "
        "negative if it was undone, 0 for no change."
    )
    return Question((*intro, task + how), meaning=Meaning("change", goal), max_tokens=16)
