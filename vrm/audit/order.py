"""Does the reward rise while the task is being done, for the right reason, and tell success from failure?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vrm.audit.case import Case
from vrm.audit.controls import frozen_start, played_backwards
from vrm.audit.grading import graded, graded_below, skipped
from vrm.audit.items import Item
from vrm.metrics import ValueOrder, roc_auc, value_order

FINAL = 0.2  # share of a clip that counts as its end, as in success rates of agents
NO_FRAMES = "single frames have no reward of their own"
NO_FAILED = "no failed clips were given"


def judge_order(case: Case) -> Iterator[Item]:
    """Order in time with its controls, and separation of success and failure."""
    wrong = [curve for curves in case.wrong_values for curve in curves] if case.by_frame else []
    found = (
        value_order(case.good_values, case.failed_values, case.control(played_backwards), wrong, FINAL)
        if case.by_frame
        else None
    )
    yield from _rising(found)
    yield _standstill(case)
    yield from _separation(case, found)


def _rising(found: ValueOrder | None) -> Iterator[Item]:
    reason = NO_FRAMES if found is None else ""
    forward, backward = (math.nan, math.nan) if found is None else (found.success, found.reversed)
    yield graded(
        "VOC success",
        forward,
        (0.8, 0.3),
        "rank correlation with time on good clips of at least 0.8",
        "no signal on the way to the goal; a clip that shows the goal from early on also stays below 0.8",
        "" if found is None else f"Kendall tau {found.kendall:.2f}" + _other(found),
        reason,
    )
    # Only an order that is there can turn round.
    answer = -backward / forward if forward > 0.2 else math.nan
    yield graded(
        "VOC reversed",
        answer,
        (0.8, 0.3),
        "played backwards, at least 0.8 of the order turns round",
        "a clock: the reward follows the frame number, not what is shown",
        f"VOC {backward:.2f} backwards, {forward:.2f} forwards",
        reason or f"there is no order to turn round (VOC {forward:.2f})",
    )
    gap = math.nan if found is None else found.gap
    yield graded(
        "VOC gap",
        gap,
        (0.3, 0.05),
        "VOC of good clips exceeds that of failed ones by at least 0.3",
        "order without outcome: failing looks like progress",
        "" if found is None else f"failed {found.failed:.2f}",
        reason or NO_FAILED,
    )


def _other(found: ValueOrder) -> str:
    return "" if math.isnan(found.wrong_goal) else f", {found.wrong_goal:.2f} under wrong goals"


def _standstill(case: Case) -> Item:
    name, criterion = "frozen start", "rises by at most 0.1 of the clip's range while the first frame is held"
    catches = "a clock: the reward changes though nothing happens"
    reason = "" if case.by_frame else NO_FRAMES
    if not reason and not case.reward.causal:
        reason = "the reward sees from the start what comes later"
    if reason:
        return skipped(name, criterion, catches, reason)
    shares = []
    for clip, curve in zip(case.good, case.control(frozen_start), strict=True):
        frozen = len(clip) // 2 - 1
        begin = min(case.reward.window - 1, frozen // 2)  # until the window holds nothing but the first frame
        change = float(np.ptp(curve[begin:frozen]))
        shares.append(change / float(np.ptp(curve)) if change > 1e-6 else 0.0)
    return graded_below(name, float(np.mean(shares)), (0.1, 0.3), criterion, catches)


def _separation(case: Case, found: ValueOrder | None) -> Iterator[Item]:
    pairs = f"{len(case.good)} good and {len(case.failed)} failed clips"
    catches = "order without outcome: success and failure are paid alike"
    mean = found.auc_mean if found else _auc_of_scores(case)
    for name, value, what, reason in (
        ("AUROC final", found.auc_final if found else math.nan, "the last fifth", NO_FAILED if found else NO_FRAMES),
        ("AUROC mean", mean, "the mean", NO_FAILED),
    ):
        criterion = f"a good clip outscores a failed one by {what} in at least 0.8 of the pairs"
        yield graded(name, value, (0.8, 0.6), criterion, catches, pairs, reason)


def _auc_of_scores(case: Case) -> float:
    scores = np.concatenate([*case.good_values, *case.failed_values])
    return roc_auc(scores, [1] * len(case.good) + [0] * len(case.failed))
