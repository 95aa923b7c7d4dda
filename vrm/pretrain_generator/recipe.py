"""What defines the bundled generators, and files from which an interrupted training continues."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 0.03  # share of a training


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a bundled generator; written beside its weights.

    Attributes:
        clips: rendered clips of every motion.
        frames: length of a clip.
        size: pixels of a frame's side.
        held_out: clips of every motion that no training sees.
        encoder: whose text tower the generators listen to.
        codec_steps, codec_batch: length of the codec's training, and its batch in frames.
        flow_steps, flow_batch: length of the transformer's training, and its batch in clips.
        unet_steps, unet_batch: likewise of the 3-D U-Net.
        codec_rate: peak learning rate of the codec's decoder.
        rate: peak learning rate of the denoisers.
        drop: chance that a training clip comes without its prompt, for classifier-free guidance.
        shift: of the flow's noise levels, in training and sampling.
        wording_noise: standard deviation of noise on text conditions in training, whose entries have variance 1;
            it makes near wordings mean the same.
        average: decay of the averaged weights, which are the ones that are kept.
        codec: arguments of :class:`~vrm.diffusion.patch_codec.PatchAutoencoder`.
        flow: of diffusers' ``WanTransformer3DModel``.
        unet: of ``UNet3DConditionModel``.
        seed: of clips, initial weights and batches.
    """

    clips: int = 600
    frames: int = 8
    size: int = 64
    held_out: int = 20
    encoder: str = "vrm-sim"
    codec_steps: int = 1_200
    codec_batch: int = 32
    flow_steps: int = 3_200
    flow_batch: int = 48
    unet_steps: int = 1_400
    unet_batch: int = 32
    codec_rate: float = 2e-3
    rate: float = 1.5e-3
    drop: float = 0.1
    shift: float = 3.0
    wording_noise: float = 0.3
    average: float = 0.995
    codec: dict[str, Any] = field(default_factory=lambda: {"channels": 16, "widths": [96, 64, 32]})
    flow: dict[str, Any] = field(
        default_factory=lambda: {
            "patch_size": [1, 2, 2], "num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 16,
            "out_channels": 16, "text_dim": 256, "freq_dim": 64, "ffn_dim": 512, "num_layers": 6,
            "cross_attn_norm": True, "rope_max_seq_len": 32,
        }
    )  # fmt: skip
    unet: dict[str, Any] = field(
        default_factory=lambda: {
            "in_channels": 16, "out_channels": 16, "block_out_channels": [32, 64], "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"], "norm_num_groups": 8, "cross_attention_dim": 256,
            "attention_head_dim": 16,
        }
    )  # fmt: skip
    seed: int = 0


def generator_at(seed: int, step: int) -> torch.Generator:
    """Randomness of one step, the same whether or not the training was interrupted before it."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Threads that each compute with one core, so that cores meet once a step rather than in every operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1)) as pool:
        yield pool
    torch.set_num_threads(before)


def pace(progress: float) -> float:
    """Learning rate relative to its peak at a share of the training: linear warm-up, then linear to zero."""
    return min(progress / WARM_UP + 0.01, (1 - progress) / (1 - WARM_UP), 1.0)


def spread_gradients(
    pool: Executor, loss: Callable[..., Tensor], parameters: Sequence[nn.Parameter], parts: Sequence[Sequence[Any]]
) -> float:
    """Compute a loss on equal parts of a batch side by side and leave the mean gradient in ``parameters``.

    Returns:
        The mean loss.
    """

    def part(arguments: Sequence[Any]) -> tuple[float, Sequence[Tensor | None]]:
        value = loss(*arguments)
        return float(value.detach()), torch.autograd.grad(value, parameters, allow_unused=True)

    values, gradients = zip(*pool.map(part, parts), strict=True)
    for parameter, *shares in zip(parameters, *gradients, strict=True):
        parameter.grad = None if shares[0] is None else torch.stack(shares).mean(0)
    return float(sum(values)) / len(values)


def save_state(path: Path, step: int, state: dict[str, Any]) -> None:
    """Write modules and optimisers at ``step``, so that readers see the old file or the new one."""
    partial = path.with_suffix(f".{time.time_ns()}.partial")
    torch.save({"step": step, **{key: holder.state_dict() for key, holder in state.items()}}, partial)
    os.replace(partial, path)


def resume_state(path: Path, state: dict[str, Any]) -> int:
    """Restore what :func:`save_state` wrote and return its step; 0 if there is nothing."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    for key, holder in state.items():
        holder.load_state_dict(saved[key])
    return int(saved["step"])
