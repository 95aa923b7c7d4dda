"""Reward guidance: at every step the sampler is pushed up the reward's gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vrm.diffusion.denoiser import Prediction
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel, ode, wide
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise
from vrm.diffusion.schedule import FlowSchedule, NoiseSchedule
from vrm.diffusion.search.base import Cost, Found, Searcher, best
from vrm.diffusion.search.case import Case, LatentReward


class RewardGuidance(Searcher):
    """Samples from the model tilted by ``exp(weight * r)``, and keeps the best of several (Flow-NRG).

    After classifier-free guidance the noise estimate becomes ``eps - weight * sigma * grad_x r``; on a flow this is the
    published ``v - weight * t / (1 - t) * grad_x r``. The gradient is that of a noise-aware latent reward
    ``r(x_t, t)``, or, without one, of the objective at the clean video that the denoiser predicts, through the
    denoiser. Pure noise, as at the first step of a flow, is left alone: the formula divides by the signal.

    A video costs as many model calls as a plain one, and one gradient of the reward per step.

    Args:
        generator: draws videos.
        objective: judges them; every reward must be differentiable, unless there is a latent reward.
        weight: of the reward.
        normalise: scale the gradient to the norm of standard normal noise, so that ``weight`` is the share of the noise
            that is replaced, whatever the reward's units; off for the published form, whose weight is in their inverse.
        latent_reward: ``r(x_t, t, conditions) -> (B,)``, such as a trained
            :class:`~vrm.diffusion.latent_rewards.LatentRewardModel`.
        kernel: the sampler's step.
        settings: as for :class:`~vrm.diffusion.search.base.Searcher`; ``size`` is the number of guided videos.

    Raises:
        ValueError: if a reward that has to be differentiated is not differentiable.

    Paper: Liu et al., "Improving Video Generation with Human Feedback", arXiv 2501.13918, section 4.3.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        *,
        weight: float = 0.1,
        normalise: bool = True,
        latent_reward: LatentReward | None = None,
        kernel: Kernel = ode,
        **settings: Any,
    ) -> None:
        """Check that there is a gradient."""
        super().__init__(generator, objective, **settings)
        if latent_reward is None:
            objective.require_gradient(type(self).__name__)
        self.weight = weight
        self.normalise = normalise
        self.latent_reward = latent_reward
        self.kernel = kernel

    def cost(self, size: int) -> Cost:
        """Whole chains, a gradient wherever there is signal, and a score of each video."""
        grid = self.generator.denoiser.schedule.grid(self.sampling.steps)
        guided = sum(self._has_signal(float(t)) for t in grid[:-1]) if self.weight else 0
        rewards = len(self.objective.rewards)
        calls = guided * (rewards if self.latent_reward is None else 1) + rewards
        return Cost(size * self.sampling.steps * self.rows, size * calls)

    def search(self, case: Case, size: int) -> Found:
        """Draw guided videos and choose."""
        sources = [case.source(i) for i in range(size)]
        x = case.noise(sources)
        for step in range(self.sampling.steps):
            t, t_next = (case.denoiser.times(x, case.grid[place]) for place in (step, step + 1))
            prediction = self._guided(case, x, step)
            transition = self.kernel(prediction, x, t, t_next, case.denoiser.schedule)
            random = bool((transition.std > 0).any())
            x = transition.sample(draw_noise(x.shape, sources, x.device)) if random else transition.mean
        return best(case, x, self.sampling.steps)

    def _guided(self, case: Case, x: Tensor, step: int) -> Prediction:
        """What the denoiser says of ``x``, pushed up the gradient where there is signal."""
        if not self.weight or not self._has_signal(float(case.grid[step])):
            return case.predict(x, step)
        if self.latent_reward is not None:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_(True)
                rewards = case.score_latents(self.latent_reward, leaf, step)
                (gradient,) = torch.autograd.grad(rewards.sum(), leaf)
            prediction = case.predict(x, step)
        else:
            prediction, gradient = self._through_denoiser(case, x, step)
        return self.push(prediction, x, case.denoiser.times(x, case.grid[step]), gradient, case.denoiser.schedule)

    def _through_denoiser(self, case: Case, x: Tensor, step: int) -> tuple[Prediction, Tensor]:
        """Prediction, and gradient of the objective at the clean latents predicted, with respect to ``x``."""
        parts, gradients = [], []
        for rows, n in case.pieces(len(x)):
            with torch.enable_grad():
                leaf = x[rows].detach().requires_grad_(True)
                part = case.denoiser.predict(leaf, case.grid[step], case.conditions(n), case.guidance, case.null(n))
                source = torch.Generator().manual_seed(step)
                values = self.objective.differentiable(part.x0, [case.prompt] * n, case.generator.codec, source)
                (gradient,) = torch.autograd.grad(self.objective.total(values).sum(), leaf)
            gradients.append(gradient)
            parts.append(Prediction(part.x0.detach(), part.eps.detach(), part.v.detach()))
        joined = Prediction(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x0", "eps", "v")))
        return joined, torch.cat(gradients)

    def push(
        self, prediction: Prediction, x: Tensor, t: Tensor, gradient: Tensor, schedule: NoiseSchedule
    ) -> Prediction:
        """The prediction with ``eps - weight * sigma * gradient`` as its noise, and data and velocity to match.

        Args:
            prediction: what the denoiser says.
            x: ``(B, C, T, h, w)`` noisy latents.
            t: ``(B,)`` their time, at which there is signal.
            gradient: of the reward, like ``x``.
            schedule: of the denoiser.
        """
        if self.normalise:
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
            gradient = gradient * wide(gradient[0].numel() ** 0.5 / length, gradient)
        alpha, sigma = (wide(level, x) for level in schedule.levels(t))
        eps = prediction.eps - self.weight * sigma * gradient
        x0 = (x.float() - sigma * eps) / alpha
        v = eps - x0 if isinstance(schedule, FlowSchedule) else alpha * eps - sigma * x0
        return Prediction(x0, eps, v)

    def _has_signal(self, t: float) -> bool:
        alpha, _ = self.generator.denoiser.schedule.levels(torch.tensor([t]))
        return bool(alpha[0] > 0)
