"""Rows arrive and are kept: atomic parts under a lock, which become one file when all are there."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from vrm.scoring.dataset import (
    PARTS_FOLDER,
    RUN_FILE,
    Identity,
    Row,
    StoreError,
    list_files,
    merge,
    part_number,
    read_keys,
    write_bytes,
    write_parquet,
)
from vrm.scoring.plan import Item
from vrm.scoring.schema import ROW

SECONDS_PER_PART = 10.0


class ScoreStore:
    """A dataset of scores, written by one process, or by one per shard.

    ``run.json`` says what the scores were made with, ``parts/`` holds rows as they were committed, and :meth:`finish`
    turns them into ``scores.parquet``. A process killed at any moment leaves only whole parts behind, and rows that
    were merged while their parts were not yet removed are recognised by their keys.

    Args:
        folder: of the dataset, made if missing.
        identity: JSON values that all rows of one dataset share: model, configuration, sampling.
        facts: JSON values noted beside it, such as versions.
        shard: ``(i, n)``, which of ``n`` processes this is, counted from 1.
        rows_per_part: how many rows may wait before they are committed; they never wait much over ten seconds.

    Raises:
        StoreError: if another process is writing the same dataset or shard.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        facts: dict[str, Any] | None = None,
        shard: tuple[int, int] = (1, 1),
        rows_per_part: int = 512,
    ) -> None:
        """Lock the folder and note what it is for."""
        self.folder = folder
        self.shard = shard
        self.rows_per_part = rows_per_part
        self._parts = folder / PARTS_FOLDER
        self._parts.mkdir(parents=True, exist_ok=True)
        self._locks = self._take_locks()
        self._waiting: list[Row] = []
        self._committed_at = time.monotonic()
        self._number = 1 + max(
            (part_number(path) for path in list_files(folder) if path.parent == self._parts), default=0
        )
        self._finished(shard[0]).unlink(missing_ok=True)
        for leftover in self._parts.glob(f".part-*-{shard[0]}.parquet.*.partial"):
            leftover.unlink()
        if not (folder / RUN_FILE).is_file():
            text = json.dumps({"identity": identity, **(facts or {})}, indent=2, sort_keys=True)
            write_bytes(f"{text}\n".encode(), folder / RUN_FILE)

    def __enter__(self) -> Self:
        """Use as a context: leaving it commits what waits and unlocks the folder."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Commit and unlock, whatever happened."""
        try:
            self.commit()
        finally:
            for lock in self._locks:
                os.close(lock)

    def done(self, retry_errors: bool = False) -> set[bytes]:
        """Keys (:meth:`vrm.scoring.plan.Item.key`) of the rows that are there, or of those without an error."""
        return {key for key, error in read_keys(self.folder).items() if error is None or not retry_errors}

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows (:data:`vrm.scoring.schema.ROW`), to be committed soon."""
        self._waiting.extend(rows)
        if len(self._waiting) >= self.rows_per_part or time.monotonic() - self._committed_at > SECONDS_PER_PART:
            self.commit()

    def commit(self) -> None:
        """Write the waiting rows as one part; when this returns they are on the disk."""
        if self._waiting:
            name = f"part-{self._number:08d}-{self.shard[0]}.parquet"
            write_parquet(pa.Table.from_pylist(self._waiting, ROW), self._parts / name)
            self._waiting = []
            self._number += 1
        self._committed_at = time.monotonic()

    def finish(self, items: Iterable[Item], rewards: Sequence[str]) -> bool:
        """Commit, and merge all parts if no other shard is still to come.

        Args:
            items: of the whole plan, which give rows their place.
            rewards: names, in the order of rows of one item.

        Returns:
            Whether ``scores.parquet`` now holds all rows.
        """
        self.commit()
        if self.shard[1] > 1:
            write_bytes(b"", self._finished(self.shard[0]))
        lock = _lock(self.folder / ".merge.lock", fcntl.LOCK_EX, wait=True)
        try:
            shards = range(1, self.shard[1] + 1)
            complete = self.shard[1] == 1 or all(self._finished(shard).exists() for shard in shards)
            if complete:
                merge(self.folder, items, rewards)
        finally:
            os.close(lock)
        return complete

    def _finished(self, shard: int) -> Path:
        return self._parts / f"finished-{shard}-of-{self.shard[1]}"

    def _take_locks(self) -> list[int]:
        number, shards = self.shard
        if shards == 1:
            return [_lock(self.folder / ".lock", fcntl.LOCK_EX)]
        everyone = _lock(self.folder / ".lock", fcntl.LOCK_SH)
        try:
            return [everyone, _lock(self.folder / f".lock-{number}-of-{shards}", fcntl.LOCK_EX)]
        except StoreError:
            os.close(everyone)
            raise


def _lock(path: Path, kind: int, wait: bool = False) -> int:
    """Lock ``path`` until its descriptor is closed; the system does that for a killed process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(
            f"Another process is writing scores to {str(path.parent)!r}; wait for it, choose another folder, or give "
            "every process its share with --shard i/n."
        ) from error
    return descriptor
