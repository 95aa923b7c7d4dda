"""Scores of a benchmark's videos: made elsewhere and matched by path and prompt, or made here by a reward."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from vrm.data import BenchmarkError
from vrm.data.tables import Table, number, text
from vrm.rewards import RewardModel
from vrm.scoring.agreement import Key
from vrm.scoring.dataset import read_scores
from vrm.scoring.run import score

SCORE = "score"
DIMENSIONS = "dimensions"  # the map column of a dataset that ``vrm score`` wrote
GivenScores = str | os.PathLike[str] | Mapping[str, float] | Mapping[Key, float] | Callable[[str, str | None], float]


@dataclass(frozen=True)
class ItemScores:
    """What is known about the videos of a benchmark.

    Attributes:
        source: the reward's name, or where the scores come from.
        by_dimension: ``"score"`` and any dimension of the reward, each a mapping of path and prompt to a number.
        unscored: videos (each under one prompt) without a score, by reason.
        unmatched: given scores that belong to no video of the benchmark.
    """

    source: str
    by_dimension: Mapping[str, Mapping[Key, float]]
    unscored: Mapping[str, int] = field(default_factory=dict)
    unmatched: int = 0


def score_items(items: Sequence[Key], reward: RewardModel | str, **settings: Any) -> ItemScores:
    """Score each video once under each of its prompts, with :func:`vrm.score`.

    Args:
        items: distinct paths and prompts. If some have prompts, those without are left out.
        reward: one reward.
        settings: of :func:`vrm.score`, such as ``out``, ``encoder``, ``frames`` and ``workers``.

    Raises:
        BenchmarkError: if no video is there, or ``reward`` names several.
        VrmError: what :func:`vrm.score` raises.
    """
    unscored: Counter[str] = Counter()
    prompted = any(prompt is not None for _, prompt in items)
    chosen = []
    for path, prompt in items:
        reason = "missing video" if not os.path.isfile(path) else "no prompt" if prompted and prompt is None else ""
        if reason:
            unscored[reason] += 1
        else:
            chosen.append((path, prompt))
    if not chosen:
        raise BenchmarkError(f"None of the {len(items)} videos can be scored; the first should be at {items[0][0]!r}.")
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "items.parquet")
        columns = {"path": [key[0] for key in chosen], "id": [str(index) for index in range(len(chosen))]}
        pq.write_table(pa.table(columns | ({"prompt": [key[1] for key in chosen]} if prompted else {})), manifest)
        table = score(manifest, reward, **settings)
    names = sorted(set(table["reward"].to_pylist()))
    if len(names) != 1:
        raise BenchmarkError(f"A benchmark judges one reward at a time, got {', '.join(names)}; run it once for each.")
    by_dimension: dict[str, dict[Key, float]] = {SCORE: {}}
    for row in table.select(["id", SCORE, DIMENSIONS, "error_kind"]).to_pylist():
        if row[SCORE] is None:
            unscored[row["error_kind"] or "no score"] += 1
            continue
        for name, value in {**dict(row[DIMENSIONS] or ()), SCORE: row[SCORE]}.items():
            by_dimension.setdefault(name, {})[chosen[int(row["id"])]] = value
    return ItemScores(names[0], by_dimension, dict(unscored))


def match_scores(items: Sequence[Key], given: GivenScores) -> ItemScores:
    """Bring scores made elsewhere to the videos of a benchmark.

    A given path (or web address) belongs to the video with which it shares the longest tail, down to the file name, if
    there is only one; where a prompt is given too, it must be the video's.

    Args:
        items: distinct paths and prompts.
        given: a table (csv, tsv, json, jsonl, parquet) with columns ``path``, ``score`` and perhaps ``prompt``, further
            columns of numbers being dimensions; a folder that ``vrm score`` wrote; a mapping of path, or path and
            prompt, to a score; or a function of path and prompt.

    Raises:
        BenchmarkError: if the table lacks a column, two scores claim one video, or none belongs to any.
    """
    if callable(given):
        found = {key: float(given(*key)) for key in items}
        return _counted(getattr(given, "__name__", type(given).__name__), {SCORE: found}, items, 0)
    if isinstance(given, Mapping):
        name, rows = "given scores", [_mapped(key, value) for key, value in given.items()]
    else:
        name, rows = str(given), _table_rows(Path(given))
    places = _Tails(items)
    by_dimension: dict[str, dict[Key, float]] = {SCORE: {}}
    unmatched = 0
    for path, prompt, numbers in rows:
        keys = places.match(path, prompt)
        unmatched += not keys
        for key in keys:
            for dimension, value in numbers.items():
                scores = by_dimension.setdefault(dimension, {})
                before = scores.setdefault(key, value)
                if before != value and not (math.isnan(before) and math.isnan(value)):
                    raise BenchmarkError(
                        f"Two scores claim video {key[0]!r} under prompt {key[1]!r}: {before:g} and {value:g} (of "
                        f"{path!r}); keep one."
                    )
    if unmatched == len(rows):
        raise BenchmarkError(
            f"None of the {len(rows)} scores in {name} belongs to a video of the benchmark, such as {items[0][0]!r}."
        )
    return _counted(name, by_dimension, items, unmatched)


class _Tails:
    """Finds the items whose path ends as a given one does."""

    def __init__(self, items: Iterable[Key]) -> None:
        self._videos: dict[tuple[str, ...], set[str]] = {}
        self._prompts: dict[str, list[str | None]] = {}
        for path, prompt in items:
            if path not in self._prompts:
                parts = PurePosixPath(path).parts
                for start in range(len(parts)):
                    self._videos.setdefault(parts[start:], set()).add(path)
            self._prompts.setdefault(path, []).append(prompt)

    def match(self, name: str, prompt: str | None) -> list[Key]:
        parts = PurePosixPath(unquote(urlsplit(name).path) if "://" in name else name).parts
        for start in range(len(parts)):
            found = self._videos.get(parts[start:], set())
            if found:
                paths = list(found) if len(found) == 1 else []
                return [(path, own) for path in paths for own in self._prompts[path] if prompt is None or own == prompt]
        return []


def _counted(name: str, scores: Mapping[str, Mapping[Key, float]], items: Sequence[Key], unmatched: int) -> ItemScores:
    without = sum(not math.isfinite(scores[SCORE].get(key, math.nan)) for key in items)
    return ItemScores(name, scores, {"no score given": without} if without else {}, unmatched)


def _mapped(key: str | Key, value: float) -> tuple[str, str | None, dict[str, float]]:
    path, prompt = (key, None) if isinstance(key, str) else key
    return path, prompt, {SCORE: float(value)}


def _table_rows(path: Path) -> list[tuple[str, str | None, dict[str, float]]]:
    if path.is_dir():
        rows, columns = read_scores(path).to_pylist(), {name: name for name in ("path", "prompt", SCORE)}
        others: list[str] = []
    else:
        table = Table(path)
        rows, columns = table.rows, table.columns
        known = {columns.get(name) for name in ("path", "prompt", SCORE)}
        others = [n for n in columns.values() if n not in known and n != DIMENSIONS and _all_numbers(rows, n)]
    if "path" not in columns or SCORE not in columns:
        raise BenchmarkError(
            f"{str(path)!r} needs columns path and score (and perhaps prompt), its columns are "
            f"{', '.join(columns.values()) or 'none'}."
        )
    found = []
    for row in rows:
        numbers = {name: number(row.get(name)) for name in others} | {SCORE: number(row.get(columns[SCORE]))}
        nested = row.get(DIMENSIONS)
        numbers |= {str(name): number(value) for name, value in (nested if isinstance(nested, list) else ())}
        prompt = text(row.get(columns["prompt"])) if "prompt" in columns else ""
        found.append((text(row.get(columns["path"])), prompt or None, numbers))
    return found


def _all_numbers(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    cells = [text(row.get(column)) for row in rows]
    return any(cells) and all(not cell or math.isfinite(number(cell)) for cell in cells)
