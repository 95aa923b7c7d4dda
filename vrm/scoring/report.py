"""One self-contained page about one or more runs: distributions, rows, best and worst clips, errors, comparison.

The page holds its data as JSON and its drawing code as plain JavaScript; it opens from the file system and asks the
network for nothing. Only the videos stay outside: it plays them from where they lie, by relative paths.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vrm.scoring.compare import Comparison, compare_runs, row_numbers
from vrm.scoring.dataset import read_scores
from vrm.scoring.strips import StripBook
from vrm.video import replacing

BEST = 4  # clips shown at each end of the ranking
CHANGES = 5  # largest gains and losses listed for two runs
MAX_BINS = 40
MAX_POINTS = 2_000  # pairs drawn in one scatter plot
MAX_CURVE_VALUES = 400_000  # numbers of reward curves kept beside those of the best and worst clips
SCRIPTS = ("charts.js", "clips.js", "table.js", "report.js")
TEXTS = ("id", "prompt", "reward", "path", "codec", "backend", "sampler", "encoder", "warning", "error_kind", "error")
NUMBERS = ("score", "frames", "fps", "height", "width", "duration")


@dataclass(frozen=True)
class Run:
    """A folder of scores as the page sees it.

    Attributes:
        name: short, and unlike the other runs' names.
        folder: where it lies.
        table: its rows.
        start: number of its first row among the rows of all runs.
    """

    name: str
    folder: Path
    table: pa.Table
    start: int


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the page about one run, or about several with the later ones compared to the first.

    Args:
        folders: what ``vrm score --out`` wrote.
        out: ends in ``.html``; by default ``report.html`` in the first folder.

    Returns:
        The path written.

    Raises:
        ValueError: if there are no folders or ``out`` has another suffix.
        StoreError: if a folder holds no scores.
    """
    if not folders:
        raise ValueError("A report needs at least one folder of scores, got none.")
    target = Path(out) if out is not None else Path(folders[0]) / "report.html"
    page = _page(_data(_open(list(map(Path, folders))), Path(os.path.abspath(target)).parent))
    with replacing(target, ".html") as partial:
        partial.write_text(page, encoding="utf-8")
    return target


class _Strings:
    """Numbers each distinct text, so that the page holds it once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def add(self, text: str | None) -> int | None:
        return None if text is None else self.numbers.setdefault(text, len(self.numbers))


def _open(folders: list[Path]) -> list[Run]:
    depth = 1
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    runs: list[Run] = []
    for path in paths:
        name, start = "/".join(path.parts[-depth:]), runs[-1].start + len(runs[-1].table) if runs else 0
        twins = sum(run.folder == path for run in runs)
        runs.append(Run(f"{name} ({twins + 1})" if twins else name, path, read_scores(path), start))
    return runs


def _data(runs: list[Run], base: Path) -> dict[str, Any]:
    """Gather all that the page shows; ``base`` is the folder that its links start from."""
    numbers = [row_numbers(run.table) for run in runs]
    gallery = [entry for index, run in enumerate(runs) for entry in _gallery(index, run, numbers[index])]
    strings = _Strings()
    columns = _columns(runs, numbers, strings, base)
    return {
        "runs": [_facts(run) for run in runs],
        "columns": columns,
        "curves": _curves(runs, [row for entry in gallery for row in entry["best"] + entry["worst"]]),
        "gallery": gallery,
        **_strips(runs, gallery),
        "histograms": _histograms(runs, numbers),
        "comparisons": [_comparison(runs[0], run) for run in runs[1:]],
        "strings": list(strings.numbers),
    }


def _facts(run: Run) -> dict[str, Any]:
    table = run.table
    backends = Counter(dict(zip(table["path"].to_pylist(), table["backend"].to_pylist(), strict=True)).values())
    config = run.folder / "run.json"
    return {
        "name": run.name,
        "folder": str(run.folder),
        "rows": len(table),
        "errors": sum(error is not None for error in table["error"].to_pylist()),
        **{f"{name}s": len(_distinct(table, name)) for name in ("path", "prompt", "reward")},
        **{name: _distinct(table, name) for name in ("encoder", "sampler")},
        "backends": [[name, count] for name, count in backends.most_common() if name],
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None,
    }


def _distinct(table: pa.Table, name: str) -> list[str]:
    return [value for value in dict.fromkeys(table[name].to_pylist()) if value]


def _columns(
    runs: list[Run], numbers: list[list[dict[str, float]]], strings: _Strings, base: Path
) -> dict[str, list[Any]]:
    """The rows of all runs, column by column; texts as numbers of ``strings``."""
    table = pa.concat_tables([run.table for run in runs])
    columns: dict[str, list[Any]] = {name: [strings.add(text) for text in table[name].to_pylist()] for name in TEXTS}
    columns |= {name: [_rounded(value) for value in table[name].to_pylist()] for name in NUMBERS}
    columns["run"] = [index for index, run in enumerate(runs) for _ in range(len(run.table))]
    columns["cut"] = [int(bool(cut)) for cut in table["prompt_truncated"].to_pylist()]
    columns["meta"] = [[[strings.add(k), strings.add(v)] for k, v in meta or []] for meta in table["meta"].to_pylist()]
    columns["dimensions"] = [
        {name: _rounded(value) for name, value in row.items() if name != "score"} for rows in numbers for row in rows
    ]
    links: dict[Path, str | None] = {}
    columns["url"] = [
        strings.add(links[file] if file in links else links.setdefault(file, _link(file, base)))
        for run in runs
        for file in (_locate(path, run.folder) for path in run.table["path"].to_pylist())
    ]
    return columns


def _locate(path: str | None, folder: Path) -> Path:
    """Find the file of a row: as the row says, or from the folder of its run."""
    here = Path(os.path.abspath(path or ""))
    there = Path(os.path.abspath(folder / (path or "")))
    return there if there.is_file() and not here.is_file() else here


def _link(file: Path, base: Path) -> str | None:
    if not file.is_file():
        return None
    if file.drive != base.drive:
        return file.as_uri()
    return quote(Path(os.path.relpath(file, base)).as_posix())


def _gallery(index: int, run: Run, numbers: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Pick the rows with the highest and the lowest scores of each reward; no row is in both lists."""
    rewards = run.table["reward"].to_pylist()
    entries = []
    for reward in _distinct(run.table, "reward"):
        rows = [row for row, name in enumerate(rewards) if name == reward and "score" in numbers[row]]
        order = [run.start + row for row in sorted(rows, key=lambda row: -numbers[row]["score"])]
        best = min(BEST, math.ceil(len(order) / 2))
        worst = order[best:][-BEST:][::-1]
        entries.append({"run": index, "reward": reward, "best": order[:best], "worst": worst})
    return entries


def _strips(runs: list[Run], gallery: list[dict[str, Any]]) -> dict[str, Any]:
    """Frames of the picked rows: the first ranks of all lists first, so that a full page lacks only the last ranks."""
    lists = [entry[side] for entry in gallery for side in ("best", "worst")]
    picked = dict.fromkeys(rows[rank] for rank in range(BEST) for rows in lists if rank < len(rows))
    book, places = StripBook(), {}
    for row in picked:
        run = next(run for run in reversed(runs) if run.start <= row)
        places[row] = book.add(_locate(run.table["path"][row - run.start].as_py(), run.folder))
    return {"strips": book.strips, "stripOf": places}


def _curves(runs: list[Run], picked: list[int]) -> dict[int, list[list[float | None]]]:
    """Values and times of the picked rows, and of further rows from the first on while there is room."""
    curves: dict[int, list[list[float | None]]] = {}
    first, left = set(picked), MAX_CURVE_VALUES
    for run in runs:
        all_values, all_times = run.table["values"].to_pylist(), run.table["frame_times"].to_pylist()
        for row, (values, times) in enumerate(zip(all_values, all_times, strict=True), run.start):
            if values and (row in first or left > 0):
                left -= len(values)
                known = times if times and len(times) == len(values) else range(len(values))
                curves[row] = [[_rounded(value, 5) for value in values], [_rounded(time) for time in known]]
    return curves


def _histograms(runs: list[Run], numbers: list[list[dict[str, float]]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[list[float]]] = {}
    for index, (run, rows) in enumerate(zip(runs, numbers, strict=True)):
        for reward, row in zip(run.table["reward"].to_pylist(), rows, strict=True):
            for dimension, value in row.items():
                groups.setdefault((reward, dimension), [[] for _ in runs])[index].append(value)
    rewards = list(dict.fromkeys(reward for reward, _ in groups))
    keys = sorted(groups, key=lambda key: (rewards.index(key[0]), key[1] != "score"))
    return [{"reward": key[0], "dimension": key[1], **_histogram(groups[key])} for key in keys]


def _histogram(groups: list[list[float]]) -> dict[str, Any]:
    """Counts over bins that all runs share, and where each run's middle is; None for a run without values."""
    edges = _edges(np.concatenate([np.asarray(values, dtype=np.float64) for values in groups]))
    runs = [
        {
            "counts": np.histogram(values, edges)[0].tolist(),
            "mean": _rounded(float(np.mean(values))),
            "median": _rounded(float(np.median(values))),
        }
        if values
        else None
        for values in groups
    ]
    return {"edges": edges.tolist(), "runs": runs}


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins by the rule of Freedman and Diaconis or of Sturges, the finer one, and at most 40."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value up to rounding: a bar in the middle
        margin = max(0.5, abs(low) / 20)
        return np.linspace(low - margin, high + margin, 10)
    bins = math.ceil(math.log2(len(values)) + 1)
    width = 2 * float(np.subtract(*np.percentile(values, [75, 25]))) / len(values) ** (1 / 3)
    if width > 0:
        bins = max(bins, math.ceil(min((high - low) / width, MAX_BINS)))
    return np.linspace(low, high, min(bins, MAX_BINS) + 1)


def _comparison(first: Run, second: Run) -> dict[str, Any]:
    return {
        "first": first.name,
        "second": second.name,
        "results": [_result(result, first, second) for result in compare_runs(first.table, second.table)],
    }


def _result(result: Comparison, first: Run, second: Run) -> dict[str, Any]:
    pairs = result.pairs
    change = pairs.second - pairs.first
    order = np.argsort(change, kind="stable")
    shown = np.arange(len(change))
    if len(shown) > MAX_POINTS:  # spread over all sizes of change, with the largest ones
        spread = order[np.linspace(0, len(order) - 1, MAX_POINTS).round().astype(int)]
        shown = np.unique(np.concatenate([spread, order[:CHANGES], order[-CHANGES:]]))
    points = [
        [_rounded(float(pairs.first[i])), _rounded(float(pairs.second[i])), int(pairs.rows[i, 0]) + first.start,
         int(pairs.rows[i, 1]) + second.start]
        for i in shown
    ]  # fmt: skip
    estimates = {"difference": result.difference, "winRate": result.win_rate}
    return {
        "reward": pairs.reward,
        "dimension": pairs.dimension,
        "pairs": len(change),
        "means": [_rounded(float(pairs.first.mean())), _rounded(float(pairs.second.mean()))],
        **{name: [_rounded(v) for v in (it.value, it.low, it.high)] for name, it in estimates.items()},
        "counts": [result.wins, result.ties, result.losses],
        "clusters": result.clusters,
        "clusteredBy": result.clustered_by,
        "points": points,
    }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    """``value`` with so many significant digits; None where JSON has no number for it."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def _page(data: dict[str, Any]) -> str:
    assets = files("vrm.scoring") / "assets"
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":  # nothing in the data can end the script element or start a comment
        text = text.replace(character, f"\\u{ord(character):04x}")
    title = " and ".join(run["name"] for run in data["runs"])
    return Template((assets / "report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        style=(assets / "report.css").read_text(encoding="utf-8"),
        script="\n".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS),
        data=text,
    )
