"""Videos with prompts for aligners that start from data: real ones, or the base model's own, drawn once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from vrm.errors import CheckpointError
from vrm.frames import to_float
from vrm.scoring.inputs import MANIFESTS, InputError
from vrm.scoring.plan import make_plan
from vrm.video import read_video, replacing

if TYPE_CHECKING:
    from vrm.diffusion.generator import VideoGenerator


@dataclass(frozen=True)
class CaptionedVideos:
    """Videos and what they show.

    Attributes:
        prompts: ``N`` sentences.
        frames: ``(N, T, 3, H, W)`` uint8.
    """

    prompts: list[str]
    frames: Tensor

    def pick(self, rows: Sequence[int]) -> tuple[list[str], Tensor]:
        """Prompts and float frames ``(len(rows), T, 3, H, W)`` in [0, 1] of some of them."""
        return [self.prompts[row] for row in rows], to_float(self.frames[list(rows)])


def read_captioned(source: str | Path, frames: int, size: tuple[int, int]) -> CaptionedVideos:
    """Read videos with their prompts, all brought to one length and size.

    Args:
        source: a manifest with columns ``path`` and ``prompt`` (csv, tsv, json, jsonl, parquet), or a folder of videos
            with ``clip.txt`` beside ``clip.mp4``.
        frames: evenly spaced frames taken of each.
        size: height and width; what does not fit the shape is cut off equally at both ends.

    Raises:
        InputError: if there is no video, or one has no prompt.
        DecodeError: if a video cannot be read.
    """
    from_table = Path(source).suffix.lower() in MANIFESTS and Path(source).is_file()
    items = list(make_plan(source, prompt_from=None if from_table else "sidecar").items())
    prompts = [item.prompt for item in items if item.prompt is not None]
    if len(prompts) < len(items):
        raise InputError(f"The videos of {str(source)!r} have no prompts; add a column 'prompt' to the manifest.")
    return CaptionedVideos(prompts, torch.stack([_fit(read_video(item.path, frames), size) for item in items]))


def draw_captioned(
    generator: VideoGenerator, prompts: Sequence[str], cache: Path, seed: int, batch: int = 8
) -> CaptionedVideos:
    """Draw one video for each prompt from the base model, or read those drawn before from ``cache``.

    Args:
        generator: its adapter, if any, is switched off.
        prompts: what to draw.
        cache: a ``.safetensors`` file, written once.
        seed: of the first video's noise; the others follow.
        batch: videos drawn at once.

    Raises:
        CheckpointError: if ``cache`` is damaged or holds videos of another number of prompts.
    """
    if not cache.is_file():
        drawn = []
        with torch.no_grad(), generator.denoiser.reference():
            for start in range(0, len(prompts), batch):
                some = list(prompts[start : start + batch])
                videos = generator.sample(some, seed=[seed + start + row for row in range(len(some))])
                drawn.append((videos.clamp(0, 1) * 255).round().byte().cpu())
        with replacing(cache, ".safetensors") as partial:
            save_file({"frames": torch.cat(drawn).contiguous()}, partial)
    try:
        frames = load_file(cache)["frames"]
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{str(cache)!r} is damaged ({error}); delete it to draw the videos again.") from error
    if len(frames) != len(prompts):
        raise CheckpointError(
            f"{str(cache)!r} holds {len(frames)} videos for {len(prompts)} prompts; delete it to draw them again."
        )
    return CaptionedVideos(list(prompts), frames)


def _fit(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale ``(T, 3, H, W)`` until it covers ``size`` and cut out the middle."""
    height, width = frames.shape[-2:]
    factor = max(size[0] / height, size[1] / width)
    scaled = (max(round(height * factor), size[0]), max(round(width * factor), size[1]))
    grown = functional.interpolate(to_float(frames), scaled, mode="bilinear", antialias=True, align_corners=False)
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    cut = grown[:, :, top : top + size[0], left : left + size[1]]
    return (cut.clamp(0, 1) * 255).round().byte()
