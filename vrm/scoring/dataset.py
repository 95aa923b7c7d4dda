"""A folder of scores as it lies on the disk: what it was made with, its rows, and how parts become one file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vrm.errors import VrmError
from vrm.scoring.plan import Item
from vrm.scoring.schema import ROW

Row = dict[str, Any]
Identity = dict[str, Any]
RUN_FILE, SCORES_FILE, PARTS_FOLDER = "run.json", "scores.parquet", "parts"
GROUP = 65_536  # rows of a file that are compressed, and read, together
KEY_COLUMNS = ("id", "path", "prompt", "reward", "meta")


class StoreError(VrmError, RuntimeError):
    """A score folder that cannot be read, or that another process is writing."""


def choose_folder(folder: str | os.PathLike[str], identity: Identity) -> Path:
    """Find the folder for rows of ``identity``: ``folder`` itself, or its sibling ``folder-<8 hex digits>``.

    The sibling is taken if ``folder`` holds scores of another identity, so that the two never mix.

    Raises:
        StoreError: if ``folder`` holds something else than scores.
    """
    target = Path(os.path.abspath(folder))
    if (target / RUN_FILE).is_file():
        if read_run(target)["identity"] == json.loads(json.dumps(identity)):
            return target
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return target.with_name(f"{target.name}-{digest[:8]}")
    is_ours = not target.exists() or (target.is_dir() and all(_is_hidden(path) for path in target.iterdir()))
    if not is_ours:
        raise StoreError(f"{str(target)!r} exists and holds no scores (no {RUN_FILE}); choose another folder.")
    return target


def read_run(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what the scores in ``folder`` were made with: ``"identity"`` and further facts.

    Raises:
        StoreError: if there is no readable ``run.json``.
    """
    path = Path(folder) / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return {"identity": run["identity"], **run}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{str(folder)!r} is no score folder: {RUN_FILE} cannot be read ({error}).") from error


def read_scores(folder: str | os.PathLike[str]) -> pa.Table:
    """Read all rows that ``folder`` holds, also while a run is writing it, sorted by index.

    Returns:
        A table of :data:`vrm.scoring.schema.ROW`, one row per item and reward.

    Raises:
        StoreError: if ``folder`` holds no scores.
    """
    read_run(folder)
    for _ in range(10):  # a merge may remove parts after they were listed
        try:
            table = _latest(list_files(Path(folder)))
            return table.take(np.argsort(table["index"].to_numpy(), kind="stable"))
        except FileNotFoundError:
            continue
    raise StoreError(f"The parts of {str(folder)!r} vanish while they are read; try again when no run is merging.")


def merge(folder: Path, items: Iterable[Item], rewards: Sequence[str]) -> None:
    """Write all rows as ``scores.parquet`` in the order of the plan, then remove the parts.

    Keys and places of all rows are held at once, the rows themselves only a group at a time.

    Args:
        folder: of the dataset.
        items: of the plan, which give rows their place; rows of earlier plans follow.
        rewards: names, in the order of rows of one item.
    """
    files = list_files(folder)
    places = {key: place for place, key in enumerate(item.key(name) for item in items for name in rewards)}
    newest: dict[bytes, tuple[int, int, int]] = {}
    for source, file in enumerate(files):
        for line, row in enumerate(_keys(file, "index")):
            newest[row_key(row)] = (row["index"], source, line)
    order = sorted(
        (places.get(key, len(places)), before, key, source, line) for key, (before, source, line) in newest.items()
    )
    index, number, at = (np.empty(len(order), dtype=np.int64) for _ in range(3))
    outside = len(places)
    for n, (place, _, _, in_file, in_row) in enumerate(order):
        index[n], number[n], at[n] = place, in_file, in_row
        if place == len(places):
            index[n], outside = outside, outside + 1
    if files != [folder / SCORES_FILE] or not _holds(files[0], index, at):
        with replacing(folder / SCORES_FILE) as partial, pq.ParquetWriter(partial, ROW) as writer:
            for start in range(0, len(order), GROUP):
                block = slice(start, start + GROUP)
                table = _gather(files, number[block], at[block])
                writer.write_table(table.set_column(0, ROW.field("index"), pa.array(index[block])), GROUP)
    for file in files:
        if file.name != SCORES_FILE:
            file.unlink(missing_ok=True)


def _holds(file: Path, index: NDArray[np.int64], at: NDArray[np.int64]) -> bool:
    """Whether ``file`` has exactly the rows ``at``, in this order and with these numbers."""
    before = pq.read_table(file, columns=["index"])["index"].to_numpy()
    return np.array_equal(before, index) and np.array_equal(at, np.arange(len(before)))


def _gather(files: Sequence[Path], number: NDArray[np.int64], at: NDArray[np.int64]) -> pa.Table:
    """Read rows ``at`` of the files ``number``, in this order, and of each file only the groups that hold them."""
    pieces, positions = [], []
    for wanted in np.unique(number):
        here = np.flatnonzero(number == wanted)
        with pq.ParquetFile(files[wanted]) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            group = np.searchsorted(starts, at[here], side="right") - 1
            for one in np.unique(group):
                mine = here[group == one]
                rows = file.read_row_group(int(one)).cast(ROW)
                pieces.append(rows.take(at[mine] - starts[one]))
                positions.append(mine)
    return pa.concat_tables(pieces).take(np.argsort(np.concatenate(positions)))


def row_key(row: Row) -> bytes:
    """Return the key of the item and reward that ``row`` is about; see :meth:`vrm.scoring.plan.Item.key`."""
    meta = tuple((name, value) for name, value in row["meta"] or ())
    return Item(0, row["id"], row["path"], row["prompt"], meta).key(row["reward"])


def read_keys(folder: Path) -> dict[bytes, str | None]:
    """Map the key of every row in ``folder`` to its kind of error, or None."""
    found: dict[bytes, str | None] = {}
    for path in list_files(folder):
        found.update((row_key(row), row["error_kind"]) for row in _keys(path, "error_kind"))
    return found


def list_files(folder: Path) -> list[Path]:
    """Files that hold rows, oldest first."""
    scores = folder / SCORES_FILE
    parts = sorted((folder / PARTS_FOLDER).glob("part-*.parquet"), key=lambda path: (part_number(path), path.name))
    return [scores, *parts] if scores.is_file() else parts


def part_number(path: Path) -> int:
    """The running number in ``part-<number>-<shard>.parquet``."""
    return int(path.name.split("-")[1])


def write_bytes(data: bytes, path: Path) -> None:
    """Write a small file so that it is either whole on the disk or not there."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table so that it is either whole on the disk or not there; the same table gives the same bytes."""
    with replacing(path) as partial:
        pq.write_table(table, partial, row_group_size=GROUP)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a partial file to write to; it takes the name ``path`` when it is safely on the disk, or vanishes."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)  # the name, too, must survive a power cut
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _latest(files: Sequence[Path]) -> pa.Table:
    """Read ``files``, oldest first, and keep the newest row of every key."""
    if not files:
        return ROW.empty_table()
    table = pa.concat_tables(pq.read_table(file, schema=ROW, partitioning=None) for file in files)
    newest = {row_key(row): place for place, row in enumerate(_rows(table))}
    return table if len(newest) == len(table) else table.take(sorted(newest.values()))


def _rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.select(KEY_COLUMNS).to_batches(10_000):
        yield from batch.to_pylist()


def _keys(path: Path, *columns: str) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(10_000, columns=[*KEY_COLUMNS, *columns]):
            yield from batch.to_pylist()


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == PARTS_FOLDER
