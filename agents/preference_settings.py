"""When a labeller is asked while an agent trains, and what about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from vrm.data.comparisons import ComparisonError
from vrm.envs import TextGoalTask
from vrm.rewards.preference_queries import get_sampler


@dataclass(frozen=True)
class PreferenceSettings:
    """When and what is asked; figures are in environment steps over all environments.

    Attributes:
        segment: steps of one piece; 1 compares single frames, as RL-VLM-F does.
        queries_per_session: questions asked at a time.
        session_every: steps between sessions.
        budget: questions in all, skipped ones included.
        sampler: how questions are chosen among candidates; the first are drawn at random.
        pool: candidates per question.
        unsupervised_steps: before the first session, in which new states are paid for.
        neighbours: whose distance says how new a state is.
        reset_updates: updates after the critic's reset, which follows the first reward.
        recent: newest steps that questions are about; frames of these are kept if the labeller looks at frames.
        relabel_batch: steps paid anew at once.

    Raises:
        ComparisonError: if a number is out of its range.
        UnknownNameError: if there is no such sampler.
    """

    segment: int = 25
    queries_per_session: int = 50
    session_every: int = 5000
    budget: int = 1000
    sampler: str = "disagreement"
    pool: int = 10
    unsupervised_steps: int = 5000
    neighbours: int = 5
    reset_updates: int = 100
    recent: int = 10_000
    relabel_batch: int = 4096

    def __post_init__(self) -> None:
        """Check the numbers."""
        get_sampler(self.sampler)
        for name in self.__dataclass_fields__:
            low = 0 if name in ("unsupervised_steps", "reset_updates") else 1
            value = getattr(self, name)
            if name != "sampler" and not (isinstance(value, int) and value >= low):
                raise ComparisonError(f"preference.{name} must be a whole number of at least {low}, got {value!r}.")

    def fitting(self, task: TextGoalTask) -> Self:
        """These settings, if the task's episodes are long enough.

        Raises:
            ComparisonError: if none has room for a piece.
        """
        if self.segment > task.episode_steps:
            raise ComparisonError(
                f"preference.segment={self.segment} is longer than the {task.episode_steps} steps of an episode of "
                f"{task.name}; use at most that many."
            )
        return self
