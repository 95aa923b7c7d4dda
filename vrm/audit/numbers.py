"""Are the numbers themselves in order: in range, varied, and the same however they are asked for?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from vrm.audit.case import Case
from vrm.audit.controls import black, noise, played_backwards
from vrm.audit.grading import graded, graded_below, skipped
from vrm.audit.items import Item

ROUNDING = 1e-4  # of the largest reward


def judge_numbers(case: Case) -> Iterator[Item]:
    """Range, variation, invariance to batch and future, and concentration."""
    yield _range(case)
    yield graded(
        "varies",
        float(case.spread > 0),
        (1, 1),
        "the reward is not the same everywhere",
        "a constant: nothing can be learned from it",
        f"standard deviation {case.spread:.3g} over all good and failed clips",
    )
    yield _batch(case)
    yield _prefix(case)
    yield _concentration(case)


def _range(case: Case) -> Item:
    name, catches = "range", "a range or sign other than declared, which decides whether agents like episodes to end"
    values = np.concatenate([*case.good_values, *case.failed_values, *case.control(black), *case.control(noise)])
    low, high = case.reward.range
    criterion = f"within the declared range [{low:g}, {high:g}]"
    seen = f"seen [{values.min():.3g}, {values.max():.3g}]"
    if np.isinf([low, high]).all():
        return skipped(name, criterion, catches, f"no range is declared; {seen}")
    excess = float(max(low - values.min(), values.max() - high, 0))
    if excess > ROUNDING and hasattr(case.reward, "calibrate"):
        return Item(name, "warn", excess, criterion, catches, f"{seen}, after calibration, which moves the range")
    return graded_below(name, excess, (ROUNDING, ROUNDING), criterion, catches, seen)


def _batch(case: Case) -> Item:
    first = case.good[0]
    batch = torch.stack([first, played_backwards(first), *(c for c in case.good[1:4] if c.shape == first.shape)])
    together = case.ask(batch, case.goals(len(batch)))
    alone = np.concatenate([case.ask(clip[None], case.goals(1)) for clip in batch])
    difference = float(np.abs(together - alone).max())
    return graded_below(
        "batch invariance",
        difference,
        (_tolerance(alone),) * 2,
        "one clip alone and among others get the same numbers",
        "statistics over the batch, so that a reward depends on who else is scored",
        f"largest difference over {len(batch)} clips",
    )


def _prefix(case: Case) -> Item:
    name, criterion = "prefix invariance", "a frame's reward does not change when later frames come"
    catches = "a reward that claims to be causal and looks into the future, so that training pays other numbers"
    if not case.reward.causal:
        return skipped(name, criterion, catches, "the reward looks at whole clips and says so")
    clip, goals = case.good[0], case.goals(1)
    whole = case.ask(clip[None], goals)
    lengths = (1, len(clip) // 3, 2 * len(clip) // 3)
    difference = max(float(np.abs(case.ask(clip[None, :n], goals) - whole[:, :n]).max()) for n in lengths)
    return graded_below(
        name, difference, (_tolerance(whole),) * 2, criterion, catches, f"largest difference, prefixes of {lengths}"
    )


def _concentration(case: Case) -> Item:
    name, criterion = "top 1 % share", "at most 0.2 of the reward above the median comes from the top 1 % of frames"
    catches = "a reward that hangs on a few lucky frames, which an agent finds and repeats"
    values = np.sort(np.concatenate([*case.good_values, *case.failed_values]))
    if not case.by_frame or len(values) < 100:
        reason = f"{len(values)} frames are too few" if case.by_frame else "single frames have no reward of their own"
        return skipped(name, criterion, catches, reason)
    above = np.maximum(values - np.median(values), 0)
    share = float(above[-(len(above) // 100) :].sum() / above.sum()) if above.any() else float("nan")
    return graded_below(
        name, share, (0.2, 1.0), criterion, catches, f"{len(values)} frames", "no frame is above the median"
    )


def _tolerance(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return ROUNDING * max(1.0, float(np.abs(values).max()))
