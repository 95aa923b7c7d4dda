"""A judge's answers as a reward: probability of yes, rating or rubric, of every frame or of the whole clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from vrm.encoders import Encoder
from vrm.errors import PromptError
from vrm.judges.base import Judge
from vrm.judges.loading import make_runner
from vrm.judges.shown import as_pictures, spread_indices
from vrm.judges.sim import SimJudge
from vrm.judges.verdict import Criterion, holds, judge_by, log_true, rate, weighted_mean
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, pick_encoder

Ask = Literal["question", "statement", "log_true", "rating", "rubric"]


class JudgeReward(RewardModel):
    """What a vision-language model says about frames, as a number.

    ==============  ================================  =================================================================
    ask             terms                             reward
    ==============  ================================  =================================================================
    ``"question"``  ``"question"``                    probability of yes to "do the images show the goal?", in [0, 1]
    ``"statement"`` ``"statement"``                   probability that "the images show the goal" is true, in [0, 1]
    ``"log_true"``  ``"log_true"``                    TOPReward's ``log p(True)``, at most 0
    ``"rating"``    ``"rating"`` in [1, levels]       expected rating, scaled to [0, 1]
    ``"rubric"``    each criterion by its name        weighted mean of the criteria's probabilities, in [0, 1]
    ==============  ================================  =================================================================

    Per frame, a question shows frame ``t`` and, if ``frames`` is above 1, those before it at distances of ``stride``;
    the first frame stands for what was before it. Per clip, one question shows ``frames`` evenly spaced frames and
    every frame gets its answer. Answers are remembered, so that asking for the same frames again is free.

    Args:
        encoder: of the stand-in judge; not used by others.
        judge: a judge, or settings as in :func:`vrm.judges.make_judge`.
        goal: what the frames should show; for a rubric, context that may be left out.
        ask: as above.
        criteria: of the rubric, as :class:`vrm.judges.Criterion` or mappings with its fields.
        levels: of the rating, 2 to 9.
        per: whether each ``"frame"`` or the ``"clip"`` is asked about; only the former can be paid online.
        frames: how many frames a question shows.
        stride: frames between those that a question per frame shows.
        size: longest side of the shown frames, in pixels; larger ones are made smaller, aspect kept.
        otherwise: reward where the judge gave no answer. None leaves NaN, which scoring reports and training refuses.
        runner: keyword arguments of :class:`vrm.judges.JudgeRunner`: cache, limits, retries.

    Raises:
        PromptError: if there is no goal, or no criteria for a rubric, or criteria without one.
        ValueError: if a number or name is out of range.

    Attributes:
        runner: who answers; ``runner.counts`` says what it cost.

    Example:
        >>> judge = {"backend": "sim", "baseline": "a humanoid robot"}
        >>> reward = JudgeReward(encoder, judge, "a humanoid robot kneeling")  # doctest: +SKIP
        >>> reward(clips)  # (B, T) in [0, 1]  # doctest: +SKIP

    Papers: Wu et al. 2025, "RewardDance", arXiv 2509.08826; "TOPReward", arXiv 2602.19313; "RoboReward", arXiv
    2601.00675.
    """

    differentiable = False

    def __init__(
        self,
        encoder: Encoder | None,
        judge: Judge | Mapping[str, Any],
        goal: str | None = None,
        ask: Ask = "question",
        criteria: Sequence[Criterion | Mapping[str, Any]] = (),
        levels: int = 5,
        per: Literal["frame", "clip"] = "frame",
        frames: int = 1,
        stride: int = 1,
        size: int = 448,
        otherwise: float | None = None,
        runner: Mapping[str, Any] | None = None,
    ) -> None:
        """Check what can be checked without asking."""
        super().__init__()
        if ask not in get_args(Ask) or per not in ("frame", "clip"):
            raise ValueError(f"ask must be one of {', '.join(get_args(Ask))}, per frame or clip; got {ask!r}, {per!r}.")
        if min(frames, stride, size) < 1 or not 2 <= levels <= 9:
            raise ValueError(
                "JudgeReward needs frames, stride and size of at least 1 and levels in [2, 9], "
                f"got {frames}, {stride}, {size} and {levels}."
            )
        if (ask == "rubric") != bool(criteria):
            raise PromptError(f"ask='rubric' goes with criteria, got ask={ask!r} and {len(criteria)} criteria.")
        if ask != "rubric" and not (goal or "").strip():
            raise PromptError(f"A judge needs a goal sentence to look for, got {goal!r}.")
        self.goal, self.ask, self.per = goal, ask, per
        self.criteria = [c if isinstance(c, Criterion) else Criterion(**c) for c in criteria]
        self.levels, self.frames, self.stride, self.otherwise = levels, frames, stride, otherwise
        self.frame_side = size
        self.limits = {name: value for name, value in (runner or {}).items() if value is not None}
        self.runner = make_runner(judge, self.limits, encoder)
        used = self.runner.judge
        self.encoder = used.encoder if isinstance(used, SimJudge) else None
        self.causal = per == "frame"
        self.granularity = per
        self.window = (frames - 1) * stride + 1 if per == "frame" else 1
        self.range = (-float("inf"), 0.0) if ask == "log_true" else (0.0, 1.0)

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The judge's numbers ``(B, T)`` by name; arguments as in the base class.

        Raises:
            JudgeError: as :meth:`vrm.judges.JudgeRunner.ask`.
        """
        total = check_call(clips, goals, state).shape[1]
        if self.per == "clip":
            answers = self._ask(clips[:, spread_indices(total, self.frames)], goals)
            return {name: values[:, None].expand(-1, total) for name, values in answers.items()}
        shown = clips[:, torch.tensor([self._shown(t) for t in range(total)])].flatten(0, 1)
        each = None if goals is None else [goal for goal in goals for _ in range(total)]
        return {name: values.reshape(-1, total) for name, values in self._ask(shown, each).items()}

    def latest(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The last frame's terms ``(B,)`` only, at one question per clip and criterion."""
        last = check_call(clips, goals, state).shape[1] - 1
        if self.per == "clip":
            return super().latest(clips, goals, state)
        return self._ask(clips[:, self._shown(last)], goals)

    def combine(self, terms: Terms) -> Tensor:
        """Scale the rating, weigh the rubric, leave the others."""
        if self.ask == "rubric":
            reward = weighted_mean(torch.stack([terms[c.name] for c in self.criteria]), self.criteria)
        elif self.ask == "rating":
            reward = (terms["rating"] - 1) / (self.levels - 1)
        else:
            reward = terms[self.ask]
        return reward if self.otherwise is None else reward.nan_to_num(self.otherwise)

    def config(self) -> dict[str, Any]:
        """Constructor arguments; the judge as its settings."""
        return {
            "judge": {"backend": self.runner.judge.backend, **self.runner.judge.settings()}, "goal": self.goal,
            "ask": self.ask, "criteria": [asdict(c) for c in self.criteria], "levels": self.levels, "per": self.per,
            "frames": self.frames, "stride": self.stride, "size": self.frame_side, "otherwise": self.otherwise,
            "runner": self.limits,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`."""
        judge = config["judge"]
        used = pick_encoder(judge["encoder"], encoder) if judge["backend"] == "sim" else None
        return cls(used, **config)

    def _shown(self, last: int) -> list[int]:
        return [max(last - i * self.stride, 0) for i in reversed(range(self.frames))]

    def _ask(self, shown: Tensor, goals: Goals) -> Terms:
        pictures = as_pictures(shown, self.frame_side)
        sentences = [self.goal] * len(shown) if goals is None and self.goal else goals
        if self.ask == "rubric":
            found = dict(judge_by(self.runner, pictures, self.criteria, sentences).criteria)
        else:
            found = {self.ask: self._number(pictures, sentences or [])}
        return {name: values.to(shown.device) for name, values in found.items()}

    def _number(self, pictures: Tensor, goals: Sequence[str]) -> Tensor:
        if self.ask == "rating":
            return rate(self.runner, pictures, goals, self.levels)
        if self.ask == "log_true":
            return log_true(self.runner, pictures, goals)
        return holds(self.runner, pictures, goals, "question" if self.ask == "question" else "statement")
