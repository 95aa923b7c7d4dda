"""A reward on the stand: the clips it is asked about, and its answers, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vrm.audit.evidence import Evidence
from vrm.errors import FrameError, NonFiniteError, VrmError
from vrm.frames import check_frames
from vrm.metrics.inputs import Floats
from vrm.rewards import RewardModel
from vrm.rewards.base import TERMINATED

Change = Callable[[Tensor], Tensor]

LEAST_FRAMES = 8


class Case:
    """Answers of one reward to clips.

    Args:
        reward: the model, asked in inference mode.
        good: clips ``(T, 3, H, W)`` of the task done.
        failed: clips of the task not done.
        other: clips of something else.
        prompts: none, one for all clips, or one per good clip; failed and other clips take them in turn.
        wrong: prompts of other goals.
        prompts_given: whether somebody chose the prompts for this reward, so that it is meant to read them.
        evidence: from the task, if there is one.

    Raises:
        VrmError: if there is no good clip, the numbers of clips and prompts do not fit, or the reward reads state.
        FrameError: if a clip breaks the layout or has fewer than eight frames.
    """

    def __init__(
        self,
        reward: RewardModel,
        good: Sequence[Tensor],
        failed: Sequence[Tensor],
        other: Sequence[Tensor],
        prompts: Sequence[str],
        wrong: Sequence[str],
        prompts_given: bool,
        evidence: Evidence | None,
    ) -> None:
        """Check what is asked about."""
        if not good:
            raise VrmError("An audit needs at least one clip of the task done, got none.")
        if read := [key for key in reward.state_keys if key != TERMINATED]:
            raise VrmError(f"This reward reads state {read}, which clips lack; audit its other parts.")
        if not reward.takes_goals:
            prompts, wrong, prompts_given = (), (), False
        if len(prompts) > 1 and len(prompts) != len(good):
            raise VrmError(f"Give no prompt, one, or one per good clip ({len(good)} here), got {len(prompts)}.")
        for clip in (*good, *failed, *other):
            if len(check_frames(clip, 4)) < LEAST_FRAMES:
                raise FrameError(f"An audit needs clips of at least {LEAST_FRAMES} frames, got one of {len(clip)}.")
        self.reward, self.good, self.failed, self.other = reward, good, failed, other
        self.prompts, self.wrong, self.prompts_given, self.evidence = prompts, wrong, prompts_given, evidence
        self._controls: dict[Change, list[Floats]] = {}

    @property
    def by_frame(self) -> bool:
        """Whether single frames have numbers of their own."""
        return self.reward.granularity == "frame"

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the reward over all good and failed clips; 0 up to rounding is 0."""
        values = np.concatenate([*self.good_values, *self.failed_values])
        spread = float(values.std())
        return spread if spread > 1e-6 * max(1e-3, float(np.abs(values).max())) else 0.0

    @cached_property
    def median(self) -> float:
        """Median reward of good clips."""
        return float(np.median(np.concatenate(self.good_values)))

    @cached_property
    def good_values(self) -> list[Floats]:
        """Answers to the good clips."""
        return self.values(self.good)

    @cached_property
    def failed_values(self) -> list[Floats]:
        """Answers to the failed clips."""
        return self.values(self.failed)

    @cached_property
    def other_values(self) -> list[Floats]:
        """Answers to clips of something else."""
        return self.values(self.other)

    @cached_property
    def wrong_values(self) -> list[list[Floats]]:
        """Answers to the good clips under each wrong prompt."""
        return [self.values(self.good, [prompt]) for prompt in self.wrong]

    def control(self, make: Change) -> list[Floats]:
        """Answers to the good clips after a change."""
        if make not in self._controls:
            self._controls[make] = self.values([make(clip) for clip in self.good])
        return self._controls[make]

    def values(self, clips: Sequence[Tensor], prompts: Sequence[str] | None = None) -> list[Floats]:
        """Rewards ``(T - 1,)`` of the paid frames of each clip; ``(1,)``, its score, for a reward of whole clips."""
        texts = self.prompts if prompts is None else prompts
        goals = [[texts[index % len(texts)]] if texts else None for index in range(len(clips))]
        if not self.by_frame:
            return [self._score(clip[None], goal) for clip, goal in zip(clips, goals, strict=True)]
        return [self.ask(clip[None], goal)[0, 1:] for clip, goal in zip(clips, goals, strict=True)]

    def goals(self, count: int) -> list[str] | None:
        """The first prompt for each of ``count`` clips, if there are prompts."""
        return [self.prompts[0]] * count if self.prompts else None

    def ask(self, clips: Tensor, goals: Sequence[str] | None) -> Floats:
        """Rewards ``(B, T)`` of clips ``(B, T, 3, H, W)``."""
        with torch.inference_mode():
            return _finite(self.reward(clips, goals))

    def totals(self, clips: Tensor) -> Floats:
        """One number ``(B,)`` per clip: its return, or its score where whole clips are judged."""
        return np.array([self.values([clip], self.prompts[:1])[0].sum() for clip in clips])

    def _score(self, clip: Tensor, goals: Sequence[str] | None) -> Floats:
        with torch.inference_mode():
            return _finite(self.reward.score(clip, goals))


def _finite(rewards: Tensor) -> Floats:
    values = np.asarray(rewards.double().cpu().numpy())
    if not np.isfinite(values).all():
        raise NonFiniteError(
            "The reward is NaN or infinite for some clips, so there is nothing to audit; mend that first."
        )
    return values
