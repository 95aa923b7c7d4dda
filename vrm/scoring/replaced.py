"""Videos that were replaced under their old name since they were scored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from vrm.scoring.dataset import RUN_FILE, list_files
from vrm.video import file_hash


def replaced_videos(folder: Path, paths: Iterable[str]) -> set[str]:
    """Find the videos whose bytes are no longer those that were scored.

    Only files that changed after the dataset was begun are looked into, so that going on with a large run costs a look
    at every name, not at every byte.

    Args:
        folder: of the dataset.
        paths: of videos, as they stand in its rows.

    Returns:
        Those of ``paths`` that were scored with other bytes.
    """
    if not (folder / RUN_FILE).is_file():
        return set()
    begun = (folder / RUN_FILE).stat().st_mtime
    touched = {path for path in paths if _changed(path) >= begun}
    scored: dict[str, str] = {}
    for file in list_files(folder) if touched else ():
        with pq.ParquetFile(file) as rows:
            for batch in rows.iter_batches(10_000, columns=["path", "video_hash"]):
                found = zip(*(batch.column(name).to_pylist() for name in ("path", "video_hash")), strict=True)
                scored.update((path, digest) for path, digest in found if path in touched and digest is not None)
    return {path for path, digest in scored.items() if file_hash(path) != digest}


def _changed(path: str) -> float:
    """When a file's bytes or name last changed, in seconds; never if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return 0.0
    return max(found.st_mtime, found.st_ctime)
