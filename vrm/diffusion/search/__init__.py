"""Better videos from fixed weights: searches that spend model calls on a prompt and say how many."""

from vrm.diffusion.search.base import Budget, BudgetError, Cost, Searcher, SearchResult
from vrm.diffusion.search.beam import BeamSearch
from vrm.diffusion.search.best_of_n import BestOfN
from vrm.diffusion.search.case import Case, Judgement, LatentReward, Sampling
from vrm.diffusion.search.guidance import RewardGuidance
from vrm.diffusion.search.noise import NoiseOptimisation
from vrm.diffusion.search.prune import Pruning

METHODS: dict[str, type[Searcher]] = {
    "best_of_n": BestOfN,
    "dlbs": BeamSearch,
    "prune": Pruning,
    "reno": NoiseOptimisation,
    "nrg": RewardGuidance,
}

__all__ = [
    "METHODS",
    "BeamSearch",
    "BestOfN",
    "Budget",
    "BudgetError",
    "Case",
    "Cost",
    "Judgement",
    "LatentReward",
    "NoiseOptimisation",
    "Pruning",
    "RewardGuidance",
    "Sampling",
    "SearchResult",
    "Searcher",
]
