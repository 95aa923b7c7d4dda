"""Preference benchmarks in local folders, read in the layouts they are published in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vrm.data.pairs import find_pair_folders, read_folder_pairs, read_pair_table, video_columns
from vrm.data.ratings import is_videofeedback, rating_columns, read_genai_ratings, read_rating_table
from vrm.data.records import BenchmarkError, PreferenceSet, RatingSet
from vrm.data.tables import SUFFIXES, Places, Table
from vrm.errors import UnknownNameError

Benchmark = PreferenceSet | RatingSet
_Reader = Callable[[Table, Places, str], Benchmark]


@dataclass(frozen=True)
class _Layout:
    """Where a set keeps its table, how the table is told from others, and how it is read."""

    files: tuple[str, ...]  # globs, the first that matches wins; several matches are shards of one table
    fits: Callable[[Table], bool]
    read: _Reader


def _has(*columns: str) -> Callable[[Table], bool]:
    return lambda table: all(table.find(*column.split("|")) for column in columns)


def _read_table(table: Table, places: Places, name: str) -> Benchmark:
    return (read_pair_table if video_columns(table) else read_rating_table)(table, places, name)


def _read_genai_ratings(table: Table, places: Places, name: str) -> Benchmark:
    return read_genai_ratings(table.paths[0], places, name)


_RATINGS_FILE = "genai_video.json"
LAYOUTS = {
    "videogen-rewardbench": _Layout(
        ("[Vv]ideo[Gg]en-[Rr]eward[Bb]ench.csv", "*/[Vv]ideo[Gg]en-[Rr]eward[Bb]ench.csv", "datasets/eval/*.csv"),
        _has("path_a", "path_b", "vq|mq|ta"),
        read_pair_table,
    ),
    "genai-bench": _Layout(
        ("data.json", "test_v1*.parquet", "*/test_v1*.parquet", "test-*.parquet", "*/test-*.parquet"),
        _has("left_video|video_left", "right_video|video_right", "vote_type"),
        read_pair_table,
    ),
    "genai-bench-ratings": _Layout(
        (_RATINGS_FILE,), lambda table: table.paths[0].name == _RATINGS_FILE, _read_genai_ratings
    ),
    "mj-bench-video": _Layout(
        ("test.json", "datas/test.json", "train.json", "datas/train.json"),
        _has("video_0_path", "video_1_path", "overall_preference"),
        read_pair_table,
    ),
    "videofeedback": _Layout(
        ("test*.parquet", "*/test*.parquet", "test*.json", "*/test*.json", "eval*.json", "data*.json"),
        is_videofeedback,
        read_rating_table,
    ),
    "table": _Layout((), lambda table: bool(video_columns(table) or rating_columns(table)), _read_table),
}
FOLDERS = "folders"
FORMATS = (*LAYOUTS, FOLDERS)


def load_preferences(root: str | os.PathLike[str], format: str = "auto") -> Benchmark:
    """Read a benchmark from a local folder or file; nothing is ever downloaded.

    ========================  =======================================================================================
    ``videogen-rewardbench``  ``videogen-rewardbench.csv``: path_A, path_B, prompt, VQ, MQ, TA, Overall
                              (Liu et al. 2025, arXiv 2501.13918)
    ``genai-bench``           TIGER-Lab's votes: left_video, right_video, vote_type in parquet, json, jsonl or csv; or
                              ``data.json`` with video_left, video_right (Jiang et al. 2024, arXiv 2406.04485)
    ``genai-bench-ratings``   the other set of that name: ``genai_video.json``, ratings 1 to 5 of ``MODEL/INDEX.mp4``
                              (Li et al. 2024, arXiv 2406.13743)
    ``mj-bench-video``        ``datas/test.json`` or ``datas/train.json`` (Tong et al. 2025, arXiv 2502.01719)
    ``videofeedback``         VideoFeedback and VideoScore-Bench: five ratings a video
                              (He et al. 2024, arXiv 2406.15252)
    ``table``                 csv, tsv, json, jsonl or parquet with two columns of videos and one of labels, or with one
                              column of videos and ratings
    ``folders``               ``A/x.mp4`` against ``B/x.mp4`` with ``labels.csv``, or ``chosen/`` against ``rejected/``
    ========================  =======================================================================================

    Args:
        root: the folder of the set, or its table; videos are looked for in both places and in ``videos/``.
        format: a name from above, or ``"auto"`` to go by file names and columns.

    Returns:
        Pairs or ratings, with what was dropped, which labels are unknown, and which videos are missing.

    Raises:
        BenchmarkError: if nothing there has the layout.
        UnknownNameError: if ``format`` is unknown.
    """
    place = Path(os.path.abspath(root))
    if format != "auto" and format not in FORMATS:
        raise UnknownNameError("benchmark format", format, ("auto", *FORMATS))
    if not place.exists():
        raise BenchmarkError(f"There is no folder or file {str(place)!r}; check the path.")
    if format == FOLDERS:
        return read_folder_pairs(_folder(place), FOLDERS)
    if format != "auto":
        return _read(format, _table_of(place, format), place)
    found = _sniff(place)
    if found is not None:
        return _read(found[0], found[1], place)
    if place.is_dir() and find_pair_folders(place):
        return read_folder_pairs(place, FOLDERS)
    raise BenchmarkError(
        f"Nothing in {str(place)!r} looks like a preference benchmark; name its format (one of {', '.join(FORMATS)})."
    )


def _read(name: str, table: Table, place: Path) -> Benchmark:
    layout = LAYOUTS[name]
    if not layout.fits(table):
        columns = ", ".join(table.columns.values()) or "none"
        raise BenchmarkError(f"{str(table)!r} does not have the layout of {name}; its columns are {columns:.300}.")
    folder = table.paths[0].parent
    return layout.read(table, Places(place if place.is_dir() else folder, folder), name)


def _sniff(place: Path) -> tuple[str, Table] | None:
    """The first layout whose files are there and fit."""
    tables: dict[tuple[Path, ...], Table] = {}
    for name, layout in LAYOUTS.items():
        files = _files(place, layout.files)
        if files and files not in tables:
            tables[files] = Table(*files)
        if files and layout.fits(tables[files]):
            return name, tables[files]
    return None


def _table_of(place: Path, name: str) -> Table:
    files = _files(place, LAYOUTS[name].files)
    if not files:
        wanted = " or ".join(dict.fromkeys(LAYOUTS[name].files)) or f"one table ({', '.join(SUFFIXES)})"
        raise BenchmarkError(
            f"{str(place)!r} holds no table of {name}: there should be {wanted}; name the file itself."
        )
    return Table(*files)


def _files(place: Path, patterns: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of a set's table: those of the first pattern that matches, else the only table in the folder."""
    if place.is_file():
        return (place,)
    for pattern in patterns:
        found = sorted(place.glob(pattern))
        if found:
            return tuple(found)
    only = [file for file in sorted(place.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()]
    return (only[0],) if len(only) == 1 else ()


def _folder(place: Path) -> Path:
    if not place.is_dir():
        raise BenchmarkError(f"{str(place)!r} is a file, but format 'folders' needs the folder that holds both.")
    return place
