"""Labels on disk as they come, so that a run that is killed and resumed still has them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrm.errors import CheckpointError


@dataclass(frozen=True)
class Labels:
    """A teacher's labels, oldest first.

    Attributes:
        ids: ``(N,)`` int64 of the frames.
        inputs: ``(N, ...)`` what a student is shown of them.
        values: ``(N,)`` float32.
    """

    ids: Tensor
    inputs: Tensor
    values: Tensor

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ids)

    def held_out(self, every: int) -> tuple[Labels, Labels]:
        """Split into labels to learn from, and each ``every``-th by id to test on."""
        out = self.ids % every == every - 1
        return self._rows(~out), self._rows(out)

    def _rows(self, rows: Tensor) -> Labels:
        return Labels(self.ids[rows], self.inputs[rows], self.values[rows])


class LabelStore:
    """The newest labels, in memory and as one small file per batch.

    Args:
        folder: for the files ``labels-<number>.safetensors``; what lies there is read.
        capacity: labels kept; a file whose labels are all older is deleted.

    Raises:
        CheckpointError: if a file is damaged.
    """

    def __init__(self, folder: str | Path, capacity: int = 20_000) -> None:
        """Read the labels of an earlier part of the run."""
        self.folder, self.capacity = Path(folder), capacity
        self.folder.mkdir(parents=True, exist_ok=True)
        self._parts = [(path, _read(path)) for path in sorted(self.folder.glob("labels-*.safetensors"))]
        self._number = int(self._parts[-1][0].stem.split("-")[1]) + 1 if self._parts else 0
        self.next_id = max((int(part.ids.max()) + 1 for _, part in self._parts), default=0)

    def __len__(self) -> int:
        """How many labels are kept, at least the newest ``capacity``."""
        return sum(len(part) for _, part in self._parts)

    def add(self, labels: Labels) -> None:
        """Keep labels, and write them before anything learns from them.

        Raises:
            CheckpointError: if their inputs have another shape than those kept.
        """
        if self._parts and self._parts[0][1].inputs.shape[1:] != labels.inputs.shape[1:]:
            old, new = (tuple(part.inputs.shape[1:]) for part in (self._parts[0][1], labels))
            raise CheckpointError(f"{str(self.folder)!r} holds labels of inputs {old}, not {new}; use another folder.")
        path = self.folder / f"labels-{self._number:08d}.safetensors"
        unfinished = path.with_name(f".{path.name}.partial")
        save_file({k: v.contiguous() for k, v in vars(labels).items()}, unfinished)
        os.replace(unfinished, path)
        self._parts.append((path, labels))
        self._number += 1
        self.next_id = max(self.next_id, int(labels.ids.max()) + 1)
        while len(self) - len(self._parts[0][1]) >= self.capacity:
            self._parts.pop(0)[0].unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all labels."""
        for path, _ in self._parts:
            path.unlink(missing_ok=True)
        self._parts, self._number, self.next_id = [], 0, 0

    def labels(self) -> Labels | None:
        """The newest ``capacity`` labels in order of frames; None if there are none."""
        if not self._parts:
            return None
        found = [part for _, part in self._parts]
        ids = torch.cat([part.ids for part in found])
        order = ids.argsort(stable=True)[-self.capacity :]
        inputs = torch.cat([part.inputs for part in found])[order]
        return Labels(ids[order], inputs, torch.cat([part.values for part in found])[order])


def _read(path: Path) -> Labels:
    try:
        return Labels(**load_file(path))
    except (SafetensorError, TypeError) as error:
        raise CheckpointError(f"{str(path)!r} holds no labels, or is damaged ({error}); delete it.") from error
