"""What a task itself can tell about a reward: states with the truth, random play with its own reward, and clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.errors import VrmError
from vrm.metrics.inputs import Floats


@dataclass(frozen=True, eq=False)
class Evidence:
    """Where a task's own reward is known.

    Attributes:
        states: ``(N, 3, H, W)`` uint8 varied states.
        truth: ``(N,)`` whether the task's criterion holds in each.
        play: ``(E, T + 1, 3, H, W)`` uint8 roll-outs of random play, the first frame from reset.
        gold: ``(E, T)`` the task's own reward for arriving at each later frame.
    """

    states: Tensor
    truth: NDArray[np.bool_]
    play: Tensor
    gold: Floats

    def good_clips(self, count: int, frames: int) -> list[Tensor]:
        """Make clips of ``frames`` states: the first half drawn from those without success, the rest from those with.

        These are no movements, so they suit rewards that look at one frame at a time.

        Raises:
            VrmError: if no state is a success, or all are.
        """
        done, undone = np.flatnonzero(self.truth), np.flatnonzero(~self.truth)
        if not len(done) or not len(undone):
            raise VrmError(
                f"{len(done)} of {len(self.truth)} sampled states are a success, so no clip of the task being done can "
                "be put together; give --videos, or sample more --states."
            )
        rng = np.random.default_rng(0)
        half = frames // 2
        return [
            self.states[torch.from_numpy(np.concatenate([rng.choice(undone, half), rng.choice(done, frames - half)]))]
            for _ in range(count)
        ]

    def failed_clips(self, count: int, frames: int) -> list[Tensor]:
        """Return roll-outs of random play that end without success, thinned to ``frames`` frames."""
        ends = np.flatnonzero(self.gold[:, -max(1, self.gold.shape[1] // 5) :].max(axis=1) <= 0)[:count]
        steps = np.linspace(0, self.play.shape[1] - 1, frames).round().astype(int)
        return [self.play[episode, torch.from_numpy(steps)] for episode in ends]
