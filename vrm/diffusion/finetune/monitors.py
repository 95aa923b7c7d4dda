"""What a tuned generator may lose while its reward rises: motion, sharpness, variety, nearness to its base."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from vrm.frames import check_frames, to_float

if TYPE_CHECKING:
    from vrm.diffusion.conditions import Conditions
    from vrm.diffusion.denoiser import VideoDenoiser
    from vrm.encoders import Encoder

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
CLIPPED = 1 / 255  # nearer than one 8-bit step to black or white counts as clipped


def motion(videos: Tensor) -> Tensor:
    """Mean absolute difference of successive frames; 0 for a still picture.

    Args:
        videos: ``(B, T, 3, H, W)`` uint8 or float in [0, 1].

    Returns:
        ``(B,)`` in [0, 1].
    """
    frames = to_float(check_frames(videos, 5))
    if frames.shape[1] == 1:
        return frames.new_zeros(len(frames))
    return (frames[:, 1:] - frames[:, :-1]).abs().mean(dim=(1, 2, 3, 4))


def sharpness(videos: Tensor) -> Tensor:
    """Variance of the Laplacian of the brightness, averaged over frames; falls when pictures blur.

    Args:
        videos: ``(B, T, 3, H, W)`` uint8 or float in [0, 1], at least 3 x 3 pixels.

    Returns:
        ``(B,)`` at least 0, in squared units of brightness.
    """
    frames = to_float(check_frames(videos, 5))
    grey = (frames * frames.new_tensor(LUMA)[:, None, None]).sum(dim=2)
    kernel = frames.new_tensor(LAPLACIAN)[None, None]
    edges = functional.conv2d(grey.flatten(0, 1)[:, None], kernel)
    return edges.flatten(1).var(dim=1, unbiased=False).reshape(grey.shape[:2]).mean(dim=1)


def saturation(videos: Tensor) -> Tensor:
    """Share of colour values at black or white, where detail is lost and gradients vanish.

    Args:
        videos: ``(B, T, 3, H, W)`` uint8 or float in [0, 1].

    Returns:
        ``(B,)`` in [0, 1].
    """
    frames = to_float(check_frames(videos, 5))
    return ((frames < CLIPPED) | (frames > 1 - CLIPPED)).float().mean(dim=(1, 2, 3, 4))


def pooled_features(encoder: Encoder, videos: Tensor) -> Tensor:
    """Mean over time of the frames' features ``(B, D)``; the videos are ``(B, T, 3, H, W)``."""
    from vrm.rewards.base import encode_frames

    return encode_frames(encoder, videos).mean(dim=1)


def diversity(features: Tensor, groups: Sequence[Hashable]) -> float:
    """Mean Euclidean distance of two samples of one prompt: over the pairs of each prompt, then over prompts.

    Args:
        features: ``(B, D)``, such as :func:`pooled_features` gives.
        groups: the prompt of each row; prompts with a single sample say nothing and are left out.

    Returns:
        At least 0, for unit features below 2; 0 if all samples of a prompt are alike.

    Raises:
        ValueError: if the lengths differ or no prompt has two samples.
    """
    if len(groups) != len(features):
        raise ValueError(f"groups must name the prompt of each of the {len(features)} samples, got {len(groups)}.")
    members = [[row for row, group in enumerate(groups) if group == name] for name in dict.fromkeys(groups)]
    distances = [functional.pdist(features[rows].float()).mean() for rows in members if len(rows) > 1]
    if not distances:
        raise ValueError("Diversity compares samples of one prompt; draw at least two of some prompt.")
    return float(torch.stack(distances).mean())


@torch.no_grad()
def velocity_distance(
    denoiser: VideoDenoiser, latents: Tensor, conditions: Conditions, seed: int = 0, levels: int = 4
) -> Tensor:
    """How far the tuned model's predicted velocity is from the base model's, relative to the latter's size.

    ``mean_t ||v_theta(x_t, t) - v_ref(x_t, t)||^2 / ||v_ref(x_t, t)||^2`` at ``levels`` noise levels spread over the
    chain. For a flow model this is, up to a weight over time, the Kullback-Leibler divergence of the two processes.

    Args:
        denoiser: the model with its adapter; the base is the same with adapters off.
        latents: ``(B, C, T, h, w)`` clean latents at which the two are compared.
        conditions: of those latents.
        seed: of the noise added to them.
        levels: how many noise levels.

    Returns:
        ``(B,)`` at least 0; exactly 0 at the base.
    """
    generator = torch.Generator().manual_seed(seed)
    times = denoiser.schedule.grid(levels + 1)[1:-1]
    found = []
    for time in times:
        eps = torch.randn(latents.shape, generator=generator).to(latents.device)
        noised = denoiser.noise(latents, time, eps)
        tuned = denoiser.predict(noised, time, conditions).v
        with denoiser.reference():
            base = denoiser.predict(noised, time, conditions).v
        found.append((tuned - base).square().flatten(1).sum(1) / base.square().flatten(1).sum(1).clamp(min=1e-12))
    return torch.stack(found).mean(dim=0)
