"""``vrm pretrain``: frames and captions to a dual encoder in OpenCLIP's format.

Three stages, each resumable: render and label frames; train the image tower against a linear map of the teacher's
sentence features; distil that text space into our own text tower. Every image-caption pair of a batch has a known
graded truth, so the loss is a sigmoid one (Zhai et al. 2023, SigLIP) with soft labels instead of one positive an
image: captions that coincide, entail or contradict each other are all labelled rightly.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vrm.metrics import roc_auc
from vrm.pretrain import shards
from vrm.pretrain.shards import FrameSet
from vrm.pretrain.text import CaptionPool, Teacher, initialise_tokens, make_pool, sentences

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a bundled encoder; written into its model card.

    Attributes:
        frames: rendered frames over all families.
        captions: captions of the largest family's pool; smaller families get a tenth.
        image_steps, image_batch: length and batch of the image stage.
        text_steps, text_batch: length and batch of the text stage.
        corpus: sentences for distillation.
        size: pixels of a frame's side.
        embed_dim: size of the shared space.
        vision, text: OpenCLIP tower configurations.
        seed: of frames, captions, initial weights and batches.
    """

    frames: int = 200_000
    captions: int = 16_000
    image_steps: int = 4_000
    image_batch: int = 256
    text_steps: int = 4_000
    text_batch: int = 256
    corpus: int = 120_000
    size: int = 64
    embed_dim: int = 256
    vision: dict[str, Any] = field(
        default_factory=lambda: {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": 64}
    )
    text: dict[str, Any] = field(
        default_factory=lambda: {"context_length": 48, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 3}
    )
    seed: int = 0

    def model_config(self) -> dict[str, Any]:
        """OpenCLIP's ``model_cfg``."""
        vision = self.vision | {"image_size": self.size, "layers": tuple(self.vision["layers"])}
        return {"embed_dim": self.embed_dim, "vision_cfg": vision, "text_cfg": self.text}


def pretrain(recipe: Recipe, work: Path, out: Path, workers: int = 2) -> dict[str, Any]:
    """Run all stages and write the encoder folder ``out``; interrupted runs continue from ``work``.

    Returns:
        The measured scores, also written to ``out/scores.json``.
    """
    torch.manual_seed(recipe.seed)
    work.mkdir(parents=True, exist_ok=True)
    pieces = shards.plan(recipe.frames, recipe.size, recipe.seed)
    shards.render(pieces, work / "frames", workers)
    sets = shards.load(pieces, work / "frames")
    for frames in sets:
        shards.contact_sheet(frames, work / f"{frames.family}.png")
    held_out = [frames.split(min(4000, len(frames.frames) // 5)) for frames in sets]
    teacher = Teacher()
    pools = _pools(recipe, [train for train, _ in held_out], teacher, work)
    config = recipe.model_config()
    model = open_clip.CLIP(**config, init_logit_bias=0.0)
    project = nn.Linear(384, recipe.embed_dim, bias=False)
    nn.init.orthogonal_(project.weight)
    train_images(recipe, model, project, [train for train, _ in held_out], pools, work)
    train_texts(recipe, model, project, pools, teacher, work)
    write_folder(recipe, model, out)
    scores = evaluate(model, [test for _, test in held_out])
    (out / "scores.json").write_text(json.dumps(scores, indent=1))
    return scores


def _pools(recipe: Recipe, sets: list[FrameSet], teacher: Teacher, work: Path) -> list[CaptionPool]:
    path = work / f"captions-{recipe.captions}-seed{recipe.seed}.pt"
    if path.exists():
        return [CaptionPool(**p) for p in torch.load(path, weights_only=True)]
    rng = np.random.default_rng(recipe.seed)
    largest = max(len(s.frames) for s in sets)
    pools = []
    for frames in sets:
        count = recipe.captions if len(frames.frames) == largest else max(200, recipe.captions // 10)
        pools.append(make_pool(frames, count, teacher, rng))
    _save([asdict(p) for p in pools], path)
    return pools


def train_images(
    recipe: Recipe, model: nn.Module, project: nn.Linear, sets: list[FrameSet], pools: list[CaptionPool], work: Path
) -> None:
    """Train ``model.visual``, the scale and ``project``; leaves the trained weights in place."""
    parameters = [
        {"params": list(model.visual.parameters()), "weight_decay": 0.05},
        {"params": [project.weight, model.logit_scale, model.logit_bias], "weight_decay": 0.0},
    ]
    with torch.no_grad():
        model.logit_scale.fill_(np.log(10.0))
    model.visual.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=recipe.image_steps, pct_start=0.1)
    state = {"visual": model.visual, "project": project, "optimiser": optimiser, "schedule": schedule}
    sampler = PairSampler(sets, pools, recipe.image_batch, recipe.seed)
    start = _resume(work / "image.pt", state, model)
    model.train()
    bar = tqdm(range(start, recipe.image_steps), initial=start, total=recipe.image_steps, desc="images")
    for step in bar:
        frames, texts, truth = sampler.draw(step)
        with torch.autocast("cpu", torch.bfloat16):
            image = model.visual(normalise(augment(frames)).contiguous(memory_format=torch.channels_last))
        image = functional.normalize(image.float(), dim=-1)
        text = functional.normalize(project(texts + 0.02 * torch.randn_like(texts)), dim=-1)
        loss = pair_loss(model.logit_scale.exp() * image @ text.T + model.logit_bias, truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.visual.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(20.0))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", scale=f"{model.logit_scale.exp().item():.1f}")
        if (step + 1) % 500 == 0 or step + 1 == recipe.image_steps:
            _checkpoint(work / "image.pt", step + 1, state, model)
    model.eval()


class PairSampler:
    """Draws batches of frames and captions of all families with the truth of every pair; batch ``i`` is fixed by ``i``."""

    def __init__(self, sets: list[FrameSet], pools: list[CaptionPool], batch: int, seed: int) -> None:
        """Weigh frames so that rarely true facts are seen as often as possible."""
        self.sets, self.pools, self.batch, self.seed = sets, pools, batch, seed
        self.weights = [_rarity(s.truths) for s in sets]
        sizes = np.array([len(s.frames) for s in sets], dtype=float)
        self.shares = np.maximum(sizes / sizes.sum(), 0.06)

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return frames ``(B, 3, S, S)``, teacher features ``(M, 384)`` and truths ``(B, M)``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        frames, texts, blocks = [], [], []
        for part, pool, weight, share in zip(self.sets, self.pools, self.weights, self.shares, strict=True):
            n, m = max(4, int(self.batch * share)), max(16, int(4 * self.batch * share))
            rows = torch.multinomial(weight, n, replacement=True, generator=generator)
            captions = torch.randint(len(pool.texts), (m,), generator=generator)
            frames.append(part.frames[rows])
            texts.append(pool.features[captions])
            blocks.append(pool.truth(part.truths[rows], captions))
        return torch.cat(frames), torch.cat(texts), torch.block_diag(*blocks)


def _rarity(truths: Tensor) -> Tensor:
    """Sampling weight of each frame: the sum over its true facts of one over their frequency."""
    frequency = truths.mean(0).clamp_min(1e-4)
    weight = (truths / frequency).sum(1) / truths.shape[1]
    return 0.3 + weight.clamp_max(20)


def pair_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Sigmoid loss with graded truth, positives and negatives of each caption weighing the same.

    Args:
        logits: ``(B, M)`` of images against captions.
        truth: ``(B, M)`` in [0, 1].
    """
    positive = -(truth * functional.logsigmoid(logits)).sum(0) / (truth.sum(0) + 1)
    false = 1 - truth
    negative = -(false * functional.logsigmoid(-logits)).sum(0) / (false.sum(0) + 1)
    return (positive + negative).mean()


def augment(frames: Tensor) -> Tensor:
    """Shift by up to 4 pixels and vary brightness, contrast and colour; uint8 in, float in [0, 1] out."""
    pad = 4
    images = functional.pad(frames.float() / 255, (pad,) * 4, mode="replicate")
    size = frames.shape[-1]
    dx, dy = (int(v) for v in torch.randint(0, 2 * pad + 1, (2,)))
    half = len(images) // 2
    first = images[:half, :, dy : dy + size, dx : dx + size]
    second = images[half:, :, 2 * pad - dy : 2 * pad - dy + size, 2 * pad - dx : 2 * pad - dx + size]
    images = torch.cat([first, second])
    n = len(images)
    contrast, shift = 1 + 0.2 * torch.randn(n, 1, 1, 1), 0.08 * torch.randn(n, 3, 1, 1)
    return ((images - 0.5) * contrast + 0.5 + shift).clamp(0, 1)


def normalise(images: Tensor) -> Tensor:
    """Apply the encoder's own statistics."""
    return (images - MEAN[0]) / STD[0]


def train_texts(
    recipe: Recipe, model: nn.Module, project: nn.Linear, pools: list[CaptionPool], teacher: Teacher, work: Path
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
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=recipe.text_steps, pct_start=0.1)
    state |= {"optimiser": optimiser, "schedule": schedule}
    start = _resume(work / "text.pt", state, model)
    model.train()
    bar = tqdm(range(start, recipe.text_steps), initial=start, total=recipe.text_steps, desc="texts")
    for step in bar:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.randint(len(texts), (recipe.text_batch,), generator=generator)
        similarity = (encode_tokens(model, tokens[rows]) * targets[rows]).sum(-1)
        loss = (1 - similarity).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(cosine=f"{similarity.mean().item():.4f}")
        if (step + 1) % 500 == 0 or step + 1 == recipe.text_steps:
            _checkpoint(work / "text.pt", step + 1, state, model)
    model.eval()


def encode_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
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
    _save({"texts": drawn, "features": features}, path)
    return drawn, features


def write_folder(recipe: Recipe, model: nn.Module, out: Path) -> None:
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
def evaluate(model: nn.Module, held_out: list[FrameSet]) -> dict[str, Any]:
    """ROC-AUC on held-out frames: every fact by its first phrase, and sentences whose words no caption uses."""
    from vrm.envs import FAMILIES

    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.context_length)
    scores: dict[str, Any] = {}
    for frames in held_out:
        images = [
            functional.normalize(model.visual(normalise(c.float() / 255)), dim=-1) for c in frames.frames.split(512)
        ]
        image = torch.cat(images)
        captioner = FAMILIES[frames.family].captioner
        asked = {f.name: [f"{captioner.subjects[0]} {f.phrases[0]}"] for f in captioner.facts}
        if frames.family == "humanoid":
            for name, texts in PARAPHRASES.items():
                asked[name] = asked[name] + texts
        for k, fact in enumerate(captioner.facts):
            label = (frames.truths[:, k] > 0.5).numpy()
            if not 0 < label.sum() < len(label):
                continue
            text = encode_tokens(model, tokenizer(asked[fact.name]))
            for sentence, column in zip(asked[fact.name], (image @ text.T).T, strict=True):
                scores[f"{frames.family}: {sentence}"] = round(roc_auc(column.numpy(), label), 4)
    return scores


PARAPHRASES = {
    "kneeling": ["a robot down on its knees in prayer", "a humanoid begging on its knees"],
    "lying": ["the robot has toppled and rests flat on the carpet", "a sleeping person"],
    "arms_raised": ["a robot cheering with hands high in victory"],
    "splits": ["a gymnast doing a leg split"],
    "lotus": ["a monk in yoga practice"],
    "standing": ["a soldier at attention"],
    "one_leg": ["a robot hopping on a single leg like a flamingo"],
}


def _checkpoint(path: Path, step: int, state: dict[str, Any], model: nn.Module) -> None:
    scale = {"logit_scale": model.logit_scale.data, "logit_bias": model.logit_bias.data}
    text = {"position": model.positional_embedding.data, "projection": model.text_projection.data}
    _save({"step": step, **{k: v.state_dict() for k, v in state.items()}, **scale, **text}, path)


def _resume(path: Path, state: dict[str, Any], model: nn.Module) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    for key, holder in state.items():
        holder.load_state_dict(saved[key])
    with torch.no_grad():
        model.logit_scale.copy_(saved["logit_scale"])
        model.logit_bias.copy_(saved["logit_bias"])
        if path.name == "text.pt":
            model.positional_embedding.copy_(saved["position"])
            model.text_projection.copy_(saved["projection"])
    return int(saved["step"])


def _save(value: Any, path: Path) -> None:
    partial = path.with_suffix(f".{time.time_ns()}.partial")
    torch.save(value, partial)
    os.replace(partial, path)
