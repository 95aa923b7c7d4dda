"""Sampling that gradient flows back through, from the steps that are to carry it and no others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.kernels import Kernel, ode
from vrm.diffusion.rollout import Generators, draw_noise


class StepChoice(ABC):
    """Says which steps of a chain carry gradient."""

    @abstractmethod
    def choose(self, steps: int, generator: torch.Generator | None = None) -> list[int]:
        """Indices of the chosen steps of a chain of ``steps``, ascending; 0 is the noisiest."""


@dataclass(frozen=True)
class LastSteps(StepChoice):
    """The last ``count`` steps (DRaFT-K, arXiv 2309.17400; InstructVideo and VADER take 1)."""

    count: int = 1

    def choose(self, steps: int, generator: torch.Generator | None = None) -> list[int]:
        """``steps - count`` to ``steps - 1``."""
        return _valid(range(steps - self.count, steps), steps)


@dataclass(frozen=True)
class RandomCutoff(StepChoice):
    """All steps from a random one on (AlignProp, arXiv 2310.03739; VADER's "rand").

    Attributes:
        low: earliest cutoff, as a fraction of the chain.
        high: latest cutoff; 1 is the last step alone.
    """

    low: float = 0.0
    high: float = 1.0

    def choose(self, steps: int, generator: torch.Generator | None = None) -> list[int]:
        """From a step drawn evenly between the two fractions."""
        first, last = (_place(fraction, steps) for fraction in (self.low, self.high))
        if first > last:
            raise ValueError(f"A random cutoff needs low <= high, got {self.low} and {self.high}.")
        return list(range(int(torch.randint(first, last + 1, (1,), generator=generator)), steps))


@dataclass(frozen=True)
class ListedSteps(StepChoice):
    """The steps named; negative ones count from the end."""

    indices: tuple[int, ...]

    def choose(self, steps: int, generator: torch.Generator | None = None) -> list[int]:
        """The list, sorted."""
        return _valid(sorted({index % steps if -steps <= index < 0 else index for index in self.indices}), steps)


@dataclass(frozen=True)
class RandomSteps(StepChoice):
    """Different steps at random: several with detached inputs are DRTune's, one late one is ReFL's or PRFL's.

    Attributes:
        count: how many.
        low: the earliest, as a fraction of the chain.
        high: the latest; 1 is the last step.
    """

    count: int = 1
    low: float = 0.0
    high: float = 1.0

    def choose(self, steps: int, generator: torch.Generator | None = None) -> list[int]:
        """``count`` steps between the two fractions."""
        first, last = (_place(fraction, steps) for fraction in (self.low, self.high))
        pool = list(range(first, last + 1))
        if not 1 <= self.count <= len(pool):
            raise ValueError(f"Cannot choose {self.count} of {len(pool)} steps between {self.low} and {self.high}.")
        return sorted(pool[i] for i in torch.randperm(len(pool), generator=generator)[: self.count].tolist())


@dataclass(frozen=True)
class GradientSample:
    """Where a chain arrived, with the graph of the chosen steps behind it.

    Attributes:
        latents: ``(B, C, T, h, w)`` float32.
        time: their time, a scalar; the clean end unless the chain was stopped.
        x0: ``(B, C, T, h, w)`` the clean latent that the last step predicted; the same as ``latents`` at the end of a
            deterministic chain.
        steps: the steps that carried gradient.
    """

    latents: Tensor
    time: Tensor
    x0: Tensor
    steps: tuple[int, ...]


def sample_with_gradient(
    denoiser: VideoDenoiser,
    conditions: Conditions,
    start: Tensor,
    grid: Tensor,
    steps: Sequence[int],
    *,
    kernel: Kernel = ode,
    guidance: float = 1.0,
    null: Conditions | None = None,
    detach_input: bool = False,
    checkpoint: bool = False,
    offload: bool = False,
    stop: int | None = None,
    generator: Generators = None,
) -> GradientSample:
    """Run a chain in which the network is differentiated at ``steps`` only.

    Before the first of them nothing is recorded. Between them the network's output is a constant, but the sampler's own
    arithmetic stays differentiable, so that gradient reaches the earlier steps.

    Args:
        denoiser: the model; gradient goes to what is trainable in it.
        conditions: ``B`` rows.
        start: ``(B, C, T, h, w)`` noise, or noised data (:func:`noised_start`) where ``grid`` starts late.
        grid: ``(N + 1,)`` times.
        steps: from :meth:`StepChoice.choose`; ``range(N)`` is full backpropagation.
        kernel: the transition.
        guidance: classifier-free guidance weight.
        null: ``B`` rows for guidance.
        detach_input: hand the network constants, so that gradient avoids its Jacobian by its input (DRTune).
        checkpoint: compute each step's activations again on the way back.
        offload: keep each step's activations in main memory until then.
        stop: end after this step (ReFL takes its ``x0``, PRFL its ``latents`` and ``time``); run to the end if None.
        generator: source of noise for stochastic kernels.

    Raises:
        ValueError: if a step is outside the grid or after ``stop``, or there is none.
    """
    count = len(grid) - 1 if stop is None else stop + 1
    chosen = _valid(sorted(set(steps)), len(grid) - 1)
    if not 1 <= count <= len(grid) - 1 or chosen[-1] >= count:
        raise ValueError(f"stop={stop} must be a step of the {len(grid) - 1}, not before the gradient steps {chosen}.")
    x = start.to(denoiser.device).float()
    for step in range(count):
        t, t_next = (denoiser.times(x, time) for time in (grid[step], grid[step + 1]))
        with nullcontext() if step >= chosen[0] else torch.no_grad():
            active = step in chosen
            seen = x.detach() if detach_input else x
            with _recording(active, offload):
                output = denoiser.output(seen, t, conditions, guidance, null, checkpoint=checkpoint)
            transition = kernel(denoiser.convert(output, x, t), x, t, t_next, denoiser.schedule)
            random = bool((transition.std > 0).any())
            x = transition.sample(draw_noise(x.shape, generator, x.device)) if random else transition.mean
    return GradientSample(x, grid[count], transition.x0, tuple(chosen))


def noised_start(
    denoiser: VideoDenoiser, x0: Tensor, t: Tensor | float, generator: Generators = None, offset: float = 0.0
) -> Tensor:
    """Real latents noised to time ``t``: where InstructVideo's chain starts.

    Args:
        denoiser: whose schedule is meant.
        x0: ``(B, C, T, h, w)`` latents of real videos.
        t: time, ``grid[0]``.
        generator: source of the noise.
        offset: deviation of an extra noise that is constant over height and width (InstructVideo's code uses 0.1).
    """
    eps = draw_noise(x0.shape, generator, x0.device)
    if offset:
        eps = eps + offset * draw_noise((*x0.shape[:3], 1, 1), generator, x0.device)
    return denoiser.noise(x0, t, eps)


def renoised_x0(
    denoiser: VideoDenoiser,
    x0: Tensor,
    t: Tensor | float,
    conditions: Conditions,
    count: int = 1,
    *,
    guidance: float = 1.0,
    null: Conditions | None = None,
    checkpoint: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Noise latents ``count`` times and predict them again in one step, with gradient.

    With samples of the model and the chain's last time this is DRaFT-LV (the mean over ``count`` has less variance than
    the last step's gradient); with real latents and a small time it is ControlNet++'s one-step reward.

    Returns:
        ``(B * count, C, T, h, w)``, the copies of a video side by side.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    clean = x0.detach().repeat_interleave(count, dim=0)
    times = denoiser.times(x0, t).repeat_interleave(count)
    noisy = denoiser.noise(clean, times, draw_noise(clean.shape, generator, clean.device))
    nothing = None if null is None else null.repeat(count)
    return denoiser.predict(noisy, times, conditions.repeat(count), guidance, nothing, checkpoint=checkpoint).x0


def _recording(active: bool, offload: bool) -> AbstractContextManager[object]:
    if not active:
        return torch.no_grad()
    return torch.autograd.graph.save_on_cpu() if offload else nullcontext()


def _place(fraction: float, steps: int) -> int:
    if not 0 <= fraction <= 1:
        raise ValueError(f"A fraction of the chain must lie in [0, 1], got {fraction}.")
    return min(int(fraction * steps), steps - 1)


def _valid(indices: Sequence[int], steps: int) -> list[int]:
    if not indices or min(indices) < 0 or max(indices) >= steps:
        raise ValueError(f"Gradient steps must lie in 0 to {steps - 1}, got {list(indices)}.")
    return list(indices)
