"""Trajectories in Minari datasets on local disk (https://minari.farama.org), stored as HDF5."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vrm.data.demo_arrays import is_images
from vrm.data.demos import DemoError
from vrm.data.minari import BAD_MINARI, METADATA, leaves, open_minari
from vrm.data.trajectories import STAMP, Trajectories, Trajectory, as_rows
from vrm.data.trajectory_arrays import replace_rewards
from vrm.frames import from_hwc

MAIN = "main_data.hdf5"


class MinariTrajectories(Trajectories):
    """A Minari dataset; pictures among its observations are frames, numbers are what agents see.

    ``qpos`` and ``qvel`` in its infos, as MuJoCo datasets have them, let frames be rendered where there are none.

    Args:
        data: its ``data`` folder, as :func:`~vrm.data.minari.find_minari` gives it.

    Raises:
        DemoError: if it is not stored as HDF5 or is damaged.
        MissingExtraError: if minari is not installed.
    """

    def __init__(self, data: Path) -> None:
        """Find the episodes."""
        super().__init__(data.parent if data.name == "data" else data)
        self.data = data
        metadata = json.loads((data / METADATA).read_text(encoding="utf-8"))
        if metadata.get("data_format", "hdf5") != "hdf5":
            raise DemoError(
                f'Minari dataset {self.path} is stored as {metadata["data_format"]!r}; only "hdf5" can be relabelled '
                'and learned from: create it with data_format="hdf5".'
            )
        self._dataset, self._where, _ = open_minari(data)
        self._ids = [int(index) for index in self._dataset.episode_indices]
        self._last: tuple[int, Any] | None = None
        if not self._ids:
            raise DemoError(f"{self._where} holds no episodes.")

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self._ids)

    def read(self, index: int) -> Trajectory:
        """Read an episode without pictures."""
        episode, where = self._episode(index)
        try:
            infos = {name.rpartition("/")[2]: np.asarray(v) for name, v in leaves(episode.infos or {})}
            infos = {name: values for name, values in infos.items() if values.dtype.kind in "biuf"}
            numbers = [as_rows(v) for _, v in leaves(episode.observations) if not is_images(v)]
            return Trajectory(
                where,
                np.concatenate([as_rows(v) for _, v in leaves(episode.actions)], axis=1),
                np.concatenate(numbers, axis=1) if numbers else None,
                episode.rewards.astype(np.float32),
                bool(len(episode.terminations) and episode.terminations[-1]),
                {name: values.astype(np.float32) for name, values in infos.items() if values.ndim == 1},
                {name: infos[name].astype(np.float64) for name in ("qpos", "qvel") if name in infos},
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise DemoError(f"{where} is malformed ({error}).") from error

    def frames(self, index: int) -> Tensor | None:
        """Read the pictures of the first camera."""
        episode, _ = self._episode(index)
        frames = next((v for _, v in leaves(episode.observations) if is_images(v)), None)
        return None if frames is None else from_hwc(frames)

    def write_copy(self, out: Path, rewards: Sequence[NDArray[np.float32]], stamp: Mapping[str, Any]) -> None:
        """Copy the dataset and change the rewards in it; ``minari.MinariDataset`` opens the copy."""
        shutil.copytree(self.data, out / "data")
        h5py: Any = import_module("h5py")
        with h5py.File(out / "data" / MAIN, "r+") as file:
            for number, paid in zip(self._ids, rewards, strict=True):
                replace_rewards(file[f"episode_{number}"], paid)
        (out / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")

    def _episode(self, index: int) -> tuple[Any, str]:
        """An episode with its pictures decoded, read once for its numbers and its frames."""
        if self._last is None or self._last[0] != index:
            try:
                self._last = index, next(iter(self._dataset.iterate_episodes([self._ids[index]])))
            except BAD_MINARI as error:
                raise DemoError(f"{self._where} cannot be read ({error}).") from error
        return self._last[1], f"{self._where}, episode {self._ids[index]}"
