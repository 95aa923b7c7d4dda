"""The frame codec of the bundled generators, fitted to frames of our simulators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vrm.diffusion.patch_codec import PatchAutoencoder
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

LATENT_NOISE = 0.05  # what the decoder has to bear
FITTED = 3_000  # frames, whose patches the encoder is fitted to
SAVE_EVERY = 100  # steps


def train_codec(
    recipe: Recipe, model: PatchAutoencoder, clips: Mapping[str, Tensor], work: Path, cores: int = 2
) -> None:
    """Train the codec on frames of ``clips``, ``(N, T, 3, S, S)`` uint8 of every motion.

    The encoder is computed at once, so that latents never change; then the decoder learns.
    """
    grounds = backgrounds(clips)
    frames, behind = draw_frames(clips, grounds, FITTED, generator_at(recipe.seed, 0))
    model.fit(*weighed_patches(frames, behind, model.side))
    model.refine.to(memory_format=torch.channels_last)
    learning = [*model.refine.parameters(), *model.inverse.parameters(), model.mean]
    optimiser = torch.optim.AdamW(learning, lr=recipe.codec_rate, betas=(0.9, 0.98), weight_decay=0.01)
    state = {"model": model, "optimiser": optimiser}
    start = resume_state(work / "codec.pt", state)
    save_state(work / "codec.pt", start, state)
    bar = tqdm(range(start, recipe.codec_steps), initial=start, total=recipe.codec_steps, desc="codec")
    with workers(cores) as pool:
        for step in bar:
            frames, behind = draw_frames(clips, grounds, recipe.codec_batch, generator_at(recipe.seed, step))
            parts = list(zip([model] * cores, frames.chunk(cores), behind.chunk(cores), strict=True))
            loss = spread_gradients(pool, codec_loss, learning, parts)
            nn.utils.clip_grad_norm_(learning, 1.0)
            for group in optimiser.param_groups:
                group["lr"] = recipe.codec_rate * pace(step / recipe.codec_steps)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss:.4f}")
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == recipe.codec_steps:
                save_state(work / "codec.pt", step + 1, state)


def backgrounds(clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean picture ``(3, S, S)`` in [0, 1] of each motion's family: what is always there."""
    means: dict[str, list[Tensor]] = {}
    for name, part in clips.items():
        means.setdefault(MOTIONS[name].family, []).append(part[:, ::2].flatten(0, 1)[::5].float().mean(0) / 255)
    return {name: torch.stack(means[MOTIONS[name].family]).mean(0) for name in clips}


def draw_frames(
    clips: Mapping[str, Tensor], grounds: Mapping[str, Tensor], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw frames ``(count, 3, S, S)`` uint8, motions by their shares, and the background of each."""
    names = list(clips)
    shares = torch.tensor([MOTIONS[name].share for name in names])
    chosen = torch.multinomial(shares, count, replacement=True, generator=generator).tolist()
    frames = []
    for part in (clips[names[index]] for index in chosen):
        place = int(torch.randint(part.shape[0] * part.shape[1], (1,), generator=generator))
        frames.append(part[place // part.shape[1], place % part.shape[1]])
    return torch.stack(frames), torch.stack([grounds[names[index]] for index in chosen])


def weighed_patches(frames: Tensor, behind: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """All patches ``(N, 3, side, side)`` in [-1, 1] of uint8 frames, and weights ``(N,)`` by what is not background."""
    images = frames.float() / 127.5 - 1
    patches, weights = (
        part.unfold(-2, side, side).unfold(-2, side, side).movedim(1, 3).flatten(0, 2)
        for part in (images, foreground(images / 2 + 0.5, behind))
    )
    return patches, weights.mean((1, 2, 3))


def foreground(images: Tensor, behind: Tensor) -> Tensor:
    """Weight of every pixel ``(N, 1, S, S)``: more where something else than the background is near."""
    foreign = functional.max_pool2d((images - behind).abs().mean(1, keepdim=True), 3, 1, 1)
    return 0.5 + 20 * foreign.clamp(max=0.4)


def codec_loss(model: PatchAutoencoder, frames: Tensor, behind: Tensor) -> Tensor:
    """Weighted difference of frames ``(N, 3, S, S)`` uint8 and their reconstructions from slightly noisy latents.

    Differences of pixels and of their slopes, those from ``behind`` weighing more: limbs are few pixels, and a ground
    is many.
    """
    images = frames.float() / 255
    with torch.no_grad():
        latents = model.encoder(images * 2 - 1)
        noisy = latents + LATENT_NOISE * torch.randn_like(latents)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = model.decode(noisy.contiguous(memory_format=torch.channels_last))
    error = (decoded.float() + 1) / 2 - images
    return (foreground(images, behind) * (error.abs() + error.square() + 0.5 * _slope(error))).mean()


def _slope(images: Tensor) -> Tensor:
    """Absolute differences to the right and lower neighbour, summed; the same shape."""
    across = functional.pad(images[..., 1:] - images[..., :-1], (0, 1))
    down = functional.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
    return across.abs() + down.abs()


@torch.no_grad()
def encode_clips(model: PatchAutoencoder, clips: Tensor, batch: int = 128) -> Tensor:
    """Latents ``(N, C, T, h, w)`` float32 of clips ``(N, T, 3, S, S)`` uint8."""
    frames = clips.flatten(0, 1)
    latents = torch.cat([model.encoder(part.float() / 127.5 - 1) for part in torch.split(frames, batch)])
    return latents.reshape(*clips.shape[:2], *latents.shape[1:]).transpose(1, 2).contiguous()


@torch.no_grad()
def psnr(model: PatchAutoencoder, clips: Mapping[str, Tensor]) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB of reconstructions, by motion."""
    ratios = {}
    for name, part in clips.items():
        frames = part.flatten(0, 1).float() / 255
        decoded = (model.decode(model.encoder(frames * 2 - 1)) + 1) / 2
        ratios[name] = round(float(-10 * (decoded.clamp(0, 1) - frames).square().mean().log10()), 2)
    return ratios
