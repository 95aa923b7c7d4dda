"""Demonstrations from LeRobot datasets on local disk, in the layouts v2 (one file per episode) and v3 (shared files).

The layouts are those of https://github.com/huggingface/lerobot: ``meta/info.json`` holds path templates, features and
the frame rate; v2 lists episodes in ``meta/episodes.jsonl``; v3 lists them in ``meta/episodes/*/*.parquet`` together
with the file and the time stamps at which each begins and ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrm.data.demo_arrays import pick_camera
from vrm.data.demo_frames import Clip, Reading
from vrm.data.demos import Demo, DemoError
from vrm.data.tables import read_rows
from vrm.frames import from_hwc

LABELS = ("action", "next.success")
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()


def read_lerobot(path: Path, reading: Reading) -> Iterator[Demo]:
    """Read every episode of a dataset: one camera, the task as text, the actions, ``next.success`` if there is one.

    Raises:
        DemoError: if the dataset is of another version, has no camera, or files are missing or malformed.
        DecodeError: if a video is missing or damaged.
        UnknownNameError: if a camera is asked for that is not there.
    """
    dataset = LeRobotDataset(path, reading)
    for row in dataset.episodes():
        yield dataset.read(row)


class LeRobotDataset:
    """One dataset; remembers the video file it read last, which the next episode may share."""

    def __init__(self, root: Path, reading: Reading) -> None:
        """Read what the dataset says of itself."""
        self.root, self.reading = root, reading
        self.info = _read_info(root)
        self.version = str(self.info.get("codebase_version", ""))
        if not self.version.startswith(("v2", "v3")):
            raise DemoError(f"LeRobot dataset {root} has layout {self.version or 'unknown'!r}; v2 and v3 are known.")
        listed = self.info.get("features")
        features = {k: f for k, f in listed.items() if isinstance(f, dict)} if isinstance(listed, dict) else {}
        kinds = {name: str(feature.get("dtype")) for name, feature in features.items()}
        self.cameras = {k: kind for k, kind in kinds.items() if kind in ("video", "image") and not _depth(features[k])}
        if not self.cameras:
            raise DemoError(f"LeRobot dataset {root} has no camera among its features {sorted(kinds)}.")
        self.camera, self.note = pick_camera(self.cameras, reading.camera, str(root))
        self.labels = [name for name in LABELS if name in kinds]
        self.rate = _positive_rate(self.info.get("fps"), root)
        self.tasks = self._tasks()
        self._clip: Clip | None = None

    def episodes(self) -> Iterator[Mapping[str, Any]]:
        """Rows that describe the episodes, in order."""
        meta = self.root / "meta"
        v3 = self.version.startswith("v3")
        files = sorted((meta / "episodes").glob("*/*.parquet")) if v3 else [meta / "episodes.jsonl"]
        rows = [row for file in files for row in _rows(file)]
        if not rows:
            raise DemoError(f"LeRobot dataset {self.root} lists no episodes in {meta}.")
        try:
            yield from sorted(rows, key=lambda row: int(row["episode_index"]))
        except MALFORMED as error:
            raise DemoError(f"{files[0]} is malformed: rows need 'episode_index' ({error!r}).") from error

    def read(self, row: Mapping[str, Any]) -> Demo:
        """Read one episode."""
        where = f"LeRobot dataset {self.root}, episode {row['episode_index']}"
        try:
            total = int(row["length"])
            table = self._table(row, where)
            if total < 1 or table.num_rows != total:
                raise DemoError(f"{where} should have {total} frames, but its table has {table.num_rows} rows.")
            if self.cameras[self.camera] == "video":
                frames, rows = self._from_video(row, total, where)
            else:
                rows = self.reading.even_rows(total, self.rate, where)
                frames = self._from_table(table, rows, where)
            return self.reading.demo(
                frames, f"{self.root.name}/{row['episode_index']}{self.note}", rows, total,
                rate=self.rate, text=self._text(row, table), **_labels(table),
            )  # fmt: skip
        except MALFORMED as error:
            if isinstance(error, DemoError):
                raise
            raise DemoError(f"{where} is malformed ({error!r}).") from error

    def _from_video(self, row: Mapping[str, Any], total: int, where: str) -> tuple[Tensor, list[int]]:
        """Take the frames that are on show at the episode's moments."""
        v3 = self.version.startswith("v3")
        path = self._path("video_path", row, f"videos/{self.camera}/")
        if self._clip is None or self._clip.path != path:
            self._clip = Clip(path)
        start = float(row[f"videos/{self.camera}/from_timestamp"]) if v3 else 0.0
        rows = self.reading.even_rows(total, self.rate, where)
        moments = start + np.array(rows) / self.rate
        end = start + (total - 1) / self.rate

        def choose(times: NDArray[np.float64]) -> list[int]:
            if end > times[-1] + 0.5 / self.rate:
                raise DemoError(f"{where} should last until {end:.3f} s of {path}, which ends at {times[-1]:.3f} s.")
            edges = (times[1:] + times[:-1]) / 2  # a moment belongs to the nearest frame: time stamps are rounded
            return [int(i) for i in np.searchsorted(edges, moments)]

        return self._clip.take(choose, self.reading)[0], rows

    def _from_table(self, table: pa.Table, rows: list[int], where: str) -> Tensor:
        """Decode the pictures that stand in the table itself."""
        cells = table.column(self.camera).to_pylist()
        pictures = []
        for row in rows:
            try:
                with Image.open(BytesIO(cells[row]["bytes"])) as picture:
                    pictures.append(self.reading.shrink(from_hwc(np.asarray(picture.convert("RGB")))[None]))
            except (OSError, *MALFORMED) as error:
                raise DemoError(f"{where}: picture {row} of {self.camera!r} cannot be decoded ({error!r}).") from error
        return torch.cat(pictures)

    def table_path(self, row: Mapping[str, Any]) -> Path:
        """The file with the table of the episode that ``row`` describes."""
        return self._path("data_path", row, "data/")

    def _table(self, row: Mapping[str, Any], where: str) -> pa.Table:
        """Read the episode's rows: labels, task, and pictures if the camera keeps them there."""
        path = self.table_path(row)
        inside = [self.camera] if self.cameras[self.camera] == "image" else []
        try:
            with pq.ParquetFile(path) as file:
                present = set(file.schema_arrow.names)
            columns = [name for name in ("episode_index", *self.labels, "task_index", *inside) if name in present]
            chosen = [("episode_index", "=", int(row["episode_index"]))] if "episode_index" in present else None
            return pq.read_table(path, columns=columns, filters=chosen, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise DemoError(f"{where}: {path} is missing or damaged ({error}).") from error

    def _path(self, template: str, row: Mapping[str, Any], prefix: str) -> Path:
        episode = int(row["episode_index"])
        numbers = {"episode_index": episode, "episode_chunk": episode // int(self.info.get("chunks_size") or 1000)}
        if self.version.startswith("v3"):
            numbers = {name: int(row[f"{prefix}{name}"]) for name in ("chunk_index", "file_index")}
        return self.root / str(self.info[template]).format(video_key=self.camera, **numbers)

    def _text(self, row: Mapping[str, Any], table: pa.Table) -> str | None:
        """The first of the episode's tasks."""
        listed = row.get("tasks")
        if isinstance(listed, list | tuple) and listed:
            return str(listed[0])
        if "task_index" in table.column_names and table.num_rows:
            return self.tasks.get(table.column("task_index")[0].as_py())
        return None

    def _tasks(self) -> dict[int, str]:
        meta = self.root / "meta"
        file = next((f for f in (meta / "tasks.parquet", meta / "tasks.jsonl") if f.is_file()), None)
        rows = _rows(file) if file is not None else []
        # pandas writes the index that holds the sentences under a name of its own
        return {
            int(r["task_index"]): str(r.get("task") or r.get("__index_level_0__")) for r in rows if "task_index" in r
        }


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DemoError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(info, dict):
        raise DemoError(f"{path} must hold one JSON object, got {info!r:.60}.")
    return info


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = list(read_rows(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DemoError(f"{path} is missing or damaged ({error}).") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DemoError(f"{path} must hold one object per row.")
    return rows


def _positive_rate(value: Any, root: Path) -> float:
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return float(value)
    raise DemoError(f"LeRobot dataset {root} needs a positive fps in meta/info.json, got {value!r}.")


def _depth(feature: Mapping[str, Any]) -> bool:
    facts = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(facts.get("is_depth_map") or facts.get("video.is_depth_map"))


def _labels(table: pa.Table) -> dict[str, Any]:
    """Actions and success, where the table has them for every frame."""
    found: dict[str, Any] = {}
    if "action" in table.column_names and table.num_rows:
        actions = np.array(table.column("action").to_pylist())
        found["actions"] = actions if actions.dtype.kind in "iufb" else None
    if "next.success" in table.column_names and table.num_rows:
        last = table.column("next.success")[-1].as_py()
        found["success"] = bool(np.any(last)) if last is not None else None
    return found
