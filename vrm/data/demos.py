"""Demonstrations: videos of a task done, with what is known about each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vrm.errors import FrameError, VrmError
from vrm.frames import check_frames


class DemoError(VrmError, ValueError):
    """Demonstrations that cannot be read, or from which nothing can be learned."""


@dataclass(frozen=True, eq=False)
class Demo:
    """One demonstration; two are the same only if they are one object.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8 RGB, in order of time.
        name: what reports and pictures call it.
        text: what is done in it, if somebody said so.
        success: whether it ends with the task done; None if nobody said.
        stages: ``(T,)`` int64 true step of each frame, 0 first; None if nobody said.
        actions: ``(T - 1, A)`` float32, ``actions[t]`` led from frame ``t`` to ``t + 1``; None if not recorded.
        fps: frames per second of ``frames``; None if unknown.
    """

    frames: Tensor
    name: str
    text: str | None = None
    success: bool | None = None
    stages: NDArray[np.int64] | None = None
    actions: NDArray[np.float32] | None = field(default=None, repr=False)
    fps: float | None = None

    def __post_init__(self) -> None:
        """Check the frames, and that labels and actions are as long as they are.

        Raises:
            FrameError: if ``frames`` breaks the layout or is not uint8.
            DemoError: if a label has another length.
        """
        if check_frames(self.frames, 4).dtype.is_floating_point:
            raise FrameError(f"Frames of demonstration {self.name!r} must be uint8, got {self.frames.dtype}.")
        for what, values, expected in (
            ("stages", self.stages, len(self)),
            ("actions", self.actions, len(self) - 1),
        ):
            if values is not None and len(values) != expected:
                raise DemoError(
                    f"Demonstration {self.name!r} has {len(self)} frames, so {what} must have {expected} rows, "
                    f"got {len(values)}."
                )

    def __len__(self) -> int:
        """Number of frames ``T``."""
        return len(self.frames)
