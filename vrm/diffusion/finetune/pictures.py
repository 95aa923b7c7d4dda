"""A tuning on one page: trained reward and held-out judge with the stopping point, and what scaling the tuning does."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vrm.pictures.style import INK, NEUTRAL, REWARD, STYLE, SUCCESS, images, save_png
from vrm.video import sample_indices

JUDGE, STOP = "#d97706", "#dc2626"
PANELS = (
    ("trained", "Trained reward", REWARD),
    ("held_out", "Held-out judge, never trained on", JUDGE),
    ("diversity", "Diversity within a prompt", NEUTRAL),
    ("motion", "Motion", NEUTRAL),
    ("velocity_distance", "Distance from the base model", NEUTRAL),
)
SHOWN, GAP = 8, 3  # frames of a clip, and pixels between them

Rows = Sequence[Mapping[str, Any]]


def guard_picture(
    path: str | os.PathLike[str],
    evaluations: Rows,
    best: int,
    stopped: int | None,
    sentence: str,
    clips: Sequence[tuple[str, Tensor]] = (),
) -> Path:
    """Draw what was measured on held-out prompts over training, which weights are kept, and where and why it stopped.

    Args:
        path: where the PNG goes.
        evaluations: rows with ``step``, ``trained``, ``held_out``, ``diversity``, ``motion`` and
            ``velocity_distance``; a column that no row has is not drawn.
        best: step of the weights that are kept.
        stopped: step at which the guard stopped training; None if it did not.
        sentence: above the picture, what came of it.
        clips: a label and frames ``(T, 3, H, W)`` of each clip to show below.

    Returns:
        The path written.

    Raises:
        ValueError: if there is no evaluation.
    """
    if not evaluations:
        raise ValueError("A picture of the guard needs at least one evaluation.")
    shown = [panel for panel in PANELS if any(panel[0] in row for row in evaluations)]
    with matplotlib.rc_context(STYLE):
        film = 1.05 * len(clips)
        figure = Figure(figsize=(3.1 * len(shown), 3.9 + film), layout="constrained", dpi=110)
        heights = [3.9, film] if clips else [1]
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, (name, title, colour) in zip(parts[0].subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            _curve(axes, evaluations, name, colour)
            _mark(axes, best, stopped)
            axes.set(title=title, xlabel="updates")
        handles, labels = parts[0].axes[0].get_legend_handles_labels()
        parts[0].legend(handles, labels, loc="outside lower left", ncols=len(labels))
        parts[0].suptitle("\n".join(textwrap.wrap(sentence, 33 * len(shown))), x=0.01, ha="left", fontsize=12)
        if clips:
            for axes, (label, frames) in zip(parts[1].subplots(len(clips), squeeze=False)[:, 0], clips, strict=True):
                _show(axes, label, frames)
        return save_png(path, figure.savefig)


def tradeoff_picture(path: str | os.PathLike[str], rows: Rows, title: str = "") -> Path:
    """Draw what scaling the tuning between the base (0) and beyond itself (over 1) gains and costs.

    Args:
        path: where the PNG goes.
        rows: ``scale``, ``trained``, ``held_out``, ``diversity`` and ``velocity_distance`` for each scale, the base
            (scale 0) among them; ``trained_std`` and ``held_out_std`` over the videos of the base.
        title: of the whole picture.

    Returns:
        The path written.

    Raises:
        ValueError: if the base is not among the scales.
    """
    base = next((row for row in rows if row["scale"] == 0), None)
    if base is None:
        raise ValueError("A trade-off is drawn against the base model: scale 0 must be among the scales.")
    scales = [row["scale"] for row in rows]
    gains = {name: [_gain(row, base, name) for row in rows] for name in ("trained", "held_out")}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.8), layout="constrained", dpi=110)
        left, middle, right = figure.subplots(1, 3)
        for axes, places in ((left, scales), (right, [row["velocity_distance"] for row in rows])):
            axes.axhline(0, color=NEUTRAL, linewidth=1)
            axes.plot(places, gains["trained"], color=REWARD, marker="o", linewidth=2, label="trained reward")
            axes.plot(places, gains["held_out"], color=JUDGE, marker="s", linewidth=2, label="held-out judge")
        middle.plot(scales, [row["diversity"] for row in rows], color=NEUTRAL, marker="o", linewidth=2)
        for row, gain in zip(rows, gains["trained"], strict=True):
            place = (row["velocity_distance"], gain)
            right.annotate(f"{row['scale']:g}", place, (0, 7), textcoords="offset points", ha="center", fontsize=9)
        left.set(title="Change of the scores, in spreads of the base", xlabel="scale of the LoRA")
        top = 1.1 * max(row["diversity"] for row in rows)
        middle.set(title="Diversity within a prompt", xlabel="scale of the LoRA", ylim=(0, top or 1))
        right.set(title="Change against distance (scale at the dots)", xlabel="distance of the velocity from the base")
        right.margins(y=0.15)
        left.legend()
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        return save_png(path, figure.savefig)


def _gain(row: Mapping[str, Any], base: Mapping[str, Any], name: str) -> float:
    """Change of a score against the base, in standard deviations over the base's videos."""
    return float((row[name] - base[name]) / max(base[f"{name}_std"], 1e-9))


def _curve(axes: Axes, rows: Rows, name: str, colour: str) -> None:
    """Draw one measure over the updates; evaluations without it are left out."""
    points = [(row["step"], row[name]) for row in rows if name in row and np.isfinite(row[name])]
    steps, values = zip(*points, strict=True) if points else ((), ())
    axes.plot(steps, values, color=colour, linewidth=2, marker="o", markersize=4)
    axes.margins(x=0.06, y=0.12)
    axes.ticklabel_format(style="plain", useOffset=False)


def _mark(axes: Axes, best: int, stopped: int | None) -> None:
    """Mark the weights that are kept, and where training was stopped."""
    axes.axvline(best, color=SUCCESS, linewidth=1.8, label=f"kept: step {best}")
    if stopped is not None:
        axes.axvline(stopped, color=STOP, linewidth=1.8, linestyle="--", label=f"stopped: step {stopped}")


def _show(axes: Axes, label: str, frames: Tensor) -> None:
    """Show evenly spaced frames of a clip side by side, its label on the left."""
    chosen = sample_indices(len(frames), min(SHOWN, len(frames)))
    pictures = [np.asarray(picture) for picture in images(frames[chosen], 96)]
    gap = np.full((len(pictures[0]), GAP, 3), 255, np.uint8)
    strip = [part for picture in pictures for part in (picture, gap)][:-1]
    axes.imshow(np.concatenate(strip, axis=1))
    axes.set(xticks=[], yticks=[], anchor="W")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    axes.set_ylabel("\n".join(textwrap.wrap(label, 30)), rotation=0, ha="right", va="center", color=INK, fontsize=9)
