"""The battery: questions that a reward should answer well before anything is trained on it.

Pass marks are suggestions from practice, not published values; each item prints its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vrm.audit import controls
from vrm.audit.case import Case
from vrm.audit.content import judge_controls, judge_goal, judge_robustness
from vrm.audit.evidence import Evidence
from vrm.audit.items import Audit, Item
from vrm.audit.numbers import judge_numbers
from vrm.audit.order import judge_order
from vrm.audit.truth import judge_truth
from vrm.metrics.inputs import Floats
from vrm.rewards import RewardModel


def audit(
    reward: RewardModel,
    good: Sequence[Tensor],
    failed: Sequence[Tensor] = (),
    *,
    other: Sequence[Tensor] = (),
    prompts: str | Sequence[str] = (),
    wrong: Sequence[str] = (),
    prompts_given: bool = True,
    evidence: Evidence | None = None,
    name: str = "",
) -> Audit:
    """Ask a reward every question that the given clips can answer.

    Args:
        reward: any reward that reads no state.
        good: clips ``(T, 3, H, W)`` of the task done, uint8 or float in [0, 1], T at least 8; sizes may differ.
        failed: clips of the task attempted and not done.
        other: clips of something else altogether.
        prompts: the goal in words, one for all clips or one per good clip (failed and other clips take them in turn);
            none for a reward that has its own goal or reads no text.
        wrong: sentences about other goals.
        prompts_given: whether the reward is meant to read ``prompts``; if not, one that ignores them does not fail.
        evidence: states and roll-outs with the task's own reward, see :func:`vrm.audit.gathering.gather`.
        name: of the reward, in print.

    Raises:
        VrmError: if there is no good clip, prompts do not fit, or the reward reads state values.
        FrameError: if a clip breaks the layout or is too short.
        NonFiniteError: if a reward is NaN or infinite.

    Example:
        >>> audit(reward, good, failed, prompts="a robot kneels").print()  # doctest: +SKIP
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    case = Case(reward, good, failed, other, texts, wrong, prompts_given and bool(texts), evidence)
    items: list[Item] = []
    for judge in (judge_numbers, judge_order, judge_controls, judge_robustness, judge_goal, judge_truth):
        items.extend(judge(case))
    curves = _curves(case)
    means = {kind: _mean(values) for kind, values in curves.items()}
    return Audit(name or type(reward).__name__, items, curves, means, _frames(case))


def _curves(case: Case) -> dict[str, Sequence[Floats]]:
    found: dict[str, Sequence[Floats]] = {"good": case.good_values, "failed": case.failed_values}
    found |= {kind: case.control(make) for kind, make in controls.ALL.items()}
    found["other clips"] = case.other_values
    found["wrong goal"] = [curve for curves in case.wrong_values for curve in curves]
    return {kind: curves for kind, curves in found.items() if curves}


def _mean(curves: Sequence[Floats]) -> float:
    return float(sum(curve.mean() for curve in curves) / len(curves))


def _frames(case: Case) -> dict[str, Tensor]:
    shown = {"good": case.good[0]}
    shown |= {kind: clips[0] for kind, clips in (("failed", case.failed), ("other clips", case.other)) if clips}
    return shown | {kind: make(case.good[0]) for kind, make in controls.ALL.items()}
