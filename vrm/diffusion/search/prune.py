"""Pruning: many videos are begun, and those that promise little are dropped on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vrm.diffusion.denoiser import Prediction
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel, ode
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise
from vrm.diffusion.search.base import Cost, Found, Searcher, best
from vrm.diffusion.search.case import Case, LatentReward, chosen_rows

LATENT = "latent"  # name of the latent reward among the judgements


class Pruning(Searcher):
    """A cascade: after some steps of the sampler only the best share of the candidates goes on (TTSnap).

    A candidate is judged by the clean video the denoiser predicts at that moment, or by a reward of noisy latents that
    needs no decoding. The prediction is the one that its next step needs, so judging costs no model call:
    ``sum over steps of the candidates still there``. Several rewards are combined by the sum of their ranks.

    Args:
        generator: draws videos.
        objective: judges them.
        cuts: where candidates are dropped, as fractions of the chain, ascending.
        keep: the share that goes on at each cut, rounded up.
        latent_reward: ``r(x_t, t, conditions) -> (B,)``, such as a trained
            :class:`~vrm.diffusion.latent_rewards.LatentRewardModel`, in place of the objective at the cuts.
        kernel: the sampler's step.
        settings: as for :class:`~vrm.diffusion.search.base.Searcher`; ``size`` is the number of videos begun.

    Raises:
        ValueError: if cuts and shares do not fit each other.

    Paper: Yu et al., "TTSnap: Test-Time Scaling of Diffusion Models via Noise-Aware Pruning", arXiv 2511.22242, which
    cuts after 2, 6 and 11 of 20 steps.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        *,
        cuts: Sequence[float] = (0.1, 0.3, 0.55),
        keep: Sequence[float] = (0.4, 0.4, 0.5),
        latent_reward: LatentReward | None = None,
        kernel: Kernel = ode,
        rule: str = "rank_sum",
        **settings: Any,
    ) -> None:
        """Check the cascade."""
        super().__init__(generator, objective, rule=rule, **settings)
        ascending = list(cuts) == sorted(set(cuts)) and all(0 < cut < 1 for cut in cuts)
        if len(cuts) != len(keep) or not ascending or not all(0 < share <= 1 for share in keep):
            raise ValueError(
                f"A cascade needs ascending cuts in (0, 1) and one share in (0, 1] for each, got cuts={list(cuts)} and "
                f"keep={list(keep)}."
            )
        self.latent_reward = latent_reward
        self.kernel = kernel
        self.shares = self._shares(cuts, keep)

    def cost(self, size: int) -> Cost:
        """Candidates still there at each step; all of them are judged at a cut, and those left at the end."""
        predictions = judged = 0
        per_cut = len(self.objective.rewards) if self.latent_reward is None else 1
        for step in range(self.sampling.steps):
            predictions += size
            if step in self.shares:
                judged += size * per_cut
                size = math.ceil(self.shares[step] * size)
        return Cost(predictions * self.rows, judged + size * len(self.objective.rewards))

    @torch.no_grad()
    def search(self, case: Case, size: int) -> Found:
        """Draw all candidates at once and drop some at each cut."""
        sources = [case.source(i) for i in range(size)]
        x = case.noise(sources)
        for step in range(self.sampling.steps):
            prediction = case.predict(x, step)
            if step in self.shares:
                rewards = self._judge(case, x, prediction, step)
                kept = case.keep(rewards, math.ceil(self.shares[step] * len(x)), step)
                x, prediction, sources = x[kept], chosen_rows(prediction, kept), [sources[i] for i in kept]
            t, t_next = (case.denoiser.times(x, case.grid[place]) for place in (step, step + 1))
            transition = self.kernel(prediction, x, t, t_next, case.denoiser.schedule)
            random = bool((transition.std > 0).any())
            x = transition.sample(draw_noise(x.shape, sources, x.device)) if random else transition.mean
        return best(case, x, self.sampling.steps)

    def _judge(self, case: Case, x: Tensor, prediction: Prediction, step: int) -> dict[str, Tensor]:
        if self.latent_reward is None:
            return case.score(prediction.x0)
        return {LATENT: case.score_latents(self.latent_reward, x, step).float().cpu()}

    def _shares(self, cuts: Sequence[float], keep: Sequence[float]) -> dict[int, float]:
        """Share kept before each step; cuts that fall together in a short chain multiply, none is before step 1."""
        shares: dict[int, float] = {}
        for cut, share in zip(cuts, keep, strict=True):
            step = max(math.floor(cut * self.sampling.steps + 1e-9), 1)
            if step < self.sampling.steps:
                shares[step] = shares.get(step, 1.0) * share
        return shares
