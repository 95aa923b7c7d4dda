"""The text stage: sentences learn to be where the facts are that they assert, by way of a teacher that knows words."""

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

from vrm.pretrain.facts import FactSpace
from vrm.pretrain.recipe import Clip, Recipe, resume_stage, save_atomically, save_stage
from vrm.pretrain.teacher import Teacher, teach
from vrm.pretrain.text import CaptionPool, initialise_tokens, sentences


def train_texts(
    recipe: Recipe, model: Clip, space: FactSpace, pools: list[CaptionPool], teacher: Teacher, work: Path
) -> None:
    """Train the model's own text tower on captions, and on other sentences as the teacher places them."""
    texts, targets = place_sentences(recipe, space, pools, teacher, work)
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


def place_sentences(
    recipe: Recipe, space: FactSpace, pools: list[CaptionPool], teacher: Teacher, work: Path
) -> tuple[list[str], Tensor]:
    """Draw sentences, and place captions where their facts are, all others where the taught teacher puts them."""
    path = work / f"corpus-{recipe.corpus}-seed{recipe.seed}.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return saved["texts"], saved["targets"]
    texts, targets, anchors, choices = assertions(space, pools)
    teach(teacher, texts, targets, anchors, choices, recipe.teacher_steps, work / "teacher.pt", seed=recipe.seed)
    drawn = list(islice(sentences(pools, np.random.default_rng(recipe.seed + 1)), recipe.corpus))
    known = dict(zip(texts, targets, strict=True))
    new = [text for text in dict.fromkeys(drawn) if text not in known]
    known |= dict(zip(new, teacher.embed(new, label="sentences"), strict=True))
    placed = torch.stack([known[text] for text in drawn])
    save_atomically({"texts": drawn, "targets": placed}, path)
    return drawn, placed


@torch.no_grad()
def assertions(space: FactSpace, pools: list[CaptionPool]) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Collect what :func:`vrm.pretrain.teacher.teach` needs: captions, targets, anchors, choices."""
    anchors = [space(family, pool.single) for family, pool in enumerate(pools)]
    targets = torch.cat([space(family, pool.columns) for family, pool in enumerate(pools)])
    choices, offset = [], 0
    for pool in pools:
        nothing = len(pool.single) - 1
        choices.append(torch.where(pool.columns[:, 1] == nothing, pool.columns[:, 0] + offset, -1))
        offset += nothing + 1
    return [text for pool in pools for text in pool.texts], targets, torch.cat(anchors), torch.cat(choices)
