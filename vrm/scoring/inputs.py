"""From what a user names (files, globs, folders, manifests, a list on stdin) to a list of videos."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vrm.data.tables import UNREADABLE, read_rows
from vrm.errors import VrmError

MANIFESTS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
VIDEOS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv",
    ".ogv", ".3gp",
)  # fmt: skip
STDIN = "-"
Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class InputError(VrmError, ValueError):
    """Inputs or prompts from which no plan can be made."""


class Entry(NamedTuple):
    """A video as it was named.

    Attributes:
        path: absolute.
        id: from the manifest, else the path as given.
        prompt: from the manifest, or None.
        meta: the manifest's further columns, as text; empty cells are left out.
    """

    path: str
    id: str
    prompt: str | None
    meta: dict[str, str]


def find_videos(inputs: Inputs) -> Iterator[Entry]:
    """Yield the videos that ``inputs`` name, in order, those of a folder or glob sorted by path.

    Args:
        inputs: each a video file, a glob such as ``"gen/**/*.mp4"``, a folder (searched through, for files with a
            video suffix), a manifest (csv, tsv, json, jsonl, parquet with a column ``path`` and perhaps ``prompt`` and
            ``id``; its relative paths start at its own folder), or ``"-"`` for a list of paths on standard input.

    Raises:
        InputError: if there is no input, a glob or folder holds no video, a manifest cannot be read, or a file is
            missing whose name does not end as a video's does (a missing video becomes a row with an error).
    """
    named = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    if not named:
        raise InputError("There is nothing to score: name video files, a glob, a folder, a manifest, or '-' for stdin.")
    for one in named:
        yield from _expand(os.fspath(one))


def _expand(name: str) -> Iterator[Entry]:
    path = Path(name)
    if name == STDIN:
        yield from _plain(line.strip() for line in sys.stdin if line.strip())
    elif path.is_dir():
        found = (file for file in path.rglob("*") if file.suffix.lower() in VIDEOS and file.is_file())
        yield from _plain(_some(sorted(str(file) for file in found), f"Folder {name!r} holds no video"))
    elif not path.exists() and glob.has_magic(name):
        found_names = sorted(match for match in glob.glob(name, recursive=True) if os.path.isfile(match))
        yield from _plain(_some(found_names, f"No file matches {name!r}"))
    elif path.suffix.lower() in MANIFESTS:
        yield from _read_manifest(path)
    elif not path.exists() and path.suffix.lower() not in VIDEOS:
        raise InputError(f"There is no file or folder {name!r}; check the path.")
    else:
        yield from _plain([name])


def _plain(names: Iterable[str]) -> Iterator[Entry]:
    for name in names:
        yield Entry(os.path.abspath(name), name, None, {})


def _some(found: list[str], complaint: str) -> list[str]:
    if not found:
        raise InputError(f"{complaint}; check the path (suffixes of videos: {', '.join(VIDEOS)}).")
    return found


def _read_manifest(path: Path) -> Iterator[Entry]:
    count = 0
    for count, row in enumerate(_rows(path), 1):
        if not isinstance(row, Mapping):
            raise InputError(f"Manifest {str(path)!r} must hold one object per row, row {count} is {row!r:.60}.")
        cells = {str(key): _text(value) for key, value in row.items() if value is not None and _text(value) != ""}
        if "path" not in cells:
            columns = ", ".join(str(key) for key in row)
            where = f"row {count} has no path" if "path" in row else f"its columns are {columns}"
            raise InputError(f"Manifest {str(path)!r} needs a column 'path' with the video of every row; {where}.")
        given = cells.pop("path")
        video = os.path.abspath(path.parent / given)
        yield Entry(video, cells.pop("id", given), cells.pop("prompt", None), cells)
    if count == 0:
        raise InputError(f"Manifest {str(path)!r} holds no row; it needs a column 'path' and a row per video.")


def _rows(path: Path) -> Iterator[Any]:
    try:
        yield from read_rows(path)
    except UNREADABLE as error:
        if isinstance(error, VrmError):
            raise
        raise InputError(f"Manifest {str(path)!r} cannot be read as {path.suffix[1:]} ({error}).") from error


def _text(value: Any) -> str:
    """Write a cell as text: strings as they are, anything else as JSON where that exists."""
    if isinstance(value, str):
        return value.strip()
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)
