"""Diffusion latent beam search: branch at every denoising step, look ahead, keep what promises most."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vrm.diffusion.denoiser import Prediction
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel, Transition, ddim, ode
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise
from vrm.diffusion.search.base import Cost, Found, Searcher, at_least_one, best
from vrm.diffusion.search.case import Case, chosen_rows


class BeamSearch(Searcher):
    """Keeps ``B`` beams; at each step each of them tries ``K`` next latents, and the best ``B`` of all go on (DLBS).

    A candidate is judged by the video it seems to lead to: ``lookahead`` deterministic steps to the clean end, decoded
    and scored. One step is Tweedie's estimate. More steps cost more and see more; they are taken from the sampler's own
    times, so never more than are left. The last step has nothing to branch for: the best finished beam wins.

    What the network said of a candidate when it was judged is what its next step needs, so a branching step costs
    ``B K lookahead`` predictions in place of the published ``B (1 + K lookahead)``, with the same result.

    With one beam and one candidate it is the sampler with this kernel; with one candidate it is best of ``B``.

    Args:
        generator: draws videos.
        objective: judges them.
        candidates: ``K``.
        lookahead: steps to the clean end.
        first: where branching begins, as a fraction of the chain from the noise ...
        last: ... and where it ends.
        kernel: a stochastic step; ``ddim(1.0)`` if None.
        settings: as for :class:`~vrm.diffusion.search.base.Searcher`; ``size`` is the number ``B`` of beams.

    Raises:
        ValueError: if a number is out of its range.

    Paper: Oshima et al., "Inference-Time Text-to-Video Alignment with Diffusion Latent Beam Search", arXiv 2501.19252.
    """

    unit = "beams"

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        *,
        candidates: int = 4,
        lookahead: int = 1,
        first: float = 0.0,
        last: float = 1.0,
        kernel: Kernel | None = None,
        **settings: Any,
    ) -> None:
        """Check the settings."""
        super().__init__(generator, objective, **settings)
        at_least_one("candidates", candidates)
        at_least_one("lookahead", lookahead)
        if not 0 <= first < last <= 1:
            raise ValueError(f"Branching needs 0 <= first < last <= 1 (fractions of the chain), got {first}, {last}.")
        self.candidates = candidates
        self.lookahead = lookahead
        self.span = (first, last)
        self.kernel = ddim(1.0) if kernel is None else kernel

    def cost(self, size: int) -> Cost:
        """One prediction to begin with, then one per candidate and further step of its lookahead."""
        predictions, scored = 1, 1
        for step in range(self.sampling.steps - 1):
            if self._branches(step):
                predictions += self.candidates * (len(self._places(step + 1)) - 1)
                scored += self.candidates
            else:
                predictions += 1
        return Cost(size * predictions * self.rows, size * scored * len(self.objective.rewards))

    @torch.no_grad()
    def search(self, case: Case, size: int) -> Found:
        """Branch, look ahead, keep, until the videos are finished."""
        steps = self.sampling.steps
        sources = [case.source(beam) for beam in range(size)]
        x = case.noise(sources)
        prediction = case.predict(x, 0)
        for step in range(steps):
            branches = self._branches(step)
            x = self._advance(case, x, prediction, step, sources, self.candidates if branches else 1)
            if step + 1 == steps:
                break
            prediction = case.predict(x, step + 1)
            if branches:
                rewards = case.score(self.look(case, x, prediction, step + 1))
                kept = case.keep(rewards, size, step + 1)
                x, prediction = x[kept], chosen_rows(prediction, kept)
        return best(case, x, steps)

    def look(self, case: Case, x: Tensor, prediction: Prediction, place: int) -> Tensor:
        """Clean latents that ``x`` at time ``grid[place]`` seems to lead to.

        Args:
            case: whose sampler is meant.
            x: ``(B, C, T, h, w)``.
            prediction: what the denoiser says of it.
            place: index of its time in the grid.
        """
        for here, there in pairwise(self._places(place)):
            if here != place:
                prediction = case.predict(x, here)
            x = _transition(case, x, prediction, here, there, ode).mean
        return prediction.x0

    def _branches(self, step: int) -> bool:
        """Whether candidates are compared after this step; with one for each beam there is nothing to compare."""
        first, last = self.span
        return self.candidates > 1 and step < self.sampling.steps - 1 and first <= step / self.sampling.steps < last

    def _places(self, place: int) -> list[int]:
        """Indices of the lookahead's times, from ``place`` to the clean end."""
        steps = self.sampling.steps
        count = min(self.lookahead, steps - place)
        return [place + round(i * (steps - place) / count) for i in range(count + 1)]

    def _advance(
        self,
        case: Case,
        x: Tensor,
        prediction: Prediction,
        step: int,
        sources: list[torch.Generator],
        count: int,
    ) -> Tensor:
        """``count`` next latents of each beam, side by side."""
        transition = _transition(case, x, prediction, step, step + 1, self.kernel)
        if not bool((transition.std > 0).any()):
            if count > 1:
                raise ValueError("Beam search needs a kernel with noise, or all candidates are one; use ddim(eta=1).")
            return transition.mean
        mean, std = (part.repeat_interleave(count, dim=0) for part in (transition.mean, transition.std))
        drawn = [source for source in sources for _ in range(count)]
        return Transition(mean, std, mean).sample(draw_noise(mean.shape, drawn, mean.device))


def _transition(case: Case, x: Tensor, prediction: Prediction, here: int, there: int, kernel: Kernel) -> Transition:
    t, t_next = (case.denoiser.times(x, case.grid[place]) for place in (here, there))
    return kernel(prediction, x, t, t_next, case.denoiser.schedule)
