"""Which frames of a clip to look at: policies that are all called "uniform" elsewhere, each under its own name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from vrm.errors import UnknownNameError

Sampling = Literal["uniform", "middle"]
Kind = Literal["uniform", "middle", "segments", "fps", "seconds", "stride", "all"]

FORMS = "uniform:8, middle:8, segments:8, fps:2[,max=64], seconds:1[,max=64], stride:4[,max=64], all[,max=64]"
_FIXED = ("uniform", "middle", "segments")
_SPEC = re.compile(
    r"(?:(?P<fixed>uniform|middle|segments|stride):(?P<count>\d+)|(?P<timed>fps|seconds):(?P<rate>\d+\.?\d*|\.\d+)|all)"
    r"(?:,max=(?P<limit>\d+))?"
)
_SLACK = 1e-6  # seconds: time stamps are rounded to the ticks of their container


@dataclass(frozen=True)
class FrameSampler:
    """A rule that picks frames by their number or their time stamp, written as a short string.

    ========================  ==================================================================================
    ``uniform:8``             8 frames evenly spread by number, first and last included
    ``middle:8``              the middle frame of each of 8 equal parts
    ``segments:8``            the same frames: the centre of each of 8 segments, as InstructVideo
                              (arXiv:2312.12490) evaluates with
    ``fps:2[,max=64]``        the frame on show every 1/2 second
    ``seconds:1[,max=64]``    the frame nearest to every full second
    ``stride:4[,max=64]``     every 4th frame
    ``all[,max=64]``          every frame
    ========================  ==================================================================================

    The first three always give that many frames: a clip that is too short repeats frames. ``fps`` and ``seconds`` go
    by time stamp, so a variable frame rate is sampled evenly in time, and a frame that stays on show for longer than
    a step is repeated. ``max`` takes that many of the chosen ones, evenly, both ends included.

    Attributes:
        kind: name of the rule.
        amount: frames, frames per second, seconds or step; 1 for ``all``.
        limit: at most this many frames, None for no limit.

    Example:
        >>> import numpy as np
        >>> str(FrameSampler.parse("fps:2.0,max=64"))
        'fps:2,max=64'
        >>> FrameSampler.parse("segments:3").indices(np.arange(9) / 8)
        [1, 4, 7]
        >>> FrameSampler.parse("fps:2").indices(np.array([0, 0.1, 0.2, 1.0, 1.5]))
        [0, 2, 3, 4]
    """

    kind: Kind
    amount: float = 1
    limit: int | None = None

    @classmethod
    def parse(cls, spec: str | FrameSampler) -> FrameSampler:
        """Read a spec such as ``"segments:8"``; a sampler is returned as it is.

        Raises:
            ValueError: if the spec has none of the known forms or an amount of 0.
        """
        if isinstance(spec, FrameSampler):
            return spec
        found = _SPEC.fullmatch(spec.replace(" ", "")) if isinstance(spec, str) else None
        if found is None or (found["fixed"] in _FIXED and found["limit"]):
            raise ValueError(f"Unknown frame sampler {spec!r}; write one of: {FORMS}.")
        amount = float(found["count"] or found["rate"] or 1)
        limit = int(found["limit"]) if found["limit"] else None
        if amount <= 0 or limit == 0:
            raise ValueError(f"The numbers of a frame sampler must be above 0, got {spec!r}.")
        return cls(cast(Kind, found["fixed"] or found["timed"] or "all"), amount, limit)

    def __str__(self) -> str:
        """Give the spec in its one canonical form."""
        amount = "" if self.kind == "all" else f":{self.amount:.12g}"
        return f"{self.kind}{amount}" + (f",max={self.limit}" if self.limit else "")

    def count(self, times: NDArray[np.float64]) -> int:
        """Say how many frames :meth:`indices` gives, at no cost however many these are."""
        found = self._available(times)
        return found if self.limit is None else min(found, self.limit)

    def indices(self, times: NDArray[np.float64]) -> list[int]:
        """Choose frames.

        Args:
            times: ``(N,)`` rising time stamps of all frames, in seconds; N is at least 1.

        Returns:
            Rising indices in [0, N), perhaps repeated.

        Raises:
            ValueError: if there are no frames.
        """
        total = len(times)
        if self.kind in _FIXED:
            return sample_indices(total, int(self.amount), "uniform" if self.kind == "uniform" else "middle")
        found = self._available(times)
        if self.limit is None or found <= self.limit:
            steps = np.arange(found)
        else:
            steps = np.array(sample_indices(found, self.limit))
        if self.kind in ("all", "stride"):
            return [int(step) for step in steps * int(self.amount)]
        moments = times[0] + (steps / self.amount if self.kind == "fps" else steps * self.amount)
        shown = (np.searchsorted(times, moments + _SLACK, side="right") - 1).clip(0)
        if self.kind == "seconds":
            following = (shown + 1).clip(max=total - 1)
            shown = np.where(times[following] - moments < moments - times[shown] - _SLACK, following, shown)
        return [int(index) for index in shown]

    def _available(self, times: NDArray[np.float64]) -> int:
        """Count what the rule gives without its limit."""
        total = len(times)
        if total == 0:
            raise ValueError(f"The frame sampler {self} needs at least one frame, got none.")
        if self.kind in _FIXED:
            return int(self.amount)
        if self.kind in ("all", "stride"):
            return math.ceil(total / int(self.amount))
        span = float(times[-1] - times[0]) + _SLACK
        return math.floor(span * self.amount if self.kind == "fps" else span / self.amount) + 1


def sample_indices(total: int, count: int, sampling: Sampling = "uniform") -> list[int]:
    """Choose ``count`` of ``total`` frames, in order; a clip that is too short repeats frames.

    Args:
        total: number of frames there are, at least 1.
        count: number of frames wanted, at least 1.
        sampling: "uniform" spreads them evenly with both ends, "middle" takes the middle of ``count`` equal intervals.

    Returns:
        ``count`` indices in [0, total).

    Raises:
        ValueError: if ``total`` or ``count`` is below 1 or ``sampling`` is unknown.

    Example:
        >>> sample_indices(120, 8), sample_indices(120, 8, "middle")
        ([0, 17, 34, 51, 68, 85, 102, 119], [7, 22, 37, 52, 67, 82, 97, 112])
    """
    if total < 1 or count < 1:
        raise ValueError(f"A sample needs at least one frame, got {count} of {total}.")
    if sampling == "uniform":
        chosen = np.linspace(0, total - 1, count).round() if count > 1 else np.array([(total - 1) // 2])
    elif sampling == "middle":
        chosen = (((2 * np.arange(count) + 1) * total - count) // (2 * count)).clip(0)
    else:
        raise UnknownNameError("sampling", sampling, ("uniform", "middle"))
    return [int(index) for index in chosen]
