"""What HERON's comparator makes of some segments: how often it decides, by which factor, and whether in circles."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from vrm.data.comparisons import ComparisonError, Segments
from vrm.pictures.style import NEUTRAL, STYLE, save_png
from vrm.rewards.heron import HeronLabeller
from vrm.video import replacing

COLOURS = ("#2563eb", "#16a34a", "#d97706", "#9333ea", "#0d9488", "#be185d")  # of factors, the first ones first
MOST = 512  # segments whose pairs are all looked at


@dataclass(frozen=True, eq=False)
class HeronReport:
    """How a hierarchy of factors compares segments, over all their pairs.

    Attributes:
        names: of the factors, most important first.
        segments: how many were compared.
        usage: share of all pairs that each factor decides.
        triples: how many triples there are in which all three pairs are decided.
        cycles: how many of those go round in a circle.
        example: three segments' factors ``(3, m)`` of which the first beats the second, the second the third and the
            third the first, as given, or None.
        levels: ``(N, N)`` number of the factor that decides a pair, ``m`` where none does; segments with most wins
            first.
    """

    names: tuple[str, ...]
    segments: int
    usage: tuple[float, ...]
    triples: int
    cycles: int
    example: Tensor | None
    levels: Tensor

    @property
    def decided(self) -> float:
        """Share of pairs that are decided at all."""
        return math.fsum(self.usage)

    @property
    def cycle_rate(self) -> float:
        """Share of the decided triples that are intransitive; nan if there are none."""
        return self.cycles / self.triples if self.triples else math.nan

    def table(self) -> str:
        """The figures as lines for a screen."""
        width = max(map(len, (*self.names, "intransitive triples")))
        rows = [
            (f"{i + 1}. {name}", f"{share:6.1%}")
            for i, (name, share) in enumerate(zip(self.names, self.usage, strict=True))
        ]
        rows += [("decided", f"{self.decided:6.1%}"), ("undecided", f"{1 - self.decided:6.1%}")]
        rate = "     -" if math.isnan(self.cycle_rate) else f"{self.cycle_rate:6.2%}"
        rows.append(("intransitive triples", f"{rate}  ({self.cycles} of {self.triples})"))
        return "\n".join(f"{name:{width + 3}}  {value}" for name, value in rows)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "segments": self.segments,
            "usage": dict(zip(self.names, self.usage, strict=True)),
            "decided": self.decided,
            "triples": self.triples,
            "cycles": self.cycles,
            "cycle_rate": None if math.isnan(self.cycle_rate) else self.cycle_rate,
            "example": None if self.example is None else self.example.tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the figures to ``path``, which ends in ``.json``, and the picture beside it as ``.png``."""
        with replacing(path, ".json") as partial:
            partial.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        return [Path(path), self.draw(Path(path).with_suffix(".png"))]

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draw who decides how much, and which factor decides each pair."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(10, 4.6), layout="constrained", dpi=110)
            bars, pairs = figure.subplots(1, 2, width_ratios=[1, 1.05])
            self._draw_usage(bars)
            self._draw_pairs(pairs)
            rate = (
                "no decided triples"
                if math.isnan(self.cycle_rate)
                else f"{self.cycle_rate:.2%} of decided triples are circles"
            )
            figure.suptitle(
                f"HERON on {self.segments} segments: {self.decided:.0%} of pairs decided, {rate}", x=0.01, ha="left"
            )
            return save_png(path, figure.savefig)

    def _draw_usage(self, axes: Axes) -> None:
        names = [*(f"{i + 1}. {name}" for i, name in enumerate(self.names)), "none of them"]
        shares = [*self.usage, 1 - self.decided]
        bars = axes.barh(names, [100 * share for share in shares], color=_colours(len(self.names)))
        axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=4)
        axes.invert_yaxis()
        axes.set(title="Which factor decides", xlabel="% of all pairs", xlim=(0, 115))
        axes.grid(visible=False, axis="y")

    def _draw_pairs(self, axes: Axes) -> None:
        colours = ListedColormap(_colours(len(self.names)))
        axes.imshow(self.levels.numpy(), cmap=colours, vmin=-0.5, vmax=len(self.names) + 0.5, interpolation="nearest")
        axes.set(title="Pairs, segments with most wins first", xticks=[], yticks=[])
        axes.grid(visible=False)


def report_heron(labeller: HeronLabeller, segments: Segments, seed: int = 0) -> HeronReport:
    """Compare every pair of ``segments`` and count circles exactly; of very many segments, 512 are drawn.

    Args:
        labeller: calibrated on ``segments`` if it has not been before.
        segments: such as those of random play.
        seed: of the draw.

    Raises:
        ComparisonError: if there are fewer than two, or they lack what the factors need.
    """
    if len(segments) < 2:
        raise ComparisonError(f"A report on comparisons needs at least 2 segments, got {len(segments)}.")
    if len(segments) > MOST:
        segments = segments[torch.randperm(len(segments), generator=torch.Generator().manual_seed(seed))[:MOST]]
    if not labeller.ready:
        labeller.calibrate(segments)
    values = labeller.measure(segments)
    verdicts, levels = labeller.decide(values.unsqueeze(1), values.unsqueeze(0))
    beats = (verdicts > 0).double()  # exact up to 2 ** 53 triples
    decided = beats + beats.T
    count, pairs = len(values), len(values) * (len(values) - 1)
    usage = tuple(float((levels == i).sum()) / pairs for i in range(values.shape[1]))
    triples = round(float((decided @ decided * decided).sum()) / 6)
    cycles = round(float((beats @ beats * beats.T).sum()) / 3)
    order = torch.argsort(verdicts.sum(dim=1), descending=True, stable=True)
    names = tuple(factor.name for factor in labeller.factors)
    signs = torch.tensor([1.0 if factor.higher else -1.0 for factor in labeller.factors])
    example = _circle(beats)
    shown = None if example is None else values[example] * signs
    return HeronReport(names, count, usage, triples, cycles, shown, levels[order][:, order])


def _circle(beats: Tensor) -> list[int] | None:
    """Three rows of which each beats the next, if there are any."""
    closing = torch.nonzero((beats @ beats) * beats.T)
    if not len(closing):
        return None
    first, third = closing[0].tolist()
    second = int(torch.nonzero(beats[first] * beats[:, third])[0])
    return [first, second, third]


def _colours(factors: int) -> list[str]:
    return [*(COLOURS[i % len(COLOURS)] for i in range(factors)), NEUTRAL]
