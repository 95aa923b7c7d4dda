"""Demonstrations at a glance: each as a strip of frames over its steps and its reward."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vrm.frames import check_frames
from vrm.pictures.style import INK, NEUTRAL, PAPER, REWARD, STYLE, images, save_png

COLUMNS = 10  # frames shown per demonstration
INCHES, LEFT, RIGHT = 11.0, 0.8, 0.15  # width of the strips and of what is beside them
TALLEST = 2.0  # inches of a strip; taller frames are shown narrower
TITLE, HEAD, BAR, GAP, CURVE, FOOT = 0.4, 0.3, 0.22, 0.08, 1.1, 0.5  # inches; a row, from its name to below its curve
DPI = 110
Colour = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class DemoRow:
    """What is shown of one demonstration.

    Attributes:
        label: its name.
        frames: ``(T, 3, H, W)`` RGB, uint8 or float in [0, 1].
        reward: ``(T,)`` finite, or nan where there is none.
        steps: first frames of its steps after the first; None if it has no steps.
        held_out: whether the reward was learned without it.
        step_rewards: ``(n, T)`` reward of each step; None if there are none.
    """

    label: str
    frames: Tensor
    reward: ArrayLike
    steps: NDArray[np.int64] | None = None
    held_out: bool = False
    step_rewards: ArrayLike | None = None


def demo_sheet(path: str | os.PathLike[str], rows: Sequence[DemoRow], title: str = "") -> Path:
    """Draw demonstrations one below the other: frames, the steps found as coloured bands, and the reward in blue.

    All rows share one axis of rewards, so that they can be compared; time runs from the first to the last frame of
    each. Rewards of single steps are thin lines in the colours of the bands.

    Args:
        path: where the PNG goes.
        rows: the demonstrations.
        title: of the whole picture.

    Returns:
        The path written.

    Raises:
        FrameError: if frames break the contract.
        ValueError: if there is no row, a reward is infinite, or numbers do not fit the frames.
    """
    if not rows:
        raise ValueError("A sheet of demonstrations needs at least one row, got none.")
    for row in rows:
        _check(row)
    low, high = _limits(rows)
    bar = BAR if any(row.steps is not None for row in rows) else 0.0
    heights = [HEAD + _strip_height(row) + bar + GAP + CURVE + FOOT for row in rows]
    size = (LEFT + INCHES + RIGHT, TITLE + sum(heights))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=DPI)

        def add(top: float, height: float, share: Axes | None = None) -> Axes:
            """Axes of exact height, so that frames keep their shape; all in inches, from the top."""
            place = (LEFT / size[0], 1 - (top + height) / size[1], INCHES / size[0], height / size[1])
            return figure.add_axes(place, sharex=share)

        top = TITLE
        for row, height in zip(rows, heights, strict=True):
            strip = add(top + HEAD, _strip_height(row))
            _strip(strip, row)
            if bar:
                _steps(add(top + HEAD + _strip_height(row), bar, strip), row)
            curve = add(top + height - FOOT - CURVE, CURVE, strip)
            _curve(curve, row)
            curve.set_ylim(low, high)
            top += height
        curve.set_xlabel("frame")
        figure.text(0.1 / size[0], 1 - 0.08 / size[1], title, va="top", fontsize=13)
        return save_png(path, figure.savefig)


def _check(row: DemoRow) -> None:
    total = len(check_frames(row.frames, 4))
    reward = np.asarray(row.reward, np.float64)
    if reward.shape != (total,) or np.isinf(reward).any():
        raise ValueError(f"Reward of {row.label!r} must be ({total},) like its frames and not infinite.")
    cuts = np.asarray([] if row.steps is None else row.steps)
    if len(cuts) and not (cuts[0] > 0 and cuts[-1] < total and (np.diff(cuts) > 0).all()):
        raise ValueError(f"Steps of {row.label!r} must begin in order between frames 1 and {total - 1}, got {cuts}.")
    if row.step_rewards is not None:
        expected = (len(cuts) + 1, total)
        if np.shape(row.step_rewards) != expected:
            raise ValueError(
                f"Step rewards of {row.label!r} must be (n, T) = {expected}, got {np.shape(row.step_rewards)}."
            )


def _limits(rows: Sequence[DemoRow]) -> tuple[float, float]:
    """Range of all that is drawn, with a little room."""
    drawn = [row.reward for row in rows] + [row.step_rewards for row in rows if row.step_rewards is not None]
    values = np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in drawn])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _strip_height(row: DemoRow) -> float:
    """Inches that a row of :data:`COLUMNS` frames is high."""
    return min(INCHES / COLUMNS * row.frames.shape[-2] / row.frames.shape[-1], TALLEST)


def _strip(axes: Axes, row: DemoRow) -> None:
    """Lay frames over the stretch of time in whose middle each was taken."""
    total = len(row.frames)
    edges = np.linspace(-0.5, total - 0.5, COLUMNS + 1)
    chosen = np.clip(np.round((edges[1:] + edges[:-1]) / 2), 0, total - 1).astype(int)
    slot = edges[1] - edges[0]
    narrower = TALLEST * row.frames.shape[-1] / row.frames.shape[-2] / (INCHES / COLUMNS)
    gap = max(0.015, (1 - narrower) / 2) * slot
    for picture, left, right in zip(images(row.frames[chosen], 160), edges[:-1], edges[1:], strict=True):
        axes.imshow(np.asarray(picture), extent=(left + gap, right - gap, 0, 1), aspect="auto")
    axes.set(xlim=(-0.5, total - 0.5), ylim=(0, 1), yticks=[])
    axes.set_title(row.label + (" (held out)" if row.held_out else ""))
    _bare(axes)


def _steps(axes: Axes, row: DemoRow) -> None:
    """Colour the time of each step, and write its number on it."""
    _bare(axes)
    axes.set(ylim=(0, 1), yticks=[])
    if row.steps is None:
        return
    bounds = [0, *row.steps, len(row.frames)]
    for number, colour in enumerate(_colours(len(bounds) - 1)):
        left, right = bounds[number] - 0.5, bounds[number + 1] - 0.5
        axes.axvspan(left, right, color=colour, linewidth=0)
        ink = PAPER if sum(colour[:3]) < 1.5 else INK
        axes.text((left + right) / 2, 0.45, str(number + 1), ha="center", va="center", color=ink, weight="bold")


def _curve(axes: Axes, row: DemoRow) -> None:
    """Draw the reward, those of the steps, and where steps begin."""
    if row.steps is not None:
        for cut in row.steps:
            axes.axvline(float(cut) - 0.5, color=NEUTRAL, linewidth=1)
    if row.step_rewards is not None:
        values: NDArray[Any] = np.asarray(row.step_rewards)
        for step, colour in zip(values, _colours(len(values)), strict=True):
            axes.plot(step, color=colour, linewidth=1.3)
    axes.plot(np.asarray(row.reward), color=REWARD, linewidth=2.2)
    axes.set(ylabel="reward")


def _bare(axes: Axes) -> None:
    """Take away frame, grid and ticks."""
    axes.grid(visible=False)
    axes.tick_params(bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colours(count: int) -> list[Colour]:
    """One colour per step, from dark to light, none of them blue, green or grey."""
    shades: list[Colour] = [tuple(shade) for shade in matplotlib.colormaps["inferno"](np.linspace(0.3, 0.85, count))]
    return shades
