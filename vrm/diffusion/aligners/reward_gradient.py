"""Reward gradients through the sampler: DRaFT, AlignProp, VADER, ReFL and DRTune as settings of one aligner."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrm.diffusion.aligners.base import Aligner, Batch, Metrics, Training, reward_metrics
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.grad_sampler import LastSteps, StepChoice, renoised_x0, sample_with_gradient
from vrm.diffusion.kernels import Kernel, ode
from vrm.diffusion.objective import RewardObjective, Selections
from vrm.diffusion.rollout import draw_noise, rollout

if TYPE_CHECKING:
    from accelerate import Accelerator

LAST = LastSteps(1)


@dataclass(frozen=True)
class Climb:
    """How rewards of decoded frames become a loss.

    Attributes:
        selection: frames that are decoded and judged; the objective's own choice if None.
        target: the loss is ``relu(target - r)``, so that nothing pulls beyond it (ReFL, PRFL); ``-r`` if None.
        scale: of that loss.
        ramp: updates over which ``scale`` rises from 0.
        kl: coefficient of the squared distance of the network's output from the base model's at the noised samples,
            which up to a weight is their divergence (DRaFT+).
        matching: coefficient of the model's own training loss on the batch's videos, which are then needed.
        chunk: frames decoded at once; all if None.
        checkpoint: whether the decoder forgets activations and computes them again on the way back.

    Raises:
        ValueError: if a coefficient is negative.
    """

    selection: Selections = None
    target: float | None = None
    scale: float = 1.0
    ramp: int = 0
    kl: float = 0.0
    matching: float = 0.0
    chunk: int | None = None
    checkpoint: bool = True

    def __post_init__(self) -> None:
        """Check the coefficients."""
        for name in ("scale", "ramp", "kl", "matching"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")

    def loss(self, rewards: Tensor, updates: int = 0) -> Tensor:
        """Scalar loss of rewards ``(B,)`` after so many updates."""
        shaped = -rewards if self.target is None else torch.relu(self.target - rewards)
        return shaped.mean() * self.scale * min(1.0, (updates + 1) / max(self.ramp, 1))


@dataclass(frozen=True)
class Drawn:
    """Clean latents with the graph of what made them.

    Attributes:
        latents: ``(n, C, T, h, w)``.
        prompts: of each row.
        conditions: of each row.
        times: ``(m,)`` times at which the network was differentiated.
        matching: the training loss, a scalar, where it comes with the draw.
        rivals: other clean latents of the same prompts, each ``(n, C, T, h, w)``, for rewards that compare.
    """

    latents: Tensor
    prompts: list[str]
    conditions: Conditions
    times: Tensor
    matching: Tensor | None = None
    rivals: tuple[Tensor, ...] = ()


class GradientAligner(Aligner):
    """Base of the aligners that climb a differentiable reward of decoded frames; subclasses say what is drawn.

    Args:
        generator: is changed.
        objective: differentiable rewards.
        training: adapters and optimiser.
        climb: from rewards to a loss.
        accelerator: of Hugging Face Accelerate.
    """

    needs_gradient = True

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        climb: Climb | None = None,
        *,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Keep the settings."""
        super().__init__(generator, objective, training, accelerator=accelerator)
        self.climb = climb or Climb()
        self.needs_videos = self.needs_videos or self.climb.matching > 0

    @abstractmethod
    def draw(self, batch: Batch) -> Drawn:
        """Make the latents whose reward is climbed."""

    def update(self, batch: Batch) -> Metrics:
        """Draw, decode chosen frames, judge them and follow the gradient."""
        drawn = self.draw(batch)
        rewards, metrics = self.judge(drawn)
        loss = self.climb.loss(rewards, self.updates)
        if self.climb.matching > 0:
            matching = drawn.matching
            if matching is None:
                matching = matching_loss(self, clean_latents(self, batch), batch)
            loss = loss + self.climb.matching * matching
            metrics["matching"] = float(matching.detach())
        with torch.set_grad_enabled(self.climb.kl > 0):
            kl = self._kl(drawn)
        loss = loss + self.climb.kl * kl
        self.backward(loss)
        self.descend()
        return {"loss": float(loss.detach()), **metrics, "kl": float(kl.detach())}

    def judge(self, drawn: Drawn) -> tuple[Tensor, Metrics]:
        """Rewards ``(n,)`` with gradient, and what to report of them."""
        values = self.pixel_rewards(drawn)
        return self.objective.total(values), reward_metrics({name: value.detach() for name, value in values.items()})

    def pixel_rewards(self, drawn: Drawn) -> dict[str, Tensor]:
        """Rewards of the drawn rows by name, ``(n,)``, with gradient through the decoder."""
        return self.objective.differentiable(
            drawn.latents,
            drawn.prompts,
            self.codec,
            self.rng,
            selection=self.climb.selection,
            chunk=self.climb.chunk,
            checkpoint=self.climb.checkpoint,
        )

    def _kl(self, drawn: Drawn) -> Tensor:
        """Distance from the base at the drawn latents, noised to one of the times that were trained."""
        x0 = drawn.latents.detach()
        time = float(drawn.times[torch.randint(len(drawn.times), (1,), generator=self.rng)])
        noised = self.denoiser.noise(x0, time, draw_noise(x0.shape, self.rng, x0.device))
        return distance_from_base(self.denoiser, noised, time, drawn.conditions)


@dataclass(frozen=True)
class Chain:
    """How a sampler runs and where it is differentiated.

    Attributes:
        gradient: the steps that carry gradient.
        steps: of the sampler; the generator's default if None.
        guidance: classifier-free guidance weight; the generator's default if None.
        kernel: the sampler's step.
        detach_input: the network sees constants, so that gradient avoids its Jacobian by its input (DRTune).
        early: stop after the last of the gradient steps and judge the clean latent that it predicts (ReFL).
        renoise: if positive, sample without gradient, noise the result so many times to the chain's last time, and
            differentiate its prediction from there (DRaFT-LV).
        offload: keep activations of the steps in main memory.

    Raises:
        ValueError: if ``renoise`` is negative, or comes with settings of the chain's gradient, which it replaces.
    """

    gradient: StepChoice = LAST
    steps: int | None = None
    guidance: float | None = None
    kernel: Kernel = ode
    detach_input: bool = False
    early: bool = False
    renoise: int = 0
    offload: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that would have no effect."""
        if self.renoise < 0:
            raise ValueError(f"renoise must be at least 0, got {self.renoise}.")
        if self.renoise and (self.detach_input or self.early or self.offload or self.gradient != LAST):
            raise ValueError(
                f"renoise={self.renoise} differentiates a prediction of its own, so gradient, detach_input, early and "
                "offload would have no effect; leave them out, or set renoise=0."
            )


class RewardGradient(GradientAligner):
    """Climbs the reward of videos that the generator draws from noise, through chosen steps and chosen frames.

    ==========  =======================================================================================
    method      settings
    ==========  =======================================================================================
    DRaFT       ``gradient=LastSteps(N)``; DRaFT-K ``LastSteps(K)``; DRaFT-LV ``renoise=2``; DRaFT+
                with ``kl``. Clark et al., arXiv 2309.17400
    AlignProp   ``gradient=RandomCutoff()``, ``kernel=ddim(1.0)``. Prabhudesai et al., arXiv 2310.03739
    VADER       ``LastSteps(1)``, ``selection=RandomFrames(1)``. Prabhudesai et al., arXiv 2407.08737
    ReFL        ``RandomSteps(1, low=0.75)``, ``early``, ``target`` and ``matching``. Xu et al.,
                arXiv 2304.05977
    DRTune      ``RandomSteps(K)``, ``detach_input``. Wu et al., arXiv 2405.00760
    ==========  =======================================================================================

    Args:
        generator: is changed.
        objective: differentiable rewards.
        training: adapters and optimiser.
        climb: from rewards to a loss.
        chain: the sampler and its gradient.
        accelerator: of Hugging Face Accelerate.

    Example:
        >>> aligner = RewardGradient(generator, objective, Training(lr=1e-3))  # doctest: +SKIP
        >>> aligner.step(Batch(["a humanoid kneels"]))["reward/goal"]  # doctest: +SKIP
        0.21
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        climb: Climb | None = None,
        chain: Chain | None = None,
        *,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Keep the settings."""
        super().__init__(generator, objective, training, climb, accelerator=accelerator)
        self.chain = chain or Chain()

    def draw(self, batch: Batch) -> Drawn:
        """Sample from noise."""
        chain, defaults = self.chain, self.generator.defaults
        guidance = defaults.guidance if chain.guidance is None else chain.guidance
        grid = self.denoiser.schedule.grid(chain.steps or defaults.steps)
        conditions, null = self.conditions(batch.prompts, guidance)
        noise = draw_noise(self.generator.latent_shape(len(conditions)), self.rng, self.denoiser.device)
        if chain.renoise:
            x0 = rollout(
                self.denoiser, conditions, noise, grid, chain.kernel, guidance=guidance, null=null, generator=self.rng
            ).x0
            latents = renoised_x0(
                self.denoiser, x0, grid[-2], conditions, chain.renoise, guidance=guidance, null=null, generator=self.rng
            )
            prompts = [prompt for prompt in batch.prompts for _ in range(chain.renoise)]
            return Drawn(latents, prompts, conditions.repeat(chain.renoise), grid[-2:-1])
        steps = chain.gradient.choose(len(grid) - 1, self.rng)
        sample = sample_with_gradient(
            self.denoiser,
            conditions,
            noise,
            grid,
            steps,
            kernel=chain.kernel,
            guidance=guidance,
            null=null,
            detach_input=chain.detach_input,
            offload=chain.offload,
            stop=steps[-1] if chain.early else None,
            generator=self.rng,
        )
        return Drawn(sample.x0 if chain.early else sample.latents, list(batch.prompts), conditions, grid[steps])


def matching_loss(aligner: Aligner, latents: Tensor, batch: Batch) -> Tensor:
    """The model's own training loss on clean ``latents`` of the batch's prompts, at times drawn evenly: a scalar."""
    denoiser = aligner.denoiser
    t = denoiser.schedule.sample(len(latents), aligner.rng).to(latents.device)
    eps = draw_noise(latents.shape, aligner.rng, latents.device)
    return denoiser.matching_loss(latents, t, eps, aligner.generator.condition(batch.prompts)).mean()


def distance_from_base(denoiser: VideoDenoiser, x: Tensor, t: Tensor | float, conditions: Conditions) -> Tensor:
    """Mean squared distance of the outputs of tuned and base network, a scalar; 0 before the first update."""
    tuned = denoiser.output(x, t, conditions)
    with torch.no_grad(), denoiser.reference():
        base = denoiser.output(x, t, conditions)
    return (tuned - base).square().mean()


@torch.no_grad()
def clean_latents(aligner: Aligner, batch: Batch) -> Tensor:
    """Latents ``(B, C, T, h, w)`` of the batch's videos, which :meth:`Aligner.step` has checked to be there."""
    assert batch.videos is not None
    return aligner.codec.encode(batch.videos.to(aligner.denoiser.device))
