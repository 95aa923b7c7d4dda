"""Datasets for offline learning: episodes with actions, observations and rewards, and frames to score them by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.data.demos import DemoError

ORIGINAL = "env_rewards"  # where the rewards go that a dataset had before it was relabelled
STAMP = "relabel.json"


@dataclass(frozen=True)
class Trajectory:
    """One episode without its frames.

    Attributes:
        name: of the episode, for messages.
        actions: ``(T, A)`` float32, or None if the dataset has none.
        observations: ``(T + 1, D)`` float32 from the first one on, or None.
        rewards: ``(T,)`` float32, or None.
        terminated: whether it ended by its own rule, not by a time limit.
        state: further values ``(T + 1,)`` of each frame by name, such as ``"success"``.
        simulator: ``qpos`` and ``qvel`` ``(T + 1, …)``, where the dataset has them.
    """

    name: str
    actions: NDArray[np.float32] | None = None
    observations: NDArray[np.float32] | None = None
    rewards: NDArray[np.float32] | None = None
    terminated: bool = False
    state: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    simulator: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class Transitions:
    """Steps of all episodes, one after the other.

    Attributes:
        observations: ``(M, D)`` float32.
        actions: ``(M, A)`` float32.
        rewards: ``(M,)`` float32.
        next_observations: ``(M, D)`` float32.
        terminated: ``(M,)`` bool; time limits do not count.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor


class Trajectories(ABC):
    """A dataset on local disk, of one of the formats that :func:`open_trajectories` knows.

    Args:
        path: its file or folder.
    """

    def __init__(self, path: Path) -> None:
        """Name the place."""
        self.path = path

    @abstractmethod
    def __len__(self) -> int:
        """How many episodes there are."""

    @abstractmethod
    def read(self, index: int) -> Trajectory:
        """Read one episode.

        Raises:
            DemoError: if it is damaged.
        """

    @abstractmethod
    def frames(self, index: int) -> Tensor | None:
        """Frames ``(T + 1, 3, H, W)`` uint8 of one episode; None if the dataset has no pictures.

        Raises:
            DemoError: if they are damaged.
        """

    @abstractmethod
    def write_copy(self, out: Path, rewards: Sequence[NDArray[np.float32]], stamp: Mapping[str, Any]) -> None:
        """Write a copy at ``out`` with other rewards ``(T,)`` per episode.

        Args:
            out: does not exist yet; whoever calls moves it to its place when all is written.
            rewards: of each episode; the former ones are kept beside them.
            stamp: JSON values that say where the rewards are from.
        """

    def transitions(self) -> Transitions:
        """Read what agents learn from.

        Raises:
            DemoError: if an episode lacks observations, actions or rewards, or holds values that are not finite.
        """
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in Transitions.__annotations__}
        for index in range(len(self)):
            found = self.read(index)
            needed = {"observations": found.observations, "actions": found.actions, "rewards": found.rewards}
            missing = [name for name, values in needed.items() if values is None]
            if missing:
                raise DemoError(
                    f"{found.name} has no {' and no '.join(missing)}, which agents learn from; record with "
                    "`vrm record RUN --states`, and `vrm relabel` pays rewards."
                )
            assert found.observations is not None
            assert found.actions is not None
            assert found.rewards is not None
            steps = len(found.actions)
            _check_lengths(found, steps)
            parts["observations"].append(found.observations[:-1])
            parts["next_observations"].append(found.observations[1:])
            parts["actions"].append(found.actions.reshape(steps, -1))
            parts["rewards"].append(found.rewards)
            parts["terminated"].append(np.arange(steps) == steps - 1 if found.terminated else np.zeros(steps, bool))
        if not parts["actions"]:
            raise DemoError(f"{self.path} holds no episodes.")
        columns = {name: torch.from_numpy(np.concatenate(values)) for name, values in parts.items()}
        return Transitions(**{k: v if v.dtype == torch.bool else v.float() for k, v in columns.items()})


def open_trajectories(source: str | Path) -> Trajectories:
    """Open a dataset; nothing in it is executed.

    Args:
        source: a folder that ``vrm record`` wrote; an ``.npz`` or HDF5 file, see
            :class:`~vrm.data.trajectory_arrays.NpzTrajectories` and
            :class:`~vrm.data.trajectory_arrays.Hdf5Trajectories`; a Minari dataset, its folder or its id; or a LeRobot
            dataset (v2 or v3).

    Raises:
        DemoError: if it is none of these.
        MissingExtraError: if a format needs an optional package.
    """
    from vrm.data.demo_arrays import HDF5
    from vrm.data.lerobot import is_lerobot
    from vrm.data.minari import find_minari
    from vrm.data.recordings import is_recording
    from vrm.data.trajectory_arrays import Hdf5Trajectories, NpzTrajectories
    from vrm.data.trajectory_lerobot import LeRobotTrajectories
    from vrm.data.trajectory_minari import MinariTrajectories
    from vrm.data.trajectory_recording import RecordedTrajectories

    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".npz":
        return NpzTrajectories(path)
    if path.is_file() and path.suffix.lower() in HDF5:
        return Hdf5Trajectories(path)
    if (minari := find_minari(source)) is not None:
        return MinariTrajectories(minari)
    if is_recording(path):
        return RecordedTrajectories(path)
    if is_lerobot(path):
        return LeRobotTrajectories(path)
    raise DemoError(
        f"{str(source)!r} is no dataset: it must be a folder of `vrm record`, a Minari or LeRobot dataset on local "
        "disk, an .npz or an HDF5 file."
    )


def as_rows(values: Any) -> NDArray[np.float32]:
    """Numbers ``(T, …)`` as float32 ``(T, D)``.

    Raises:
        ValueError: if they are no numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim < 1:
        raise ValueError(f"expected numbers, got {array.dtype} with shape {array.shape}")
    return array.reshape(len(array), -1).astype(np.float32)


def _check_lengths(found: Trajectory, steps: int) -> None:
    for name, extra in (("observations", 1), ("rewards", 0)):
        values = getattr(found, name)
        if len(values) != steps + extra:
            raise DemoError(f"{found.name} has {steps} actions, so it needs {steps + extra} {name}, not {len(values)}.")
        if not np.isfinite(values).all():
            raise DemoError(f"{found.name} holds NaN or infinity among its {name}; repair or remove it.")
