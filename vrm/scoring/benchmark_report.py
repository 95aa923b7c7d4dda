"""The result of a benchmark: as tables on the screen, as JSON and csv, and as a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vrm.data import OVERALL
from vrm.metrics import Accuracies
from vrm.scoring.agreement import CREDITS, DimensionResult
from vrm.scoring.compare import Estimate
from vrm.scoring.dataset import write_bytes

MACRO = "macro mean"
MACRO_FIGURES = (
    *CREDITS, "oracle", "spearman", "kendall", "spearman_by_prompt", "kendall_by_prompt", "top1", "random_top1",
    "regret", "random_regret",
)  # fmt: skip
FEW_DECIDED = 200  # pairs; below, the interval of an accuracy is wider than most differences between rewards


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """How one scorer agrees with the people of one benchmark.

    Attributes:
        format: layout of the benchmark.
        path: where it was read from.
        scorer: name of the reward, or where the scores come from.
        dimensions: one result each, the overall one first.
        items: distinct videos, each under one prompt.
        unscored: how many of them have no score, by reason.
        unmatched: given scores that belong to no video of the benchmark.
        dropped: rows of the benchmark that could not be read, by reason.
        unknown_labels: judgements without a known meaning, as written, and how often.
    """

    format: str
    path: str
    scorer: str
    dimensions: tuple[DimensionResult, ...]
    items: int
    unscored: Mapping[str, int]
    unmatched: int
    dropped: Mapping[str, int]
    unknown_labels: Mapping[str, int]

    def macro(self) -> dict[str, float]:
        """Mean of each figure over the named dimensions where it is defined; empty with fewer than two of them."""
        rows = [result.figures() for result in self.dimensions if result.dimension != OVERALL]
        if len(rows) < 2:
            return {}
        columns = {name: [float(row[name]) for row in rows] for name in MACRO_FIGURES}
        defined = {name: [value for value in column if not math.isnan(value)] for name, column in columns.items()}
        return {name: math.fsum(column) / len(column) if column else math.nan for name, column in defined.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; undefined figures are None."""
        rows = [_without_nan(result.figures()) for result in self.dimensions]
        return {
            "format": self.format,
            "path": self.path,
            "scorer": self.scorer,
            "videos": self.items,
            "unscored": dict(self.unscored),
            "unmatched_scores": self.unmatched,
            "dropped_rows": dict(self.dropped),
            "unknown_labels": dict(self.unknown_labels),
            "dimensions": rows,
            "macro": _without_nan(self.macro()),
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``benchmark.json``, ``benchmark.csv`` and ``benchmark.png``; each is there whole or not at all."""
        from vrm.pictures.benchmark import benchmark_chart  # matplotlib is slow to import

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_bytes((json.dumps(self.to_json(), indent=2) + "\n").encode(), place / "benchmark.json")
        rows = [result.figures() for result in self.dimensions]
        if self.macro():
            rows.append({"dimension": MACRO, **self.macro()})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{name: "" if _is_nan(value) else value for name, value in row.items()} for row in rows])
        write_bytes(text.getvalue().encode(), place / "benchmark.csv")
        figures = [result.figures() for result in self.dimensions]
        benchmark_chart(place / "benchmark.png", figures, f"{self.scorer} on {self.format}")

    def print(self, console: Console | None = None) -> None:
        """Show the tables and what did not count on ``console``."""
        screen = console or Console()
        screen.print(self._accuracy_table())
        screen.print()
        screen.print(self._rank_table())
        screen.print()
        for line in self.notes():
            screen.print(escape(line))

    def notes(self) -> list[str]:
        """Sentences about what did not count and how sure the figures are."""
        first = self.dimensions[0]
        lines = [
            f"{self.items} videos (each under one prompt); 95 % intervals from {first.clusters} "
            f"{first.clustered_by}s drawn with replacement."
        ]
        for what, counts in (
            ("Videos without a score", self.unscored),
            ("Rows dropped", self.dropped),
            ("Labels not understood", self.unknown_labels),
        ):
            if counts:
                lines.append(f"{what}: " + ", ".join(f"{reason} {count}" for reason, count in counts.items()) + ".")
        if self.unmatched:
            lines.append(f"Given scores that belong to no video of the benchmark: {self.unmatched}.")
        return lines + [line for result in self.dimensions for line in _doubts(result)]

    def _accuracy_table(self) -> Table:
        table = _table(f"{self.scorer} on {self.format}: agreement with people, %")
        for name in ("dimension", "scorer"):
            table.add_column(name)
        for name in ("pairs", "human\nties", "strict", "tie-\naware", "with ties,\nheld out", "with ties,\noracle"):
            table.add_column(name, justify="right")
        for result in self.dimensions:
            found = result.agreement
            counts = (str(found.pairs), _percent(found.tie_share))
            table.add_row(
                f"[bold]{escape(result.dimension)}[/]",
                f"[bold]{escape(result.scored_by)}[/]",
                *counts,
                *(_with_interval(getattr(found.accuracy, name), result.intervals[name]) for name in CREDITS),
                _percent(found.accuracy.oracle),
            )
            for name, accuracies in found.baselines.items():
                table.add_row("", f"[dim]{name}[/]", "", "", *(f"[dim]{cell}[/]" for cell in _cells(accuracies)))
            table.add_section()
        if macro := self.macro():
            cells = (_percent(macro[name]) for name in (*CREDITS, "oracle"))
            table.add_row(f"[bold]{MACRO}[/]", "", "", "", *cells)
        return table

    def _rank_table(self) -> Table:
        table = _table(f"Ranking by {self.dimensions[0].target}, beside a blind choice (in brackets)")
        table.add_column("dimension")
        table.add_column("among")
        for name in ("Spearman", "Kendall\ntau-b", "top-1 %", "best-of-N\nregret"):
            table.add_column(name, justify="right")
        for result in self.dimensions:
            best = result.best_of_n
            table.add_row(
                f"[bold]{escape(result.dimension)}[/]",
                f"{result.videos} videos",
                _number(result.spearman),
                _number(result.kendall),
            )
            table.add_row(
                "",
                f"{max(result.spearman_by_prompt.groups, best.groups)} prompts",
                _number(result.spearman_by_prompt.value),
                _number(result.kendall_by_prompt.value),
                f"{_percent(best.top1)} ({_percent(best.random_top1)})",
                f"{_number(best.regret)} ({_number(best.random_regret)})",
            )
        return table


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))


def _doubts(result: DimensionResult) -> list[str]:
    """What a reader of one dimension should not overlook."""
    found, name = result.agreement, result.dimension
    lines = []
    if found.dropped:
        dropped = ", ".join(f"{reason} {count}" for reason, count in found.dropped.items())
        lines.append(f"{name}: pairs that do not count: {dropped}.")
    if not math.isnan(result.four_way):
        lines.append(
            f"{name}: of four votes (A, B, both good, both bad) {_percent(result.four_way)} % are foretold; always "
            f"the commonest would be {_percent(result.four_way_majority)} %."
        )
    decided = found.pairs - found.human_ties
    if 0 < decided < FEW_DECIDED:
        lines.append(f"{name}: people decided only {decided} pairs, so accuracies are uncertain.")
    blind, share = max(((n, b.heldout) for n, b in found.baselines.items()), key=lambda pair: pair[1])
    if result.intervals["heldout"].low <= share:
        lines.append(f"{name}: with ties, the scorer is not surely better than the {blind} one ({_percent(share)} %).")
    return lines


def _cells(accuracies: Accuracies) -> list[str]:
    return [_percent(getattr(accuracies, name)) for name in (*CREDITS, "oracle")]


def _with_interval(value: float, interval: Estimate) -> str:
    if math.isnan(interval.low):
        return f"[bold]{_percent(value)}[/]"
    return f"[bold]{_percent(value)}[/]\n{_percent(interval.low)}-{_percent(interval.high)}"


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if _is_nan(value) else value for name, value in row.items()}
