"""Preference pairs from tables and from two folders of videos."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vrm.data.records import OVERALL, BenchmarkError, Label, PreferencePair, PreferenceSet, read_label
from vrm.data.tables import Places, Table, number, plain, text

VIDEO_COLUMNS = (
    ("path_a", "path_b"),
    ("video_a", "video_b"),
    ("video_path_a", "video_path_b"),
    ("video1", "video2"),
    ("video_1", "video_2"),
    ("video1_path", "video2_path"),
    ("left_video", "right_video"),
    ("video_left", "video_right"),
    ("video_0_path", "video_1_path"),
    ("file_name1", "file_name2"),
    ("model_1_video", "model_2_video"),
    ("chosen", "rejected"),
    ("winner", "loser"),
)
MODEL_COLUMNS = (
    ("a_model", "b_model"),
    ("model_a", "model_b"),
    ("left_model", "right_model"),
    ("generator_a", "generator_b"),
    ("model_1", "model_2"),
)
LABEL_COLUMNS = ("label", "preference", "vote_type", "standard_answer", "overall", "overall_preference", "winner")
PROMPT_COLUMNS = ("prompt", "caption", "text_prompt", "text", "instruction")
ID_COLUMNS = ("id", "internal_id", "pair_id", "task_id")
DIMENSION_COLUMNS = ("vq", "mq", "ta")  # VideoGen-RewardBench; also label_NAME and preference_NAME
DIMENSION_MAP = "category_preference"  # MJ-Bench-Video: one object of labels by dimension

_DIMENSION = re.compile(r"(?:label|preference)_(.+)")
_WEIGHT = re.compile(r"(?:weighted_results1_(.+)|score_1)")  # Rapidata, WorldRewardBench: the higher one is preferred
_PREFERRED_FIRST = ("chosen", "winner")
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")


def video_columns(table: Table) -> tuple[str, str] | None:
    """The two columns, as written, that hold the videos of a pair; None if the table holds no pairs."""
    return _two(table, VIDEO_COLUMNS)


def read_pair_table(table: Table, places: Places, name: str) -> PreferenceSet:
    """Read one pair per row.

    Args:
        table: with two columns of videos and any of labels, dimensions, prompt, id and models.
        places: finds the videos.
        name: of the format, for the result.

    Raises:
        BenchmarkError: if it has no such columns, or labels 0 and 1 only, which mean different things in different
            sets.
    """
    if video_columns(table) is None:
        wanted = ", ".join("/".join(pair) for pair in VIDEO_COLUMNS)
        raise BenchmarkError(f"{str(table)!r} needs two columns of videos, one of: {wanted}.")
    return _PairReader(table, places).read(name)


def read_folder_pairs(root: Path, name: str) -> PreferenceSet:
    """Read ``A/x.mp4`` against ``B/x.mp4``, or ``chosen/x.mp4`` against ``rejected/x.mp4``.

    The prompt stands in ``x.txt`` beside either video. ``labels.csv`` (or jsonl, parquet) in the root gives, for each
    ``id`` (``x``), the ``label`` and perhaps the ``prompt``; the videos in ``chosen`` are preferred without it.

    Raises:
        BenchmarkError: if the two folders are not there.
    """
    folders = find_pair_folders(root)
    if folders is None:
        raise BenchmarkError(
            f"{str(root)!r} needs two folders of videos of the same names: A and B, or chosen, rejected."
        )
    first, second = ({file.stem: file for file in sorted(folder.iterdir()) if _is_video(file)} for folder in folders)
    labelled = _labels_beside(root)
    default = "a" if folders[0].name.casefold() == "chosen" else ""
    unknown: Counter[str] = Counter()
    pairs = []
    for stem in (stem for stem in first if stem in second):
        raw, prompt = labelled.get(stem, (default, ""))
        a, b = first[stem], second[stem]
        prompt = prompt or _sidecar(a) or _sidecar(b)
        label = _known_label(raw, unknown)
        pairs.append(PreferencePair(stem, prompt or None, str(a), str(b), label, label_raw=raw))
    alone = len(first.keys() ^ second.keys())
    return PreferenceSet(name, root, tuple(pairs), {"no partner": alone} if alone else {}, dict(unknown))


def find_pair_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders A and B, or chosen and rejected, in any case; None if they are not there."""
    inside = {entry.name.casefold(): entry for entry in sorted(root.iterdir()) if entry.is_dir()}
    for first, second in (("a", "b"), ("chosen", "rejected")):
        if first in inside and second in inside:
            return inside[first].absolute(), inside[second].absolute()
    return None


class _PairReader:
    """One pass over a table whose columns are known."""

    def __init__(self, table: Table, places: Places) -> None:
        self.table, self.places = table, places
        videos = video_columns(table)
        assert videos is not None
        self.videos = videos
        self.models = _two(table, MODEL_COLUMNS) or (None, None)
        self.prompt, self.id = table.find(*PROMPT_COLUMNS), table.find(*ID_COLUMNS)
        found = table.find(*LABEL_COLUMNS)
        self.label = None if found in videos else found
        self.dimensions = dict(_dimension_columns(table))
        self.weights = dict(_weight_columns(table))
        self.unknown: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def read(self, name: str) -> PreferenceSet:
        self._refuse_ambiguous_labels()
        ids = Counter(text(row.get(self.id)) for row in self.table.rows) if self.id else Counter[str]()
        pairs = []
        for index, row in enumerate(self.table.rows):
            videos = [text(row.get(column)) for column in self.videos]
            if not all(videos):
                self.dropped["no video named"] += 1
                continue
            given = text(row.get(self.id)) if self.id else ""
            pairs.append(self._pair(row, given if given and ids[given] == 1 else f"{given}#{index}", videos))
        return PreferenceSet(name, self.places.roots[0], tuple(pairs), dict(self.dropped), dict(self.unknown))

    def _pair(self, row: Mapping[str, Any], name: str, videos: list[str]) -> PreferencePair:
        raw, dimensions = self._judgements(row)
        used = (*self.videos, *self.models, self.prompt, self.id, self.label, *self.dimensions.values())
        weights = (column for columns in self.weights.values() for column in columns)
        models = [text(row.get(column)) or None if column else None for column in self.models]
        return PreferencePair(
            name,
            (text(row.get(self.prompt)) or None) if self.prompt else None,
            self.places.locate(videos[0]),
            self.places.locate(videos[1]),
            _known_label(raw, self.unknown),
            {key: _known_label(value, self.unknown) for key, value in dimensions.items()},
            raw,
            models[0],
            models[1],
            self.table.rest(row, (*used, *weights)),
        )

    def _judgements(self, row: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """The overall judgement and those by dimension, as written."""
        dimensions = {name: text(row.get(column)) for name, column in self.dimensions.items()}
        nested = row.get(DIMENSION_MAP)
        if isinstance(nested, Mapping):
            dimensions |= {str(name): text(value) for name, value in nested.items()}
        for name, columns in self.weights.items():
            dimensions[name] = _compare(*(number(row.get(column)) for column in columns))
        compared = dimensions.pop(OVERALL, "")
        if self.label:
            return text(row.get(self.label)), dimensions
        return compared or ("a" if plain(self.videos[0]) in _PREFERRED_FIRST else ""), dimensions

    def _refuse_ambiguous_labels(self) -> None:
        for column in (self.label, *self.dimensions.values()):
            found = {text(row.get(column)).removesuffix(".0") for row in self.table.rows} if column else set()
            if "0" in found and "1" in found and "-1" not in found:
                raise BenchmarkError(
                    f"Labels 0 and 1 in column {column!r} of {str(self.table)!r} may count videos or mean a tie; "
                    "write a, b and tie."
                )


def _two(table: Table, choices: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    for names in choices:
        first, second = (table.find(name) for name in names)
        if first and second:
            return first, second
    return None


def _dimension_columns(table: Table) -> Iterator[tuple[str, str]]:
    for name, column in table.columns.items():
        if name in DIMENSION_COLUMNS:
            yield column, column
        elif match := _DIMENSION.fullmatch(name):
            yield match[1], column


def _weight_columns(table: Table) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, column in table.columns.items():
        match = _WEIGHT.fullmatch(name)
        other = table.find(name.replace("1", "2", 1)) if match else None
        if match and other:
            yield OVERALL if match[1] in (None, "preference") else match[1], (column, other)


def _compare(first: float, second: float) -> str:
    if first == second:
        return "tie"
    return "a" if first > second else "b" if second > first else ""


def _known_label(raw: str, unknown: Counter[str]) -> Label | None:
    try:
        return read_label(raw)
    except ValueError:
        unknown[raw] += 1
        return None


def _labels_beside(root: Path) -> dict[str, tuple[str, str]]:
    files = sorted(
        file for file in root.glob("labels.*") if file.suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet")
    )
    if not files:
        return {}
    table = Table(files[0])
    key, label, prompt = table.find(*ID_COLUMNS, "name"), table.find(*LABEL_COLUMNS), table.find(*PROMPT_COLUMNS)
    if key is None or label is None:
        raise BenchmarkError(f"{str(table)!r} needs columns id (the name of the videos) and label (a, b or tie).")
    return {
        Path(text(row.get(key))).stem: (text(row.get(label)), text(row.get(prompt)) if prompt else "")
        for row in table.rows
    }


def _sidecar(video: Path) -> str:
    file = video.with_suffix(".txt")
    return file.read_text(encoding="utf-8-sig").strip() if file.is_file() else ""


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in _VIDEOS and file.is_file()
