"""Scores as text files, for tools that read no Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from vrm.scoring.dataset import read_scores, replacing
from vrm.scoring.schema import ROW

TextFormat = Literal["csv", "jsonl"]


def export(folder: str | os.PathLike[str], form: TextFormat) -> Path:
    """Write ``scores.csv`` or ``scores.jsonl`` into a score folder, beside the Parquet file it says the same as.

    A csv cell with a list or a map holds JSON, an empty cell stands for nothing.

    Returns:
        The path written.

    Raises:
        StoreError: if ``folder`` holds no scores.
    """
    path = Path(folder) / f"scores.{form}"
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        (_write_csv if form == "csv" else _write_jsonl)(file, _rows(folder))
    return path


def _rows(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    for batch in read_scores(folder).to_batches(10_000):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def _write_csv(file: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(ROW.names)
    for row in rows:
        writer.writerow([json.dumps(v, ensure_ascii=False) if isinstance(v, (list, dict)) else v for v in row.values()])


def _write_jsonl(file: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
