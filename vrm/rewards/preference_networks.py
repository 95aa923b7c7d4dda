"""The small networks that preference rewards are made of: heads on frozen features, convolutions on pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrm.frames import to_float
from vrm.rewards.progress import FeatureHead

CONVOLUTIONS = ((16, 5, 3), (32, 3, 2), (64, 3, 2), (128, 3, 2))  # channels, kernel, stride; RL-VLM-F's
SMALLEST_SIDE = 53  # pixels that these leave something of


class PixelHead(nn.Module):
    """Four convolutions and a linear layer on whole pictures, as in RL-VLM-F (Wang et al. 2024, arXiv 2402.03681).

    Args:
        size: pixels of the square that frames are resized to, at least 53.
        outputs: numbers per frame.
        seed: of the first weights.

    Raises:
        ValueError: if ``size`` is too small.
    """

    def __init__(self, size: int, outputs: int, seed: int = 0) -> None:
        """Draw the first weights, without touching the global generator."""
        super().__init__()
        if size < SMALLEST_SIDE:
            raise ValueError(f"size must be at least {SMALLEST_SIDE} pixels for four convolutions, got {size}.")
        self.size = size
        layers: list[nn.Module] = []
        channels, side = 3, size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for found, kernel, stride in CONVOLUTIONS:
                layers += [nn.Conv2d(channels, found, kernel, stride), nn.ReLU()]
                channels, side = found, (side - kernel) // stride + 1
            layers += [nn.Flatten(), nn.Linear(channels * side * side, outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames ``(..., 3, H, W)``, uint8 or float in [0, 1], to ``(..., outputs)``."""
        found: Tensor = self.layers(resized(frames.flatten(0, -4), self.size))
        return found.reshape(*frames.shape[:-3], -1)


def resized(frames: Tensor, size: int) -> Tensor:
    """Frames ``(N, 3, H, W)`` as float in [0, 1] on a square of ``size`` pixels."""
    pixels = to_float(frames)
    if pixels.shape[-2:] == (size, size):
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)


def small_frames(frames: Tensor, size: int) -> Tensor:
    """What a :class:`PixelHead` of ``size`` sees of ``(..., 3, H, W)``, as uint8 to keep many of."""
    small = resized(frames.flatten(0, -4), size)
    return (small * 255).round().clamp(0, 255).to(torch.uint8).reshape(*frames.shape[:-3], 3, size, size)


@torch.no_grad()
def restandardise(head: FeatureHead, features: Tensor) -> None:
    """Take mean and scale anew from ``features`` ``(N, D)``, and the first layer so that the outputs stay as they are.

    What an agent shows changes while it learns; standardised by its first pictures, later ones would be far out.
    """
    centre, spread = head.centre.clone(), head.spread.clone()
    head.fit_scale(features)
    first = head.layers[0]
    assert isinstance(first, nn.Linear)
    first.bias.add_(first.weight @ (head.centre - centre) / spread)
    first.weight.mul_(head.spread / spread)


def make_heads(
    inputs: int | None, size: int, hidden: Sequence[int], outputs: int, count: int, seed: int
) -> list[nn.Module]:
    """Networks of different first weights: on features of ``inputs`` numbers, or on pixels where that is None."""
    if inputs is None:
        return [PixelHead(size, outputs, seed + member) for member in range(count)]
    return [FeatureHead([inputs, *hidden, outputs], seed + member) for member in range(count)]
