"""Trajectories that ``vrm record --states`` wrote: a video and an ``.npz`` per episode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vrm.data.demo_arrays import BAD_NPZ
from vrm.data.demos import DemoError
from vrm.data.recordings import INDEX, Episode, read_episodes
from vrm.data.trajectories import ORIGINAL, STAMP, Trajectories, Trajectory, as_rows
from vrm.video import read_video


class RecordedTrajectories(Trajectories):
    """The episodes of a recording that were kept; one without ``--states`` has no observations.

    Raises:
        DemoError: if ``episodes.jsonl`` is damaged or keeps no episode.
    """

    def __init__(self, path: Path) -> None:
        """Read the list of episodes."""
        super().__init__(path)
        self.episodes: list[Episode] = [e for e in read_episodes(path) if e.file is not None and e.actions is not None]
        if not self.episodes:
            raise DemoError(f"Recording {path} keeps no episode; record again with --all.")

    def __len__(self) -> int:
        """How many episodes were kept."""
        return len(self.episodes)

    def read(self, index: int) -> Trajectory:
        """Read an episode's arrays."""
        episode = self.episodes[index]
        arrays = self._arrays(index)
        rewards = arrays.get("rewards")
        return Trajectory(
            f"{self.path.name}/{episode.file}",
            actions=as_rows(arrays["actions"]),
            observations=as_rows(arrays["observations"]) if "observations" in arrays else None,
            rewards=None if rewards is None else rewards.astype(np.float32),
            terminated=bool(arrays.get("terminated", False)),
            state={"success": np.asarray(episode.success, np.float32)} if episode.success is not None else {},
            simulator={k: arrays[k] for k in ("qpos", "qvel") if k in arrays},
        )

    def frames(self, index: int) -> Tensor:
        """Decode an episode's video."""
        return read_video(self.path / str(self.episodes[index].file))

    def write_copy(self, out: Path, rewards: Sequence[NDArray[np.float32]], stamp: Mapping[str, Any]) -> None:
        """Copy videos and labels, and write the arrays anew."""
        out.mkdir(parents=True)
        for index, (episode, paid) in enumerate(zip(self.episodes, rewards, strict=True)):
            shutil.copy2(self.path / str(episode.file), out / str(episode.file))
            arrays = self._arrays(index)
            if "rewards" in arrays:
                arrays.setdefault(ORIGINAL, arrays["rewards"])
            np.savez_compressed(out / str(episode.actions), **{**arrays, "rewards": paid})  # type: ignore[arg-type]
        shutil.copy2(self.path / INDEX, out / INDEX)
        (out / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")

    def _arrays(self, index: int) -> dict[str, NDArray[Any]]:
        path = self.path / str(self.episodes[index].actions)
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return dict(file)
        except (TypeError, *BAD_NPZ) as error:
            raise DemoError(f"{path} is missing or damaged ({error}).") from error
