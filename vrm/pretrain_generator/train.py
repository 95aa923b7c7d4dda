"""The denoisers of the bundled generators, trained on latents and text conditions that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.pretrain_generator.motions import MOTIONS
from vrm.pretrain_generator.recipe import (
    Recipe,
    generator_at,
    pace,
    resume_state,
    save_state,
    spread_gradients,
    workers,
)

SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class Lesson:
    """What a denoiser learns of one motion: ``latents (N, C, T, h, w)`` and the ``embeds (M, L, D)`` of its prompts."""

    latents: Tensor
    embeds: Tensor


def train_denoiser(
    recipe: Recipe,
    denoiser: VideoDenoiser,
    lessons: Mapping[str, Lesson],
    path: Path,
    *,
    steps: int,
    batch: int,
    cores: int = 2,
    watch: Callable[[VideoDenoiser, int], None] = lambda *_: None,
) -> VideoDenoiser:
    """Train all weights of a denoiser by its own matching loss, and return it with averaged weights.

    Matrices of the hidden layers learn by Muon, everything else by AdamW. Interrupted runs continue from ``path``.

    Args:
        recipe: rates, drops and seed.
        denoiser: with its first weights.
        lessons: by motion.
        path: file of the training's state.
        steps: length of the training.
        batch: clips a step.
        cores: batches are split over so many threads.
        watch: called now and then with the averaged denoiser and the step.
    """
    model: Any = denoiser.model
    model.requires_grad_(True)
    averaged = deepcopy(denoiser).requires_grad_(False)
    parameters = list(model.parameters())
    optimisers = {
        "muon": torch.optim.Muon(_hidden(model), lr=recipe.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        "adam": torch.optim.AdamW(_others(model), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    }
    state = {"model": model, "averaged": averaged.model, **optimisers}
    start = resume_state(path, state)
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=path.stem)
    with workers(cores) as pool:
        for step in bar:
            examples = draw_examples(recipe, denoiser, lessons, batch, generator_at(recipe.seed, step))
            parts = list(zip(*(value.chunk(cores) for value in examples), strict=True))
            loss = spread_gradients(pool, lambda *part: matching_loss(denoiser, *part), parameters, parts)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in optimisers.values():
                for group in optimiser.param_groups:
                    group["lr"] = recipe.rate * pace(step / steps)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            average(averaged.model, model, min(recipe.average, (1 + step) / (10 + step)))
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss:.4f}")
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                save_state(path, step + 1, state)
                watch(averaged, step + 1)
    return averaged


def draw_examples(
    recipe: Recipe, denoiser: VideoDenoiser, lessons: Mapping[str, Lesson], batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw clean latents ``(B, C, T, h, w)``, times ``(B,)``, noise like the latents and embeddings ``(B, L, D)``."""
    shares = torch.tensor([MOTIONS[name].share for name in lessons])
    chosen = torch.multinomial(shares, batch, replacement=True, generator=generator).tolist()
    latents, embeds = [], []
    for lesson in (list(lessons.values())[index] for index in chosen):
        latents.append(lesson.latents[torch.randint(len(lesson.latents), (), generator=generator)])
        embeds.append(lesson.embeds[torch.randint(len(lesson.embeds), (), generator=generator)])
    x0, said = torch.stack(latents), torch.stack(embeds)
    noise = recipe.wording_noise * torch.randn(said.shape, generator=generator)
    told = torch.rand(batch, 1, 1, generator=generator) >= recipe.drop
    said = torch.where(told, said + noise * (said != 0), 0.0)
    eps = torch.randn(x0.shape, generator=generator)
    fraction = torch.rand(batch, generator=generator)
    if denoiser.prediction == "flow":  # logit-normal, Esser et al. 2024 (arXiv 2403.03206), section 3.1
        fraction = torch.sigmoid(torch.special.ndtri(fraction.clamp(1e-4, 1 - 1e-4)))
    return x0, denoiser.schedule.at(fraction), eps, said


def matching_loss(denoiser: VideoDenoiser, x0: Tensor, t: Tensor, eps: Tensor, embeds: Tensor) -> Tensor:
    """Mean of the denoiser's matching loss over a batch."""
    return denoiser.matching_loss(x0, t, eps, Conditions(embeds)).mean()


def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the present ones."""
    with torch.no_grad():
        for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def _hidden(model: nn.Module) -> list[nn.Parameter]:
    return [value for name, value in model.named_parameters() if _is_hidden(name, value)]


def _others(model: nn.Module) -> list[nn.Parameter]:
    return [value for name, value in model.named_parameters() if not _is_hidden(name, value)]


def _is_hidden(name: str, value: Tensor) -> bool:
    return value.ndim == 2 and "block" in name and "table" not in name
