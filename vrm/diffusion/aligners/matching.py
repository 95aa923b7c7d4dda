"""Own videos as training data, weighted by how good they are: RWR, RAFT, RVM, and NFT's mirrored pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vrm.diffusion.advantage import group_advantages
from vrm.diffusion.aligners.base import Batch, Metrics, Training, reward_metrics
from vrm.diffusion.aligners.sampling import Sampling, SamplingAligner
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.losses import nft, raft_weights, rwr_weights
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise

if TYPE_CHECKING:
    from accelerate import Accelerator


class Weigh(ABC):
    """How much each video of a group counts as training data."""

    @abstractmethod
    def __call__(self, rewards: Tensor) -> Tensor:
        """``(P, G)`` rewards to ``(P, G)`` weights."""


@dataclass(frozen=True)
class RWR(Weigh):
    """Reward-weighted regression: ``exp(r / temperature)``, normalised in the group (Flow-RWR, arXiv 2501.13918).

    Attributes:
        temperature: in units of the reward, or of its standard deviation in the group if ``standardise``.
        standardise: whether rewards are standardised in the group first, so that any scale of rewards separates videos.
    """

    temperature: float = 1.0
    standardise: bool = True

    def __post_init__(self) -> None:
        """Check the temperature."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")

    def __call__(self, rewards: Tensor) -> Tensor:
        """See the base class."""
        return rwr_weights(group_advantages(rewards) if self.standardise else rewards, self.temperature)


@dataclass(frozen=True)
class RAFT(Weigh):
    """Supervised tuning on the best of each group (arXiv 2304.06767).

    Attributes:
        top: how many of them.
    """

    top: int = 1

    def __call__(self, rewards: Tensor) -> Tensor:
        """See the base class."""
        if not 1 <= self.top <= rewards.shape[1]:
            raise ValueError(f"top must be between 1 and the group's {rewards.shape[1]} videos, got {self.top}.")
        return raft_weights(rewards, self.top)


@dataclass(frozen=True)
class Signed(Weigh):
    """Signed advantages: bad videos are unlearned (RVM, AWM).

    ``scale clip((r - group mean) / std of the batch, -clip, clip)``.

    Attributes:
        scale: of the weights.
        clip: largest absolute advantage; unlearning has no bound of its own.
    """

    scale: float = 0.1
    clip: float = 3.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (self.scale > 0 and self.clip > 0):
            raise ValueError(f"scale and clip must be positive, got {self.scale} and {self.clip}.")

    def __call__(self, rewards: Tensor) -> Tensor:
        """See the base class."""
        return self.scale * group_advantages(rewards, "batch").clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class Repeats:
    """How often drawn videos are learned from.

    Attributes:
        updates: gradients per drawing.
        draws: noises and times per video in a gradient.
        low: least noisy time, as a fraction of the chain.
        high: noisiest time.

    Raises:
        ValueError: if a number is out of its range.
    """

    updates: int = 1
    draws: int = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.updates < 1 or self.draws < 1 or not 0 <= self.low < self.high <= 1:
            raise ValueError(
                "Repeats need updates >= 1, draws >= 1 and 0 <= low < high <= 1, got "
                f"{self.updates}, {self.draws}, {self.low}, {self.high}."
            )


class _OwnVideos(SamplingAligner):
    """Draws, judges, and learns from noised versions of what it drew."""

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        sampling: Sampling | None = None,
        *,
        repeats: Repeats | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        super().__init__(generator, objective, training, sampling, accelerator=accelerator)
        self.repeats = repeats or Repeats()
        if self.sampling.group < 2:
            raise ValueError(f"Videos of a group are weighed against each other; use more than {self.sampling.group}.")

    @abstractmethod
    def worth(self, rewards: Tensor) -> Tensor:
        """What the losses need to know of each video, from total rewards ``(P, G)``, in that shape."""

    @abstractmethod
    def losses(self, x0: Tensor, t: Tensor, eps: Tensor, conditions: Conditions, worth: Tensor) -> Tensor:
        """One loss per row ``(N,)`` at times ``(N,)`` with noise like ``x0``."""

    def policy(self) -> AbstractContextManager[None]:
        """The weights that draw."""
        return nullcontext()

    def update(self, batch: Batch) -> Metrics:
        """Draw, judge, and learn ``repeats.updates`` times; adds ``velocity_distance`` to the usual metrics."""
        with self.policy():
            drawn = self.draw(batch.prompts)
        rewards, _ = self.score(drawn, batch.prompts)
        worth = self.worth(self.objective.total(rewards)).flatten()
        parts = [(some.trajectory.x0, some.trajectory.conditions) for some in drawn]
        losses = [self._descend(parts, worth) for _ in range(self.repeats.updates)]
        distance = self.velocity_distance(*parts[0])
        return {**reward_metrics(rewards), "loss": sum(losses) / len(losses), "velocity_distance": distance}

    def _descend(self, parts: Sequence[tuple[Tensor, Conditions]], worth: Tensor) -> float:
        start, total = 0, 0.0
        for latents, conditions in parts:
            own = worth[start : start + len(latents)].repeat_interleave(self.repeats.draws)
            start += len(latents)
            x0, rows = latents.repeat_interleave(self.repeats.draws, 0), conditions.repeat(self.repeats.draws)
            t = self.denoiser.schedule.sample(len(x0), self.rng, self.repeats.low, self.repeats.high).to(x0.device)
            losses = self.losses(x0, t, draw_noise(x0.shape, self.rng, x0.device), rows, own)
            loss = losses.sum() / (len(worth) * self.repeats.draws)
            self.backward(loss)
            total += float(loss.detach())
        self.descend()
        return total


class Matching(_OwnVideos):
    """Trains the generator on its own videos, each counted by its weight; no sampler's log-probability is needed.

    Args:
        generator: is changed: gets adapters, which are trained.
        objective: the rewards; they need no gradient.
        training: adapters and optimiser.
        sampling: how videos are drawn; a group needs at least two.
        weigh: :class:`RWR`, :class:`RAFT` or :class:`Signed` (RVM).
        repeats: how often drawn videos are learned from.
        accelerator: of Hugging Face Accelerate.

    Raises:
        ValueError: if a group has a single video.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        sampling: Sampling | None = None,
        *,
        weigh: Weigh | None = None,
        repeats: Repeats | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Keep the rule."""
        super().__init__(generator, objective, training, sampling, repeats=repeats, accelerator=accelerator)
        self.weigh = weigh or Signed()

    def worth(self, rewards: Tensor) -> Tensor:
        """The weights."""
        return self.weigh(rewards)

    def losses(self, x0: Tensor, t: Tensor, eps: Tensor, conditions: Conditions, worth: Tensor) -> Tensor:
        """Weighted squared errors."""
        return worth * self.denoiser.matching_loss(x0, t, eps, conditions)


class NFT(_OwnVideos):
    """Negative-aware fine-tuning (DiffusionNFT, arXiv 2509.16117): good videos attract, bad ones repel.

    At the old policy the gradient is that of advantage-weighted matching, but its quadratic terms pull back to it: with
    an old policy that never moves little is learned, so how it follows is part of the method.

    Args:
        generator: is changed: gets adapters, which are trained.
        objective: the rewards; they need no gradient.
        training: adapters and optimiser.
        sampling: how the OLD policy draws; a group needs at least two.
        strength: ``b`` of the mirrored predictions, above 0.
        decay: after each step the old policy becomes ``decay old + (1 - decay) new``; 0 copies.
        clip: largest absolute advantage; ``p = A / (2 clip) + 1/2``.
        repeats: how often drawn videos are learned from.
        accelerator: of Hugging Face Accelerate.

    Raises:
        ValueError: if a number is out of its range or a group has a single video.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        sampling: Sampling | None = None,
        *,
        strength: float = 1.0,
        decay: float = 0.5,
        clip: float = 5.0,
        repeats: Repeats | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Start with an old policy that is the present one."""
        super().__init__(generator, objective, training, sampling, repeats=repeats, accelerator=accelerator)
        if not (strength > 0 and clip > 0 and 0 <= decay < 1):
            raise ValueError(
                f"NFT needs strength > 0, clip > 0 and 0 <= decay < 1, got {strength}, {clip} and {decay}; an old "
                "policy that never moves would hold the new one."
            )
        self.strength, self.decay, self.clip = float(strength), float(decay), float(clip)
        self.old = self.denoiser.lora_state()

    def policy(self) -> AbstractContextManager[None]:
        """The old one."""
        return self.denoiser.lora_weights(self.old)

    def worth(self, rewards: Tensor) -> Tensor:
        """Optimality ``p`` in [0, 1]."""
        return group_advantages(rewards).clamp(-self.clip, self.clip) / (2 * self.clip) + 0.5

    def losses(self, x0: Tensor, t: Tensor, eps: Tensor, conditions: Conditions, worth: Tensor) -> Tensor:
        """Errors of the clean latents that the mirrored predictions stand for."""
        x = self.denoiser.noise(x0, t, eps)
        with torch.no_grad(), self.policy():
            old = self.denoiser.output(x, t, conditions)
        step = self.strength * (self.denoiser.output(x, t, conditions) - old)
        positive, negative = (self.denoiser.convert(old + sign * step, x, t).x0 for sign in (1, -1))
        return nft(positive, negative, x0, worth, self.strength)

    def update(self, batch: Batch) -> Metrics:
        """Learn, then let the old policy follow."""
        metrics = super().update(batch)
        for name, value in self.denoiser.lora_state().items():
            self.old[name] = value.lerp(self.old[name], self.decay)
        return metrics

    def memory(self) -> dict[str, Any]:
        """The old policy."""
        return {"old": dict(self.old)}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take :meth:`memory` back."""
        device = self.denoiser.device
        self.old = {name: value.to(device, copy=True) for name, value in memory["old"].items()}
