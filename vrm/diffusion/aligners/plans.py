"""Which denoising steps are decisions, which of them are trained, and where chains branch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Steps:
    """What happens at the steps of one sampling.

    Attributes:
        trained: numbers of the steps in the loss; those that turn out to be deterministic drop out.
        window: first step and end of the stochastic ones; all if None.
        branch_at: the step before which every video becomes ``branch`` videos; none if None.
        branch: how many.
    """

    trained: tuple[int, ...]
    window: tuple[int, int] | None = None
    branch_at: int | None = None
    branch: int = 1


class StepPlan(ABC):
    """Chooses the steps of each round."""

    @property
    def branches(self) -> int:
        """Videos with one past."""
        return 1

    @abstractmethod
    def at(self, steps: int, round_: int, generator: torch.Generator) -> Steps:
        """The plan of round number ``round_``, from 0, of a sampler with so many steps."""


@dataclass(frozen=True)
class AllSteps(StepPlan):
    """Every step is a decision, and a random share of them is trained (DDPO, Flow-GRPO; DanceGRPO trains 0.6).

    Attributes:
        fraction: share of the steps trained in a round.
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}.")

    def at(self, steps: int, round_: int, generator: torch.Generator) -> Steps:
        """A random choice, in order."""
        count = max(round(self.fraction * steps), 1)
        return Steps(tuple(sorted(torch.randperm(steps, generator=generator)[:count].tolist())))


@dataclass(frozen=True)
class SlidingWindow(StepPlan):
    """Few stochastic steps in a deterministic chain, from early ones to late ones and again (MixGRPO).

    Attributes:
        width: stochastic steps.
        every: rounds until the window moves.
        stride: steps it moves by.
    """

    width: int = 2
    every: int = 25
    stride: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.width, self.every, self.stride) < 1:
            raise ValueError(
                f"A window needs width, every and stride of at least 1, got {self.width}, {self.every}, {self.stride}."
            )

    def at(self, steps: int, round_: int, generator: torch.Generator) -> Steps:
        """The window; the last step of the chain, which is deterministic, stays outside."""
        places = max(steps - self.width, 1)
        first = (round_ // self.every * self.stride) % places
        window = (first, min(first + self.width, steps))
        return Steps(tuple(range(*window)), window)


@dataclass(frozen=True)
class BackwardProgression(StepPlan):
    """Training from the end of the chain towards its start, on branches of one past (B2-DiffuRL, arXiv 2503.11240).

    Attributes:
        first: share of the chain, counted from its end, that is trained at first ...
        last: ... and after ``stages`` rounds.
        stages: rounds over which the share grows.
        branch: videos that go on from each latent where the trained part begins.
    """

    first: float = 0.7
    last: float = 1.0
    stages: int = 100
    branch: int = 5

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.first <= self.last <= 1 or self.stages < 1 or self.branch < 1:
            raise ValueError(
                f"A progression needs 0 < first <= last <= 1, stages >= 1 and branch >= 1, got {self.first}, "
                f"{self.last}, {self.stages}, {self.branch}."
            )

    @property
    def branches(self) -> int:
        """Videos with one past."""
        return self.branch

    def at(self, steps: int, round_: int, generator: torch.Generator) -> Steps:
        """The last steps, branching before the first of them."""
        share = self.first + (self.last - self.first) * min(round_ / self.stages, 1.0)
        begin = steps - min(max(round(share * steps), 1), steps)
        return Steps(tuple(range(begin, steps)), None, begin, self.branch)
