"""Several rewards of the same things become one number each: sums, means, ranks, fronts.

Where :mod:`vrm.rewards.combine` composes rewards frame by frame, the rules here look at numbers that are there already,
and most of them at a whole group: videos of one prompt, episodes of one task. Rewards are tensors ``(..., G)`` by name;
members of the last axis compete, leading axes are separate groups. Greater is better throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vrm.errors import UnknownNameError

Rewards = Mapping[str, Tensor]
Weights = Mapping[str, float] | None


def aggregate(rewards: Rewards, rule: str = "weighted_sum", weights: Weights = None) -> Tensor:
    """Apply a rule by its name.

    =====================  ============================================================================================
    rule                   number of member ``i``
    =====================  ============================================================================================
    ``weighted_sum``       ``sum_k w_k r_k``
    ``log_tamed``          the same after rewards that spread widely are tamed by ``log(1 + r)``
    ``geometric_mean``     ``exp(sum_k w_k log r_k / sum_k w_k)``
    ``harmonic_mean``      ``sum_k w_k / sum_k (w_k / r_k)``
    ``win_rate``           weighted mean over rewards of the share of the group it beats, ties half
    ``rank_sum``           weighted sum of its ranks, the worst 0
    ``dominance``          share of the group it dominates minus the share that dominates it
    ``advantages``         ``sum_k w_k A_k`` with each reward standardised in the group
    ``gdpo``               the same, standardised again over everything
    ``pareto``             standardised weighted sum, 0 for dominated members
    =====================  ============================================================================================

    Args:
        rewards: at least one, all of one shape ``(..., G)``.
        rule: one of the above.
        weights: by name; 1 where not given.

    Returns:
        ``(..., G)`` float32. Those of :data:`STANDARDISED` are centred on 0 already.

    Raises:
        UnknownNameError: if the rule or a weight's name is unknown.
        ValueError: if there is no reward, shapes differ, or a mean meets a value it is not defined for.

    Example:
        >>> aggregate({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([9.0, 0.0, 1.0])}, "rank_sum")
        tensor([2., 1., 3.])
    """
    if rule not in RULES:
        raise UnknownNameError("aggregation rule", rule, RULES)
    return RULES[rule](rewards, weights)


def weighted_sum(rewards: Rewards, weights: Weights = None) -> Tensor:
    """``sum_k w_k r_k``."""
    values, factors = _stacked(rewards, weights)
    return (values * factors).sum(dim=0)


def log_tamed(rewards: Rewards, weights: Weights = None, threshold: float | None = None) -> Tensor:
    """Weighted sum after taming rewards whose spread would drown the others (PaCo-RL).

    With ``h_k = std_k / |mean_k|`` over all values, each reward with ``h_k > threshold`` becomes ``log(1 + r_k)``.

    Args:
        rewards: above -1 where they are tamed.
        weights: by name; 1 where not given.
        threshold: the mean of all ``h`` if None.
    """
    values, factors = _stacked(rewards, weights)
    flat = values.flatten(1)
    spread = flat.std(dim=1, correction=0) / flat.mean(dim=1).abs().clamp(min=1e-12)
    tamed = spread > (float(spread.mean()) if threshold is None else threshold)
    if bool((flat[tamed] <= -1).any()):
        raise ValueError(f"log(1 + r) needs rewards above -1, got {float(flat[tamed].min()):.4g}; shift or rescale it.")
    changed = torch.where(tamed.reshape(factors.shape), values.clamp(min=-0.999).log1p(), values)
    return (changed * factors).sum(dim=0)


def geometric_mean(rewards: Rewards, weights: Weights = None) -> Tensor:
    """Weighted geometric mean of positive rewards: one bad value makes a bad whole."""
    values, factors = _positive(rewards, weights, "geometric")
    return ((values.log() * factors).sum(dim=0) / factors.sum(dim=0)).exp()


def harmonic_mean(rewards: Rewards, weights: Weights = None) -> Tensor:
    """Weighted harmonic mean of positive rewards: stricter than the geometric one."""
    values, factors = _positive(rewards, weights, "harmonic")
    return factors.sum(dim=0) / (factors / values).sum(dim=0)


def win_rate(rewards: Rewards, weights: Weights = None) -> Tensor:
    """Share of the other members each one beats, ties half, averaged over rewards (Pref-GRPO, arXiv 2508.20751)."""
    values, factors = _stacked(rewards, weights)
    return (_win_rates(values) * factors).sum(dim=0) / factors.sum(dim=0)


def rank_sum(rewards: Rewards, weights: Weights = None) -> Tensor:
    """Weighted sum of ranks in the group, from 0 for the worst; equals share a rank (TTSnap)."""
    values, factors = _stacked(rewards, weights)
    return (_win_rates(values) * (values.shape[-1] - 1) * factors).sum(dim=0)


def dominates(rewards: Rewards) -> Tensor:
    """Whether member ``i`` is at no reward worse than ``j`` and at one better: ``(..., G, G)`` at ``[i, j]`` (D3PO)."""
    values, _ = _stacked(rewards, None)
    one, other = values.unsqueeze(-1), values.unsqueeze(-2)
    return (one >= other).all(dim=0) & (one > other).any(dim=0)


def dominance(rewards: Rewards, weights: Weights = None) -> Tensor:
    """Share of the others a member dominates minus the share that dominates it, in [-1, 1]; a weight 0 leaves out."""
    _, factors = _stacked(rewards, weights)
    counted = {name: r for (name, r), w in zip(rewards.items(), factors.flatten().tolist(), strict=True) if w}
    wins = dominates(counted).float()
    return (wins.sum(dim=-1) - wins.sum(dim=-2)) / max(wins.shape[-1] - 1, 1)


def pareto_mask(rewards: Rewards) -> Tensor:
    """Members that no other one dominates, ``(..., G)``; at least one in each group (Parrot, arXiv 2401.05675)."""
    return ~dominates(rewards).any(dim=-2)


def pareto(rewards: Rewards, weights: Weights = None) -> Tensor:
    """Standardised weighted sum of the members on the front, 0 elsewhere, scaled by ``G / |front|`` (Parrot)."""
    front = pareto_mask(rewards)
    scale = front.shape[-1] / front.sum(dim=-1, keepdim=True)
    return standardised(weighted_sum(rewards, weights)) * front * scale


def sum_of_advantages(rewards: Rewards, weights: Weights = None) -> Tensor:
    """``sum_k w_k A_k``, each reward standardised in its group first (DanceGRPO, arXiv 2505.07818)."""
    values, factors = _stacked(rewards, weights)
    return (standardised(values) * factors).sum(dim=0)


def gdpo(rewards: Rewards, weights: Weights = None) -> Tensor:
    """:func:`sum_of_advantages`, standardised once more over all groups (GDPO)."""
    summed = sum_of_advantages(rewards, weights)
    return standardised(summed.flatten()).reshape(summed.shape)


def uncertainty_weighted(reward: Tensor, uncertainty: Tensor) -> Tensor:
    """``exp(-u) r - u``: a reward counts less, and costs, where its source is unsure (Ctrl-U); differentiable."""
    return (-uncertainty).exp() * reward - uncertainty


def standardised(values: Tensor, eps: float = 1e-4) -> Tensor:
    """``(r - mean) / (std + eps)`` over the last axis; exactly 0 in a group whose values are all the same."""
    offset = values - values[..., :1]  # equal values would otherwise leave rounding errors, divided by eps
    centred = offset - offset.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True).sqrt() + eps)


RULES: dict[str, Callable[[Rewards, Weights], Tensor]] = {
    "weighted_sum": weighted_sum,
    "log_tamed": log_tamed,
    "geometric_mean": geometric_mean,
    "harmonic_mean": harmonic_mean,
    "win_rate": win_rate,
    "rank_sum": rank_sum,
    "dominance": dominance,
    "advantages": sum_of_advantages,
    "gdpo": gdpo,
    "pareto": pareto,
}
STANDARDISED = frozenset({"advantages", "gdpo", "pareto"})


def _stacked(rewards: Rewards, weights: Weights) -> tuple[Tensor, Tensor]:
    """All rewards ``(K, ..., G)`` and their weights, shaped to multiply them."""
    if not rewards:
        raise ValueError("Aggregation needs at least one reward, got none.")
    shapes = {tuple(values.shape) for values in rewards.values()}
    if len(shapes) != 1 or not min(map(len, shapes)):
        raise ValueError(f"Rewards must have one shape (..., G) for all, got {sorted(shapes)}.")
    for name in weights or {}:
        if name not in rewards:
            raise UnknownNameError("reward in weights", name, rewards)
    values = torch.stack([reward.float() for reward in rewards.values()])
    factors = torch.tensor([float((weights or {}).get(name, 1.0)) for name in rewards], device=values.device)
    return values, factors.reshape(-1, *[1] * (values.ndim - 1))


def _positive(rewards: Rewards, weights: Weights, mean: str) -> tuple[Tensor, Tensor]:
    values, factors = _stacked(rewards, weights)
    if not bool((values > 0).all()):
        raise ValueError(f"A {mean} mean needs positive rewards, got {float(values.min()):.4g}; shift or rescale them.")
    return values, factors


def _win_rates(values: Tensor) -> Tensor:
    one, other = values.unsqueeze(-1), values.unsqueeze(-2)
    points = (one > other).float() + 0.5 * (one == other).float()
    members = values.shape[-1]
    if members == 1:
        return torch.full_like(values, 0.5)
    return (points.sum(dim=-1) - 0.5) / (members - 1)  # without the tie with itself
