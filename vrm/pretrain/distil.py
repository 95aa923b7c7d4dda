"""The text stage: the joint space of teacher and images, distilled into our own text tower."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vrm.pretrain.recipe import Clip, Recipe, resume_stage, save_atomically, save_stage
from vrm.pretrain.text import CaptionPool, Teacher, initialise_tokens, sentences


def train_texts(
    recipe: Recipe, model: Clip, project: nn.Linear, pools: list[CaptionPool], teacher: Teacher, work: Path
) -> None:
    """Distil ``normalize(project(teacher(text)))`` into the model's own text tower."""
    texts, features = _corpus(recipe, pools, teacher, work)
    with torch.no_grad():
        targets = functional.normalize(project(features), dim=-1)
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=recipe.text["context_length"])(texts)
    tower = nn.ModuleDict({"tokens": model.token_embedding, "blocks": model.transformer, "norm": model.ln_final})
    parameters = [*tower.parameters(), model.positional_embedding, model.text_projection]
    state: dict[str, Any] = {"tower": tower}
    if not (work / "text.pt").exists():
        initialise_tokens(model, teacher)
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=recipe.text_steps, pct_start=0.1)
    state |= {"optimiser": optimiser, "schedule": schedule}
    start = resume_stage(work / "text.pt", state, model)
    model.train()
    bar = tqdm(range(start, recipe.text_steps), initial=start, total=recipe.text_steps, desc="texts")
    for step in bar:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.randint(len(texts), (recipe.text_batch,), generator=generator)
        similarity = (encode_tokens(model, tokens[rows]) * targets[rows]).sum(-1)
        loss = (1 - similarity).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(cosine=f"{similarity.mean().item():.4f}")
        if (step + 1) % 500 == 0 or step + 1 == recipe.text_steps:
            save_stage(work / "text.pt", step + 1, state, model)
    model.eval()


def encode_tokens(model: Clip, tokens: Tensor) -> Tensor:
    """Text features of tokens cut to the longest text of the batch; the causal tower gives the same numbers."""
    length = int(tokens.argmax(1).max()) + 1
    hidden = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    hidden = model.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(1)]
    return functional.normalize(hidden @ model.text_projection, dim=-1)


def _corpus(recipe: Recipe, pools: list[CaptionPool], teacher: Teacher, work: Path) -> tuple[list[str], Tensor]:
    path = work / f"corpus-{recipe.corpus}-seed{recipe.seed}.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return saved["texts"], saved["features"]
    drawn = list(islice(sentences(pools, np.random.default_rng(recipe.seed + 1)), recipe.corpus))
    known = dict(zip([t for p in pools for t in p.texts], torch.cat([p.features for p in pools]), strict=True))
    new = [t for t in dict.fromkeys(drawn) if t not in known]
    known |= dict(zip(new, teacher(new, label="sentences"), strict=True))
    features = torch.stack([known[t] for t in drawn])
    save_atomically({"texts": drawn, "features": features}, path)
    return drawn, features
