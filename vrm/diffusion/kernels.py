"""One step of a sampler as a Gaussian: mean, standard deviation, sample and log-probability, in float32.

A kernel is a pure function ``kernel(prediction, x, t, t_next, schedule) -> Transition``; times may differ by row. With
``x_t = alpha x0 + sigma eps`` the formulas below hold for diffusion and flow alike, unless a kernel says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vrm.diffusion.denoiser import Prediction
from vrm.diffusion.schedule import FlowSchedule, NoiseSchedule


@dataclass(frozen=True)
class Transition:
    """A Gaussian over the next latent.

    Attributes:
        mean: ``(B, C, T, h, w)``.
        std: ``(B,)``; 0 where the step is deterministic.
        x0: ``(B, C, T, h, w)`` the clean latent predicted on the way.
        weighted: whether the log-probability divides by the variance; CPS leaves it out.
    """

    mean: Tensor
    std: Tensor
    x0: Tensor
    weighted: bool = True

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``."""
        return self.mean + wide(self.std, self.mean) * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x`` per video ``(B,)``, MEAN over its numbers; no gradient reaches ``x``.

        Raises:
            ValueError: if a row is deterministic.
        """
        if bool((self.std <= 0).any()):
            raise ValueError(f"A deterministic step has no log-probability, got std {self.std.tolist()}; skip it.")
        error = (x.detach().float() - self.mean).square().flatten(1).mean(dim=1)
        if not self.weighted:
            return -error
        return -error / (2 * self.std**2) - self.std.log() - 0.5 * math.log(2 * math.pi)


Kernel = Callable[[Prediction, Tensor, Tensor, Tensor, NoiseSchedule], Transition]


def kl(policy: Transition, reference: Transition) -> Tensor:
    """Divergence of two transitions with one standard deviation, ``(B,)``, mean over dimensions.

    ``|m - m_ref|^2 / (2 std^2)``.

    Raises:
        ValueError: if a row is deterministic.
    """
    if bool((policy.std <= 0).any()):
        raise ValueError(f"A deterministic step has no divergence, got std {policy.std.tolist()}; skip it.")
    return (policy.mean - reference.mean).square().flatten(1).mean(dim=1) / (2 * policy.std**2)


def ode(prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Transition:
    """The deterministic step ``alpha' x0 + sigma' eps``: DDIM with eta 0, or Euler on a flow."""
    alpha, sigma = (wide(level, x) for level in schedule.levels(t_next))
    mean = alpha * prediction.x0 + sigma * prediction.eps
    return Transition(mean, torch.zeros_like(t_next, dtype=torch.float32), prediction.x0)


def lcm(prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Transition:
    """Multistep consistency sampling (LCM; policy of RLCM, arXiv 2404.03673): ``alpha' x0 + sigma' z``."""
    alpha, sigma = schedule.levels(t_next)
    return Transition(wide(alpha, x) * prediction.x0, sigma, prediction.x0)


def ddim(eta: float = 1.0, keep_noise: bool = False) -> Kernel:
    """DDIM with noise (arXiv 2010.02502, eq. 12 and 16); eta 1 is ancestral DDPM, eta 0 deterministic.

    ``m = alpha' x0 + sqrt(sigma'^2 - std^2) eps`` with
    ``std = eta (sigma' / sigma) sqrt(sigma^2 - (alpha sigma' / alpha')^2)``.

    Args:
        eta: share of the ancestral noise, in [0, 1].
        keep_noise: let the last step of a diffusion chain end at timestep 0 in place of the clean end (DDPO), so that
            it has a density too; the last step of a flow stays deterministic.
    """
    _check_share("eta", eta)

    def kernel(prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Transition:
        if keep_noise:
            t_next = t_next.clamp(min=0)
        (alpha, sigma), (alpha_next, sigma_next) = schedule.levels(t), schedule.levels(t_next)
        kept = sigma**2 - (alpha * sigma_next / alpha_next) ** 2
        std = eta * sigma_next / sigma * kept.clamp(min=0).sqrt()
        direction = (sigma_next**2 - std**2).clamp(min=0).sqrt()
        mean = wide(alpha_next, x) * prediction.x0 + wide(direction, x) * prediction.eps
        return Transition(mean, std, prediction.x0)

    return kernel


def flow_sde(a: float = 0.7) -> Kernel:
    """Flow-GRPO's reverse SDE (arXiv 2505.05470, eq. 9): same marginals as the flow, noise ``a sqrt(s / (1 - s))``.

    The step to the clean end is deterministic: noise added there would stay in the video.
    """
    _check_positive("a", a)

    def kernel(prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Transition:
        dt = _flow_step(t, t_next, schedule, "flow_sde")
        signal = torch.where(t >= 1, 1 - t_next, 1 - t)
        diffusion = a * (t / signal).sqrt()
        pull = diffusion**2 * dt / (2 * t)
        mean = x.float() * wide(1 + pull, x) + prediction.v * wide(dt + pull * (1 - t), x)
        return _last_clean(mean, diffusion * (-dt).sqrt(), prediction, t_next)

    return kernel


def dance_sde(eta: float = 0.3) -> Kernel:
    """DanceGRPO's reverse SDE (arXiv 2505.07818) with constant noise ``eta``; its last step is deterministic too."""
    _check_positive("eta", eta)

    def kernel(prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Transition:
        dt = _flow_step(t, t_next, schedule, "dance_sde")
        score = -(x.float() - wide(1 - t, x) * prediction.x0) / wide(t**2, x)
        mean = x.float() + wide(dt, x) * (prediction.v - 0.5 * eta**2 * score)
        return _last_clean(mean, eta * (-dt).sqrt(), prediction, t_next)

    return kernel


def cps(eta: float = 0.7) -> Kernel:
    """Coefficient-preserving sampling: a share of the noise is renewed and its level is kept exactly.

    ``m = alpha' x0 + sqrt(sigma'^2 - q^2) eps``, ``std = q = sigma' sin(eta pi / 2)``. The level is right, the
    distribution is not, however many steps are taken. The log-probability is ``-|x - m|^2``, without the variance.
    """
    _check_share("eta", eta)

    def kernel(prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Transition:
        alpha, sigma = schedule.levels(t_next)
        kept = sigma * math.cos(eta * math.pi / 2)
        mean = wide(alpha, x) * prediction.x0 + wide(kept, x) * prediction.eps
        return Transition(mean, sigma * math.sin(eta * math.pi / 2), prediction.x0, weighted=False)

    return kernel


def wide(values: Tensor, like: Tensor) -> Tensor:
    """One number per row ``(B,)``, shaped to multiply ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _flow_step(t: Tensor, t_next: Tensor, schedule: NoiseSchedule, name: str) -> Tensor:
    if not isinstance(schedule, FlowSchedule):
        raise ValueError(f"Kernel {name} is for flow models, this one has a {type(schedule).__name__}; use ddim(eta).")
    return t_next - t


def _last_clean(mean: Tensor, std: Tensor, prediction: Prediction, t_next: Tensor) -> Transition:
    last = t_next <= 0
    mean = torch.where(wide(last, mean), prediction.x0, mean)
    return Transition(mean, torch.where(last, torch.zeros_like(std), std), prediction.x0)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}.")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}; for no noise use ode.")
