"""A benchmark at a glance: accuracies with their intervals beside what scorers that know nothing get."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vrm.pictures.style import NEUTRAL, REWARD, STYLE, save_png

BASELINES = (("constant", "|"), ("majority", "x"), ("random", "d"))
ACCURACIES = (("tie_aware", "Accuracy without ties"), ("heldout", "Accuracy with ties, held out"))
CORRELATIONS = (("spearman", "ungrouped", "o"), ("spearman_by_prompt", "mean over prompts", "s"))


def benchmark_chart(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], title: str = "") -> Path:
    """Draw the accuracies and rank correlations of each dimension.

    Args:
        path: where the PNG goes.
        rows: one per dimension, as :meth:`vrm.scoring.agreement.DimensionResult.figures` gives them; figures that are
            nan are left out.
        title: of the whole picture.

    Returns:
        The path written.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("A benchmark chart needs at least one dimension, got none.")
    places = np.arange(len(rows))[::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 2.3 + 0.55 * len(rows)), layout="constrained", dpi=130)
        panels = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
        for axes, (name, heading) in zip(panels, ACCURACIES, strict=False):
            _accuracy(axes, rows, places, name)
            axes.set(title=heading, xlim=(-0.02, 1.02))
        _correlation(panels[2], rows, places)
        panels[0].set_yticks(places, [_name(row) for row in rows])
        panels[0].set_ylim(-0.6, len(rows) - 0.4)
        handles, labels = panels[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
        return save_png(path, figure.savefig)


def _accuracy(axes: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float] | Any, name: str) -> None:
    """Draw one accuracy: the scorer as a dot with its interval, baselines in grey."""
    for baseline, marker in BASELINES:
        values = [row[f"{baseline}_{name}"] for row in rows]
        axes.plot(
            values, places, linestyle="", marker=marker, mfc="none", color=NEUTRAL, markersize=9, mew=2, label=baseline
        )
    if name == "heldout":
        oracle = [row["oracle"] for row in rows]
        axes.plot(oracle, places, linestyle="", marker="o", mfc="none", color=REWARD, markersize=9, label="oracle")
    for row, place in zip(rows, places, strict=True):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if not math.isnan(low):
            axes.plot([low, high], [place, place], color=REWARD, linewidth=2.5, solid_capstyle="butt")
        if not math.isnan(row[name]):
            axes.annotate(
                f"{row[name]:.3f}", (row[name], place), (0, 9), textcoords="offset points", ha="center", color=REWARD
            )
    axes.plot(
        [row[name] for row in rows],
        places,
        linestyle="",
        marker="o",
        color=REWARD,
        markersize=7,
        label="scorer with 95 % interval",
    )


def _correlation(axes: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float] | Any) -> None:
    """Draw the rank correlations, ungrouped and by prompt."""
    axes.axvline(0, color=NEUTRAL, linewidth=1)
    for name, label, marker in CORRELATIONS:
        fill = REWARD if marker == "o" else "none"
        values = [row[name] for row in rows]
        axes.plot(values, places, linestyle="", marker=marker, color=REWARD, mfc=fill, markersize=7, label=label)
    axes.set(title="Spearman", xlim=(-1.02, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2, borderaxespad=0)


def _name(row: Mapping[str, Any]) -> str:
    """Name a dimension with how much there is to it."""
    ties = "" if math.isnan(row["human_tie_share"]) else f", {row['human_tie_share']:.0%} ties"
    return f"{row['dimension']}\n{row['pairs']} pairs{ties}"
