"""What all searches share: a budget that is never exceeded, one prompt at a time, and a result that says the cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.search.case import Case, Judgement, Sampling
from vrm.errors import UnknownNameError, VrmError
from vrm.rewards.aggregate import RULES


class BudgetError(VrmError, ValueError):
    """A budget that the smallest search of its kind would exceed."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend on each prompt.

    Attributes:
        nfe: rows through the denoiser; with guidance a video counts twice at every step.
        reward_calls: videos scored times rewards, with or without gradient, and latents that a latent reward judged;
            None is no limit.

    Raises:
        BudgetError: if a limit is below 1.
    """

    nfe: int
    reward_calls: int | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.nfe < 1 or (self.reward_calls is not None and self.reward_calls < 1):
            raise BudgetError(f"A budget allows at least 1 model call and 1 reward call, got {self}.")

    def allows(self, cost: Cost) -> bool:
        """Whether it covers a cost."""
        return cost.nfe <= self.nfe and (self.reward_calls is None or cost.reward_calls <= self.reward_calls)


@dataclass(frozen=True)
class Cost:
    """What a search spends on a prompt; units as in :class:`Budget`."""

    nfe: int
    reward_calls: int


@dataclass(frozen=True)
class SearchResult:
    """The best video found for each of ``P`` prompts.

    Attributes:
        videos: ``(P, T, 3, H, W)`` float32 in [0, 1].
        latents: ``(P, C, t, h, w)`` behind them.
        scores: ``(P,)`` weighted sum of the rewards of these videos.
        rewards: ``(P,)`` by name.
        nfe: rows through the denoiser, for each prompt.
        reward_calls: videos scored times rewards, for each prompt.
        candidates: all that was looked at on the way, for each prompt.
    """

    videos: Tensor
    latents: Tensor
    scores: Tensor
    rewards: dict[str, Tensor]
    nfe: tuple[int, ...]
    reward_calls: tuple[int, ...]
    candidates: tuple[tuple[Judgement, ...], ...]


@dataclass(frozen=True)
class Found:
    """The winner of one prompt: latents ``(1, C, t, h, w)`` and its rewards ``(1,)`` by name."""

    latents: Tensor
    rewards: dict[str, Tensor]


class Searcher(ABC):
    """Spends model calls on one prompt until a better video than the plain sample comes out; trains nothing.

    A search has one size (videos, beams, updates): a given one, or the largest that the budget allows. Candidate 0
    starts from the noise that ``generator.sample(prompts, seed=seed)`` would start from, and every prompt is searched
    by itself, so that its result does not depend on the others.

    Args:
        generator: draws videos.
        objective: judges them.
        size: of the search; what the budget allows if None.
        steps: of the sampler; the generator's default if None.
        guidance: classifier-free guidance weight; the generator's default if None.
        rule: how several rewards order candidates, see :func:`vrm.rewards.aggregate.aggregate`.
        batch: rows that go through network, codec and reward at once; all if None. No effect on the result.

    Attributes:
        unit: what the size counts.

    Raises:
        UnknownNameError: if there is no such rule.
        ValueError: if a number is below 1.
    """

    unit: str = "videos"

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        *,
        size: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        rule: str = "weighted_sum",
        batch: int | None = None,
    ) -> None:
        """Check the settings."""
        if rule not in RULES:
            raise UnknownNameError("aggregation rule", rule, RULES)
        for name, value in (("size", size), ("steps", steps), ("batch", batch)):
            at_least_one(name, value)
        self.generator = generator
        self.objective = objective
        self.size = size
        defaults = generator.defaults
        weight = defaults.guidance if guidance is None else guidance
        self.sampling = Sampling(defaults.steps if steps is None else steps, weight, rule, batch)

    @abstractmethod
    def cost(self, size: int) -> Cost:
        """What a search of this size spends on one prompt; grows with the size."""

    @abstractmethod
    def search(self, case: Case, size: int) -> Found:
        """Search for one prompt."""

    @property
    def rows(self) -> int:
        """Rows through the denoiser for one prediction: 2 with guidance."""
        return 1 if self.sampling.guidance == 1.0 else 2

    def affordable(self, budget: Budget) -> int:
        """The size that a budget is spent on.

        Raises:
            BudgetError: if the given size, or the smallest one, would cost more.
        """
        size = 1 if self.size is None else self.size
        cost = self.cost(size)
        if not budget.allows(cost):
            limit = "" if budget.reward_calls is None else f" and {budget.reward_calls} reward calls"
            raise BudgetError(
                f"{type(self).__name__} with {size} {self.unit} and {self.sampling.steps} steps needs {cost.nfe} model "
                f"calls and {cost.reward_calls} reward calls for each prompt, got a budget of {budget.nfe} model "
                f"calls{limit}; raise it, or take fewer steps."
            )
        if self.size is None:
            while budget.allows(self.cost(size + 1)):
                size += 1
        return size

    def sample(self, prompts: Sequence[str], budget: Budget, seed: int | Sequence[int] = 0) -> SearchResult:
        """Find a video for each prompt.

        Args:
            prompts: one text per video.
            budget: for each prompt.
            seed: of each prompt's plain sample; one number stands for ``seed``, ``seed + 1`` and so on.

        Raises:
            BudgetError: if the budget is too small for the search; nothing is spent then.
            PromptError: if there is no prompt, or one is not a text.
            ValueError: if there is not one seed per prompt.
        """
        size = self.affordable(budget)
        self.generator.condition(prompts)
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        if len(seeds) != len(prompts):
            raise ValueError(f"One seed per prompt is needed ({len(prompts)} here), got {len(seeds)}.")
        winners: list[Found] = []
        spent: list[Cost] = []
        noted: list[tuple[Judgement, ...]] = []
        for prompt, number in zip(prompts, seeds, strict=True):
            case = Case(self.generator, self.objective, prompt, number, self.sampling)
            nfe, calls = self.generator.denoiser.nfe, self.objective.reward_calls
            winners.append(self.search(case, size))
            calls = self.objective.reward_calls - calls + case.latent_calls
            spent.append(Cost(self.generator.denoiser.nfe - nfe, calls))
            noted.append(tuple(case.judgements))
        latents = torch.cat([winner.latents for winner in winners])
        rewards = {name: torch.cat([winner.rewards[name] for winner in winners]) for name in self.objective.rewards}
        return SearchResult(
            videos=torch.cat([self._decode(winner.latents) for winner in winners]),
            latents=latents,
            scores=self.objective.total(rewards),
            rewards=rewards,
            nfe=tuple(cost.nfe for cost in spent),
            reward_calls=tuple(cost.reward_calls for cost in spent),
            candidates=tuple(noted),
        )

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        return self.generator.codec.decode(latents, clamp="hard")


def at_least_one(name: str, value: int | None) -> None:
    """Refuse a number below 1; None passes.

    Raises:
        ValueError: naming it.
    """
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def best(case: Case, latents: Tensor, stage: int) -> Found:
    """Score finished latents and return the best."""
    rewards = case.score(latents)
    (place,) = case.keep(rewards, 1, stage)
    return Found(latents[place : place + 1], {name: values[place : place + 1] for name, values in rewards.items()})
