"""Demonstrations from Minari datasets on local disk (https://minari.farama.org)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vrm.data.demo_arrays import BAD_HDF5, is_images, pick_camera
from vrm.data.demo_frames import Reading
from vrm.data.demos import Demo, DemoError
from vrm.errors import MissingExtraError, VrmError

METADATA = "metadata.json"
BAD_MINARI = (*BAD_HDF5, AssertionError, ImportError)


def find_minari(source: str | Path) -> Path | None:
    """Find the data folder of a Minari dataset.

    Args:
        source: its folder, the ``data`` folder in it, or an id such as ``"door/human-v2"`` under
            ``$MINARI_DATASETS_PATH`` or ``~/.minari/datasets``.

    Returns:
        The folder with its metadata, or None if there is no such dataset.
    """
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    folder = Path(source) if Path(source).exists() else root / source
    return next((data for data in (folder / "data", folder) if _is_metadata(data / METADATA)), None)


def read_minari(data: Path, reading: Reading) -> Iterator[Demo]:
    """Read every episode: its images, its actions if they are one array, and ``infos["success"]`` if there is one.

    Images are uint8 ``(T, H, W, 3)`` observations, at the root or anywhere in a dictionary. The dataset does not say
    its frame rate.

    Args:
        data: what :func:`find_minari` gave.
        reading: how.

    Raises:
        DemoError: if the dataset is damaged or has no images.
        UnknownNameError: if a camera is asked for that is not there.
        MissingExtraError: if minari is not installed.
    """
    dataset, where, name = open_minari(data)
    try:
        episodes = iter(dataset)
        while (episode := next(episodes, None)) is not None:
            yield _read_episode(episode, f"{where}, episode {episode.id}", f"{name}/{episode.id}", reading)
    except VrmError:
        raise
    except BAD_MINARI as error:
        raise DemoError(f"{where} cannot be read ({error or type(error).__name__}).") from error


def open_minari(data: Path) -> tuple[Any, str, str]:
    """Open a dataset; no environment is built.

    Args:
        data: what :func:`find_minari` gave.

    Returns:
        The ``MinariDataset``, where it is for messages, and its name.

    Raises:
        DemoError: if it is damaged.
        MissingExtraError: if minari is not installed.
    """
    where = f"Minari dataset {data.parent if data.name == 'data' else data}"
    try:
        dataset_class: Any = import_module("minari").MinariDataset
    except ImportError as error:
        raise MissingExtraError("minari", "data", "Reading Minari datasets") from error
    # Without recorded spaces Minari would import and build whatever environment the metadata name.
    metadata = json.loads((data / METADATA).read_text(encoding="utf-8"))
    if not {"observation_space", "action_space"} <= metadata.keys():
        raise DemoError(f"{where} does not record its spaces; write it again with a current Minari.")
    name = str(metadata.get("dataset_id", data.parent.name))
    try:
        return dataset_class(data), where, name
    except BAD_MINARI as error:
        raise DemoError(f"{where} cannot be read ({error or type(error).__name__}).") from error


def _read_episode(episode: Any, where: str, name: str, reading: Reading) -> Demo:
    observations = dict(leaves(episode.observations))
    cameras = [key for key, values in observations.items() if is_images(values)]
    if not cameras:
        held = ", ".join(f"{key or 'array'} {np.shape(values)}" for key, values in observations.items())
        raise DemoError(
            f"{where} has no image observations (it holds {held:.200}); collect it with "
            "gymnasium.wrappers.AddRenderObservation around the environment, or record videos with `vrm record`."
        )
    camera, note = pick_camera(cameras, reading.camera, where)
    frames = observations[camera]
    rows = reading.even_rows(len(frames), None, where)
    return reading.demo(
        reading.stack(frames, rows), name + note, rows, len(frames),
        success=_success(episode.infos), actions=episode.actions if isinstance(episode.actions, np.ndarray) else None,
    )  # fmt: skip


def leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested observations, naming each array by its path."""
    if isinstance(values, Mapping):
        members: Sequence[tuple[Any, Any]] = list(values.items())
    elif isinstance(values, tuple):
        members = list(enumerate(values))
    else:
        yield name, values
        return
    for key, value in members:
        yield from leaves(value, f"{name}/{key}" if name else str(key))


def _success(infos: Any) -> bool | None:
    values = np.asarray(infos.get("success", ())) if isinstance(infos, Mapping) else np.empty(0)
    return bool(values.reshape(-1)[-1]) if values.size and values.dtype.kind in "biuf" else None


def _is_metadata(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "minari_version" in found
