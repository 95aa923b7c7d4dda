"""How much signal and noise a latent holds at each time, for diffusion (epsilon, v) and for flow models."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

Spacing = Literal["leading", "trailing", "linspace"]
FLOW_TIMESTEPS = 1000.0  # flow transformers embed sigma times this


class NoiseSchedule(ABC):
    """A chain of times from noise to data, and the levels ``x_t = alpha(t) x0 + sigma(t) eps`` along it.

    Attributes:
        clean: the time at which nothing is left to remove.
    """

    clean: float

    @abstractmethod
    def chain(self, steps: int) -> Tensor:
        """The ``(steps,)`` times at which the model is asked, from the noisiest on, float32."""

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level ``(alpha, sigma)`` at times ``t``, float32 in the shape of ``t``."""

    @abstractmethod
    def timestep(self, t: Tensor) -> Tensor:
        """What a network of this schedule is told about times ``t``: a training timestep as float."""

    @abstractmethod
    def at(self, fraction: Tensor) -> Tensor:
        """The times a ``fraction`` in [0, 1] of the way from data to noise, float32 in its shape."""

    def grid(self, steps: int, start: float = 1.0) -> Tensor:
        """Times of a sampler: ``(n + 1,)``, descending, the last one :attr:`clean`.

        Args:
            steps: length of the whole chain.
            start: the share of the chain, counted from its end, that is run: ``n = round(start * steps)``. Below 1 this
                is InstructVideo's truncated chain (arXiv 2312.12490, section 3.2), which starts from noised data.

        Raises:
            ValueError: unless ``steps >= 1`` and ``0 < start <= 1`` leave at least one step.
        """
        if steps < 1 or not 0 < start <= 1 or round(start * steps) < 1:
            raise ValueError(f"A grid needs steps >= 1 and 0 < start <= 1 with a step left, got {steps} and {start}.")
        times = self.chain(steps)[-round(start * steps) :]
        return torch.cat([times, torch.tensor([self.clean])])

    def sample(self, count: int, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Random training times ``(count,)``, drawn evenly between two fractions of the chain (0 data, 1 noise).

        Raises:
            ValueError: unless ``0 <= low < high <= 1``.
        """
        if not 0 <= low < high <= 1:
            raise ValueError(f"Training times need 0 <= low < high <= 1 (fractions of the chain), got {low}, {high}.")
        return self.at(low + (high - low) * torch.rand(count, generator=generator))


class FlowSchedule(NoiseSchedule):
    """Rectified flow: time is sigma, ``x = (1 - sigma) x0 + sigma eps`` and the velocity is ``eps - x0``.

    The chain is ``linspace(1, 1 / N, N)`` shifted towards noise. The default of diffusers' Euler scheduler ends at a
    nearly clean sigma instead (0.0089 at shift 3, whatever N), which would leave the last step almost no gradient.

    Args:
        shift: sigma becomes ``shift sigma / (1 + (shift - 1) sigma)``.
        terminal: if given, the chain is stretched so that its last sigma is this (LTX).
    """

    clean = 0.0

    def __init__(self, shift: float = 1.0, terminal: float | None = None) -> None:
        """Check the shift."""
        if not shift > 0 or (terminal is not None and not 0 < terminal < 1):
            raise ValueError(f"A flow needs shift > 0 and 0 < terminal < 1, got shift={shift}, terminal={terminal}.")
        self.shift = float(shift)
        self.terminal = terminal

    def chain(self, steps: int) -> Tensor:
        """Shifted ``linspace(1, 1 / steps, steps)``."""
        sigmas = self.at(torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64))
        if self.terminal is not None and steps > 1:
            sigmas = 1 - (1 - sigmas) * (1 - self.terminal) / (1 - sigmas[-1])
        return sigmas.float()

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(1 - sigma, sigma)``."""
        return 1 - t.float(), t.float()

    def timestep(self, t: Tensor) -> Tensor:
        """Sigma in thousandths."""
        return t.float() * FLOW_TIMESTEPS

    def at(self, fraction: Tensor) -> Tensor:
        """The shifted fraction."""
        return self.shift * fraction / (1 + (self.shift - 1) * fraction)


class DiffusionSchedule(NoiseSchedule):
    """Discrete diffusion: time is a training timestep, ``x = sqrt(abar) x0 + sqrt(1 - abar) eps``; -1 is clean.

    Args:
        alphas_cumprod: ``(N,)`` products ``abar`` of the training chain.
        spacing: how a sampler's timesteps lie in the chain (Lin et al., arXiv 2305.08891, table 2).
        offset: added to timesteps of leading spacing.
        final: ``abar`` after the last step; 1, or ``abar[0]`` for models whose scheduler stops there.
    """

    clean = -1.0

    def __init__(
        self, alphas_cumprod: Tensor, spacing: Spacing = "leading", offset: int = 1, final: float = 1.0
    ) -> None:
        """Keep the table."""
        self.alphas_cumprod = alphas_cumprod.detach().float().cpu()
        self.spacing = spacing
        self.offset = offset
        self.final = float(final)

    @classmethod
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, total: int = 1000) -> DiffusionSchedule:
        """Betas linear in their square root, as in latent diffusion and ModelScope."""
        betas = torch.linspace(start**0.5, end**0.5, total, dtype=torch.float32) ** 2
        return cls(torch.cumprod(1 - betas, dim=0))

    def chain(self, steps: int) -> Tensor:
        """Timesteps as diffusers' DDIM scheduler spaces them."""
        total = len(self.alphas_cumprod)
        if steps > total:
            raise ValueError(f"A chain of {total} training timesteps cannot be sampled in {steps} steps; use fewer.")
        if self.spacing == "linspace":
            return torch.linspace(0, total - 1, steps, dtype=torch.float64).round().flip(0).float()
        if self.spacing == "trailing":
            times = total - torch.arange(steps, dtype=torch.float64) * (total / steps)
            return times.round().float() - 1
        return (torch.arange(steps) * (total // steps)).flip(0).float() + self.offset

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(sqrt(abar), sqrt(1 - abar))`` at the nearest timestep."""
        table = torch.cat([torch.tensor([self.final]), self.alphas_cumprod]).to(t.device)
        bar = table[t.float().round().long().clamp(-1, len(self.alphas_cumprod) - 1) + 1]
        return bar.sqrt(), (1 - bar).sqrt()

    def timestep(self, t: Tensor) -> Tensor:
        """The timestep itself."""
        return t.float().clamp(min=0)

    def at(self, fraction: Tensor) -> Tensor:
        """The timestep in which the fraction falls."""
        total = len(self.alphas_cumprod)
        return (fraction * total).floor().clamp(0, total - 1).float()


def from_diffusers(scheduler: Any, tokens: int | None = None) -> NoiseSchedule:
    """Take the tables out of a diffusers scheduler.

    Args:
        scheduler: any scheduler with ``alphas_cumprod``, or with flow sigmas.
        tokens: length of the model's sequence, for a shift that depends on resolution.
    """
    config = scheduler.config
    if "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas", False):
        return FlowSchedule(_shift(config, tokens), config.get("shift_terminal"))
    final = getattr(scheduler, "final_alpha_cumprod", 1.0)
    spacing: Spacing = config.get("timestep_spacing", "leading")
    return DiffusionSchedule(scheduler.alphas_cumprod, spacing, config.get("steps_offset", 0), float(final))


def _shift(config: Any, tokens: int | None) -> float:
    if not config.get("use_dynamic_shifting", False) or tokens is None:
        return float(config.get("flow_shift") or config.get("shift") or 1.0)
    short, long = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return math.exp(low + (high - low) * (tokens - short) / (long - short))
