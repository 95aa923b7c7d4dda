"""Frames of our own environment families, to adapt on or to be kept in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vrm.adapt.data import AdaptError, RenderedFrames
from vrm.encoders import Preprocess
from vrm.envs import FAMILIES
from vrm.errors import UnknownNameError
from vrm.frames import from_hwc
from vrm.pretrain.shards import SHARD_FRAMES, Shard, render

EPISODES = 20  # that the frames of a family are divided into, where there are not more shards


def render_families(
    counts: Mapping[str, int],
    folder: Path,
    preprocess: Preprocess,
    *,
    seed: int = 0,
    workers: int = 2,
    asked: Sequence[tuple[str, str]] = (),
) -> dict[str, RenderedFrames]:
    """Render and caption varied states of environment families; what is already in ``folder`` is kept.

    Args:
        counts: how many frames of each family.
        folder: where the shards are kept.
        preprocess: frames are rendered at the size it wants.
        seed: of the states.
        workers: processes that render.
        asked: more sentences for the report, as pairs of a fact's name and a text, for the families that know it.

    Raises:
        UnknownNameError: if there is no such family.
        AdaptError: if there are fewer frames than episodes, or no family knows a fact in ``asked``.
    """
    for name, frames in counts.items():
        if name not in FAMILIES:
            raise UnknownNameError("environment family", name, FAMILIES)
        if frames < EPISODES:
            raise AdaptError(
                f"{frames} frames of {name!r} are too few to set episodes apart; render at least {EPISODES}."
            )
    known = {name: {fact.name for fact in FAMILIES[name].captioner.facts} for name in counts}
    for fact, text in asked:
        if not any(fact in facts for facts in known.values()):
            raise AdaptError(f"There is no fact {fact!r} to ask {text!r} about; there are {known}.")
    shards = {name: _shards(name, frames, max(preprocess.size), seed) for name, frames in counts.items()}
    render([shard for some in shards.values() for shard in some], folder, workers)
    return {
        name: _load(some, folder, preprocess, [pair for pair in asked if pair[0] in known[name]])
        for name, some in shards.items()
    }


def _shards(name: str, frames: int, size: int, seed: int) -> list[Shard]:
    each = min(-(-frames // EPISODES), SHARD_FRAMES)
    counts = [each] * (frames // each) + ([frames % each] if frames % each else [])
    return [Shard(name, index, count, size, seed) for index, count in enumerate(counts)]


def _load(
    shards: Sequence[Shard], folder: Path, preprocess: Preprocess, asked: Sequence[tuple[str, str]]
) -> RenderedFrames:
    frames, truths = [], []
    for shard in shards:
        with np.load(shard.path(folder), allow_pickle=False) as part:
            frames.append(preprocess.fit(from_hwc(part["frames"])))
            truths.append(part["truths"].astype(np.float32))
    groups = [shard.index for shard in shards for _ in range(shard.count)]
    captioner = FAMILIES[shards[0].family].captioner
    return RenderedFrames(shards[0].family, torch.cat(frames), groups, np.concatenate(truths), captioner, asked)
