"""Which frames of a clip a judge is shown, and how."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vrm.errors import PromptError
from vrm.frames import check_frames, fit_side


def spread_indices(total: int, count: int) -> list[int]:
    """Choose ``count`` of ``total`` frames, evenly spaced, the last one among them; the first too if there are two.

    Raises:
        ValueError: if either is below 1.

    Example:
        >>> spread_indices(10, 4), spread_indices(10, 1), spread_indices(2, 4)
        ([0, 3, 6, 9], [9], [0, 1])
    """
    if total < 1 or count < 1:
        raise ValueError(f"At least one frame of one must be shown, got {count} of {total}.")
    if count == 1:
        return [total - 1]
    return sorted({round(i * (total - 1) / (count - 1)) for i in range(count)})


def as_pictures(frames: Tensor, side: int | None = None) -> Tensor:
    """Checked clips ``(B, T, 3, H, W)`` as uint8, made smaller where their longest side is above ``side``."""
    check_frames(frames, 5)
    if frames.dtype != torch.uint8:
        frames = (frames.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return frames if side is None else fit_side(frames, side)


def check_goals(goals: Sequence[str], count: int) -> list[str]:
    """Return one goal for each of ``count`` questions.

    Raises:
        PromptError: if there are more or fewer, or an empty one.
    """
    if isinstance(goals, str) or len(goals) != count or not all(isinstance(g, str) and g.strip() for g in goals):
        raise PromptError(f"A judge needs one goal sentence for each of {count} questions, got {goals!r}.")
    return [goal.strip() for goal in goals]
