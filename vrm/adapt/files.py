"""Folders of pictures with a table of captions or of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vrm.adapt.data import AdaptError, CaptionedFiles, Labelled
from vrm.data.tables import SUFFIXES, Places, Table, text
from vrm.encoders import Preprocess
from vrm.frames import from_hwc

FILE_COLUMNS = ("file", "image", "frame", "path", "file_name", "filename", "filepath")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt")
LABEL_COLUMNS = ("label", "good", "success")
GOAL_COLUMNS = ("goal", "prompt", "sentence")
GROUP_COLUMNS = ("episode", "group", "video")
GOOD, BAD = ("good", "1", "1.0", "true", "yes", "success"), ("bad", "0", "0.0", "false", "no", "failure")


def read_captions(path: Path, preprocess: Preprocess) -> CaptionedFiles:
    """Read pictures and their captions.

    Args:
        path: a table with a row for every caption (columns ``file`` and ``caption``, and ``episode`` if frames of one
            belong together), or a folder that holds it as ``captions.csv`` or ``captions.jsonl``. In json a row may
            list several captions. Files are named relative to the table.
        preprocess: frames are resized for this.

    Raises:
        AdaptError: if a column, a caption or a picture is missing or cannot be read.
    """
    table = _table(path, "captions")
    place: dict[str, str] = {}
    rows: dict[str, list[str]] = {}
    file, caption, group = _columns(table, FILE_COLUMNS, CAPTION_COLUMNS)
    for number, row in enumerate(table.rows, 1):
        cell = row.get(caption)
        texts = [text(item) for item in (cell if isinstance(cell, list) else [cell])]
        if not texts or not all(texts):
            raise AdaptError(f"Row {number} of {str(table)!r} has no caption; write one or leave the row out.")
        name = _name(row, file, number, table)
        rows.setdefault(name, []).extend(texts)
        place[name] = _group(row, group, name)
    frames = read_pictures(list(rows), table.paths[0].parent, preprocess)
    return CaptionedFiles(str(path), frames, list(place.values()), list(rows.values()))


def read_labels(path: Path, goal: str | None, preprocess: Preprocess) -> Labelled:
    """Read pictures labelled good or bad.

    Args:
        path: a table with the columns ``file`` and ``label`` (good or bad, 1 or 0, true or false, yes or no), and, if
            there are several goals, ``goal``; ``episode`` if frames of one belong together.
        goal: the sentence that the labels are about, where the table has no column for it.
        preprocess: frames are resized for this.

    Raises:
        AdaptError: if a column, a label, the goal or a picture is missing or cannot be read.
    """
    table = _table(path, "labels")
    place: dict[str, str] = {}
    file, label, group = _columns(table, FILE_COLUMNS, LABEL_COLUMNS)
    about = table.find(*GOAL_COLUMNS) if goal is None else None
    if goal is None and about is None:
        raise AdaptError(f"{str(table)!r} has no column 'goal'; say what the labels are about with --goal SENTENCE.")
    found: dict[tuple[str, str], float] = {}
    for number, row in enumerate(table.rows, 1):
        name, sentence = _name(row, file, number, table), goal or text(row.get(about or ""))
        word = text(row.get(label)).lower()
        if word not in GOOD + BAD or not sentence:
            problem = f"label {word!r}, which is neither good nor bad" if sentence else "no goal"
            raise AdaptError(f"Row {number} of {str(table)!r} has {problem}; write good or bad (1 or 0), and for what.")
        value = float(word in GOOD)
        if found.setdefault((name, sentence), value) != value:
            raise AdaptError(f"{str(table)!r} calls {name!r} both good and bad for {sentence!r}; remove one row.")
        place[name] = _group(row, group, name)
    goals = dict.fromkeys(sentence for _, sentence in found)
    labels = {g: np.array([found.get((name, g), np.nan) for name in place], np.float32) for g in goals}
    frames = read_pictures(list(place), table.paths[0].parent, preprocess)
    return Labelled(str(path), frames, list(place.values()), labels)


def read_pictures(names: Sequence[str], folder: Path, preprocess: Preprocess) -> Tensor:
    """Read pictures below ``folder``, resized and cropped for an encoder: ``(N, 3, S, S)`` uint8.

    Raises:
        AdaptError: if one is missing or no picture.
    """
    places, frames = Places(folder), []
    for name in tqdm(names, desc=f"read {folder.name}", unit="picture", leave=False):
        path = places.locate(name)
        try:
            with Image.open(path) as picture:
                pixels = np.array(picture.convert("RGB"))
        except FileNotFoundError as error:
            raise AdaptError(f"Picture {path!r} does not exist; name files relative to their table.") from error
        except (OSError, Image.DecompressionBombError) as error:
            raise AdaptError(f"Picture {path!r} cannot be read ({error}); replace it or leave it out.") from error
        frames.append(preprocess.fit(from_hwc(pixels)[None])[0])
    return torch.stack(frames)


def _table(path: Path, stem: str) -> Table:
    if path.is_dir():
        found = [path / f"{stem}{suffix}" for suffix in SUFFIXES if (path / f"{stem}{suffix}").is_file()]
        if not found:
            raise AdaptError(f"Folder {str(path)!r} holds no {stem}.csv or {stem}.jsonl; write one or name the file.")
        path = found[0]
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        raise AdaptError(f"{str(path)!r} is no table of {stem}; give a {', '.join(SUFFIXES)} file that exists.")
    table = Table(path)
    if not table.rows:
        raise AdaptError(f"{str(path)!r} has no rows; it needs one for every frame.")
    return table


def _columns(table: Table, *wanted: Sequence[str]) -> tuple[str, str, str | None]:
    """Find the two wanted columns, and that of the episodes if there is one."""
    file, other = (table.find(*names) for names in wanted)
    if file is None or other is None:
        missing = wanted[0 if file is None else 1][0]
        raise AdaptError(f"{str(table)!r} has no column {missing!r} but {sorted(table.columns)}; name it so.")
    return file, other, table.find(*GROUP_COLUMNS)


def _name(row: Mapping[str, Any], column: str, number: int, table: Table) -> str:
    name = text(row.get(column))
    if not name:
        raise AdaptError(f"Row {number} of {str(table)!r} names no file; write one or leave the row out.")
    return name


def _group(row: Mapping[str, Any], column: str | None, name: str) -> str:
    return text(row.get(column)) or name if column else name
