"""An audit on one page: what the reward says about every kind of clip, and the verdicts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from vrm.pictures.style import INK, NEUTRAL, REWARD, STYLE, SUCCESS, images, save_png
from vrm.video import sample_indices

BAD, DOUBT = "#dc2626", "#d97706"
MARKS = {"pass": SUCCESS, "warn": DOUBT, "fail": BAD, "not applicable": NEUTRAL}
COLOURS = {"good": SUCCESS, "failed": NEUTRAL}
DRAWN = ("good", "failed", "reversed", "frozen start", "black", "noise")
LINES = {"reversed": "--", "frozen start": ":", "black": "-.", "noise": (0, (1, 3))}
SHOWN = 6  # frames of a clip

Row = tuple[str, str, float | None, str]  # verdict, name, number, remark


def audit_sheet(
    path: str | os.PathLike[str],
    title: str,
    items: Sequence[Row],
    curves: Mapping[str, Sequence[ArrayLike]],
    means: Mapping[str, float],
    clips: Sequence[tuple[str, Tensor]],
) -> Path:
    """Draw the page of an audit.

    Args:
        path: where the PNG goes.
        title: of the page.
        items: verdict ("pass", "warn", "fail" or "not applicable"), name, number or None, and a remark.
        curves: rewards ``(T,)`` of each clip, by kind; "good" must be among them.
        means: mean reward by kind of clip.
        clips: kind and frames ``(T, 3, H, W)`` of the clips to show.

    Returns:
        The path written.

    Raises:
        ValueError: if there are no good clips or no items.
    """
    if not curves.get("good") or not items:
        raise ValueError("An audit's picture needs at least one good clip and one item.")
    with matplotlib.rc_context(STYLE):
        height = max(0.31 * len(items), 0.62 * len(clips))
        figure = Figure(figsize=(14, 4.3 + height), layout="constrained", dpi=110)
        top, bottom = figure.subfigures(2, 1, height_ratios=[4, height], squeeze=False)[:, 0]
        left, right = top.subplots(1, 2, width_ratios=[1.5, 1])
        _draw_curves(left, curves)
        _draw_means(right, means)
        words, strips = bottom.subfigures(1, 2, width_ratios=[1.75, 1], squeeze=False)[0]
        _write_items(words.subplots(), items)
        for axes, (kind, frames) in zip(strips.subplots(len(clips), squeeze=False)[:, 0], clips, strict=True):
            _show(axes, kind, frames)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
        return save_png(path, figure.savefig)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[ArrayLike]]) -> None:
    """Draw the median over the clips of a kind, and every good and failed clip faintly."""
    for kind in (kind for kind in DRAWN if kind in curves):
        colour, line = COLOURS.get(kind, REWARD), LINES.get(kind, "-")
        places = np.linspace(0, 1, 50)
        rows = []
        for curve in curves[kind]:
            values = np.asarray(curve, np.float64)
            where = np.linspace(0, 1, len(values)) if len(values) > 1 else np.zeros(1)
            rows.append(np.interp(places, where, values))
            if kind in COLOURS and len(curves[kind]) > 1:
                axes.plot(where, values, color=colour, linewidth=0.8, alpha=0.35)
        width = 2.2 if kind in COLOURS else 1.4
        axes.plot(places, np.median(rows, 0), color=colour, linestyle=line, linewidth=width, label=kind)
    axes.set(title="Reward over time, median clip of each kind", xlabel="share of the clip")
    axes.margins(x=0.01)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=6, borderaxespad=0, handlelength=2.5)


def _draw_means(axes: Axes, means: Mapping[str, float]) -> None:
    """Draw the mean reward of each kind of clip, against that of good ones."""
    kinds = list(means)
    places = np.arange(len(kinds))[::-1]
    base = means["good"]
    axes.barh(
        places,
        [means[kind] - base for kind in kinds],
        left=base,
        color=[COLOURS.get(kind, REWARD) for kind in kinds],
        height=0.6,
    )
    axes.axvline(base, color=SUCCESS, linewidth=1.5)
    axes.set_yticks(places, kinds)
    axes.set(title="Mean reward, from that of good clips")
    axes.grid(visible=False, axis="y")


def _write_items(axes: Axes, items: Sequence[Row]) -> None:
    """Write one line per item, its verdict in colour."""
    axes.set(xlim=(0, 1), ylim=(len(items) - 0.4, -0.6))
    axes.axis("off")
    for row, (verdict, name, value, remark) in enumerate(items):
        axes.text(0.0, row, verdict, color=MARKS[verdict], weight="bold", va="center")
        axes.text(0.13, row, name, color=INK, va="center")
        axes.text(0.36, row, "" if value is None else f"{value:.3f}", color=INK, va="center", ha="right")
        axes.text(0.38, row, remark if len(remark) < 88 else f"{remark[:85]}…", color=INK, va="center", fontsize=9)


def _show(axes: Axes, kind: str, frames: Tensor) -> None:
    """Show evenly spaced frames of a clip side by side, its kind on the left."""
    pictures = images(frames[sample_indices(len(frames), SHOWN)], 128)
    axes.imshow(np.concatenate([np.asarray(picture) for picture in pictures], axis=1))
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.set_ylabel(kind, rotation=0, ha="right", va="center", color=INK)
