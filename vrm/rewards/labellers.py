"""Whoever answers which of two pieces of behaviour is better: a judge, a person, a rule, the simulator."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from vrm.data.comparisons import Segments


@runtime_checkable
class Labeller(Protocol):
    """Answers questions about pairs.

    Attributes:
        sees_frames: whether :attr:`Segments.frames` must be there.
        state_keys: names of the per-frame values it reads from :attr:`Segments.state`.
    """

    @property
    def sees_frames(self) -> bool: ...  # noqa: D102 (told above)

    @property
    def state_keys(self) -> tuple[str, ...]: ...  # noqa: D102 (told above)

    def compare(self, first: Segments, second: Segments) -> Tensor:
        """How likely the first of each pair is preferred ``(N,)`` in [0, 1]; 0.5 is a tie, NaN is no answer."""
