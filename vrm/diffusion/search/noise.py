"""Noise optimisation: climb the reward's gradient in the first latent, after a look at several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.grad_sampler import sample_with_gradient
from vrm.diffusion.kernels import ode, wide
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.search.base import Cost, Found, Searcher, at_least_one
from vrm.diffusion.search.case import Case


class NoiseOptimisation(Searcher):
    """Explore some seeds, then optimise the noise of the best one by gradient through the whole deterministic chain.

    Each update follows ``sum_k clip(w_k grad r_k - regulariser * grad R)``, clipped again, with Nesterov's momentum;
    ``R(e) = |e|^2 / 2 - (d - 1) log |e|`` keeps the norm where that of ``d`` standard normal numbers is. The best
    iterate by the whole objective is returned. With ``explore=1`` this is ReNO, with more CARINOX.

    Made for generators of one step: an update costs a whole chain, so take few ``steps``. Gradients of video rewards
    can be far below the clip or above it, so they are brought to its size unless ``normalise`` is off.

    Args:
        generator: draws videos.
        objective: judges them; every reward must be differentiable.
        explore: seeds looked at first.
        learning_rate: of the updates.
        momentum: Nesterov's.
        clip: largest norm of a gradient.
        regulariser: weight of ``R``.
        normalise: whether rewards' gradients are scaled to norm ``clip`` (times the weight over the largest weight).
        settings: as for :class:`~vrm.diffusion.search.base.Searcher`; ``size`` is the number of updates.

    Raises:
        ValueError: if a reward is not differentiable or a number is out of its range.

    Papers: Eyring et al., "ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization",
    arXiv 2406.04312; "CARINOX: Inference-time Scaling with Category-Aware Reward-based Initial Noise Optimization and
    Exploration" (a clip for each reward, and exploration).
    """

    unit = "updates"

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        *,
        explore: int = 4,
        learning_rate: float = 5.0,
        momentum: float = 0.9,
        clip: float = 0.1,
        regulariser: float = 0.01,
        normalise: bool = True,
        **settings: Any,
    ) -> None:
        """Check the settings."""
        super().__init__(generator, objective, **settings)
        at_least_one("explore", explore)
        if not (learning_rate > 0 and clip > 0 and regulariser >= 0 and 0 <= momentum < 1):
            raise ValueError(
                "Noise optimisation needs learning_rate > 0, clip > 0, regulariser >= 0 and 0 <= momentum < 1, got "
                f"{learning_rate}, {clip}, {regulariser} and {momentum}."
            )
        objective.require_gradient(type(self).__name__)
        self.explore = explore
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.clip = clip
        self.regulariser = regulariser
        self.normalise = normalise

    def cost(self, size: int) -> Cost:
        """A chain for each seed, each update and the last iterate; a score and a gradient of it for each update."""
        chains, calls = self.explore + size + 1, self.explore + 2 * size
        return Cost(chains * self.sampling.steps * self.rows, calls * len(self.objective.rewards))

    def search(self, case: Case, size: int) -> Found:
        """Explore, then climb; nothing is worse than the best seed."""
        sources = [case.source(i) for i in range(self.explore)]
        noise = case.noise(sources)
        latents = case.draw(sources, ode, noise)
        rewards = case.score(latents)
        (start,) = case.keep(rewards, 1, 0)
        found = Found(latents[start : start + 1], _row(rewards, start))
        point, velocity = noise[start : start + 1], torch.zeros_like(noise[:1])
        for update in range(size):
            latents, gradient = self.gradient(case, point, update)
            if update:
                found = self._better(case, found, latents, update)
            velocity = self.momentum * velocity + gradient
            point = point + self.learning_rate * (gradient + self.momentum * velocity)
        return self._better(case, found, case.draw([case.source(start)], ode, point), size)

    def gradient(self, case: Case, noise: Tensor, update: int = 0) -> tuple[Tensor, Tensor]:
        """Latents that come of ``noise`` ``(1, C, T, h, w)``, and its next direction, of norm at most ``clip``."""
        with torch.enable_grad():
            leaf = noise.detach().requires_grad_(True)
            steps = self.sampling.steps
            sampled = sample_with_gradient(
                case.denoiser, case.conditions(1), leaf, case.grid, range(steps),
                guidance=case.guidance, null=case.null(1), checkpoint=steps > 1,
            )  # fmt: skip
            source = torch.Generator().manual_seed(update)
            values = self.objective.differentiable(sampled.latents, [case.prompt], case.generator.codec, source)
            climbs = self._climbs(values, leaf)
        calm = self._calming(leaf.detach())
        total = torch.stack([self._clipped(climb + calm) for climb in climbs]).sum(dim=0)
        return sampled.latents.detach(), self._clipped(total)

    def _better(self, case: Case, found: Found, latents: Tensor, update: int) -> Found:
        """Score the iterate after so many updates, and return it if it is the best so far."""
        rewards = case.score(latents)
        ahead = bool(self.objective.total(rewards) > self.objective.total(found.rewards))
        case.note(rewards, update, [0] if ahead else [])
        return Found(latents, rewards) if ahead else found

    def _climbs(self, values: Mapping[str, Tensor], leaf: Tensor) -> list[Tensor]:
        """Each reward's gradient with its weight, brought to the size of the clip where that is wanted."""
        weights = self.objective.weights
        largest = max(abs(weights[name]) for name in values) or 1.0
        climbs = []
        for name, value in values.items():
            (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
            if self.normalise:
                length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
                gradient = gradient * wide(self.clip / largest / length, gradient)
            climbs.append(weights[name] * gradient)
        return climbs

    def _calming(self, noise: Tensor) -> Tensor:
        """Minus the gradient of the regulariser: towards the shell on which normal noise lies."""
        squared = noise.flatten(1).square().sum(dim=1)
        return -self.regulariser * noise * wide(1 - (noise[0].numel() - 1) / squared, noise)

    def _clipped(self, gradient: Tensor) -> Tensor:
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
        return gradient * wide((self.clip / length).clamp(max=1.0), gradient)


def _row(rewards: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: values[place : place + 1] for name, values in rewards.items()}
