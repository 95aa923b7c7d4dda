"""``vrm pretrain-generator``: clips, codec, then the two denoisers, written as folders to load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.patch_codec import PatchAutoencoder
from vrm.diffusion.tiny import FOLDERS, SentenceText, TinySettings, assemble, build, save_tiny
from vrm.encoders import Encoder, load_encoder
from vrm.pretrain_generator.clips import plan, read_pieces, write_pieces
from vrm.pretrain_generator.codec import encode_clips, psnr, train_codec
from vrm.pretrain_generator.evaluate import SHOWN_PROMPTS, contact_sheet, sample_motions, score
from vrm.pretrain_generator.motions import MOTIONS
from vrm.pretrain_generator.recipe import Recipe
from vrm.pretrain_generator.train import Lesson, train_denoiser

NETWORKS = {"vrm-tiny": "WanTransformer3DModel", "vrm-tiny-unet": "UNet3DConditionModel"}


def pretrain_generators(recipe: Recipe, work: Path, out: Path, cores: int = 2) -> dict[str, dict[str, Any]]:
    """Render, train and write both generators; an interrupted run continues from ``work``.

    Args:
        recipe: all that defines them.
        work: for clips, checkpoints and sheets of samples on the way.
        out: gets the folders ``vrm_tiny`` and ``vrm_tiny_unet``.
        cores: rendering processes, and training threads.

    Returns:
        The measured scores by generator, also written to ``scores.json`` in each folder.
    """
    train, test = load_clips(recipe, work, cores)
    torch.manual_seed(recipe.seed)
    codec = PatchAutoencoder(**recipe.codec)
    train_codec(recipe, codec, train, work, cores)
    encoder = load_encoder(recipe.encoder)
    lessons = make_lessons(codec, encoder, train)
    lengths = {
        "vrm-tiny": (recipe.flow, recipe.flow_steps, recipe.flow_batch),
        "vrm-tiny-unet": (recipe.unet, recipe.unet_steps, recipe.unet_batch),
    }
    scores = {}
    for name, (config, steps, batch) in lengths.items():
        settings = describe(recipe, name, encoder)
        torch.manual_seed(recipe.seed)
        generator = assemble(name, build(settings.network, config), codec, encoder, settings)

        path = work / f"{name}.pt"
        generator.denoiser = train_denoiser(
            recipe,
            generator.denoiser,
            lessons,
            path,
            steps=steps,
            batch=batch,
            cores=cores,
            watch=_watcher(generator, work),
        )
        scores[name] = publish(recipe, generator, settings, encoder, test, out / FOLDERS[name])
    return scores


def load_clips(recipe: Recipe, work: Path, cores: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Render what is missing and return clips ``(N, T, 3, S, S)`` of every motion: to train on, and kept apart."""
    pieces = plan(recipe.clips, recipe.frames, recipe.size, recipe.seed)
    write_pieces(pieces, work / "clips", cores)
    clips = read_pieces(pieces, work / "clips")
    cut = recipe.clips - recipe.held_out
    return {n: part[:cut] for n, part in clips.items()}, {n: part[cut:] for n, part in clips.items()}


def make_lessons(codec: PatchAutoencoder, encoder: Encoder, clips: Mapping[str, Tensor]) -> dict[str, Lesson]:
    """Encode clips and prompts of every motion once."""
    text = SentenceText(encoder)
    return {name: Lesson(encode_clips(codec, part), text(MOTIONS[name].prompts).embeds) for name, part in clips.items()}


def describe(recipe: Recipe, name: str, encoder: Encoder) -> TinySettings:
    """What the folder of a generator will say of it."""
    return TinySettings(
        NETWORKS[name],
        recipe.codec,
        recipe.encoder,
        encoder.fingerprint,
        recipe.frames,
        recipe.size,
        shift=recipe.shift,
    )


def sheet(generator: VideoGenerator, path: Path) -> None:
    """Write a sheet with one sample of every motion."""
    prompts = list(SHOWN_PROMPTS.values())
    contact_sheet(generator.sample(prompts, seed=0), prompts, path)


def _watcher(generator: VideoGenerator, work: Path) -> Callable[[VideoDenoiser, int], None]:
    def watch(denoiser: VideoDenoiser, step: int) -> None:
        now = VideoGenerator(denoiser, generator.codec, generator.text, generator.defaults)
        sheet(now, work / f"{generator.name}-{step:05d}.png")

    return watch


def publish(
    recipe: Recipe,
    generator: VideoGenerator,
    settings: TinySettings,
    encoder: Encoder,
    test: Mapping[str, Tensor],
    folder: Path,
) -> dict[str, Any]:
    """Write a generator's folder: weights, recipe, scores and sheets by prompts that training has and has not seen."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny(folder, generator, settings)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n", encoding="utf-8")
    sheet(generator, folder / "samples.png")
    videos, _, prompts = sample_motions(generator, 1, unseen=True)
    contact_sheet(videos, prompts, folder / "samples_unseen_wordings.png")
    codec: PatchAutoencoder = generator.codec.model  # type: ignore[assignment]
    scores: dict[str, Any] = dict(score(generator, encoder, test))
    scores["codec_psnr"] = psnr(codec, test)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return scores
