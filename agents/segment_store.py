"""What questions are made of: features, state values and frames of the steps that lie in a replay buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from vrm.data.comparisons import Segments


@dataclass(frozen=True)
class Pieces:
    """Places of pieces of episodes: ``starts`` ``(N,)``, counted in steps since the store began, and ``envs``."""

    starts: NDArray[np.int64]
    envs: NDArray[np.int64]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.starts)

    def __getitem__(self, rows: NDArray[np.int64]) -> Pieces:
        """The pieces at ``rows``."""
        return Pieces(self.starts[rows], self.envs[rows])


class SegmentStore:
    """Arrays beside a replay buffer, row for row: what the reward sees, what a labeller reads, where episodes end.

    Frames for labellers are kept of the last steps only.

    Args:
        rows: of the replay buffer, each a step of every environment.
        envs: environments.
        keys: state values.
        recent: rows that pieces are taken from.
        frames: whether frames are kept of those.

    Attributes:
        count: rows ever added.
        kept: ``(rows, envs, D)`` float16 features, or ``(rows, envs, 3, H, W)`` uint8 frames; empty before the first.
    """

    def __init__(self, rows: int, envs: int, keys: tuple[str, ...], recent: int, frames: bool) -> None:
        """Make room for all but features and frames, whose sizes are not known yet."""
        self.rows, self.envs, self.keys, self.recent = rows, envs, keys, min(recent, rows)
        self.count = 0
        self.kept: NDArray[Any] = np.zeros((0, envs), np.float16)
        self.values = np.zeros((rows, envs, len(keys)), np.float32)
        self.ends = np.zeros((rows, envs), np.bool_)
        self._frames: NDArray[np.uint8] | None = np.zeros((0, envs), np.uint8) if frames else None
        self._first = 0  # the oldest row whose frames are known

    def add(self, frames: Tensor, values: NDArray[np.float32], dones: NDArray[Any]) -> int:
        """Take a step of every environment and return its row; what the reward sees of it comes by :meth:`keep`.

        Args:
            frames: ``(envs, 3, H, W)`` uint8.
            values: ``(envs, len(keys))``.
            dones: ``(envs,)``.
        """
        row = self.count % self.rows
        self.values[row], self.ends[row] = values, dones
        if self._frames is not None:
            if not len(self._frames):
                self._frames = np.zeros((self.recent, *frames.shape), np.uint8)
            self._frames[self.count % self.recent] = frames.numpy()
        self.count += 1
        return row

    def keep(self, rows: list[int], seen: Tensor) -> None:
        """Keep what the reward sees of these rows, ``(len(rows), envs, ...)``."""
        kind = np.uint8 if seen.dtype == torch.uint8 else np.float16
        if not len(self.kept):
            self.kept = np.zeros((self.rows, *seen.shape[1:]), kind)
        self.kept[rows] = seen.cpu().numpy().astype(kind)

    def cut(self) -> None:
        """Let no piece reach from what was added to what will be."""
        self.ends[(self.count - 1) % self.rows] = True

    def pieces(self, length: int) -> Pieces:
        """All pieces of so many steps of one episode among the recent rows."""
        low = max(self.count - self.recent, self._first if self._frames is not None else 0, 0)
        rows = np.arange(low, self.count)
        if len(rows) < length:
            return Pieces(np.zeros(0, np.int64), np.zeros(0, np.int64))
        before = np.zeros((len(rows) + 1, self.envs), np.int64)
        np.cumsum(self.ends[rows % self.rows], axis=0, out=before[1:])
        places = np.arange(len(rows) - length + 1)
        starts, envs = np.nonzero(before[places + length - 1] == before[places])  # the last step may be an end
        return Pieces(starts + low, envs)

    def pairs(self, length: int, count: int, generator: Generator) -> tuple[Pieces, Pieces]:
        """Draw at most ``count`` pairs of different pieces, each as likely; fewer where few are known."""
        known = self.pieces(length)
        if len(known) < 2:
            return known[np.zeros(0, np.int64)], known[np.zeros(0, np.int64)]
        drawn = torch.randint(len(known), (2, count), generator=generator).numpy()
        drawn = drawn[:, drawn[0] != drawn[1]]
        return known[drawn[0]], known[drawn[1]]

    def seen(self, pieces: Pieces, length: int) -> Tensor:
        """What the reward sees of them, ``(N, length, ...)``."""
        rows = pieces.starts[:, None] + np.arange(length)
        return torch.from_numpy(self.kept[rows % self.rows, pieces.envs[:, None]])

    def segments(self, pieces: Pieces, length: int) -> Segments:
        """What a labeller sees of them."""
        rows, envs = pieces.starts[:, None] + np.arange(length), pieces.envs[:, None]
        values = torch.from_numpy(self.values[rows % self.rows, envs])
        frames = None if self._frames is None else torch.from_numpy(self._frames[rows % self.recent, envs])
        return Segments(frames, {key: values[..., i] for i, key in enumerate(self.keys)})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file needs to keep; frames are not worth it."""
        filled = min(self.count, self.rows)
        found = {"kept": self.kept[:filled], "values": self.values[:filled], "ends": self.ends[:filled]}
        return {**found, "keys": np.array(self.keys), "next": np.array(self.count % self.rows)}

    def restore(self, saved: Mapping[str, NDArray[Any]], pos: int, full: bool) -> None:
        """Take what :meth:`arrays` gave, beside a buffer that was restored likewise.

        Args:
            saved: the arrays.
            pos: the buffer's next row.
            full: whether the buffer is full.

        Raises:
            ValueError: if they are of other state values or more rows.
        """
        if tuple(saved["keys"].tolist()) != self.keys:
            raise ValueError(f"steps have state values {saved['keys'].tolist()}, the labeller reads {list(self.keys)}")
        filled = len(saved["ends"])
        kept = saved["kept"]
        self.kept = np.zeros((self.rows if len(kept) else 0, *kept.shape[1:]), kept.dtype)
        self.kept[:filled] = kept
        self.values[:filled], self.ends[:filled] = saved["values"], saved["ends"]
        self.count = self._first = pos + self.rows * full
        if filled:
            self.ends[(int(saved["next"]) - 1) % filled] = True  # a larger buffer no longer goes round there
            self.cut()
