"""The words of pre-training: pools of captions with what they assert, and sentences beyond them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor

from vrm.envs import FAMILIES, TASKS
from vrm.envs.captions import Caption, Captioner
from vrm.pretrain.recipe import Clip, Recipe, save_atomically
from vrm.pretrain.shards import FrameSet
from vrm.pretrain.teacher import Teacher


@dataclass
class CaptionPool:
    """Captions of one family, and their clauses as padded columns of signed facts.

    Attributes:
        texts: ``M`` captions.
        columns: ``(M, C)`` indices into ``[truths, 1 - truths, 1]``.
    """

    texts: list[str]
    columns: Tensor

    @property
    def single(self) -> Tensor:
        """Columns ``(2 K + 1, C)`` of every fact alone, every negation alone, and the subject alone."""
        nothing = int(self.columns.max())
        alone = torch.full((nothing + 1, self.columns.shape[1]), nothing)
        alone[:, 0] = torch.arange(nothing + 1)
        return alone

    def truth(self, truths: Tensor, columns: Tensor) -> Tensor:
        """Truth ``(N, M)`` of assertions ``columns (M, C)`` for states with fact truths ``(N, K)``."""
        signed = torch.cat([truths, 1 - truths, torch.ones(len(truths), 1)], dim=1)
        return signed[:, columns].amin(dim=2)


def make_pool(frames: FrameSet, count: int, rng: np.random.Generator) -> CaptionPool:
    """Write ``count`` captions, three of four true of some frame."""
    captioner = FAMILIES[frames.family].captioner
    captions: list[Caption] = []
    for _ in range(count):
        about = frames.truths[int(rng.integers(len(frames.truths)))].numpy() if rng.random() < 0.75 else None
        captions.append(captioner.compose(rng, about))
    captions += [Caption(subject, ()) for subject in dict.fromkeys(captioner.subjects)]
    return CaptionPool([c.text for c in captions], _columns(captioner, captions))


def load_pools(recipe: Recipe, sets: list[FrameSet], work: Path) -> list[CaptionPool]:
    """Write one pool a family, or read those that an earlier attempt has written."""
    path = work / f"captions-{recipe.captions}-seed{recipe.seed}.pt"
    if path.exists():
        return [CaptionPool(**p) for p in torch.load(path, weights_only=True)]
    rng = np.random.default_rng(recipe.seed)
    largest = max(len(s.frames) for s in sets)
    pools = []
    for frames in sets:
        count = recipe.captions if len(frames.frames) == largest else max(200, recipe.captions // 3)
        pools.append(make_pool(frames, count, rng))
    save_atomically([asdict(p) for p in pools], path)
    return pools


def _columns(captioner: Captioner[Any], captions: Sequence[Caption]) -> Tensor:
    k = len(captioner.facts)
    rows = [[i if affirm else k + i for i, affirm in c.clauses] for c in captions]
    return torch.tensor([r + [2 * k] * (2 - len(r)) for r in rows])


def vocabulary() -> dict[int, str]:
    """Token id to text of OpenCLIP's own tokenizer, for tokens that are plain words or word parts."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    words = {i: t.removesuffix("</w>") for t, i in tokenizer.encoder.items()}
    return {i: w for i, w in words.items() if re.fullmatch(r"[a-z0-9'.,!-]+", w)}


def sentences(pools: Sequence[CaptionPool], rng: np.random.Generator) -> Iterator[str]:
    """Yield training sentences for ever: captions, captions with other words in them, and words after a subject."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    # Arrays, because a generator would turn a list into one at every draw.
    words = np.array([t.removesuffix("</w>") for t in tokenizer.encoder if re.fullmatch(r"[a-z]{3,}</w>", t)])
    subjects = np.array([s for f in FAMILIES.values() for s in f.captioner.subjects])
    texts = [t for pool in pools for t in pool.texts]
    texts += [p for task in TASKS.values() for p in (*task.goal, *task.baseline)] * 20
    sources = np.array(texts)
    while True:
        kind, text = rng.random(), str(rng.choice(sources))
        if kind < 0.45:
            yield text
        elif kind < 0.8:
            parts = text.split()
            for _ in range(int(rng.integers(1, 3))):
                at = int(rng.integers(len(parts) + 1))
                parts[at : at + int(rng.integers(0, 2))] = [str(rng.choice(words))]
            yield " ".join(parts)
        else:
            count = int(rng.integers(1, 5))
            yield f"{rng.choice(subjects)} {' '.join(str(w) for w in rng.choice(words, count))}"


def initialise_tokens(model: Clip, teacher: Teacher) -> None:
    """Give every token the leading principal components of what the teacher makes of its text."""
    words = vocabulary()
    features = teacher.embed(list(words.values()), label="tokens", raw=True)
    features = features - features.mean(0)
    width = model.token_embedding.weight.shape[1]
    _, _, axes = torch.linalg.svd(features[torch.randperm(len(features))[:8000]], full_matrices=False)
    reduced = features @ axes[:width].T
    with torch.no_grad():
        model.token_embedding.weight[list(words)] = reduced / reduced.std() * 0.05
