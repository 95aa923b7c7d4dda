"""What a generator has learned: sheets to look at, and whether its samples show what they were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from vrm.diffusion.generator import VideoGenerator
from vrm.encoders import Encoder
from vrm.frames import to_float
from vrm.pretrain_generator.motions import MOTIONS

SHOWN_PROMPTS = {name: motion.prompts[0] for name, motion in MOTIONS.items()}
LABEL = 14  # pixels of height of a row's caption
LATE = 2  # frames at the end of a clip that tell what it came to


def contact_sheet(videos: Tensor, captions: Sequence[str], path: Path, zoom: int = 2) -> None:
    """Write videos ``(B, T, 3, S, S)``, float in [0, 1] or uint8, as rows of frames below their captions, in pairs."""
    pixels = (to_float(videos) * 255).round().to(torch.uint8).permute(0, 3, 1, 4, 2).numpy()
    rows = pixels.reshape(*pixels.shape[:2], -1, 3).repeat(zoom, 1).repeat(zoom, 2)
    count, height, width = rows.shape[:3]
    lines = (count + 1) // 2
    sheet = Image.new("RGB", (2 * width + LABEL, lines * (height + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        x, y = (index // lines) * (width + LABEL), (index % lines) * (height + LABEL)
        draw.text((x + 2, y + 1), caption, fill="black")
        sheet.paste(Image.fromarray(row), (x, y + LABEL))
    partial = path.with_suffix(".partial.png")
    sheet.save(partial)
    partial.replace(path)


def features(encoder: Encoder, videos: Tensor) -> Tensor:
    """Unit embeddings ``(B, T, D)`` of every frame of ``videos``."""
    return encoder.encode_image(videos.flatten(0, 1)).reshape(*videos.shape[:2], -1)


def recognised(encoder: Encoder, videos: Tensor, motions: Sequence[str], real: Mapping[str, Tensor]) -> float:
    """Share of ``videos`` whose frames, in their order, are nearest to the mean real clip of their own motion.

    Args:
        encoder: judges the frames.
        videos: ``(B, T, 3, S, S)``.
        motions: what each was asked to show.
        real: clips of every motion ``(N, T, 3, S, S)``.
    """
    names = list(real)
    means = torch.stack([features(encoder, clips).mean(0) for clips in real.values()])
    nearest = (features(encoder, videos).flatten(1) @ means.flatten(1).T).argmax(1)
    return float(np.mean([names[index] == motion for index, motion in zip(nearest.tolist(), motions, strict=True)]))


def retrieved(encoder: Encoder, videos: Tensor, motions: Sequence[str]) -> float:
    """Share of ``videos`` whose last frames are nearer to the prompt of their own motion than to all others'."""
    names = list(MOTIONS)
    texts = encoder.encode_text([SHOWN_PROMPTS[name] for name in names])
    late = functional.normalize(features(encoder, videos)[:, -LATE:].mean(1), dim=-1)
    nearest = (late @ texts.T).argmax(1)
    return float(np.mean([names[index] == motion for index, motion in zip(nearest.tolist(), motions, strict=True)]))


def sample_motions(
    generator: VideoGenerator, count: int, *, unseen: bool = False, seed: int = 10_000
) -> tuple[Tensor, list[str], list[str]]:
    """Sample ``count`` videos of every motion, by prompts in turn: videos, their motions and their prompts."""
    asked = []
    for name, motion in MOTIONS.items():
        words = motion.unseen if unseen else motion.prompts
        asked += [(name, words[index % len(words)]) for index in range(count)]
    motions, prompts = (list(part) for part in zip(*asked, strict=True))
    videos = [generator.sample(prompts[start : start + 18], seed=seed + start) for start in range(0, len(prompts), 18)]
    return torch.cat(videos), motions, prompts


def score(generator: VideoGenerator, encoder: Encoder, real: Mapping[str, Tensor], count: int = 4) -> dict[str, float]:
    """Measure prompt following on ``count`` samples of every motion, by seen and unseen wordings; with real clips."""
    scores = {"chance": 1 / len(MOTIONS)}
    halves = {name: clips[: len(clips) // 2] for name, clips in real.items()}
    rest = {name: clips[len(clips) // 2 :] for name, clips in real.items()}
    truth, truth_motions = torch.cat(list(halves.values())), [n for n, part in halves.items() for _ in part]
    scores["recognised_real"] = recognised(encoder, truth, truth_motions, rest)
    scores["retrieved_real"] = retrieved(encoder, truth, truth_motions)
    for wording in ("seen", "unseen"):
        videos, motions, _ = sample_motions(generator, count, unseen=wording == "unseen")
        scores[f"recognised_{wording}"] = recognised(encoder, videos, motions, real)
        scores[f"retrieved_{wording}"] = retrieved(encoder, videos, motions)
    return {name: round(value, 4) for name, value in scores.items()}
