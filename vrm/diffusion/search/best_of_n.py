"""Best of N: draw several videos and keep the one that the reward likes best."""

from __future__ import annotations

from typing import Any

from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel, ode
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.search.base import Cost, Found, Searcher, best
from vrm.diffusion.search.case import Case


class BestOfN(Searcher):
    """Independent samples, the best of which wins: what every other search has to beat at equal model calls.

    With one video it is the generator's own sampler. ``n`` videos cost ``n * steps`` model calls, twice that with
    guidance, and one call of each reward per video.

    Args:
        generator: draws videos.
        objective: judges them.
        kernel: the sampler's step.
        settings: as for :class:`~vrm.diffusion.search.base.Searcher`; ``size`` is the number of videos.

    Example:
        >>> found = BestOfN(generator, objective).sample(["a pole swings"], Budget(nfe=640))  # doctest: +SKIP
    """

    def __init__(
        self, generator: VideoGenerator, objective: RewardObjective, *, kernel: Kernel = ode, **settings: Any
    ) -> None:
        """Keep the kernel."""
        super().__init__(generator, objective, **settings)
        self.kernel = kernel

    def cost(self, size: int) -> Cost:
        """Whole chains, each scored once."""
        return Cost(size * self.sampling.steps * self.rows, size * len(self.objective.rewards))

    def search(self, case: Case, size: int) -> Found:
        """Draw and choose."""
        return best(case, case.draw([case.source(i) for i in range(size)], self.kernel), self.sampling.steps)
