"""A judge as the source of preference labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from vrm.data.comparisons import ComparisonError, Segments
from vrm.encoders import Encoder
from vrm.errors import PromptError
from vrm.judges.base import Judge
from vrm.judges.loading import make_runner
from vrm.judges.preference import Form, Preferences, prefer
from vrm.judges.runner import JudgeRunner
from vrm.judges.shown import spread_indices


class JudgeLabeller:
    """Asks a judge which of two segments achieves the goal better (RL-VLM-F, arXiv 2402.03681).

    Pairs that look the same are ties without a question. How often both orders agreed is kept in :attr:`last`, what it
    cost in ``runner.counts``.

    Args:
        runner: the judge with its cache and limits.
        goal: the sentence that decides.
        frames: how many frames of each segment are shown, evenly spaced, the last one among them; 1 as published.
        form: two questions or one, as in :func:`vrm.judges.prefer`.
        swap: whether both orders are asked.
        soft: whether labels are probabilities; otherwise 1, 0 and 0.5.

    Raises:
        PromptError: if the goal is empty.
        ValueError: if ``frames`` is below 1.

    Attributes:
        last: the preferences of the newest :meth:`compare` that asked anything; None before.

    Example:
        >>> labeller = JudgeLabeller(runner, "a humanoid robot kneeling")  # doctest: +SKIP
        >>> labeller.compare(first, second)  # (N,) in [0, 1]  # doctest: +SKIP
    """

    sees_frames = True
    state_keys: tuple[str, ...] = ()

    def __init__(
        self,
        runner: JudgeRunner,
        goal: str,
        frames: int = 1,
        form: Form = "two",
        swap: bool = True,
        soft: bool = True,
    ) -> None:
        """Check goal and number."""
        if not goal.strip():
            raise PromptError("A judge needs a goal sentence to compare by, got an empty one.")
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}.")
        self.runner, self.goal, self.frames = runner, goal, frames
        self.form, self.swap, self.soft = form, swap, soft
        self.last: Preferences | None = None

    @classmethod
    def of(
        cls,
        encoder: Encoder | None,
        judge: Judge | Mapping[str, Any],
        goal: str,
        runner: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Build from settings; what configuration files call.

        Args:
            encoder: of the stand-in judge.
            judge: as in :func:`vrm.judges.make_judge`.
            goal: the sentence that decides.
            runner: keyword arguments of the runner.
            options: the constructor's others.
        """
        return cls(make_runner(judge, runner, encoder), goal, **options)

    def compare(self, first: Segments, second: Segments) -> Tensor:
        """How likely the first of each pair is preferred ``(N,)``; 0.5 is a tie, NaN is no answer.

        Raises:
            ComparisonError: if there are no frames, or both sides differ in number or length.
            JudgeError: as :meth:`vrm.judges.JudgeRunner.ask`.
        """
        if first.frames is None or second.frames is None:
            raise ComparisonError("A judge looks at frames, but the segments have none; keep them when collecting.")
        if first.frames.shape != second.frames.shape:
            raise ComparisonError(
                f"Both segments of a pair must have one shape, got {tuple(first.frames.shape)} and "
                f"{tuple(second.frames.shape)}."
            )
        shown = spread_indices(first.length, self.frames)
        a, b = first.frames[:, shown], second.frames[:, shown]
        labels = torch.full((len(a),), 0.5)
        differ = (a != b).flatten(1).any(dim=1).cpu()
        if bool(differ.any()):
            goals: Sequence[str] = [self.goal] * int(differ.sum())
            self.last = prefer(self.runner, a[differ], b[differ], goals, self.form, self.swap)
            labels[differ] = self.last.label if self.soft else self.last.verdict
        return labels
