"""A run's folder: what was asked, what was measured, and checkpoints that a killed run continues from."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr

from vrm.errors import CheckpointError

BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@runtime_checkable
class WritesItself(Protocol):
    """An agent of another library than Stable-Baselines3 that knows what its checkpoint holds."""

    num_timesteps: int

    def write_checkpoint(self, folder: Path) -> None:
        """Write all that training needs to continue into an empty folder."""

    def read_checkpoint(self, folder: Path, with_buffer: bool = True) -> None:
        """Read what :meth:`write_checkpoint` wrote, ``num_timesteps`` included."""


class RunFolder:
    """Paths and files of one training run; everything is written atomically.

    Holds ``config.yaml``, ``reward.safetensors``, ``evaluations.csv``, ``checkpoints/``, ``logs/`` (TensorBoard and
    CSV), ``videos/`` and pictures. Checkpoints are plain tensors, arrays and JSON, never pickled objects.
    """

    def __init__(self, path: str | Path) -> None:
        """Name a folder, existing or not."""
        self.path = Path(path)
        self.reward_file = self.path / "reward.safetensors"
        self.videos = self.path / "videos"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration.

        Raises:
            CheckpointError: if the folder is not a run.
        """
        path = self.path / "config.yaml"
        if not path.is_file():
            raise CheckpointError(f"{str(self.path)!r} is not a run of vrm: it has no config.yaml.")
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        return config

    def log_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row to ``evaluations.csv``."""
        rows = [*self.evaluations(), {"step": step, **{k: round(v, 5) for k, v in values.items()}}]
        self._write_rows(rows)

    def evaluations(self) -> list[dict[str, Any]]:
        """All rows of ``evaluations.csv``, oldest first."""
        path = self.path / "evaluations.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]

    def forget_after(self, step: int) -> None:
        """Drop evaluations newer than the checkpoint a run continues from; they are measured again."""
        rows = [row for row in self.evaluations() if row["step"] <= step]
        if rows:
            self._write_rows(rows)

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        names = list(rows[0])
        lines = [
            ",".join(names),
            *(",".join(f"{row[n]:g}" if n != "step" else f"{int(row[n])}" for n in names) for row in rows),
        ]
        write_atomically(self.path / "evaluations.csv", "\n".join(lines) + "\n")

    def save_checkpoint(self, algo: BaseAlgorithm | WritesItself, keep: int = 2) -> Path:
        """Write weights, optimisers, replay buffer and counters; older checkpoints beyond ``keep`` are removed."""
        target = self._checkpoints / f"{algo.num_timesteps:09d}"
        partial = self._checkpoints / f".{target.name}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if isinstance(algo, WritesItself):
            algo.write_checkpoint(partial)
        else:
            write_algorithm(algo, partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return target

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in self._checkpoints.glob("[0-9]*") if p.is_dir())

    def load_checkpoint(self, algo: BaseAlgorithm | WritesItself, with_buffer: bool = True) -> int:
        """Load the newest checkpoint into ``algo`` and return its step.

        Raises:
            CheckpointError: if there is none, or it is damaged or of another algorithm.
        """
        found = self.checkpoints()
        if not found:
            raise CheckpointError(f"Run {str(self.path)!r} has no checkpoint yet; train it again without --resume.")
        try:
            if isinstance(algo, WritesItself):
                algo.read_checkpoint(found[-1], with_buffer)
            else:
                read_algorithm(algo, found[-1], with_buffer)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"Checkpoint {str(found[-1])!r} does not fit this {type(algo).__name__} or is damaged "
                f"({str(error).splitlines()[0]}); delete it to continue from the one before."
            ) from error
        return algo.num_timesteps

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers see the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def write_algorithm(algo: BaseAlgorithm, folder: Path) -> None:
    """Write weights, optimisers, counters and replay buffer of an algorithm of Stable-Baselines3."""
    torch.save(_weights(algo), folder / "weights.pt")
    counters = {name: getattr(algo, name) for name in ("num_timesteps", "_n_updates", "_episode_num")}
    (folder / "counters.json").write_text(json.dumps(counters))
    buffer = getattr(algo, "replay_buffer", None)
    if buffer is not None:
        _save_buffer(buffer, folder / "replay.npz")


def read_algorithm(algo: BaseAlgorithm, folder: Path, with_buffer: bool) -> None:
    """Read what :func:`write_algorithm` wrote, into an algorithm made with the same settings."""
    _restore_weights(algo, torch.load(folder / "weights.pt", weights_only=True, map_location=algo.device))
    for name, value in json.loads((folder / "counters.json").read_text()).items():
        setattr(algo, name, value)
    buffer = getattr(algo, "replay_buffer", None)
    if with_buffer and buffer is not None:
        _load_buffer(buffer, folder / "replay.npz")


def _weights(algo: BaseAlgorithm) -> dict[str, Any]:
    modules, variables = algo._get_torch_save_params()
    weights = {name: recursive_getattr(algo, name).state_dict() for name in modules}
    return {"modules": weights, "variables": {name: recursive_getattr(algo, name).detach() for name in variables}}


def _restore_weights(algo: BaseAlgorithm, saved: dict[str, Any]) -> None:
    for name, state in saved["modules"].items():
        recursive_getattr(algo, name).load_state_dict(state)
    for name, value in saved["variables"].items():
        recursive_setattr(algo, f"{name}.data", value.data)


def _save_buffer(buffer: ReplayBuffer, path: Path) -> None:
    queue = getattr(buffer, "queue", None)
    if queue is not None:
        queue.flush()
    filled = len(buffer.rewards) if buffer.full else buffer.pos
    arrays = {name: getattr(buffer, name)[:filled] for name in BUFFER_ARRAYS if hasattr(buffer, name)}
    np.savez(path, pos=buffer.pos, full=buffer.full, **arrays)


def _load_buffer(buffer: ReplayBuffer, path: Path) -> None:
    with np.load(path, allow_pickle=False) as saved:
        filled = len(saved["rewards"])
        if filled > len(buffer.rewards):
            raise ValueError(f"the replay buffer holds {len(buffer.rewards)} rows, the checkpoint {filled}")
        for name in BUFFER_ARRAYS:
            if name in saved:
                getattr(buffer, name)[:filled] = saved[name]
        buffer.full = bool(saved["full"]) and filled == len(buffer.rewards)
        buffer.pos = int(saved["pos"]) if buffer.full or not saved["full"] else filled
