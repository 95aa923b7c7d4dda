"""What defines a bundled encoder, and files from which an interrupted pre-training continues."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Clip = Any  # an ``open_clip.CLIP``, which carries no types
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a bundled encoder; written into its model card.

    Attributes:
        frames: rendered frames over all families.
        captions: captions of the largest family's pool; smaller families get a third.
        image_steps, image_batch: length and batch of the image stage.
        teacher_steps: batches in which the sentence encoder learns our facts.
        text_steps, text_batch: length and batch of the text stage.
        corpus: sentences for distillation.
        size: pixels of a frame's side.
        embed_dim: size of the shared space.
        vision, text: OpenCLIP tower configurations.
        warp: share of the frames of MuJoCo environments that the ray-caster draws.
        seed: of frames, captions, initial weights and batches.
    """

    frames: int = 300_000
    captions: int = 24_000
    image_steps: int = 4_500
    image_batch: int = 256
    teacher_steps: int = 800
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
    warp: float = 0.15
    seed: int = 0

    def model_config(self) -> dict[str, Any]:
        """OpenCLIP's ``model_cfg``."""
        vision = self.vision | {"image_size": self.size, "layers": tuple(self.vision["layers"])}
        return {"embed_dim": self.embed_dim, "vision_cfg": vision, "text_cfg": self.text}


def save_stage(path: Path, step: int, state: dict[str, Any], model: Clip) -> None:
    """Write the modules and optimisers of one stage, and the model's loose parameters, at ``step``."""
    scale = {"logit_scale": model.logit_scale.data, "logit_bias": model.logit_bias.data}
    text = {"position": model.positional_embedding.data, "projection": model.text_projection.data}
    save_atomically({"step": step, **{k: v.state_dict() for k, v in state.items()}, **scale, **text}, path)


def resume_stage(path: Path, state: dict[str, Any], model: Clip) -> int:
    """Restore what :func:`save_stage` wrote and return its step; 0 if there is nothing."""
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


def save_atomically(value: Any, path: Path) -> None:
    """Write tensors and plain values so that readers see the old file or the new one."""
    partial = path.with_suffix(f".{time.time_ns()}.partial")
    torch.save(value, partial)
    os.replace(partial, path)
