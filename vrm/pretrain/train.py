"""``vrm pretrain``: frames and captions to a dual encoder in OpenCLIP's format.

Three stages, each resumable: render and label frames; train the image tower against directions for the facts that
captions assert; teach our text tower where sentences belong among them. The truth of every assertion is known for every
frame of a batch, so the loss is a sigmoid one (Zhai et al. 2023, SigLIP) with soft labels instead of one positive an
image: captions that coincide, entail or contradict each other are all labelled rightly. A sentence encoder, itself
taught the captions first, places the words that no caption uses.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional

from vrm.envs import FAMILIES
from vrm.metrics import roc_auc
from vrm.pretrain import shards
from vrm.pretrain.distil import encode_tokens, train_texts
from vrm.pretrain.facts import FactSpace
from vrm.pretrain.images import normalise, train_images
from vrm.pretrain.recipe import MEAN, STD, Clip, Recipe
from vrm.pretrain.shards import FrameSet
from vrm.pretrain.teacher import Teacher
from vrm.pretrain.text import load_pools


def pretrain(recipe: Recipe, work: Path, out: Path, workers: int = 2) -> dict[str, Any]:
    """Run all stages and write the encoder folder ``out``; interrupted runs continue from ``work``.

    Returns:
        The measured scores, also written to ``out/scores.json``.
    """
    torch.manual_seed(recipe.seed)
    work.mkdir(parents=True, exist_ok=True)
    pieces = shards.plan(recipe.frames, recipe.size, recipe.seed, recipe.warp)
    shards.render(pieces, work / "frames", workers)
    sets = shards.load(pieces, work / "frames")
    for frames in sets:
        shards.contact_sheet(frames, work / f"{frames.family}.png")
    held_out = [frames.split(min(4000, len(frames.frames) // 5)) for frames in sets]
    training = [train for train, _ in held_out]
    pools = load_pools(recipe, training, work)
    config = recipe.model_config()
    model = open_clip.CLIP(**config, init_logit_bias=0.0)
    space = FactSpace([frames.truths.shape[1] for frames in training], recipe.embed_dim)
    train_images(recipe, model, space, training, pools, work)
    train_texts(recipe, model, space, pools, Teacher(recipe.embed_dim), work)
    write_folder(recipe, model, out)
    scores = evaluate(model, [test for _, test in held_out])
    (out / "scores.json").write_text(json.dumps(scores, indent=1))
    return scores


def write_folder(recipe: Recipe, model: Clip, out: Path) -> None:
    """Write the OpenCLIP folder: configuration and half-precision weights."""
    out.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash", "size": recipe.size}
    config = {"model_cfg": recipe.model_config(), "preprocess_cfg": preprocess}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    skip = ("logit_bias",)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items() if k not in skip}
    save_file({k: v.contiguous() for k, v in weights.items()}, out / "open_clip_model.safetensors")


@torch.inference_mode()
def evaluate(model: Clip, held_out: list[FrameSet]) -> dict[str, float]:
    """ROC-AUC of every fact by its first phrase, on frames kept apart (``vrm pretrain --evaluate`` asks anew)."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.context_length)
    scores: dict[str, float] = {}
    for frames in held_out:
        images = [
            functional.normalize(model.visual(normalise(c.float() / 255)), dim=-1)
            for c in torch.tensor_split(frames.frames, max(1, len(frames.frames) // 512))
        ]
        captioner = FAMILIES[frames.family].captioner
        asked = [f"{captioner.subjects[0]} {fact.phrases[0]}" for fact in captioner.facts]
        columns = (torch.cat(images) @ encode_tokens(model, tokenizer(asked)).T).T
        for k, (sentence, column) in enumerate(zip(asked, columns, strict=True)):
            label = (frames.truths[:, k] > 0.5).numpy()
            if 0 < label.sum() < len(label):
                scores[f"{frames.family}: {sentence}"] = round(roc_auc(column.numpy(), label), 4)
    return scores
