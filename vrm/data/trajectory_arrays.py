"""Trajectories in ``.npz`` and HDF5 files, our own layout and robomimic's."""

from __future__ import annotations

import json
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vrm.data.demo_arrays import BAD_HDF5, BAD_NPZ, check_stack, is_images
from vrm.data.demo_frames import natural
from vrm.data.demos import DemoError
from vrm.data.trajectories import ORIGINAL, Trajectories, Trajectory, as_rows
from vrm.errors import MissingExtraError, VrmError
from vrm.frames import from_hwc

FIELDS = ("frames", "actions", "observations", "rewards", "terminated", "success", "qpos", "qvel", ORIGINAL)


class _Arrays(Trajectories):
    """Episodes that are named arrays: those of ``FIELDS``."""

    @abstractmethod
    def arrays(self, index: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The arrays of an episode that are there among ``names``."""

    def read(self, index: int) -> Trajectory:
        """Read an episode's arrays."""
        where = f"{self.path}, episode {index}"
        found = self.arrays(index, FIELDS[1:])
        try:
            rows = {name: as_rows(found[name]) for name in ("actions", "observations") if name in found}
            rewards = found["rewards"].reshape(-1).astype(np.float32) if "rewards" in found else None
            success = found.get("success")
            state = {"success": success.reshape(-1).astype(np.float32)} if success is not None else {}
            ended = np.asarray(found.get("terminated", False)).reshape(-1)
        except (ValueError, TypeError, IndexError) as error:
            raise DemoError(f"{where} is malformed ({error}).") from error
        return Trajectory(
            where, rows.get("actions"), rows.get("observations"), rewards, bool(ended.size and ended[-1]), state,
            {name: found[name] for name in ("qpos", "qvel") if name in found},
        )  # fmt: skip

    def frames(self, index: int) -> Tensor | None:
        """Read an episode's frames."""
        frames = self.arrays(index, ["frames"]).get("frames")
        if frames is None:
            return None
        check_stack(frames, f"{self.path}, episode {index}")
        return from_hwc(frames)


class NpzTrajectories(_Arrays):
    """One ``.npz`` file.

    Arrays of one episode: ``frames`` ``(T + 1, H, W, 3)`` uint8, ``actions`` ``(T, A)``, ``observations``
    ``(T + 1, D)``, ``rewards`` ``(T,)``, ``terminated`` (one value), ``success`` ``(T + 1,)``, ``qpos``, ``qvel``; all
    with a leading axis of N for N episodes. What is missing cannot be asked for.

    Raises:
        DemoError: if the file is damaged, or its arrays differ in the number of episodes.
    """

    def __init__(self, path: Path) -> None:
        """Read the file."""
        super().__init__(path)
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                self._all = dict(file)
        except (TypeError, AttributeError, *BAD_NPZ) as error:
            raise DemoError(f"{path} cannot be read as .npz ({error}).") from error
        frames, rewards = self._all.get("frames"), self._all.get("rewards")
        self._many = (frames is not None and frames.ndim == 5) or (rewards is not None and rewards.ndim == 2)
        if frames is None and "actions" not in self._all:
            raise DemoError(f"{path} has neither frames nor actions; it holds {sorted(self._all) or 'nothing'}.")
        self._count = len(self._all["frames" if frames is not None else "actions"]) if self._many else 1
        for name in FIELDS:
            if self._many and name in self._all and self._all[name].shape[:1] != (self._count,):
                raise DemoError(f"{path}: {name} must have one row for each of the {self._count} episodes.")

    def __len__(self) -> int:
        """How many episodes are in the file."""
        return self._count

    def arrays(self, index: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Some arrays of an episode."""
        return {name: self._all[name][index] if self._many else self._all[name] for name in names if name in self._all}

    def write_copy(self, out: Path, rewards: Sequence[NDArray[np.float32]], stamp: Mapping[str, Any]) -> None:
        """Write all arrays again with other rewards."""
        arrays = dict(self._all)
        if "rewards" in arrays:
            arrays.setdefault(ORIGINAL, arrays["rewards"])
        arrays["rewards"] = np.stack(rewards) if self._many else rewards[0]
        with out.open("wb") as file:
            np.savez_compressed(file, **{**arrays, "relabel": np.array(json.dumps(stamp))})


class Hdf5Trajectories(_Arrays):
    """One HDF5 file: groups at the root or inside ``data``, or the root itself, with the arrays of an ``.npz``.

    In robomimic's layout images and vectors lie in ``obs`` ``(T, …)``; ``next_obs``, where there is one, gives the last
    of ``T + 1``, else the last is repeated. Vectors in it are joined in the order of their names.

    Raises:
        DemoError: if the file is damaged or holds no episodes.
        MissingExtraError: if h5py is not installed.
    """

    def __init__(self, path: Path) -> None:
        """Find the groups."""
        super().__init__(path)
        try:
            h5py: Any = import_module("h5py")
        except ImportError as error:
            raise MissingExtraError("h5py", "data", "Reading HDF5 datasets") from error
        self._h5py = h5py
        with self._open() as file:
            top = file["data"] if isinstance(file.get("data"), h5py.Group) else file
            groups = [top[key] for key in sorted(top, key=natural) if isinstance(top[key], h5py.Group)]
            self._groups = [file.name] if "actions" in file else [group.name for group in groups]
        if not self._groups:
            raise DemoError(f"{path} holds neither 'actions' nor groups of episodes.")

    def __len__(self) -> int:
        """How many episodes are in the file."""
        return len(self._groups)

    def arrays(self, index: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Some arrays of an episode."""
        with self._open() as file:
            group = file[self._groups[index]]
            found = {name: group[name][()] for name in names if isinstance(group.get(name), self._h5py.Dataset)}
            if isinstance(group.get("obs"), self._h5py.Group):
                for name, wanted in (("frames", True), ("observations", False)):
                    if name in names and name not in found and (values := _robomimic(group, wanted)) is not None:
                        found[name] = values
            for name in set(names) & {"terminated"} - set(found):
                if "dones" in group:  # robomimic marks ends of success and of recording alike
                    found[name] = np.array(False)
            return found

    def write_copy(self, out: Path, rewards: Sequence[NDArray[np.float32]], stamp: Mapping[str, Any]) -> None:
        """Copy the file and change the rewards in it."""
        shutil.copyfile(self.path, out)
        with self._h5py.File(out, "r+") as file:
            for name, paid in zip(self._groups, rewards, strict=True):
                replace_rewards(file[name], paid)
            file.attrs["relabel"] = json.dumps(stamp)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self._h5py.File(self.path, "r") as file:
                yield file
        except VrmError:
            raise
        except BAD_HDF5 as error:
            raise DemoError(f"{self.path} cannot be read as HDF5 ({error}).") from error


def replace_rewards(group: Any, paid: NDArray[np.float32]) -> None:
    """Write ``rewards`` of an HDF5 group anew and keep the first ones it had as ``env_rewards``."""
    if "rewards" in group:
        if ORIGINAL not in group:
            group.move("rewards", ORIGINAL)
        else:
            del group["rewards"]
    group.create_dataset("rewards", data=paid)


def _robomimic(group: Any, pictures: bool) -> NDArray[Any] | None:
    """One array ``(T + 1, …)`` of what ``obs`` holds ``(T, …)``: the first camera, or all vectors side by side."""
    names = [key for key in sorted(group["obs"], key=natural) if is_images(group["obs"][key]) == pictures]
    if not names:
        return None

    def whole(name: str) -> NDArray[Any]:
        values = group["obs"][name][()]
        after = group.get(f"next_obs/{name}")
        last = values[-1:] if after is None else after[-1:]
        return np.concatenate([values, last])

    if pictures:
        return whole(names[0])
    return np.concatenate([as_rows(whole(name)) for name in names], axis=1)
