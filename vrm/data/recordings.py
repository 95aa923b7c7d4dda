"""The folder that ``vrm record`` writes: videos of episodes and ``episodes.jsonl``, which says what is in each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from vrm.data.demo_arrays import BAD_NPZ
from vrm.data.demo_frames import Clip, Reading
from vrm.data.demos import Demo, DemoError

INDEX = "episodes.jsonl"
_TEXT, _LABELS = (str, NoneType), (list, NoneType)
_KINDS: dict[str, Any] = {
    "seed": int, "done": bool, "success_rate": (int, float), "file": _TEXT, "actions": _TEXT, "success": _LABELS,
    "stages": _LABELS, "fps": (int, float), "text": str, "task": str, "policy": str, "size": int, "quality": str,
}  # fmt: skip


@dataclass(frozen=True)
class Episode:
    """One played episode of a recording; one line of ``episodes.jsonl``.

    Attributes:
        seed: of the environment.
        done: whether the task's criterion holds for long enough.
        success_rate: share of the last fifth of the steps in which the criterion holds.
        file: name of the video, ``(T + 1)`` frames from reset on; None if the episode was not kept.
        actions: name of the ``.npz`` with ``actions`` ``(T, A)``; None if not kept.
        success: whether the criterion holds in each frame, 0 or 1.
        stages: the true step of each frame, if the environment says it.
        fps: frames per second of the video.
        text: the task's goal.
        task: the task's name.
        policy: who played.
        size: height and width of the frames in pixels.
        quality: of rendering.
    """

    seed: int
    done: bool
    success_rate: float
    file: str | None
    actions: str | None
    success: list[int] | None
    stages: list[int] | None
    fps: float
    text: str
    task: str
    policy: str
    size: int
    quality: str


def is_recording(path: Path) -> bool:
    """Whether a folder was written by ``vrm record``."""
    return (path / INDEX).is_file()


def read_episodes(path: Path) -> list[Episode]:
    """All episodes that were played, kept or not; none if there is no recording yet.

    Raises:
        DemoError: if ``episodes.jsonl`` is malformed.
    """
    index = path / INDEX
    if not index.is_file():
        return []
    try:
        rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [_episode(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DemoError(f"{index} is not what `vrm record` writes, or is damaged ({error!r}).") from error


def write_episodes(path: Path, episodes: list[Episode]) -> None:
    """Write ``episodes.jsonl``, whole or not at all."""
    path.mkdir(parents=True, exist_ok=True)
    partial = path / f".{INDEX}.{os.getpid()}.partial"
    try:
        partial.write_text("".join(json.dumps(asdict(episode)) + "\n" for episode in episodes), encoding="utf-8")
        os.replace(partial, path / INDEX)
    finally:
        partial.unlink(missing_ok=True)


def read_recording(path: Path, reading: Reading) -> Iterator[Demo]:
    """Read the episodes that were kept.

    Raises:
        DemoError: if there are none, or files do not fit together.
        DecodeError: if a video is missing or damaged.
    """
    kept = [episode for episode in read_episodes(path) if episode.file is not None]
    if not kept:
        raise DemoError(f"Recording {path} keeps no episode; record again with more tries, or keep all of them.")
    for episode in kept:
        yield _read_episode(path, episode, reading)


def _read_episode(path: Path, episode: Episode, reading: Reading) -> Demo:
    file = path / str(episode.file)
    clip = Clip(file)
    total = len(clip.times)
    if episode.success is not None and len(episode.success) != total:
        raise DemoError(f"{file} holds {total} frames, but {path / INDEX} describes {len(episode.success)}.")
    frames, rows = clip.take(lambda times: reading.even_rows(len(times), episode.fps, str(file)), reading)
    return reading.demo(
        frames, f"{path.name}/{file.stem}", rows, total,
        rate=episode.fps, text=episode.text, success=episode.done, stages=episode.stages,
        actions=_read_actions(path / episode.actions) if episode.actions is not None else None,
    )  # fmt: skip


def _read_actions(path: Path) -> Any:
    try:
        with path.open("rb") as opened:  # numpy leaves the file open where it gives up
            return np.load(opened, allow_pickle=False)["actions"]
    except BAD_NPZ as error:
        raise DemoError(f"{path} is missing or damaged ({error}).") from error


def _episode(row: Mapping[str, Any]) -> Episode:
    values = {field.name: row[field.name] for field in fields(Episode)}
    for name, kind in _KINDS.items():
        if not isinstance(values[name], kind) or (isinstance(values[name], bool) and kind is not bool):
            raise TypeError(f"{name} must not be {values[name]!r:.40}")
    if not (math.isfinite(values["fps"]) and values["fps"] > 0):
        raise ValueError(f"fps must be above 0, got {values['fps']}")
    for name in ("file", "actions"):
        if values[name] is not None and Path(values[name]).name != values[name]:
            raise ValueError(f"{name} must be a name in the same folder, got {values[name]!r}")
    return Episode(**values)
