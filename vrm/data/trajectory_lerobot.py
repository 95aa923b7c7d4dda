"""Trajectories in LeRobot datasets on local disk, layouts v2 and v3."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.data.demo_frames import Reading
from vrm.data.demos import DemoError
from vrm.data.lerobot import LeRobotDataset
from vrm.data.trajectories import ORIGINAL, STAMP, Trajectories, Trajectory, as_rows

REWARD, KEPT = "next.reward", f"next.{ORIGINAL}"
STATE = "observation.state"
MALFORMED = (KeyError, ValueError, TypeError, IndexError, AttributeError)


class LeRobotTrajectories(Trajectories):
    """A LeRobot dataset: the first camera, ``observation.state``, ``action``, ``next.reward`` and ``next.success``.

    A row holds what is seen before its action, so the last action leads to a frame that is not there: the last frame
    and state stand for it. ``next.success`` is of the frame that follows.

    Raises:
        DemoError: if the dataset is malformed.
    """

    def __init__(self, path: Path) -> None:
        """Read the list of episodes."""
        super().__init__(path)
        self._dataset = LeRobotDataset(path, Reading())
        self._rows = list(self._dataset.episodes())

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self._rows)

    def read(self, index: int) -> Trajectory:
        """Read an episode's columns."""
        row = self._rows[index]
        where = f"LeRobot dataset {self.path}, episode {row['episode_index']}"
        try:
            table = self._episode(row)
            columns = {
                name: np.array(table.column(name).to_pylist())
                for name in (STATE, "action", REWARD, "next.success")
                if name in table.column_names
            }
            success = columns.get("next.success")
            state = {} if success is None else {"success": np.append(np.float32(0), success.astype(np.float32))}
            rewards = columns[REWARD].reshape(-1).astype(np.float32) if REWARD in columns else None
            observations = _extended(as_rows(columns[STATE])) if STATE in columns else None
            actions = as_rows(columns["action"]) if "action" in columns else None
        except (*MALFORMED, OSError, pa.ArrowException) as error:
            if isinstance(error, DemoError):
                raise
            raise DemoError(f"{where} is malformed ({error!r}).") from error
        ended = success is not None and bool(success.reshape(-1)[-1])
        return Trajectory(where, actions, observations, rewards, ended, state)

    def frames(self, index: int) -> Tensor:
        """Read the first camera, its last frame twice."""
        frames = self._dataset.read(self._rows[index]).frames
        return torch.cat([frames, frames[-1:]])

    def write_copy(self, out: Path, rewards: Sequence[NDArray[np.float32]], stamp: Mapping[str, Any]) -> None:
        """Copy the dataset and write ``next.reward`` of its tables anew, with the former under ``next.env_rewards``."""
        shutil.copytree(self.path, out)
        paid: dict[Path, dict[int, NDArray[np.float32]]] = defaultdict(dict)
        for row, values in zip(self._rows, rewards, strict=True):
            file = self._dataset.table_path(row).relative_to(self.path)
            paid[file][int(row["episode_index"])] = values
        for file, episodes in paid.items():
            _rewrite(out / file, episodes)
        info = json.loads((out / "meta" / "info.json").read_text(encoding="utf-8"))
        scalar = {"dtype": "float32", "shape": [1], "names": None}
        if REWARD in info["features"]:
            info["features"].setdefault(KEPT, info["features"][REWARD])
        info["features"][REWARD] = scalar
        (out / "meta" / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
        _forget_statistics(out / "meta")
        (out / "meta" / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")

    def _episode(self, row: Mapping[str, Any]) -> pa.Table:
        path = self._dataset.table_path(row)
        names = pq.read_schema(path).names
        wanted = [name for name in (STATE, "action", REWARD, "next.success") if name in names]
        number = int(row["episode_index"])
        chosen = [("episode_index", "=", number)] if "episode_index" in names else None
        return pq.read_table(path, columns=wanted, filters=chosen, partitioning=None)


def _extended(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([values, values[-1:]])


def _rewrite(path: Path, episodes: Mapping[int, NDArray[np.float32]]) -> None:
    table = pq.read_table(path, partitioning=None)
    if "episode_index" in table.column_names:
        owner = table.column("episode_index").to_numpy()
    else:
        owner = np.full(table.num_rows, next(iter(episodes)))
    column = np.zeros(table.num_rows, np.float32)
    for number, values in episodes.items():
        column[owner == number] = values
    if REWARD in table.column_names:
        if KEPT not in table.column_names:
            table = table.append_column(KEPT, table.column(REWARD))
        table = table.drop_columns([REWARD])
    table = table.append_column(REWARD, pa.array(column))
    pq.write_table(table.replace_schema_metadata(_described(table)), path)


def _described(table: pa.Table) -> dict[bytes, bytes] | None:
    """The table's metadata, where ``datasets`` looks up its columns, with the new ones in it."""
    metadata: dict[bytes, bytes] = dict(table.schema.metadata or {})
    metadata.pop(b"pandas", None)
    if b"huggingface" in metadata:
        described = json.loads(metadata[b"huggingface"])
        features = described.get("info", {}).get("features", {})
        features |= {
            name: {"dtype": "float32", "_type": "Value"} for name in (REWARD, KEPT) if name in table.schema.names
        }
        metadata[b"huggingface"] = json.dumps(described).encode()
    return metadata or None


def _forget_statistics(meta: Path) -> None:
    """Drop statistics of the former rewards."""
    for path in (meta / "episodes").glob("*/*.parquet"):
        table = pq.read_table(path, partitioning=None)
        stale = [name for name in table.column_names if name.startswith(f"stats/{REWARD}/")]
        if stale:
            pq.write_table(table.drop_columns(stale), path)
    for path in (meta / "stats.json", meta / "episodes_stats.jsonl"):
        if not path.is_file():
            continue
        lines = [json.loads(line) for line in _json_lines(path)]
        for line in lines:
            line.get("stats", line).pop(REWARD, None)
        indent = 4 if path.suffix == ".json" else None
        path.write_text("\n".join(json.dumps(line, indent=indent) for line in lines), encoding="utf-8")


def _json_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [text] if path.suffix == ".json" else [line for line in text.splitlines() if line.strip()]
