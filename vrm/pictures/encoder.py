"""What an encoder knows, as pictures: facts it tells, frames with their scores, a map of frames, retrievals."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrm.pictures.style import FAINT, INK, NEUTRAL, REWARD, STYLE, SUCCESS, images, save_png

Floats = NDArray[np.float64]
MARKS = "D^vsP*X"  # of encoders beside the first and the second
COLUMNS = 4  # of charts and maps
TILE = 96  # height of a frame in pixels


@dataclass(frozen=True)
class ScoredFrames:
    """Some frames of one environment and how they score for some prompts.

    Attributes:
        title: name of the environment.
        prompts: ``P`` texts.
        frames: ``(F, 3, H, W)``.
        scores: ``(P, F)`` in [0, 1].
        true: ``(P, F)``, whether the prompt is true of the frame.
    """

    title: str
    prompts: Sequence[str]
    frames: Tensor
    scores: Floats
    true: NDArray[np.bool_]


@dataclass(frozen=True)
class FrameMap:
    """Frames as points of a plane: ``points (N, 2)`` and ``values (N,)`` in [0, 1], or the name of each one's kind."""

    title: str
    points: Floats
    values: Floats | Sequence[str]


@dataclass(frozen=True)
class Retrieval:
    """A prompt, the frames ``(F, 3, H, W)`` nearest to it and farthest from it, nearest first, and which are true."""

    prompt: str
    best: Tensor
    best_true: Sequence[bool]
    worst: Tensor
    worst_true: Sequence[bool]


def fact_chart(
    path: str | os.PathLike[str], families: Mapping[str, Mapping[str, Sequence[float]]], encoders: Sequence[str]
) -> Path:
    """Draw the AUC of every fact of every family: a bar for the first encoder, marks for the others.

    Args:
        path: where the PNG goes.
        families: by family, by fact, one AUC for each encoder; nan where it was not measured.
        encoders: their names, the second being the one that knows nothing.

    Raises:
        ValueError: if there is no family or no encoder.
    """
    if not families or not encoders:
        raise ValueError("A chart of facts needs at least one family and one encoder.")
    columns = _balance({name: len(facts) + 3 for name, facts in families.items()})
    height = max(sum(len(families[name]) + 3 for name in column) for column in columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(columns), 0.21 * height + 1.2), layout="constrained", dpi=110)
        top, body = figure.subfigures(2, 1, height_ratios=[0.7, 0.21 * height + 0.5], squeeze=False)[:, 0]
        for column, part in zip(columns, body.subfigures(1, len(columns), squeeze=False)[0], strict=True):
            rows = [len(families[name]) + 3 for name in column]
            rest = [height - sum(rows)] if height > sum(rows) else []
            panels = part.subplots(len(rows + rest), 1, height_ratios=rows + rest, squeeze=False)[:, 0]
            for name, axes in zip(column, panels, strict=False):
                _facts(axes, name, families[name], encoders)
            for axes in panels[len(rows) :]:
                axes.axis("off")
        labelled = body.subfigs[0].axes[0].get_legend_handles_labels()
        handles = dict(zip(labelled[1], labelled[0], strict=True))
        top.legend([handles[name] for name in encoders], encoders, loc="lower left", ncols=len(encoders))
        top.suptitle("ROC-AUC of every fact by prompts in words that no caption uses, and mean", x=0.01, ha="left")
        return save_png(path, figure.savefig)


def score_sheet(path: str | os.PathLike[str], rows: Sequence[ScoredFrames]) -> Path:
    """Show frames with a bar for each prompt below them, green where the prompt is true of the frame.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("A sheet of scored frames needs at least one row.")
    shown = max(len(row.frames) for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 + 1.35 * shown, 2.05 * len(rows) + 0.4), layout="constrained", dpi=100)
        for row, part in zip(rows, figure.subfigures(len(rows), 1, squeeze=False)[:, 0], strict=True):
            panels = part.subplots(2, shown + 1, height_ratios=[1.9, 1], width_ratios=[3.8] + [1] * shown)
            _scored_row(panels, row)
        title = "Bars: share of the environment's frames that score lower. Green: the prompt is true of the frame."
        figure.suptitle(title, x=0.01, ha="left")
        return save_png(path, figure.savefig)


def embedding_map(path: str | os.PathLike[str], maps: Sequence[FrameMap]) -> Path:
    """Draw frames as points, coloured by a value or by kind.

    Raises:
        ValueError: if there are no maps.
    """
    if not maps:
        raise ValueError("A picture of maps needs at least one map.")
    rows = math.ceil(len(maps) / COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * min(COLUMNS, len(maps)), 3.7 * rows), layout="constrained", dpi=110)
        panels = figure.subplots(rows, min(COLUMNS, len(maps)), squeeze=False).ravel()
        for axes, drawn in zip(panels, maps, strict=False):
            _map(axes, drawn)
        for axes in panels[len(maps) :]:
            axes.axis("off")
        points = next((p for axes in panels for p in axes.collections if p.get_array() is not None), None)
        if points is not None:
            figure.colorbar(points, ax=list(panels), label="truth of the fact", fraction=0.02, aspect=40)
        handles, labels = panels[0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower left", ncols=2 * COLUMNS, markerscale=3, fontsize=9)
        return save_png(path, figure.savefig)


def retrieval_sheet(path: str | os.PathLike[str], rows: Sequence[Retrieval], title: str) -> Path:
    """Show the frames nearest to each prompt and farthest from it, in a green frame where the prompt is true.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("A sheet of retrievals needs at least one row.")
    best, worst = max(len(row.best) for row in rows), max(len(row.worst) for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.15 * (best + worst) + 0.4, 1.5 * len(rows) + 0.6), layout="constrained", dpi=100)
        for row, part in zip(rows, figure.subfigures(len(rows), 1, squeeze=False)[:, 0], strict=True):
            part.suptitle(row.prompt, x=0.01, ha="left", fontsize=10)
            panels = part.subplots(1, best + worst + 1, width_ratios=[1] * best + [0.3] + [1] * worst)
            for axes in panels:
                axes.axis("off")
            for axes, frame, true in zip(panels, images(row.best, TILE), row.best_true, strict=False):
                _frame(axes, frame, true)
            for axes, frame, true in zip(panels[best + 1 :], images(row.worst, TILE), row.worst_true, strict=False):
                _frame(axes, frame, true)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        return save_png(path, figure.savefig)


def _balance(heights: Mapping[str, int]) -> list[list[str]]:
    """Share items out to columns of about the same height, the tallest first."""
    columns: list[list[str]] = [[] for _ in range(min(COLUMNS, len(heights)))]
    for name in sorted(heights, key=lambda n: -heights[n]):
        min(columns, key=lambda column: sum(heights[n] for n in column)).append(name)
    return columns


def _facts(axes: Axes, family: str, facts: Mapping[str, Sequence[float]], encoders: Sequence[str]) -> None:
    values = np.array(list(facts.values()), dtype=np.float64)
    places = np.arange(len(facts))
    axes.barh(places, values[:, 0] - 0.5, left=0.5, height=0.7, color=REWARD, label=encoders[0])
    for index, name in enumerate(encoders[1:]):
        mark, colour = ("o", NEUTRAL) if index == 0 else (MARKS[(index - 1) % len(MARKS)], INK)
        axes.scatter(values[:, index + 1], places, marker=mark, color=colour, s=26, zorder=3, label=name)
    for place in places[np.isnan(values[:, 0])]:
        axes.text(0.51, place, "too few frames", color=NEUTRAL, fontsize=7, va="center")
    known = values[~np.isnan(values[:, 0]), 0]
    average = f": {known.mean():.3f}" if len(known) else ""
    axes.set(title=f"{family}{average}", xlim=(0, 1), ylim=(len(facts) - 0.4, -0.6))
    axes.set_yticks(places, list(facts), fontsize=8)
    axes.axvline(0.5, color=INK, linewidth=0.8)
    axes.grid(visible=False, axis="y")


def _scored_row(panels: NDArray[np.object_], row: ScoredFrames) -> None:
    places = np.arange(len(row.prompts))
    for axes in panels.ravel():
        axes.axis("off")
    panels[0, 0].text(0, 0.5, row.title, fontsize=12, va="center", transform=panels[0, 0].transAxes)
    panels[1, 0].set(xlim=(0, 1), ylim=(len(places) - 0.4, -0.6))
    for place, prompt in zip(places, row.prompts, strict=True):
        panels[1, 0].text(1, place, _short(prompt), fontsize=8, va="center", ha="right")
    for index, picture in enumerate(images(row.frames, TILE)):
        panels[0, index + 1].imshow(picture)
        bars = panels[1, index + 1]
        colours = [SUCCESS if true else NEUTRAL for true in row.true[:, index]]
        bars.barh(places, np.ones(len(places)), height=0.7, color=FAINT)
        bars.barh(places, row.scores[:, index], height=0.7, color=colours)
        bars.set(xlim=(0, 1), ylim=(len(places) - 0.4, -0.6))


def _short(text: str, length: int = 76) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _map(axes: Axes, drawn: FrameMap) -> None:
    across, up = drawn.points.T
    if isinstance(drawn.values, np.ndarray):
        axes.scatter(across, up, c=drawn.values, cmap="viridis", vmin=0, vmax=1, s=9, linewidths=0)
    else:
        kinds = list(dict.fromkeys(drawn.values))
        palette = matplotlib.colormaps["tab20"]
        for index, kind in enumerate(kinds):
            chosen = np.array([value == kind for value in drawn.values])
            axes.scatter(across[chosen], up[chosen], color=palette(index % 20), s=6, linewidths=0, label=kind)
    axes.set(title=drawn.title, xticks=[], yticks=[])
    axes.grid(visible=False)


def _frame(axes: Axes, picture: Image.Image, true: bool) -> None:
    axes.axis("on")
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set(visible=True, color=SUCCESS if true else FAINT, linewidth=3)
