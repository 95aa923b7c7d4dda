"""Rendered and labelled frames on disk: made in parallel, resumable, checked by counts and a contact sheet."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vrm.envs import FAMILIES
from vrm.envs.rendering import RendererName

SHARD_FRAMES = 2000
Pixels = NDArray[np.uint8]
Truths = NDArray[np.float16]


@dataclass(frozen=True)
class Shard:
    """One file to make: ``count`` frames of ``family``, from ``seed`` alone, drawn by ``renderer``."""

    family: str
    index: int
    count: int
    size: int
    seed: int
    renderer: RendererName = "opengl"

    def path(self, folder: Path) -> Path:
        """Where the shard is kept."""
        look = "" if self.renderer == "opengl" else f"-{self.renderer}"
        return folder / f"{self.family}-{self.size}px-seed{self.seed}{look}-{self.index:04d}-{self.count}.npz"


def plan(frames: int, size: int, seed: int, warp: float = 0.0) -> list[Shard]:
    """Split ``frames`` over the families by their shares, in shards; small shares get at least one, none get none.

    Of families that both renderers can draw, a share ``warp`` of the frames comes from the ray-caster; their states
    are others than those of the frames drawn by OpenGL.
    """
    shards = []
    for family in FAMILIES.values():
        total = max(1, round(frames * family.share)) if family.share else 0
        rays = round(total * warp) if family.draws_by_rays else 0
        counts = [(n, "opengl") for n in _pieces(total - rays)] + [(n, "warp") for n in _pieces(rays)]
        for index, (count, renderer) in enumerate(counts):
            shards.append(Shard(family.name, index, count, size, seed, cast(RendererName, renderer)))
    return shards


def _pieces(frames: int) -> list[int]:
    """Sizes of the shards that ``frames`` are split into."""
    return [min(SHARD_FRAMES, frames - start) for start in range(0, frames, SHARD_FRAMES)]


def render_shard(shard: Shard, folder: Path) -> Path:
    """Render and label one shard, written atomically; an existing one is kept."""
    path = shard.path(folder)
    if path.exists():
        return path
    frames, truths = zip(*_states(shard), strict=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, frames=np.stack(frames), truths=np.stack(truths).astype(np.float16))
    os.replace(partial, path)
    return path


def render(shards: list[Shard], folder: Path, workers: int) -> None:
    """Make all missing shards in ``workers`` processes, with a progress bar; can be interrupted and run again."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [s for s in shards if not s.path(folder).exists()]
    context = multiprocessing.get_context("spawn")  # a forked child of a process that has rendered hangs
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        tqdm(total=sum(s.count for s in missing), desc="render", unit="frame") as bar,
    ):
        jobs = {pool.submit(render_shard, s, folder): s for s in missing}
        for job in as_completed(jobs):
            job.result()
            bar.update(jobs[job].count)


@dataclass
class FrameSet:
    """All frames and labels of one family in memory: ``frames (N, 3, S, S)`` uint8, ``truths (N, K)``."""

    family: str
    frames: torch.Tensor
    truths: torch.Tensor

    def split(self, held_out: int) -> tuple[FrameSet, FrameSet]:
        """Keep the last ``held_out`` frames apart; shards are whole episodes, so neighbours stay together."""
        cut = len(self.frames) - held_out
        return (
            FrameSet(self.family, self.frames[:cut], self.truths[:cut]),
            FrameSet(self.family, self.frames[cut:], self.truths[cut:]),
        )


def load(shards: list[Shard], folder: Path) -> list[FrameSet]:
    """Read shards into one :class:`FrameSet` a family."""
    sets = []
    for name in dict.fromkeys(s.family for s in shards):
        parts = [np.load(s.path(folder)) for s in shards if s.family == name]
        frames = np.concatenate([p["frames"] for p in parts])
        truths = np.concatenate([p["truths"] for p in parts]).astype(np.float32)
        sets.append(FrameSet(name, torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(truths)))
    return sets


def balance(frames: FrameSet) -> dict[str, float]:
    """Return for every fact the share of frames where it is more true than not."""
    share = (frames.truths > 0.5).float().mean(0)
    return {f.name: round(float(v), 4) for f, v in zip(FAMILIES[frames.family].captioner.facts, share, strict=True)}


def contact_sheet(frames: FrameSet, path: Path, columns: int = 12) -> None:
    """Write one row of frames for every fact, the truest first sampled, so that a person can check the labels."""
    rows = []
    for k in range(frames.truths.shape[1]):
        best = torch.argsort(frames.truths[:, k], descending=True)[: 4 * columns : 4]
        tiles = frames.frames[best].permute(0, 2, 3, 1).numpy()
        rows.append(np.concatenate(list(tiles), axis=1))
    Image.fromarray(np.concatenate(rows)).save(path)


def _states(shard: Shard) -> Iterator[tuple[Pixels, NDArray[np.float32]]]:
    family = FAMILIES[shard.family]
    look = {"renderer": shard.renderer} if shard.renderer != "opengl" else {}
    env = family.make(size=shard.size, render_mode="rgb_array", **look)
    env.reset(seed=shard.seed)
    rng = np.random.default_rng([shard.seed, shard.index, list(FAMILIES).index(shard.family)])
    for _, state in zip(range(shard.count), family.sample(env, rng, True), strict=False):
        yield np.array(env.render()), family.captioner.truths(state)
    env.close()
