"""From rewards of groups of videos to advantages: how much better each one is than it was to be expected."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vrm.data.comparisons import Segments
from vrm.errors import UnknownNameError
from vrm.rewards.aggregate import RULES, STANDARDISED, Rewards, Weights, aggregate, standardised
from vrm.rewards.labellers import Labeller

Baseline = Literal["group", "batch", "prompt"]
BASELINES = ("group", "batch", "prompt")


def group_advantages(values: Tensor, std: Literal["group", "batch"] = "group", eps: float = 1e-4) -> Tensor:
    """Advantages ``(P, G)`` of ``G`` videos for each of ``P`` prompts.

    Args:
        values: ``(P, G)`` rewards.
        std: ``"group"`` divides by the deviation within each group (GRPO); ``"batch"`` by that of all values, so that
            a group of nearly equal rewards is not blown up (Flow-GRPO's option, RVM).
        eps: added to the deviation.
    """
    if std == "group":
        return standardised(values, eps)
    offset = values - values[..., :1]
    deviation = (values - values.mean()).square().mean().sqrt()
    return (offset - offset.mean(dim=-1, keepdim=True)) / (deviation + eps)


class PromptStatistics:
    """The last rewards of every prompt, as the baseline of new ones (DDPO, arXiv 2305.13301).

    Args:
        size: rewards remembered per prompt.
        least: until a prompt has so many, the batch is its baseline.
    """

    def __init__(self, size: int = 32, least: int = 16) -> None:
        """Start empty."""
        if not 1 <= least <= size:
            raise ValueError(f"Prompt statistics need 1 <= least <= size, got least={least} and size={size}.")
        self.size, self.least = size, least
        self.seen: dict[str, deque[float]] = {}

    def advantages(self, prompts: Sequence[str], values: Tensor, eps: float = 1e-4) -> Tensor:
        """Remember ``values`` ``(N,)`` of as many ``prompts`` and standardise them by prompt, ``(N,)``."""
        for prompt, value in zip(prompts, values.tolist(), strict=True):
            self.seen.setdefault(prompt, deque(maxlen=self.size)).append(value)
        found = standardised(values, eps)
        for prompt in dict.fromkeys(prompts):
            past = torch.tensor(self.seen[prompt], device=values.device)
            if len(past) >= self.least:
                rows = torch.tensor([other == prompt for other in prompts], device=values.device)
                offset = past - past[:1]
                mean, deviation = offset.mean(), offset.std(correction=0)
                found[rows] = (values[rows] - past[:1] - mean) / (deviation + eps)
        return found

    def state_dict(self) -> dict[str, list[float]]:
        """Rewards by prompt."""
        return {prompt: list(values) for prompt, values in self.seen.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take :meth:`state_dict` back."""
        self.seen = {prompt: deque(values, maxlen=self.size) for prompt, values in state.items()}


@dataclass
class Credit:
    """How rewards of a group become advantages.

    Attributes:
        rule: how several rewards become one, see :func:`vrm.rewards.aggregate.aggregate`.
        baseline: ``"group"`` standardises in the group, ``"batch"`` takes the deviation of the batch, ``"prompt"``
            remembers each prompt's past rewards (DDPO).
        clip: largest absolute advantage.
        history: rewards remembered per prompt.
        least: how many of them a baseline needs.
        best: of each group train only so many best ones and ...
        worst: ... so many worst ones (DanceGRPO); all where both are None.
        decisive: of videos with one past train only the best if it is good and the worst if it is bad (B2-DiffuRL).

    Raises:
        UnknownNameError: if ``rule`` or ``baseline`` is unknown.
        ValueError: if the rule is centred already, so that no other baseline than the group is left, or ``clip`` is not
            positive.
    """

    rule: str = "weighted_sum"
    baseline: Baseline = "group"
    clip: float = 5.0
    history: int = 32
    least: int = 16
    best: int | None = None
    worst: int | None = None
    decisive: bool = False

    def __post_init__(self) -> None:
        """Check the names and start without a past."""
        for kind, name, known in (("rule", self.rule, RULES), ("baseline", self.baseline, BASELINES)):
            if name not in known:
                raise UnknownNameError(kind, name, known)
        if self.rule in STANDARDISED and self.baseline != "group":
            raise ValueError(
                f"Rule {self.rule!r} is centred on the group; use baseline='group', not {self.baseline!r}."
            )
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}.")
        if self.decisive and (self.best is not None or self.worst is not None):
            raise ValueError("Train either the decisive videos or the best and worst of a group; leave out one option.")
        self.statistics = PromptStatistics(self.history, self.least)

    def __call__(self, rewards: Rewards, prompts: Sequence[str], weights: Weights = None) -> Tensor:
        """Advantages ``(P, G)``, clipped.

        Args:
            rewards: ``(P, G)`` by name.
            prompts: ``P`` of them.
            weights: of the rewards, by name.
        """
        values = aggregate(rewards, self.rule, weights)
        if self.rule in STANDARDISED:
            advantages = values
        elif self.baseline == "prompt":
            repeated = [prompt for prompt in prompts for _ in range(values.shape[1])]
            advantages = self.statistics.advantages(repeated, values.flatten()).reshape(values.shape)
        else:
            advantages = group_advantages(values, self.baseline)
        return advantages.clamp(-self.clip, self.clip)

    def kept(self, advantages: Tensor, branch: int = 1) -> Tensor:
        """Which of ``(P, G)`` videos are trained on; ``branch`` neighbours have one past."""
        if self.decisive:
            return decisive(advantages.reshape(-1, branch)).reshape(advantages.shape)
        if self.best is None and self.worst is None:
            return torch.ones_like(advantages, dtype=torch.bool)
        columns = best_and_worst(advantages, self.best or 0, self.worst or 0)
        return torch.zeros_like(advantages, dtype=torch.bool).scatter_(1, columns, True)


def best_and_worst(values: Tensor, top: int, bottom: int) -> Tensor:
    """Columns ``(P, top + bottom)`` of the best and the worst members of each group ``(P, G)``, in their order there.

    Raises:
        ValueError: if a group has fewer members.
    """
    members = values.shape[1]
    if top < 0 or bottom < 0 or not 1 <= top + bottom <= members:
        raise ValueError(f"A group of {members} has no {top} best and {bottom} worst members; ask for fewer.")
    order = values.argsort(dim=1, descending=True, stable=True)
    return torch.cat([order[:, :top], order[:, members - bottom :]], dim=1).sort(dim=1).values


def decisive(advantages: Tensor, upper: float = 0.5, lower: float = -0.5) -> Tensor:
    """Which members of each branch ``(M, K)`` teach something: the best if it is good, the worst if it is bad.

    B2-DiffuRL (arXiv 2503.11240): of videos with one past, the best is kept if its normalised score is at least
    ``upper`` and the worst if it is below ``lower``. Returns ``(M, K)`` bool.
    """
    rows = torch.arange(len(advantages), device=advantages.device)
    kept = torch.zeros_like(advantages, dtype=torch.bool)
    best, worst = advantages.argmax(dim=1), advantages.argmin(dim=1)
    kept[rows, best] |= advantages[rows, best] >= upper
    kept[rows, worst] |= advantages[rows, worst] < lower
    return kept


class AdaptiveKL:
    """A penalty coefficient that steers the divergence to a target (Ziegler et al., arXiv 1909.08593; Pref-GRPO).

    Args:
        target: divergence aimed at.
        horizon: updates over which the coefficient adapts.
        low: smallest coefficient, and the first one.
        high: largest coefficient.
    """

    def __init__(self, target: float = 0.0025, horizon: float = 80.0, low: float = 0.004, high: float = 0.006) -> None:
        """Start at the smallest coefficient."""
        if not (target > 0 and horizon > 0 and 0 < low <= high):
            raise ValueError(
                f"An adaptive KL needs target > 0, horizon > 0 and 0 < low <= high, got {target}, {horizon}, {low}, "
                f"{high}."
            )
        self.target, self.horizon, self.low, self.high = target, horizon, low, high
        self.value = low

    def observe(self, divergence: float) -> None:
        """Move the coefficient by at most a fifth of ``1 / horizon`` towards more or less penalty."""
        error = min(max(divergence / self.target - 1, -0.2), 0.2)
        self.value = min(max(self.value * (1 + error / self.horizon), self.low), self.high)


class PairwiseJudge:
    """Win rates within groups from somebody who compares videos two by two (Pref-GRPO, arXiv 2508.20751).

    Pointwise scores of a group lie close together, and standardising them amplifies noise; how often a video wins
    against the others does not have that illusion. A group costs ``G (G - 1) / 2`` comparisons.

    Args:
        labeller: makes the labeller that decides for a prompt, given as ``goal``: ``partial(JudgeLabeller, runner)``.
        weight: of the win rate beside the other rewards.

    Attributes:
        comparisons: asked so far.
        unanswered: of those; they count as ties.
    """

    def __init__(self, labeller: Callable[..., Labeller], weight: float = 1.0) -> None:
        """Keep the maker; labellers are made when a prompt is first seen."""
        self.make = labeller
        self.labellers: dict[str, Labeller] = {}
        self.weight = float(weight)
        self.comparisons = 0
        self.unanswered = 0

    def win_rates(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """``(P, G)`` win rates in [0, 1].

        Args:
            videos: ``(P, G, T, 3, H, W)`` in [0, 1].
            prompts: ``P`` of them.
        """
        count, members = videos.shape[:2]
        first, second = torch.triu_indices(members, members, offset=1)
        points = torch.full((count, members, members), 0.5)
        for row, prompt in enumerate(prompts):
            shown = Segments((videos[row].cpu() * 255).round().to(torch.uint8))
            if prompt not in self.labellers:
                self.labellers[prompt] = self.make(goal=prompt)
            wins = self.labellers[prompt].compare(shown[first], shown[second]).float().cpu()
            self.comparisons += len(wins)
            self.unanswered += int(wins.isnan().sum())
            wins = wins.nan_to_num(0.5)
            points[row, first, second], points[row, second, first] = wins, 1 - wins
        rates: Tensor = (points.sum(dim=-1) - 0.5) / max(members - 1, 1)
        return rates
