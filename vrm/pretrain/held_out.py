"""Frames to measure an encoder on: states, cameras and textures that no pre-training draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.envs import FAMILIES
from vrm.frames import from_hwc
from vrm.pretrain.shards import Shard, render, render_shard

FIRST = (
    1_000_000  # index of the first held-out shard; pre-training counts from 0, so that no seed draws the same states
)
CHUNK = 250  # frames of a shard, which is drawn anew


@dataclass(frozen=True)
class HeldOutFrames:
    """Varied frames of one family and what is true of them.

    Attributes:
        family: its name.
        frames: ``(N, 3, S, S)`` uint8.
        truths: ``(N, K)`` graded truth of the captioner's facts in [0, 1].
    """

    family: str
    frames: Tensor
    truths: NDArray[np.float32]


def held_out_shards(family: str, frames: int, size: int, seed: int) -> list[Shard]:
    """Split ``frames`` pictures of ``size`` pixels into shards; what they show depends on ``seed`` alone."""
    counts = [CHUNK] * (frames // CHUNK) + ([frames % CHUNK] if frames % CHUNK else [])
    return [Shard(family, FIRST + index, count, size, seed) for index, count in enumerate(counts)]


def render_held_out(shards: Sequence[Shard], folder: Path, workers: int) -> None:
    """Render shards into ``folder``, here or in ``workers`` processes where there are more than one."""
    if workers > 1:
        render(list(shards), folder, workers)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        render_shard(shard, folder)


def load_held_out(shards: Sequence[Shard], folder: Path) -> HeldOutFrames:
    """Read the rendered shards of one family."""
    parts = [np.load(shard.path(folder), allow_pickle=False) for shard in shards]
    frames = torch.cat([from_hwc(part["frames"]) for part in parts])
    truths = np.concatenate([part["truths"] for part in parts]).astype(np.float32)
    return HeldOutFrames(shards[0].family, frames, truths)


def strangers(family: str) -> list[str]:
    """Names of the families that no subject of ``family`` speaks of, so that their prompts are false of its frames.

    Example:
        >>> "humanoid_standup" in strangers("humanoid"), "cartpole" in strangers("humanoid")
        (False, True)
    """
    own = set(FAMILIES[family].captioner.subjects)
    return [name for name, other in FAMILIES.items() if own.isdisjoint(other.captioner.subjects)]
