"""Rows of csv, tsv, json, jsonl and parquet files, and the files that their cells name."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from vrm.data.records import BenchmarkError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
UNREADABLE = (OSError, ValueError, csv.Error, pa.ArrowException)
VIDEO_FOLDERS = ("", "videos", "video")
_HEAVY = (bytes, list, dict)  # cells that hold pictures, structures or conversations


class Table:
    """Rows of one or more files of one layout, their columns found by any of several names.

    Names are compared without case, and every run of other characters than letters and digits counts as one ``_``:
    "text prompt" and "Text_Prompt" are the same column.

    Args:
        paths: of the files, at least one.

    Raises:
        BenchmarkError: if one cannot be read, or does not hold one object per row.
    """

    def __init__(self, *paths: Path) -> None:
        """Read all rows."""
        self.paths = paths
        self.rows: list[dict[str, Any]] = [_checked(row, path) for path in paths for row in _read(path)]

    def __str__(self) -> str:
        """Name the first file."""
        return str(self.paths[0])

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns as written, by their plain name."""
        return {plain(name): name for row in self.rows for name in row}

    def find(self, *names: str) -> str | None:
        """Return the column, as written, that has the first of ``names`` there is."""
        return next((self.columns[name] for name in names if name in self.columns), None)

    def rest(self, row: Mapping[str, Any], used: Iterable[str | None]) -> dict[str, str]:
        """The cells of a row, as text, that are in none of the columns ``used``."""
        taken = set(used)
        return {k: str(v) for k, v in row.items() if k not in taken and text(v) and not isinstance(v, _HEAVY)}


class Places:
    """Finds the local file that a cell names, and remembers what it looked up.

    A cell may hold an absolute path, a path relative to a root or to its ``videos`` folder, or a web address; of these,
    the longest tail that exists under a root is taken, down to the bare file name. Nothing is ever fetched.
    """

    def __init__(self, *roots: Path) -> None:
        """Look under ``roots``, in their order."""
        self.roots = tuple(dict.fromkeys(Path(os.path.abspath(root)) for root in roots))
        self._known: dict[str, str] = {}

    def locate(self, name: str) -> str:
        """Absolute path of the file, or the first place where it should have been."""
        if name not in self._known:
            self._known[name] = self._search(name)
        return self._known[name]

    def _search(self, name: str) -> str:
        web = urlsplit(name) if "://" in name else None
        parts = [part for part in Path(unquote(web.path) if web else name).parts if part not in ("/", ".")]
        for start in range(len(parts)):
            for root, folder in product(self.roots, VIDEO_FOLDERS):
                candidate = root.joinpath(folder, *parts[start:])
                if candidate.is_file():
                    return os.path.abspath(candidate)
        if web is None and os.path.isfile(name) and os.path.isabs(name):
            return os.path.abspath(name)
        return os.path.abspath(self.roots[0] / (f"videos/{parts[-1]}" if web and parts else name))


def plain(name: str) -> str:
    """Write a column's name in lower case with single underscores.

    Example:
        >>> plain(" text-to-video Alignment")
        'text_to_video_alignment'
    """
    return re.sub(r"[^a-z0-9]+", "_", str(name).casefold()).strip("_")


def text(cell: object) -> str:
    """A cell as text without surrounding blanks; None and nan are empty."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return str(cell).strip()


def number(cell: object) -> float:
    """A cell as a number; nan where it is none."""
    try:
        return float(cell)  # type: ignore[arg-type]  # whatever cannot be a number is caught
    except (TypeError, ValueError):
        return math.nan


def read_rows(path: Path) -> Iterator[Any]:
    """Stream the rows of a csv, tsv, json, jsonl or parquet file, as written.

    Raises:
        OSError, ValueError, csv.Error, pyarrow.ArrowException: if it cannot be read; one of :data:`UNREADABLE`.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(10_000):
                yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if suffix == ".json":
            found = json.load(lines)
            yield from found if isinstance(found, list) else [found]
        elif suffix == ".jsonl":
            yield from (json.loads(line) for line in lines if line.strip())
        else:
            yield from csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",", restkey="rest")


def _read(path: Path) -> list[Any]:
    try:
        return list(read_rows(path))
    except UNREADABLE as error:
        raise BenchmarkError(f"{str(path)!r} cannot be read as {path.suffix[1:] or 'a table'} ({error}).") from error


def _checked(row: Any, path: Path) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BenchmarkError(f"{str(path)!r} must hold one object per row, got {row!r:.60}.")
    return row
