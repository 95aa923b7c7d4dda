"""Does the reward depend on what is shown and asked: empty pictures, standing still, other clips, other words?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from vrm.audit.case import Case
from vrm.audit.controls import black, cropped, dimmed, noise, shifted, still_end, still_start, white
from vrm.audit.grading import graded, graded_below, skipped
from vrm.audit.items import Item
from vrm.metrics.inputs import Floats

NOTHING = 1e-9  # standard deviations that are due to rounding
EDGES = "5 % at the edges change the reward by at most 0.5 standard deviations"
PLACE = "where things are in the picture counts more than what they do"
SMALL: tuple[tuple[str, Callable[[Tensor], Tensor], str, str], ...] = (
    ("cropped", cropped, EDGES, PLACE),
    ("shifted", shifted, EDGES, PLACE),
    ("dimmed", dimmed, "10 % less light changes it by at most 0.5 standard deviations", "the light is paid for"),
)
CONSTANT = "the reward never changes"
EMPTY: tuple[tuple[str, Callable[[Tensor], Tensor], str], ...] = (
    ("black", black, "an agent that blinds the camera is paid"),
    ("white", white, "an agent that dazzles the camera is paid"),
    ("noise", noise, "pictures of nothing are paid, so adversarial frames will be"),
)


def judge_controls(case: Case) -> Iterator[Item]:
    """Clips that show no success must be paid less than the median good frame."""
    for name, make, catches in EMPTY:
        yield _below(case, name, case.control(make), NOTHING, catches)
    yield _below(
        case,
        "still start",
        case.control(still_start),
        -0.5,
        "standing still pays like doing the task (a clip that begins at the goal explains it, too)",
    )
    catches = "the task does not matter: clips of something else are paid"
    if case.other:
        yield _below(case, "other clips", case.other_values, NOTHING, catches)
    else:
        yield skipped("other clips", "paid less than the median good frame", catches, "no other clips were given")
    margin = _margin(case, case.control(still_end))
    yield graded(
        "static end",
        margin,
        (-0.5, -math.inf),
        "holding the last frame pays at least the median good frame less 0.5 standard deviations",
        "movement is paid rather than the state it leads to, so staying at the goal stops paying",
        _distance(margin, "above the median"),
        CONSTANT,
    )


def _below(case: Case, name: str, values: Sequence[Floats], warn: float, catches: str) -> Item:
    criterion = "paid less than the median good frame"
    if not case.spread:
        return Item(name, "fail", 0.0, criterion, catches, "paid exactly the same")
    margin = 0.0 - _margin(case, values)
    return graded(name, margin, (NOTHING, warn), criterion, catches, _distance(margin, "below the median"))


def _margin(case: Case, values: Sequence[Floats]) -> float:
    """Mean reward above the median good frame, in standard deviations; nan for a constant reward."""
    mean = float(np.mean([curve.mean() for curve in values]))
    return (mean - case.median) / case.spread if case.spread else math.nan


def _distance(margin: float, where: str) -> str:
    return "" if math.isnan(margin) else f"{margin:.2f} standard deviations {where}"


def judge_robustness(case: Case) -> Iterator[Item]:
    """Small changes of the picture must change the reward little."""
    for name, make, criterion, catches in SMALL:
        pairs = zip(case.control(make), case.good_values, strict=True)
        moved = float(np.concatenate([np.abs(after - before) for after, before in pairs]).mean())
        change = moved / case.spread if case.spread else math.nan
        note = "mean change of a frame, in standard deviations"
        yield graded_below(name, change, (0.5, 1.0), criterion, catches, note, CONSTANT)


def judge_goal(case: Case) -> Iterator[Item]:
    """Other words must be paid less for the same clips."""
    name, criterion = "wrong goal", "good clips lose at least 1 standard deviation under other goals"
    catches = "the goal in words is ignored"
    if not case.wrong or not case.spread:
        reason = CONSTANT if case.wrong else "no other goals were given"
        yield skipped(name, criterion, catches, reason)
        return
    right = np.concatenate(case.good_values)
    drops = [float((right - np.concatenate(values)).mean()) / case.spread for values in case.wrong_values]
    if max(map(abs, drops)) < 1e-9:
        if case.prompts_given:
            note = "the same numbers under every text; if none is meant to be read, give no prompt"
            yield Item(name, "fail", 0.0, criterion, catches, note)
        else:
            yield skipped(name, criterion, catches, "the reward reads no text")
        return
    nearest = int(np.argmin(drops))
    note = f"mean of {len(drops)}; least {drops[nearest]:.2f} under {case.wrong[nearest]!r}"
    yield graded(name, float(np.mean(drops)), (1.0, 0.0), criterion, catches, note)
