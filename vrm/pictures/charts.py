"""Charts of many numbers: the learning curve of a training, and the probe of a sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vrm.frames import check_frames
from vrm.metrics import epic_distance, roc_auc, roc_curve
from vrm.pictures.style import NEUTRAL, REWARD, STYLE, SUCCESS, images, save_png

# Column of a training log, title of its panel, colour.
CURVES = (
    ("reward_return", "Return of the text reward", REWARD),
    ("true_return", "Ground-truth return", NEUTRAL),
    ("success_rate", "Success rate", SUCCESS),
)

Rows = Sequence[Mapping[str, Any]]
Columns = Mapping[str, ArrayLike]
Floats = NDArray[np.float64]


def learning_curve(path: str | os.PathLike[str], runs: Sequence[Columns | Rows], title: str = "") -> Path:
    """Draw returns and success rate against environment steps: the median over seeds, and a band from worst to best.

    Args:
        path: where the PNG goes.
        runs: one log per seed, as columns (``{"step": [...], "success_rate": [...]}``) or as rows (what
            ``csv.DictReader`` gives). Column "step" is needed, and at least one of "reward_return", "true_return" and
            "success_rate" (0 to 1); empty and nan cells are skipped.
        title: of the whole picture.

    Returns:
        The path written.

    Raises:
        ValueError: if there is no run, no step or nothing to draw.
    """
    logs = [_columns(run) for run in runs]
    shown = [curve for curve in CURVES if any(curve[0] in log and np.isfinite(log[curve[0]]).any() for log in logs)]
    if not shown or not all("step" in log for log in logs):
        known = ", ".join(key for key, _, _ in CURVES)
        raise ValueError(f"A learning curve needs runs with a column step and at least one of {known}.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(shown), 3.5), layout="constrained", dpi=130)
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (key, name, colour) in zip(panels, shown, strict=True):
            _curve(axes, logs, key, colour)
            axes.set(title=name, xlabel="environment steps")
            if key == "success_rate":
                axes.set_ylim(-0.02, 1.02)
        seeds = f"median of {len(logs)} seeds, band from worst to best" if len(logs) > 1 else "one seed"
        figure.suptitle(f"{title}  ({seeds})" if title else seeds, x=0.01, ha="left", fontsize=12)
        return save_png(path, figure.savefig)


def probe_sheet(
    path: str | os.PathLike[str], frames: Tensor, reward: ArrayLike, success: ArrayLike, title: str, examples: int = 8
) -> Path:
    """Show on one page whether a reward tells success from the rest.

    The page holds the histogram of the reward for success and non-success, the ROC curve with its area, the EPIC
    distance to the success label, and the frames with the highest and lowest reward (framed green where successful).

    Args:
        path: where the PNG goes.
        frames: ``(N, C, H, W)`` uint8 or float in [0, 1], RGB.
        reward: ``(N,)`` finite.
        success: ``(N,)`` bool.
        title: the sentence that is probed.
        examples: how many of the best and of the worst frames to show.

    Returns:
        The path written.

    Raises:
        FrameError: if the frames break the contract.
        ValueError: if the lengths differ, N is below 2 or a reward is not finite.
    """
    check_frames(frames, 4)
    rewards, label = np.asarray(reward, np.float64), np.asarray(success, bool)
    auc, epic = roc_auc(rewards, label), epic_distance(rewards, label.astype(float))
    if len(frames) != len(rewards):
        raise ValueError(f"frames and reward must have one length, got {len(frames)} and {len(rewards)}.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 7), layout="constrained", dpi=110)
        top, bottom = figure.subfigures(2, 1, height_ratios=[1.1, 1], squeeze=False)[:, 0]
        histogram, curve = top.subplots(1, 2, width_ratios=[2, 1])
        _histogram(histogram, rewards, label)
        _roc(curve, rewards, label, auc)
        rows = bottom.subplots(2, examples, squeeze=False)
        order = np.argsort(-rewards, kind="stable")
        for name, axes, chosen in (("highest", rows[0], order), ("lowest", rows[1], order[::-1])):
            _examples(axes, frames, rewards, label, chosen[:examples], name)
        top.suptitle(
            f"“{title}”\nAUC {_number(auc)}   EPIC distance {_number(epic)}   "
            f"{len(rewards)} states, {label.mean():.0%} success",
            x=0.01, ha="left", fontsize=13,
        )  # fmt: skip
        return save_png(path, figure.savefig)


def _columns(run: Columns | Rows) -> dict[str, Floats]:
    """Bring a log to columns of floats; cells that are no number become nan."""
    if isinstance(run, Mapping):
        return {key: np.asarray(column, np.float64) for key, column in run.items()}
    keys = {key for row in run for key in row if key == "step" or key in {curve[0] for curve in CURVES}}
    cells = {key: [row.get(key) for row in run] for key in keys}
    return {key: np.array([np.nan if v in (None, "") else float(v) for v in column]) for key, column in cells.items()}


def _curve(axes: Axes, logs: Sequence[dict[str, Floats]], key: str, colour: str) -> None:
    """Draw one quantity: every seed faintly, their median strongly, their range as a band."""
    seeds = []
    for log in logs:
        valid = np.isfinite(log.get(key, np.full(len(log["step"]), np.nan)))
        if valid.any():
            seeds.append((log["step"][valid], log[key][valid]))
    # Seeds need not log at the same steps: all are read where the shared part of the axis has any logged step.
    start, end = max(step[0] for step, _ in seeds), min(step[-1] for step, _ in seeds)
    grid = np.unique(np.concatenate([step for step, _ in seeds]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(seeds) > 1 and len(grid):
        values = np.stack([np.interp(grid, step, value) for step, value in seeds])
        axes.fill_between(grid, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
        axes.plot(grid, np.median(values, 0), color=colour, linewidth=2)
    else:
        for step, value in seeds:
            axes.plot(step, value, color=colour, linewidth=2, marker="o" if len(step) == 1 else None)
    axes.margins(x=0.02)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _histogram(axes: Axes, reward: Floats, success: NDArray[np.bool_]) -> None:
    """Draw the distribution of the reward in both classes, each to area one."""
    bins = np.histogram_bin_edges(reward, bins=40)
    for label, chosen, colour in (("not success", ~success, NEUTRAL), ("success", success, SUCCESS)):
        if chosen.any():
            text = f"{label} ({chosen.sum()})"
            axes.hist(reward[chosen], bins.tolist(), density=True, color=colour, alpha=0.6, label=text)
    axes.set(title="Distribution of the reward", xlabel="reward", yticks=[])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)


def _roc(axes: Axes, reward: Floats, success: NDArray[np.bool_], auc: float) -> None:
    """Draw the ROC curve, or say why there is none."""
    axes.set(title="ROC curve", xlabel="false positives", ylabel="true positives", xlim=(0, 1), ylim=(0, 1.02))
    if np.isnan(auc):
        reason = "every state is a success" if success.all() else "no state is a success"
        axes.text(0.5, 0.5, f"no curve:\n{reason}", ha="center", va="center")
        return
    false_positive, true_positive = roc_curve(reward, success)
    axes.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", linewidth=1.5)
    axes.fill_between(false_positive, true_positive, color=REWARD, alpha=0.12, linewidth=0)
    axes.plot(false_positive, true_positive, color=REWARD, linewidth=2, clip_on=False)
    axes.text(0.96, 0.06, f"AUC {auc:.3f}", ha="right", fontsize=12, color=REWARD, weight="bold")


def _examples(
    axes: Sequence[Axes],
    frames: Tensor,
    reward: Floats,
    success: NDArray[np.bool_],
    chosen: NDArray[np.intp],
    name: str,
) -> None:
    """Show the chosen frames in a row, framed in the colour of their class."""
    for panel in axes:
        panel.set(xticks=[], yticks=[])
        panel.set_visible(False)
    for panel, index in zip(axes, chosen, strict=False):
        panel.set_visible(True)
        panel.imshow(images(frames[index : index + 1], 160)[0])
        panel.grid(visible=False)
        panel.set_title(f"{reward[index]:.3f}", fontsize=10, loc="center", pad=3)
        for spine in panel.spines.values():
            spine.set(visible=True, color=SUCCESS if success[index] else NEUTRAL, linewidth=3)
    axes[0].set_ylabel(f"{name} reward", fontsize=11)


def _number(value: float) -> str:
    """Write a metric, or say where it is undefined."""
    return "undefined" if np.isnan(value) else f"{value:.3f}"
