"""The image stage: our image tower against what its frames' captions assert, not yet how they say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vrm.pretrain.facts import FactSpace
from vrm.pretrain.recipe import MEAN, STD, Clip, Recipe, resume_stage, save_stage
from vrm.pretrain.shards import FrameSet
from vrm.pretrain.text import CaptionPool

FAMILIES_SHOWN = 4  # in one batch
MAX_SCALE = 20.0  # of cosines


def train_images(
    recipe: Recipe, model: Clip, space: FactSpace, sets: list[FrameSet], pools: list[CaptionPool], work: Path
) -> None:
    """Train ``model.visual``, the scale and ``space``; leaves the trained weights in place."""
    parameters = [
        {"params": list(model.visual.parameters()), "weight_decay": 0.05},
        {"params": [*space.parameters(), model.logit_scale, model.logit_bias], "weight_decay": 0.0},
    ]
    with torch.no_grad():
        model.logit_scale.fill_(np.log(10.0))
    model.visual.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=recipe.image_steps, pct_start=0.1)
    state = {"visual": model.visual, "space": space, "optimiser": optimiser, "schedule": schedule}
    sampler = PairSampler(sets, pools, recipe.image_batch, recipe.seed)
    start = resume_stage(work / "image.pt", state, model)
    model.train()
    bar = tqdm(range(start, recipe.image_steps), initial=start, total=recipe.image_steps, desc="images")
    for step in bar:
        frames, asserted, truth, near = sampler.draw(step)
        with torch.autocast("cpu", torch.bfloat16):
            image = model.visual(normalise(augment(frames)).contiguous(memory_format=torch.channels_last))
        image = functional.normalize(image.float(), dim=-1)
        text = torch.cat([space(family, columns) for family, columns in asserted])
        loss = pair_loss(model.logit_scale.exp() * image @ text.T + model.logit_bias, truth, near)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(model.visual.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(MAX_SCALE))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", scale=f"{model.logit_scale.exp().item():.1f}")
        if (step + 1) % 500 == 0 or step + 1 == recipe.image_steps:
            save_stage(work / "image.pt", step + 1, state, model)
    model.eval()


class PairSampler:
    """Draws batches of frames and captions with the truth of every pair; a batch is fixed by seed and step.

    A batch shows few families, so that captions meet many frames of their own environment that differ in one fact:
    those are the negatives that teach.
    """

    def __init__(self, sets: list[FrameSet], pools: list[CaptionPool], batch: int, seed: int) -> None:
        """Weigh frames so that rarely true facts are seen as often as possible."""
        self.sets, self.pools, self.batch, self.seed = sets, pools, batch, seed
        self.weights = [_rarity(s.truths) for s in sets]
        self.sizes = torch.tensor([len(s.frames) for s in sets], dtype=torch.float32)

    def draw(self, step: int) -> tuple[Tensor, list[tuple[int, Tensor]], Tensor, Tensor]:
        """Draw frames ``(B, 3, S, S)`` and what is said of them.

        Returns:
            The frames; for each family shown its number and the columns of ``M`` assertions in all: every fact, every
            negation, and captions; their truths ``(B, M)``; and who belongs together ``(B, M)``.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        frames, asserted, blocks = [], [], []
        shown = min(FAMILIES_SHOWN, len(self.sets))
        chosen = torch.multinomial(self.sizes, shown, replacement=False, generator=generator).tolist()
        n = max(4, self.batch // shown)
        for family in chosen:
            part, pool = self.sets[family], self.pools[family]
            rows = torch.multinomial(self.weights[family], n, replacement=True, generator=generator)
            captions = torch.randint(len(pool.texts), (n,), generator=generator)
            columns = torch.cat([pool.single, pool.columns[captions]])
            frames.append(part.frames[rows])
            asserted.append((family, columns))
            blocks.append(pool.truth(part.truths[rows], columns))
        near = _block_diagonal([torch.ones_like(block) for block in blocks])
        return torch.cat(frames), asserted, _block_diagonal(blocks), near


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    """Captions of one family are false of every other family's frames."""
    whole: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return whole


def _rarity(truths: Tensor) -> Tensor:
    """Sampling weight of each frame: the sum over its true facts of one over their frequency."""
    frequency = truths.mean(0).clamp_min(1e-4)
    weight = (truths / frequency).sum(1) / truths.shape[1]
    return 0.3 + weight.clamp_max(20)


def pair_loss(logits: Tensor, truth: Tensor, near: Tensor) -> Tensor:
    """Sigmoid loss with graded truth.

    Of each caption, positives weigh as much as negatives, and of the negatives the frames of its own environment as
    much as all others.

    Args:
        logits: ``(B, M)`` of images against captions.
        truth: ``(B, M)`` in [0, 1].
        near: ``(B, M)`` 1 where frame and caption are of one family, else 0.
    """
    positive = -(truth * functional.logsigmoid(logits)).sum(0) / (truth.sum(0) + 1)
    false = -functional.logsigmoid(-logits)
    negative = sum((weight * false).sum(0) / (weight.sum(0) + 1) for weight in ((1 - truth) * near, 1 - near))
    return (positive + 0.5 * negative).mean()


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
