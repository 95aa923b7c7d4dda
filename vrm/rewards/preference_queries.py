"""Which pairs to ask about next: samplers over a pool of candidates, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

from vrm.errors import UnknownNameError

PRESELECTED = 0.5  # share of the pool that k-centre chooses from after another criterion, as in B-Pref


class Judges(Protocol):
    """A preference model with several opinions, such as :class:`~vrm.rewards.preference.PreferenceReward`."""

    def probabilities(self, first: Tensor, second: Tensor) -> Tensor:
        """How likely each opinion holds the first of ``(M, L, ...)`` pairs to be preferred: ``(E, M)``."""


Choose = Callable[[Judges, Tensor, Tensor, int, Generator], Tensor]


def uniform(model: Judges, first: Tensor, second: Tensor, count: int, generator: Generator) -> Tensor:
    """Any pairs, each as likely; right for the first session, when the model knows nothing.

    Args:
        model: what is learned.
        first: ``(M, L, ...)`` candidates.
        second: ``(M, L, ...)`` what they would be compared with.
        count: how many to choose; all if there are no more.
        generator: on the CPU; of the choice, here, and of the order among equals elsewhere.

    Returns:
        ``(count,)`` int64 distinct numbers of pairs.
    """
    return torch.randperm(len(first), generator=generator)[:count]


def disagreement(model: Judges, first: Tensor, second: Tensor, count: int, generator: Generator) -> Tensor:
    """Pairs on which the opinions differ most: standard deviation of the probability (Christiano et al. 2017)."""
    return _highest(_spread(model, first, second), count, generator)


def entropy(model: Judges, first: Tensor, second: Tensor, count: int, generator: Generator) -> Tensor:
    """Pairs whose answer is most open: entropy of the mean probability (Lee et al. 2021, arXiv 2106.05091)."""
    return _highest(_openness(model, first, second), count, generator)


def information_gain(model: Judges, first: Tensor, second: Tensor, count: int, generator: Generator) -> Tensor:
    """Pairs whose answer would tell most which opinion is right: entropy of the mean minus mean entropy.

    BALD (Houlsby et al. 2011, arXiv 1112.5745); over samples of a user's posterior, what VPL asks (Poddar et al. 2024,
    arXiv 2408.10075).
    """
    likely = model.probabilities(first, second)
    return _highest(_entropy(likely.mean(dim=0)) - _entropy(likely).mean(dim=0), count, generator)


def k_centre(model: Judges, first: Tensor, second: Tensor, count: int, generator: Generator) -> Tensor:
    """Pairs unlike each other: greedily, the one farthest from those chosen, in features of both sides.

    The first is the one nearest to the mean.
    """
    return _spread_out(first, second, torch.randperm(len(first), generator=generator), count)


def k_centre_disagreement(model: Judges, first: Tensor, second: Tensor, count: int, generator: Generator) -> Tensor:
    """:func:`k_centre` among the half with the highest :func:`disagreement`."""
    pool = _highest(_spread(model, first, second), _half(first, count), generator)
    return _spread_out(first, second, pool, count)


def k_centre_entropy(model: Judges, first: Tensor, second: Tensor, count: int, generator: Generator) -> Tensor:
    """:func:`k_centre` among the half with the highest :func:`entropy`."""
    pool = _highest(_openness(model, first, second), _half(first, count), generator)
    return _spread_out(first, second, pool, count)


SAMPLERS: dict[str, Choose] = {
    "uniform": uniform,
    "disagreement": disagreement,
    "entropy": entropy,
    "information_gain": information_gain,
    "k_centre": k_centre,
    "k_centre_disagreement": k_centre_disagreement,
    "k_centre_entropy": k_centre_entropy,
}


def get_sampler(name: str) -> Choose:
    """The sampler of this name.

    Raises:
        UnknownNameError: if there is none.
    """
    if name not in SAMPLERS:
        raise UnknownNameError("query sampler", name, SAMPLERS)
    return SAMPLERS[name]


def _spread(model: Judges, first: Tensor, second: Tensor) -> Tensor:
    return model.probabilities(first, second).std(dim=0, correction=0)


def _openness(model: Judges, first: Tensor, second: Tensor) -> Tensor:
    return _entropy(model.probabilities(first, second).mean(dim=0))


def _entropy(likely: Tensor) -> Tensor:
    found: Tensor = torch.special.entr(likely) + torch.special.entr(1 - likely)
    return found


def _half(first: Tensor, count: int) -> int:
    return max(count, int(PRESELECTED * len(first)))


def _highest(values: Tensor, count: int, generator: Generator) -> Tensor:
    """Places of the ``count`` highest values, equal ones in random order."""
    shuffled = torch.randperm(len(values), generator=generator)
    return shuffled[values.cpu()[shuffled].argsort(descending=True, stable=True)][:count]


def _spread_out(first: Tensor, second: Tensor, pool: Tensor, count: int) -> Tensor:
    """Greedy k-centre among the pairs numbered by ``pool``."""
    sides = [side[pool.to(side.device)].float().mean(dim=1).flatten(1).cpu() for side in (first, second)]
    points = torch.cat(sides, dim=1)
    chosen = [int(torch.cdist(points, points.mean(dim=0, keepdim=True)).argmin())] if len(points) and count else []
    nearest = torch.full((len(points),), torch.inf)
    while chosen and len(chosen) < min(count, len(points)):
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(dim=1))
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return pool[torch.tensor(chosen, dtype=torch.int64)]
