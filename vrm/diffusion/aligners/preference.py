"""Preference optimisation on noised videos: Diffusion-DPO, Flow-DPO, SePPO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vrm.diffusion.aligners.base import Batch, Metrics, Training, reward_metrics
from vrm.diffusion.aligners.sampling import Sampling, SamplingAligner
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.losses import dpo
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise
from vrm.errors import UnknownNameError

if TYPE_CHECKING:
    from accelerate import Accelerator

Pairs = Literal["given", "online", "previous"]
Weighting = Literal["constant", "quadratic"]
PAIRS = ("given", "online", "previous")
WEIGHTINGS = ("constant", "quadratic")


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss, and at which noise it is taken.

    Attributes:
        beta: sharpness; errors are means over dimensions, so it is in the hundreds or thousands.
        weighting: ``"constant"``, or ``"quadratic"`` for ``beta alpha(t)^2``: ``beta (1 - t)^2`` on flows, which
            follows from the derivation but over-optimises some qualities at the cost of others (VideoAlign).
        flip: pull towards the loser where the reference explains the winner better than the model does (SePPO's
            anchor-based adaptive flipper).
        draws: noises and times per pair in an update.
        low: least noisy time, as a fraction of the chain.
        high: noisiest time.

    Raises:
        ValueError: if a number is out of its range.
        UnknownNameError: if the weighting is unknown.
    """

    beta: float = 500.0
    weighting: Weighting = "constant"
    flip: bool = False
    draws: int = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.beta > 0 or self.draws < 1 or not 0 <= self.low < self.high <= 1:
            raise ValueError(
                "A preference loss needs beta > 0, draws >= 1 and 0 <= low < high <= 1, got "
                f"{self.beta}, {self.draws}, {self.low}, {self.high}."
            )
        if self.weighting not in WEIGHTINGS:
            raise UnknownNameError("weighting", self.weighting, WEIGHTINGS)


class PreviousPolicies:
    """Adapters as they were at earlier times, the start among them until it drops out.

    Args:
        size: how many are kept; 1 makes a reference that is renewed.
        every: updates between two of them.
    """

    def __init__(self, size: int = 4, every: int = 25) -> None:
        """Start empty."""
        if size < 1 or every < 1:
            raise ValueError(f"Previous policies need size >= 1 and every >= 1, got {size} and {every}.")
        self.size, self.every = size, every
        self.kept: list[dict[str, Tensor]] = []
        self.newest = 0

    def note(self, weights: dict[str, Tensor], updates: int) -> None:
        """Keep ``weights`` if it is the first time or time again."""
        if not self.kept or updates - self.newest >= self.every:
            self.kept = [*self.kept, weights][-self.size :]
            self.newest = updates

    def choose(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One at random."""
        return self.kept[int(torch.randint(len(self.kept), (), generator=generator))]


@dataclass(frozen=True)
class _Pairs:
    winners: Tensor
    losers: Tensor
    conditions: Conditions


class Preference(SamplingAligner):
    """Denoises preferred videos better, and others worse, than a reference does.

    Args:
        generator: is changed: gets adapters, which are trained.
        objective: the rewards; they rank drawn videos, and say how good given ones are.
        training: adapters and optimiser.
        sampling: how videos are drawn where pairs are not given.
        loss: beta and the like.
        pairs: ``"given"``: the batch brings videos and losers; ``"online"``: the best and the worst of each drawn
            group; ``"previous"``: the batch's videos, or without them the best of a group, against what a random
            earlier policy draws (SePPO).
        previous: earlier policies; if given, a random one of them is the reference in place of the base model.
            ``PreviousPolicies(1, 40)`` renews the reference (online Flow-DPO).
        updates: gradients per batch.
        accelerator: of Hugging Face Accelerate.

    Raises:
        ValueError: if ``pairs="previous"`` lacks earlier policies, a group is too small, or ``updates`` is below 1.
        UnknownNameError: if ``pairs`` is unknown.

    Papers: Diffusion-DPO arXiv 2311.12908, Flow-DPO 2501.13918, SePPO 2410.05255. SePPO's training code is not public;
    the flipper's sign follows the paper's words.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        sampling: Sampling | None = None,
        *,
        loss: PreferenceLoss | None = None,
        pairs: Pairs = "online",
        previous: PreviousPolicies | None = None,
        updates: int = 1,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Check that there will be pairs."""
        super().__init__(generator, objective, training or Training(lr=5e-6), sampling, accelerator=accelerator)
        if pairs not in PAIRS:
            raise UnknownNameError("way of making pairs", pairs, PAIRS)
        if pairs == "previous" and previous is None:
            raise ValueError("pairs='previous' draws losers from earlier policies; give previous=PreviousPolicies().")
        if (pairs == "online" and self.sampling.group < 2) or updates < 1:
            raise ValueError(
                f"Pairs need a group of at least 2 and updates >= 1, got {self.sampling.group}, {updates}."
            )
        self.loss = loss or PreferenceLoss()
        self.pairs = pairs
        self.previous = previous
        self.inner = updates
        self.needs_videos = pairs == "given"

    def update(self, batch: Batch) -> Metrics:
        """Take or make pairs and learn from them ``updates`` times.

        Metrics besides the usual: ``accuracy`` (share of pairs whose winner gains more on the reference than the
        loser), ``flipped`` (share of pulled losers) and ``velocity_distance``. Rewards are those of what was drawn, or
        of the winners given.

        Raises:
            ValueError: if pairs are to be given and the batch has no losers.
        """
        if self.previous is not None:
            self.previous.note(self.denoiser.lora_state(), self.updates)
        chosen = None if self.previous is None else self.previous.choose(self.rng)
        pairs, rewards = self._make(batch, chosen)
        shown = [self._descend(pairs, chosen) for _ in range(self.inner)]
        means = {name: sum(part[name] for part in shown) / len(shown) for name in shown[0]}
        distance = self.velocity_distance(pairs.winners, pairs.conditions)
        return {**reward_metrics(rewards), **means, "velocity_distance": distance}

    def memory(self) -> dict[str, Any]:
        """Earlier policies."""
        if self.previous is None:
            return {}
        return {"kept": list(self.previous.kept), "newest": self.previous.newest}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take :meth:`memory` back."""
        if self.previous is None:
            return super().remember(memory)
        device = self.denoiser.device
        self.previous.kept = [{name: v.to(device, copy=True) for name, v in state.items()} for state in memory["kept"]]
        self.previous.newest = memory["newest"]
        return None

    def _make(self, batch: Batch, chosen: dict[str, Tensor] | None) -> tuple[_Pairs, dict[str, Tensor]]:
        conditions = self.generator.condition(batch.prompts)
        if self.pairs == "given":
            if batch.videos is None or batch.losers is None:
                raise ValueError("pairs='given' needs videos and losers in each batch; or use pairs='online'.")
            winners, losers = (self._encode(videos) for videos in (batch.videos, batch.losers))
            return _Pairs(winners, losers, conditions), self._score(batch)
        if self.pairs == "online":
            latents, total, rewards = self._draw(batch.prompts)
            return _Pairs(_pick(latents, total.argmax(dim=1)), _pick(latents, total.argmin(dim=1)), conditions), rewards
        if batch.videos is not None:
            winners, rewards = self._encode(batch.videos), self._score(batch)
        else:
            latents, total, rewards = self._draw(batch.prompts)
            winners = _pick(latents, total.argmax(dim=1))
        assert chosen is not None  # checked with the other arguments
        with self.denoiser.lora_weights(chosen):
            losers = torch.cat([some.trajectory.x0 for some in self.draw(batch.prompts, group=1)])
        return _Pairs(winners, losers, conditions), rewards

    def _draw(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        drawn = self.draw(prompts)
        rewards, _ = self.score(drawn, prompts)
        latents = torch.cat([some.trajectory.x0 for some in drawn])
        groups = latents.reshape(len(prompts), -1, *latents.shape[1:])
        return groups, self.objective.total(rewards), rewards

    @torch.no_grad()
    def _encode(self, videos: Tensor) -> Tensor:
        return self.codec.encode(videos.to(self.denoiser.device))

    def _score(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.videos is not None
        return self.objective.score(batch.videos.to(self.denoiser.device), batch.prompts)

    def _descend(self, pairs: _Pairs, chosen: dict[str, Tensor] | None) -> Metrics:
        repeat = self.loss.draws
        x0 = torch.cat([v.repeat_interleave(repeat, 0) for v in (pairs.winners, pairs.losers)])
        rows = pairs.conditions.repeat(repeat)
        count = len(rows)
        t = self.denoiser.schedule.sample(count, self.rng, self.loss.low, self.loss.high).to(x0.device)
        eps = draw_noise((count, *x0.shape[1:]), self.rng, x0.device)
        both = (x0, t.repeat(2), eps.repeat(2, *[1] * (eps.ndim - 1)), rows.join(rows))
        with torch.no_grad(), self._reference(chosen):
            base = self.denoiser.matching_loss(*both)
        errors = self.denoiser.matching_loss(*both)
        winner, loser = (errors - base).chunk(2)
        sign = torch.where(base[:count] < errors[:count].detach(), -1.0, 1.0) if self.loss.flip else 1.0
        loss = dpo(winner, loser, self._beta(t), sign).mean()
        self.backward(loss)
        self.descend()
        flipped = float((torch.as_tensor(sign) < 0).float().mean())
        accuracy = float((winner < loser).float().mean())
        return {"loss": float(loss.detach()), "accuracy": accuracy, "flipped": flipped}

    def _reference(self, chosen: dict[str, Tensor] | None) -> AbstractContextManager[None]:
        return self.denoiser.reference() if chosen is None else self.denoiser.lora_weights(chosen)

    def _beta(self, t: Tensor) -> Tensor | float:
        if self.loss.weighting == "constant":
            return self.loss.beta
        return self.loss.beta * self.denoiser.schedule.levels(t)[0] ** 2


def _pick(latents: Tensor, columns: Tensor) -> Tensor:
    """One of each group: ``(P, G, ...)`` and ``(P,)`` to ``(P, ...)``."""
    return latents[torch.arange(len(latents), device=latents.device), columns]
