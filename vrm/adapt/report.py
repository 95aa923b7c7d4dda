"""Before and after: a table to print, JSON to keep, a picture to look at."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vrm.adapt.data import Labels
from vrm.adapt.measure import Forgetting, Standing
from vrm.pictures.style import INK, NEUTRAL, REWARD, STYLE, SUCCESS, images, save_png
from vrm.video import replacing

BAD = "#dc2626"
SHOWN = 10  # frames of a strip
STRIPS = 3  # questions with strips
LONGEST = 60  # characters of a sentence in the picture


@dataclass(frozen=True)
class Top:
    """The frames that an encoder ranks highest for a question, before and after.

    Attributes:
        text: the question.
        before, after: frames ``(S, 3, H, W)`` uint8, best first, and their truths ``(S,)``.
    """

    text: str
    before: tuple[Tensor, Labels]
    after: tuple[Tensor, Labels]


@dataclass(frozen=True)
class AdaptReport:
    """What adaptation changed, on episodes and files that were not trained on.

    Attributes:
        encoder: name of the original.
        out: folder of the adapted one.
        settings: all of them.
        frames: for each source how many frames were trained on, chose the checkpoint, and were reported on.
        trained: how many numbers were trained, and how many the model has.
        best_step: the checkpoint kept; 0 is the original encoder, where training never helped.
        sources: for each source its standing before and after.
        forgetting: on the retention set, if there is one.
        curve: step, loss and choosing level of every checkpoint.
        top: what to show.
    """

    encoder: str
    out: str
    settings: dict[str, Any]
    frames: dict[str, tuple[int, int, int]]
    trained: tuple[int, int]
    best_step: int
    sources: dict[str, tuple[Standing, Standing]]
    forgetting: Forgetting | None
    curve: list[tuple[int, float, float]]
    top: list[Top] = field(default_factory=list)

    def print(self) -> None:
        """Print the table."""
        table = Table("held out", "AUC before", "after", "EPIC before", "after", box=None, header_style="bold")
        table.columns[0].overflow = "fold"
        for name, (before, after) in self.sources.items():
            for old, new in zip(before.answers, after.answers, strict=True):
                table.add_row(old.text, *(f"{v:.3f}" for v in (old.auc, new.auc, old.epic, new.epic)))
            table.add_row(f"[bold]mean of {name}[/]", _number(before.auc), _number(after.auc), "", "", end_section=True)
        recalls = Table("recall at 1", "before", "after", box=None, header_style="bold")
        for label, old_value, new_value in self.recalls():
            recalls.add_row(label, _number(old_value), _number(new_value))
        console = Console(width=max(100, Console().width), highlight=False)
        console.print(table)
        if recalls.row_count:
            console.print(recalls)
        if self.forgetting is not None:
            console.print(
                f"retention set: frames drifted by {self.forgetting.image_drift:.4f} and texts by "
                f"{self.forgetting.text_drift:.4f} (1 - cosine)"
            )
        share = f"{self.trained[0]:,} of {self.trained[1]:,} numbers trained"
        kept = f"checkpoint of step {self.best_step}" if self.best_step else "nothing: no checkpoint beat the original"
        console.print(f"{share}; kept {kept}")

    def recalls(self) -> list[tuple[str, float, float]]:
        """Label, value before and value after of every recall."""
        pairs = {n: (b.retrieval, a.retrieval) for n, (b, a) in self.sources.items() if b.retrieval and a.retrieval}
        rows = []
        if self.forgetting is not None:
            pairs["retention set"] = (self.forgetting.before, self.forgetting.after)
        for name, (before, after) in pairs.items():
            if before is not None and after is not None:
                rows.append((f"{name}: caption of a frame", before.text_of_image, after.text_of_image))
                rows.append((f"{name}: frame of a caption", before.image_of_text, after.image_of_text))
        return rows

    def save(self, folder: Path) -> list[Path]:
        """Write ``report.json`` and ``report.png``; returns their paths."""
        values = {key: value for key, value in vars(self).items() if key not in ("sources", "forgetting", "top")}
        values["sources"] = {
            name: {"before": asdict(before) | {"auc": before.auc}, "after": asdict(after) | {"auc": after.auc}}
            for name, (before, after) in self.sources.items()
        }
        values["forgetting"] = asdict(self.forgetting) if self.forgetting else None
        path = folder / "report.json"
        with replacing(path, ".json") as partial:
            partial.write_text(json.dumps(_without_nan(values), indent=1, ensure_ascii=False), encoding="utf-8")
        return [path, self._draw(folder / "report.png")]

    def _draw(self, path: Path) -> Path:
        answers = [pair for b, a in self.sources.values() for pair in zip(b.answers, a.answers, strict=True)]
        recalls = [row for row in self.recalls() if not math.isnan(row[1] + row[2])]
        with matplotlib.rc_context(STYLE):
            tall = 1.4 + 0.42 * max(len(answers), len(recalls), 4)
            figure = Figure(figsize=(14, tall + 1.0 + 1.15 * len(self.top)), layout="constrained", dpi=110)
            parts = figure.subfigures(2, 1, height_ratios=[tall, max(1.15 * len(self.top), 0.1)], squeeze=False)[:, 0]
            left, middle, right = parts[0].subplots(1, 3, width_ratios=[1.5, 1, 1])
            _bars(left, "AUC on held-out frames", [(a.text, a.auc, b.auc) for a, b in answers], chance=0.5)
            _bars(middle, "Recall at 1, held out", recalls)
            self._draw_curve(right)
            if self.top:
                for top, pair in zip(self.top, parts[1].subplots(len(self.top), 2, squeeze=False), strict=True):
                    _strip(pair[0], f"Highest for “{_short(top.text)}” before", *top.before)
                    _strip(pair[1], "and after: true framed green, false red", *top.after)
            figure.suptitle(f"{self.encoder} adapted, {self.settings['tune']}", x=0.01, ha="left", fontsize=13)
            return save_png(path, figure.savefig)

    def _draw_curve(self, axes: Axes) -> None:
        steps, _, levels = zip(*self.curve, strict=True)
        axes.plot(steps, levels, color=REWARD, marker="o", markersize=3)
        axes.axvline(self.best_step, color=SUCCESS, linewidth=1.2)
        axes.set(title="Level when choosing", xlabel=f"step (kept: {self.best_step})")


def _bars(axes: Axes, title: str, rows: Sequence[tuple[str, float, float]], chance: float | None = None) -> None:
    """Draw a pair of bars for each row, the old above the new."""
    axes.set(title=title, xlim=(0, 1))
    if not rows:
        axes.axis("off")
        return
    places = np.arange(len(rows))[::-1].astype(float)
    axes.barh(places + 0.19, [row[1] for row in rows], height=0.36, color=NEUTRAL, label="before")
    axes.barh(places - 0.19, [row[2] for row in rows], height=0.36, color=REWARD, label="after")
    for place, (_, *values) in zip(places, rows, strict=True):
        for value, shift in zip(values, (0.19, -0.19), strict=True):
            axes.text(value - 0.01, place + shift, f"{value:.2f}", ha="right", va="center", color="white", fontsize=7)
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=1, linestyle=":")
    axes.set_yticks(places, [_short(row[0]) for row in rows], fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, borderaxespad=0.8)


def _strip(axes: Axes, title: str, frames: Tensor, truth: Labels) -> None:
    """Draw frames side by side, framed green where the sentence is true and red where it is false."""
    axes.set_title(title, fontsize=9)
    for i, (picture, is_true) in enumerate(zip(images(frames, 96), truth, strict=True)):
        axes.imshow(np.asarray(picture), extent=(i + 0.04, i + 0.96, 0.04, 0.96))
        axes.add_patch(
            matplotlib.patches.Rectangle(
                (i + 0.03, 0.03), 0.94, 0.94, fill=False, linewidth=2.5, edgecolor=SUCCESS if is_true else BAD
            )
        )
    axes.set(xlim=(0, max(SHOWN, len(frames))), ylim=(0, 1), aspect="equal", anchor="W")
    axes.axis("off")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _without_nan(value: Any) -> Any:
    """Replace nan, which JSON has no word for, by null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
