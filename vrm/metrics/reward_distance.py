"""Distances between reward tables that potential shaping and scale cannot change: EPIC, DARD and STARC, exactly.

Two rewards that differ by ``gamma * Phi(s') - Phi(s)``, a positive factor and a constant order policies alike. Each
distance first maps a reward to one member of its class (canonicalisation), then compares what is left. They differ in
which transitions that map looks at: all pairs of states (EPIC), those the dynamics allow (DARD), or none but those of
one policy's values (STARC). Sampled forms, for rewards that are functions, are in :mod:`vrm.metrics.sampled_distance`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from vrm.metrics.inputs import Floats


def epic(
    reward: ArrayLike,
    other: ArrayLike,
    gamma: float,
    *,
    states: ArrayLike | None = None,
    actions: ArrayLike | None = None,
    coverage: ArrayLike | None = None,
) -> float:
    """EPIC distance of two reward tables: ``sqrt((1 - pearson) / 2)`` of the canonical rewards.

    Gleave et al. 2021, "Quantifying differences in reward functions", arXiv 2006.13900, definition 4.1. It looks at
    transitions that the dynamics may not allow, and at none as the last of an episode.

    Args:
        reward: ``(S, A, S)`` reward of moving from a state by an action to a state; finite.
        other: ``(S, A, S)`` the other reward of the same transitions; finite.
        gamma: discount in [0, 1].
        states: ``(S,)`` weights of the states that canonicalisation averages over; None for equal weights.
        actions: ``(A,)`` weights of the actions, likewise.
        coverage: ``(S, A, S)`` weights of the transitions that are compared; None for the product of
            ``states``, ``actions`` and ``states``.

    Returns:
        A number in [0, 1]: 0 for equivalent, about 0.707 for unrelated, 1 for opposite rewards; nan if a canonical
        reward is constant.

    Raises:
        ValueError: if shapes do not fit, a reward is not finite, ``gamma`` is outside [0, 1] or weights are negative
            or all zero.

    Example:
        >>> value = np.array([0.0, 1.0, 3.0])
        >>> progress = np.tile(value[None, None] - value[:, None, None], (1, 2, 1))
        >>> state = np.tile((1 - 0.9) * value, (3, 2, 1))
        >>> round(epic(progress, state, gamma=0.9), 6)
        0.0
    """
    first, second = _tables(reward, other)
    over_states, over_actions = _weights(states, first.shape[:1]), _weights(actions, first.shape[1:2])
    if coverage is None:
        coverage = np.einsum("s,a,t->sat", over_states, over_actions, over_states)
    x, y = (canonical_epic(r, gamma, states=over_states, actions=over_actions) for r in (first, second))
    return pearson_distance(x, y, _weights(coverage, first.shape), (_size(first), _size(second)))


def canonical_epic(
    reward: ArrayLike, gamma: float, *, states: ArrayLike | None = None, actions: ArrayLike | None = None
) -> Floats:
    """Canonically shaped reward ``R + E[gamma R(s', A, S') - R(s, A, S') - gamma R(S, A, S')]``, ``(S, A, S)``.

    Arguments and errors as in :func:`epic`. A reward of the arrived state alone only loses its mean.
    """
    (table,) = _tables(reward)
    over_states, over_actions = _weights(states, table.shape[:1]), _weights(actions, table.shape[1:2])
    leaving = np.einsum("sat,a,t->s", table, over_actions, over_states)
    return _shaped(table, leaving, check_discount(gamma)) - gamma * float(over_states @ leaving)


def dard(
    reward: ArrayLike,
    other: ArrayLike,
    transition: ArrayLike,
    gamma: float,
    *,
    actions: ArrayLike | None = None,
    coverage: ArrayLike | None = None,
) -> float:
    """DARD distance of two reward tables: EPIC's, canonicalised with transitions that the dynamics allow.

    Wulfe et al. 2022, "Dynamics-aware comparison of learned reward functions", arXiv 2201.10081.

    Args:
        reward: as in :func:`epic`.
        other: as in :func:`epic`.
        transition: ``(S, A, S)`` chance of each next state; sums to 1 over the last axis.
        gamma: discount in [0, 1].
        actions: ``(A,)`` weights of the actions averaged over; None for equal weights.
        coverage: ``(S, A, S)`` weights of the transitions that are compared; None for ``transition``.

    Returns:
        As :func:`epic`.

    Raises:
        ValueError: as :func:`epic`, and if ``transition`` is no chance.
    """
    first, second = _tables(reward, other)
    x, y = (canonical_dard(r, transition, gamma, actions=actions) for r in (first, second))
    weights = _weights(transition if coverage is None else coverage, first.shape)
    return pearson_distance(x, y, weights, (_size(first), _size(second)))


def canonical_dard(
    reward: ArrayLike, transition: ArrayLike, gamma: float, *, actions: ArrayLike | None = None
) -> Floats:
    """``R(s, a, s') + E[gamma R(s', A, S'') - R(s, A, S') - gamma R(S', A, S'')]``, ``(S, A, S)``.

    ``S' ~ T(s, A)`` and ``S'' ~ T(s', A)`` follow the dynamics. Arguments and errors as in :func:`dard`.
    """
    (table,) = _tables(reward)
    chance, weights = _chances(transition, table.shape), _weights(actions, table.shape[1:2])
    leaving = np.einsum("sat,sat,a->s", table, chance, weights)
    across = np.zeros((len(table), len(table)))
    for action, weight in enumerate(weights):
        across += weight * chance[:, action] @ table[:, action] @ chance[:, action].T
    return _shaped(table, leaving, check_discount(gamma)) - gamma * across[:, None, :]


def starc(
    reward: ArrayLike,
    other: ArrayLike,
    transition: ArrayLike,
    gamma: float,
    *,
    policy: ArrayLike | None = None,
    coverage: ArrayLike | None = None,
) -> float:
    """STARC distance of two reward tables: half the Euclidean distance of the normalised advantages.

    Skalse et al. 2024, "STARC: a general framework for quantifying differences between reward functions",
    arXiv 2309.15257, with value canonicalisation. Bounds the regret of optimising one reward instead of the other.

    Args:
        reward: as in :func:`epic`.
        other: as in :func:`epic`.
        transition: ``(S, A, S)`` chance of each next state.
        gamma: discount in [0, 1).
        policy: ``(S, A)`` chance of each action; None for uniform.
        coverage: ``(S, A)`` weights in the norm; None for equal weights.

    Returns:
        A number in [0, 1]: 0 for equivalent, about 0.707 for unrelated, 1 for opposite rewards; 0.5 if one reward makes
        all policies equally good and the other does not, 0 if both do.

    Raises:
        ValueError: as :func:`dard`, and if ``gamma`` is 1.
    """
    first, second = _tables(reward, other)
    weights = np.sqrt(_weights(coverage, first.shape[:2]))
    x, y = (
        _normalised(weights * canonical_starc(r, transition, gamma, policy=policy), _size(r)) for r in (first, second)
    )
    return float(np.linalg.norm(x - y) / 2)


def canonical_starc(
    reward: ArrayLike, transition: ArrayLike, gamma: float, *, policy: ArrayLike | None = None
) -> Floats:
    """``E_{S' ~ T(s, a)}[R(s, a, S') + gamma V(S') - V(s)]`` ``(S, A)``: the policy's advantage; see :func:`starc`."""
    (table,) = _tables(reward)
    chance = _chances(transition, table.shape)
    value = policy_value(table, chance, gamma, policy=policy)
    return np.asarray(np.einsum("sat,sat->sa", table + gamma * value, chance) - value[:, None])


def policy_value(reward: ArrayLike, transition: ArrayLike, gamma: float, *, policy: ArrayLike | None = None) -> Floats:
    """Discounted value ``(S,)`` of following a policy for ever, by solving Bellman's equation.

    Args, errors as in :func:`starc`.

    Example:
        >>> policy_value([[[1.0]]], [[[1.0]]], gamma=0.5).tolist()
        [2.0]
    """
    (table,) = _tables(reward)
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must lie in [0, 1), so that endless sums converge, got {gamma}.")
    chance = _chances(transition, table.shape)
    count, actions, _ = table.shape
    chosen = np.full((count, actions), 1 / actions) if policy is None else _chances(policy, (count, actions), "policy")
    paid = np.einsum("sa,sat,sat->s", chosen, chance, table)
    moved = np.einsum("sa,sat->st", chosen, chance)
    return np.asarray(np.linalg.solve(np.eye(count) - gamma * moved, paid))


def value_canonical(reward: ArrayLike, value: ArrayLike, next_value: ArrayLike, gamma: float) -> Floats:
    """``R + gamma V(s') - V(s)`` of sampled transitions, with values given, for instance by a fitted critic.

    For deterministic dynamics this is :func:`canonical_starc` at the sampled (s, a); otherwise average it over the
    samples that share one.

    Args:
        reward: ``(N,)``.
        value: ``(N,)`` value of the state left, under this very reward.
        next_value: ``(N,)`` value of the state arrived at; 0 after a terminal one.
        gamma: discount in [0, 1].

    Raises:
        ValueError: if the lengths differ or ``gamma`` is outside [0, 1].
    """
    arrays = [np.asarray(values, np.float64) for values in (reward, value, next_value)]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
        raise ValueError(f"reward, value and next_value must be (N,), got {[array.shape for array in arrays]}.")
    return np.asarray(arrays[0] + check_discount(gamma) * arrays[2] - arrays[1])


def starc_from_canonical(reward: ArrayLike, other: ArrayLike) -> float:
    """Normalise two canonical rewards ``(N,)``, as of :func:`value_canonical`, and halve their Euclidean distance.

    Returns:
        As :func:`starc`.

    Raises:
        ValueError: if the shapes differ or a value is not finite.
    """
    x, y = (np.asarray(values, np.float64) for values in (reward, other))
    if x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"Canonical rewards must be finite and of one shape, got {x.shape} and {y.shape}.")
    return float(np.linalg.norm(_normalised(x, 0.0) - _normalised(y, 0.0)) / 2)


def pearson_distance(first: Floats, second: Floats, weights: Floats, sizes: tuple[float, float]) -> float:
    """``sqrt((1 - rho) / 2)`` of two arrays under weights that sum to 1.

    Args:
        first: canonical reward.
        second: the other, of the same shape.
        weights: of the entries.
        sizes: magnitudes of the rewards themselves, to tell what is constant up to rounding; the result is then nan.
    """
    x, y = (values - (weights * values).sum() for values in (first, second))
    norms = [math.sqrt((weights * centred**2).sum()) for centred in (x, y)]
    if any(norm <= 1e-12 * size for norm, size in zip(norms, sizes, strict=True)):
        return math.nan
    # |x/|x| - y/|y|| is 2 sqrt((1 - rho) / 2), without the cancellation in 1 - rho.
    return min(math.sqrt((weights * (x / norms[0] - y / norms[1]) ** 2).sum()) / 2, 1.0)


def _shaped(table: Floats, potential: Floats, gamma: float) -> Floats:
    return np.asarray(table + gamma * potential[None, None, :] - potential[:, None, None])


def _normalised(canonical: Floats, scale: float) -> Floats:
    """Bring to unit norm; what is zero up to rounding stays zero."""
    norm = float(np.linalg.norm(canonical))
    return np.zeros_like(canonical) if norm <= 1e-10 * scale or norm == 0 else canonical / norm


def _size(reward: Floats) -> float:
    return float(np.abs(reward).max())


def _tables(*rewards: ArrayLike) -> list[Floats]:
    tables = [np.asarray(reward, np.float64) for reward in rewards]
    for table in tables:
        if table.ndim != 3 or table.shape[0] != table.shape[2] or table.shape != tables[0].shape or not table.size:
            raise ValueError(f"Reward tables must be (S, A, S) of one size, got {[t.shape for t in tables]}.")
        if not np.isfinite(table).all():
            raise ValueError("Reward tables must be finite, got nan or infinity.")
    return tables


def check_discount(gamma: float) -> float:
    """Return ``gamma``.

    Raises:
        ValueError: if it is outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}.")
    return gamma


def _weights(weights: ArrayLike | None, shape: tuple[int, ...]) -> Floats:
    """Return weights that sum to 1."""
    array = np.ones(shape) if weights is None else np.asarray(weights, np.float64)
    if array.shape != shape or not (array >= 0).all() or not 0 < array.sum() < math.inf:
        raise ValueError(f"Weights must be {shape}, at least 0 and not all 0, got shape {array.shape}.")
    return np.asarray(array / array.sum())


def _chances(chances: ArrayLike, shape: tuple[int, ...], name: str = "transition") -> Floats:
    array = np.asarray(chances, np.float64)
    if array.shape != shape or not (array >= 0).all() or not np.allclose(array.sum(-1), 1):
        raise ValueError(f"{name} must be {shape}, at least 0, and sum to 1 over its last axis, got {array.shape}.")
    return array
