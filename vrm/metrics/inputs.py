"""What every metric accepts: finite one-dimensional numbers, told off by name when they are not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def series(values: ArrayLike, name: str, minimum: int = 2) -> Floats:
    """Return ``values`` as float64 ``(N,)``.

    Raises:
        ValueError: if it is not one-dimensional, shorter than ``minimum`` or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < minimum:
        raise ValueError(f"{name} must be one-dimensional with at least {minimum} values, got shape {array.shape}.")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{name} must be finite, got {array[bad[0]]} at index {bad[0]} ({len(bad)} such values).")
    return array


def paired_series(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str], minimum: int = 2
) -> tuple[Floats, Floats]:
    """Return two series of one length, element i of both about the same thing.

    Raises:
        ValueError: as :func:`series`, and if the lengths differ.
    """
    x, y = series(first, names[0], minimum), series(second, names[1], minimum)
    if len(x) != len(y):
        raise ValueError(f"{names[0]} and {names[1]} must have one length, got {len(x)} and {len(y)}.")
    return x, y


def check_preference(preference: Floats) -> None:
    """Refuse preferences that are not 1 (the first), -1 (the second) or 0 (neither).

    Raises:
        ValueError: if one is another number.
    """
    other = preference[~np.isin(preference, (-1, 0, 1))]
    if len(other):
        raise ValueError(f"preference must hold only -1, 0 and 1, got {other[0]:g}.")


def ranks(values: Floats) -> Floats:
    """Rank ``(N,)`` values from 1 to N; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = (last - (counts - 1) / 2).astype(np.float64)
    return means[inverse]
