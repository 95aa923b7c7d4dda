"""EPIC and DARD for rewards that are functions: expectations over samples that every term shares.

Sharing matters: a potential then cancels term by term, so that the distance ignores shaping exactly, with any number of
samples. Drawn anew for each term, the samples turn that invariance into noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vrm.metrics.inputs import Floats
from vrm.metrics.reward_distance import check_discount, pearson_distance

Array = NDArray[Any]
RewardFunction = Callable[[Array, Array, Array], ArrayLike]  # states, actions, next states (N, ...) to rewards (N,)
Successors = Callable[[Array, Array], Array]  # states, actions (N, ...) to sampled next states (N, ...)
Batch = tuple[ArrayLike, ArrayLike, ArrayLike]  # states, actions, next states, each (N, ...)


def epic_sampled(
    reward: RewardFunction, other: RewardFunction, batch: Batch, states: ArrayLike, actions: ArrayLike, gamma: float
) -> float:
    """EPIC distance of two reward functions over sampled transitions.

    Args:
        reward: maps states, actions and next states, each ``(N, ...)``, to ``(N,)``.
        other: the other function.
        batch: the transitions to compare on: states, actions, next states, each ``(N, ...)``, N at least 2.
        states: ``(M, ...)`` samples of states; used in every term of both canonical rewards.
        actions: ``(M, ...)`` one sampled action beside each of ``states``.
        gamma: discount in [0, 1].

    Returns:
        As :func:`vrm.metrics.epic`; each function is called ``3 M + 2`` times.

    Raises:
        ValueError: if lengths do not fit or a function returns another shape or values that are not finite.

    Example:
        >>> def pays(state, action, arrived):
        ...     return arrived
        >>> def shaped(state, action, arrived):
        ...     return 2 * arrived + 0.9 * arrived**2 - state**2 + 1
        >>> line = np.linspace(0, 1, 7)
        >>> round(epic_sampled(pays, shaped, (line, line, line[::-1]), line[:4], line[:4], gamma=0.9), 6)
        0.0
    """
    x, y = (canonical_epic_sampled(f, batch, states, actions, gamma) for f in (reward, other))
    return pearson_distance(x, y, np.full(len(x), 1 / len(x)), _sizes(reward, other, batch))


def canonical_epic_sampled(
    reward: RewardFunction, batch: Batch, states: ArrayLike, actions: ArrayLike, gamma: float
) -> Floats:
    """Canonical reward ``(N,)`` of sampled transitions; arguments as in :func:`epic_sampled`."""
    left, done, arrived = _checked(*batch)
    samples, tried = np.asarray(states), np.asarray(actions)
    if len(samples) != len(tried) or not len(samples):
        raise ValueError(f"states and actions must be M samples each, M >= 1, got {len(samples)} and {len(tried)}.")
    check_discount(gamma)
    shaped = np.zeros(len(left))
    constant = 0.0
    for sample, action in zip(samples, tried, strict=True):
        there, again = _repeat(sample, len(left)), _repeat(action, len(left))
        shaped += gamma * _call(reward, arrived, again, there) - _call(reward, left, again, there)
        constant += float(_call(reward, samples, _repeat(action, len(samples)), _repeat(sample, len(samples))).mean())
    return np.asarray(_call(reward, left, done, arrived) + (shaped - gamma * constant) / len(samples))


def dard_sampled(
    reward: RewardFunction,
    other: RewardFunction,
    batch: Batch,
    actions: ArrayLike,
    successors: Successors,
    gamma: float,
) -> float:
    """DARD distance of two reward functions over sampled transitions.

    Args:
        reward: as in :func:`epic_sampled`.
        other: the other function.
        batch: as in :func:`epic_sampled`.
        actions: ``(M, ...)`` sampled actions; used in every term of both canonical rewards.
        successors: samples one next state for each of N states and actions, from the simulator or a model. It is asked
            once for each action; both rewards are given the same answers.
        gamma: discount in [0, 1].

    Returns:
        As :func:`vrm.metrics.dard`.

    Raises:
        ValueError: as :func:`epic_sampled`.
    """
    left, done, arrived = _checked(*batch)
    check_discount(gamma)
    if not len(np.asarray(actions)):
        raise ValueError("actions must hold at least one sample, got none.")
    canonical = [_call(f, left, done, arrived).copy() for f in (reward, other)]
    tried = np.asarray(actions)
    for one in tried:
        action = _repeat(one, len(left))
        near, far = np.asarray(successors(left, action)), np.asarray(successors(arrived, action))
        for values, function in zip(canonical, (reward, other), strict=True):
            shift = gamma * _call(function, arrived, action, far) - _call(function, left, action, near)
            values += (shift - gamma * _call(function, near, action, far)) / len(tried)
    even = np.full(len(left), 1 / len(left))
    return pearson_distance(canonical[0], canonical[1], even, _sizes(reward, other, batch))


def _checked(states: ArrayLike, actions: ArrayLike, arrived: ArrayLike) -> tuple[Array, Array, Array]:
    arrays = np.asarray(states), np.asarray(actions), np.asarray(arrived)
    if len({len(array) for array in arrays}) > 1 or len(arrays[0]) < 2:
        raise ValueError(f"A batch needs N >= 2 states, actions and next states, got {[len(a) for a in arrays]}.")
    return arrays


def _sizes(reward: RewardFunction, other: RewardFunction, batch: Batch) -> tuple[float, float]:
    first, second = (float(np.abs(_call(function, *_checked(*batch))).max()) for function in (reward, other))
    return first, second


def _repeat(one: Any, count: int) -> Array:
    return np.repeat(np.asarray(one)[None], count, axis=0)


def _call(reward: RewardFunction, states: Array, actions: Array, arrived: Array) -> Floats:
    values = np.asarray(reward(states, actions, arrived), np.float64)
    if values.shape != (len(states),) or not np.isfinite(values).all():
        raise ValueError(f"A reward function must return ({len(states)},) finite values, got shape {values.shape}.")
    return values
