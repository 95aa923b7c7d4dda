"""Pairs of videos compared by the log-probabilities of how they came about: D3PO, PRDP, REBEL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from vrm.diffusion.advantage import group_advantages
from vrm.diffusion.aligners.base import Batch, Metrics, Training, reward_metrics
from vrm.diffusion.aligners.plans import AllSteps, StepPlan
from vrm.diffusion.aligners.sampling import Experience, Sampling, SamplingAligner, own_kernel, take_rows
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel
from vrm.diffusion.losses import d3po, prdp, rebel
from vrm.diffusion.objective import RewardObjective
from vrm.errors import UnknownNameError
from vrm.rewards.aggregate import dominates

if TYPE_CHECKING:
    from accelerate import Accelerator

Pairing = Literal["extremes", "dominance", "all"]
PAIRINGS = ("extremes", "dominance", "all")


class PairLoss(ABC):
    """What is minimised over pairs of chains.

    Attributes:
        anchor: what log-ratios are relative to: the base model, or the policy that drew the videos.
    """

    anchor: ClassVar[Literal["reference", "old"]]

    @abstractmethod
    def __call__(self, log_ratios: Tensor, old: Tensor, rewards: Tensor, advantages: Tensor) -> Tensor:
        """One loss per pair ``(K,)``.

        Args:
            log_ratios: ``(K, 2, N)`` of every step, the better video first.
            old: ``(K, 2, N)`` the same before the first update on these videos.
            rewards: ``(K, 2)``.
            advantages: ``(K, 2)`` rewards standardised in the group.
        """


@dataclass(frozen=True)
class D3PO(PairLoss):
    """Preference at every step, see :func:`vrm.diffusion.losses.d3po`."""

    beta: float = 0.1
    clip: float = 0.1
    anchor = "reference"

    def __call__(self, log_ratios: Tensor, old: Tensor, rewards: Tensor, advantages: Tensor) -> Tensor:
        """See the base class."""
        return d3po(log_ratios, self.beta, self.clip)


@dataclass(frozen=True)
class PRDP(PairLoss):
    """Reward difference prediction, see :func:`vrm.diffusion.losses.prdp`."""

    beta: float = 10.0
    clip: float = 1e-4
    anchor = "reference"

    def __call__(self, log_ratios: Tensor, old: Tensor, rewards: Tensor, advantages: Tensor) -> Tensor:
        """See the base class."""
        return prdp(log_ratios, old, rewards, self.beta, self.clip)


@dataclass(frozen=True)
class REBEL(PairLoss):
    """Relative reward regression, see :func:`vrm.diffusion.losses.rebel`."""

    eta: float = 1.0
    anchor = "old"

    def __call__(self, log_ratios: Tensor, old: Tensor, rewards: Tensor, advantages: Tensor) -> Tensor:
        """See the base class."""
        return rebel(log_ratios, advantages, self.eta)


class PairPolicy(SamplingAligner):
    """Makes the better of two videos' decisions more likely than the other's.

    Losses tie all steps of two chains together, but one step's graph is in memory at a time: log-ratios are computed
    without gradient, the loss is differentiated by them, and each step is then run again and led by its share. The
    gradient is the same.

    Args:
        generator: is changed: gets adapters, which are trained.
        objective: the rewards; they need no gradient.
        training: adapters and optimiser.
        sampling: how videos are drawn; D3PO compares videos that start from one noise.
        loss: :class:`D3PO`, :class:`PRDP` or :class:`REBEL`.
        kernel: makes the steps stochastic; ``flow_sde(0.7)`` for flows and ``ddim(1.0)`` otherwise if None.
        plan: which steps are decisions; one that branches makes a group of ``group * branch``.
        pairing: ``"extremes"`` compares the best and the worst of each group; ``"dominance"`` does so only if the best
            is at no reward worse (D3PO's rule for several rewards); ``"all"`` compares any two.
        epochs: updates on the same videos.
        accelerator: of Hugging Face Accelerate.

    Attributes:
        rounds: calls of :meth:`step` so far.

    Raises:
        ValueError: if a group has a single video, or ``epochs`` is below 1.
        UnknownNameError: if the pairing is unknown.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        sampling: Sampling | None = None,
        *,
        loss: PairLoss | None = None,
        kernel: Kernel | None = None,
        plan: StepPlan | None = None,
        pairing: Pairing = "extremes",
        epochs: int = 1,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Check that there is something to compare."""
        super().__init__(generator, objective, training or Training(lr=3e-5), sampling, accelerator=accelerator)
        self.loss = loss or D3PO()
        self.kernel = kernel or own_kernel(self.denoiser)
        self.plan = plan or AllSteps()
        if self.sampling.group * self.plan.branches < 2 or epochs < 1:
            raise ValueError(f"Pairs need a group of at least 2 and epochs >= 1, got {self.sampling.group}, {epochs}.")
        if pairing not in PAIRINGS:
            raise UnknownNameError("pairing", pairing, PAIRINGS)
        self.pairing = pairing
        self.epochs = epochs
        self.rounds = 0

    def update(self, batch: Batch) -> Metrics:
        """Draw, pair, and learn ``epochs`` times.

        Metrics besides the usual: ``pairs``, ``margin`` (mean log-ratio of the better minus the worse videos before the
        last update), ``ratio_max`` (greatest ratio of a step to the policy that drew it) and ``velocity_distance``.
        """
        plan = self.plan.at(self.steps, self.rounds, self.rng)
        drawn = self.draw(batch.prompts, self.kernel, plan)
        if not drawn[0].steps:
            raise ValueError("None of the steps to train is stochastic; use another kernel, plan or more steps.")
        rewards, _ = self.score(drawn, batch.prompts)
        total = self.objective.total(rewards)
        pairs = make_pairs(rewards, total, self.pairing)
        self.rounds += 1
        metrics = {**reward_metrics(rewards), "pairs": float(len(pairs)), "loss": 0.0, "margin": 0.0, "ratio_max": 1.0}
        if len(pairs):
            kept = torch.zeros(total.numel(), dtype=torch.bool, device=total.device)
            kept[pairs.flatten()] = True
            parts = take_rows(drawn, kept, self.denoiser)
            places = (kept.cumsum(0) - 1)[pairs]
            advantages = group_advantages(total)
            metrics |= self._learn(parts, places, total.flatten()[pairs], advantages.flatten()[pairs])
        past = drawn[0].trajectory
        metrics["velocity_distance"] = self.velocity_distance(past.x0, past.conditions)
        return metrics

    def memory(self) -> dict[str, int]:
        """The number of rounds."""
        return {"rounds": self.rounds}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take :meth:`memory` back."""
        self.rounds = memory["rounds"]

    def _learn(self, parts: Sequence[Experience], pairs: Tensor, rewards: Tensor, advantages: Tensor) -> Metrics:
        old = torch.cat([part.log_probs for part in parts])
        anchor = old if self.loss.anchor == "old" else self._reference(parts)
        before = (old - anchor)[pairs]
        losses, furthest, ratios = [], 1.0, before
        for epoch in range(self.epochs):
            now = old if epoch == 0 else torch.cat([part.replay(self.denoiser) for part in parts])
            ratios = (now - anchor).requires_grad_()
            loss = self.loss(ratios[pairs], before, rewards, advantages).mean()
            (slopes,) = torch.autograd.grad(loss, ratios)
            self._lead(parts, slopes)
            self.descend()
            losses.append(float(loss.detach()))
            furthest = max(furthest, float((now - old).exp().max()))
            ratios = ratios.detach()[pairs]
        margin = float((ratios[:, 0] - ratios[:, 1]).mean())
        return {"loss": sum(losses) / len(losses), "margin": margin, "ratio_max": furthest}

    def _reference(self, parts: Sequence[Experience]) -> Tensor:
        with self.denoiser.reference():
            return torch.cat([part.replay(self.denoiser) for part in parts])

    def _lead(self, parts: Sequence[Experience], slopes: Tensor) -> None:
        """Backward through each step by itself, with what the loss says of its log-ratio."""
        start = 0
        for part in parts:
            own = slopes[start : start + len(part)]
            start += len(part)
            for column, step in enumerate(part.steps):
                log_prob = part.log_prob(part.transition(self.denoiser, step), step)
                self.backward((own[:, column] * log_prob).sum())


def make_pairs(rewards: Mapping[str, Tensor], total: Tensor, pairing: Pairing) -> Tensor:
    """Which videos to compare: ``(K, 2)`` numbers into the flattened groups, the better first; equals make no pair.

    Args:
        rewards: ``(P, G)`` by name.
        total: ``(P, G)`` their sum.
        pairing: as in :class:`PairPolicy`.
    """
    count, members = total.shape
    rows = torch.arange(count, device=total.device)
    if pairing == "all":
        first, second = torch.triu_indices(members, members, offset=1, device=total.device)
        prompt = rows[:, None].expand(-1, len(first))
        one, other = (prompt * members + first).flatten(), (prompt * members + second).flatten()
    else:
        one, other = (rows * members + index for index in (total.argmax(dim=1), total.argmin(dim=1)))
    better = total.flatten()[one] >= total.flatten()[other]
    pairs = torch.stack([torch.where(better, one, other), torch.where(better, other, one)], dim=1)
    differ = total.flatten()[pairs[:, 0]] > total.flatten()[pairs[:, 1]]
    if pairing == "dominance":
        clear = dominates(rewards)
        differ &= clear[rows, total.argmax(dim=1), total.argmin(dim=1)]
    return pairs[differ]
