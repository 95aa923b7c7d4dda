"""Captioned clips on disk: rendered in parallel, resumable, a file a piece."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vrm.envs import FAMILIES
from vrm.pretrain_generator.motions import MOTIONS

PIECE_CLIPS = 100


@dataclass(frozen=True)
class Piece:
    """One file to make: ``count`` clips of ``motion``, from ``seed`` and ``index`` alone."""

    motion: str
    index: int
    count: int
    frames: int
    size: int
    seed: int

    def path(self, folder: Path) -> Path:
        """Where the piece is kept."""
        name = f"{self.motion}-{self.frames}x{self.size}px-seed{self.seed}-{self.index:04d}-{self.count}.npy"
        return folder / name


def plan(clips: int, frames: int, size: int, seed: int) -> list[Piece]:
    """Split ``clips`` of every motion into pieces."""
    starts = range(0, clips, PIECE_CLIPS)
    return [
        Piece(name, index, min(PIECE_CLIPS, clips - start), frames, size, seed)
        for name in MOTIONS
        for index, start in enumerate(starts)
    ]


def render_clips(piece: Piece) -> NDArray[np.uint8]:
    """Render the clips ``(count, T, S, S, 3)`` of one piece."""
    motion = MOTIONS[piece.motion]
    env = FAMILIES[motion.family].make(size=piece.size, render_mode="rgb_array")
    env.reset(seed=piece.seed)
    rng = np.random.default_rng([piece.seed, piece.index, list(MOTIONS).index(piece.motion)])
    clips = []
    for _ in range(piece.count):
        clips.append(np.stack([np.array(env.render()) for _ in motion.move(env, rng, piece.frames)]))
    env.close()
    return np.stack(clips)


def write_piece(piece: Piece, folder: Path) -> None:
    """Render one piece into its file, written atomically; an existing one is kept."""
    path = piece.path(folder)
    if path.exists():
        return
    partial = path.with_suffix(".partial.npy")
    np.save(partial, render_clips(piece))
    os.replace(partial, path)


def write_pieces(pieces: Sequence[Piece], folder: Path, workers: int) -> None:
    """Make all missing pieces in ``workers`` processes; can be interrupted and run again."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [piece for piece in pieces if not piece.path(folder).exists()]
    context = multiprocessing.get_context("spawn")  # a forked child of a process that has rendered hangs
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        tqdm(total=sum(p.count for p in missing), desc="render", unit="clip") as bar,
    ):
        jobs = {pool.submit(write_piece, piece, folder): piece for piece in missing}
        for job in as_completed(jobs):
            job.result()
            bar.update(jobs[job].count)


def read_pieces(pieces: Sequence[Piece], folder: Path) -> dict[str, Tensor]:
    """Read the clips ``(N, T, 3, S, S)`` uint8 of every motion."""
    names = dict.fromkeys(piece.motion for piece in pieces)
    parts = {name: [np.load(p.path(folder)) for p in pieces if p.motion == name] for name in names}
    return {name: torch.from_numpy(np.concatenate(part)).movedim(-1, -3) for name, part in parts.items()}
