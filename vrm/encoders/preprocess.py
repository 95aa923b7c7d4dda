"""Image preprocessing as one batched, differentiable tensor op."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrm.frames import to_float

Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "longest", "squash"]


class Preprocess(nn.Module):
    """Resize, crop or pad, and normalise, with the model's own numbers.

    uint8 frames are resized in 8 bits, as PIL and so the published pipelines do, which is also many times faster; float
    frames are not rounded and carry gradients. The two differ by that rounding.

    Args:
        size: ``(H, W)`` the tower expects.
        mean: per-channel mean of pixels in [0, 1].
        std: per-channel standard deviation.
        interpolation: ``"bicubic"`` or ``"bilinear"``, antialiased as the PIL path is.
        resize_mode: ``"shortest"`` (shorter side to size, centre crop), ``"longest"`` (longer side to size, pad with
            ``fill``) or ``"squash"`` (both sides to size).
        fill: padding value in [0, 1] for ``"longest"``.
        floor_crop: whether an odd margin is cut with the smaller half first, as ``transformers`` does; ``torchvision``
            and ``open_clip`` round half a pixel to even.

    Raises:
        ValueError: if ``interpolation`` or ``resize_mode`` is none of these.

    Example:
        >>> preprocess = Preprocess((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        >>> preprocess(torch.zeros(2, 3, 48, 64, dtype=torch.uint8)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        interpolation: Interpolation = "bicubic",
        resize_mode: ResizeMode = "shortest",
        fill: float = 0.0,
        floor_crop: bool = False,
    ) -> None:
        """Keep the numbers; statistics follow the module's device but stay in float32."""
        super().__init__()
        if interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be one of {get_args(Interpolation)}, got {interpolation!r}.")
        if resize_mode not in get_args(ResizeMode):
            raise ValueError(f"resize_mode must be one of {get_args(ResizeMode)}, got {resize_mode!r}.")
        self.size = size
        self.interpolation = interpolation
        self.resize_mode = resize_mode
        self.fill = fill
        self.floor_crop = floor_crop
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._stats = (mean, std)

    mean: Tensor
    std: Tensor

    def extra_repr(self) -> str:
        """All that defines the op; part of an encoder's fingerprint."""
        mean, std = self._stats
        options = f"{self.interpolation}, {self.resize_mode}, {self.fill}, {self.floor_crop}"
        return f"{self.size}, {mean}, {std}, {options}"

    def forward(self, frames: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` uint8 or float in [0, 1] to normalised ``(N, 3, *size)`` float32."""
        return (to_float(self.fit(frames)) - self.mean) / self.std

    def fit(self, frames: Tensor) -> Tensor:
        """Resize, crop or pad ``(N, 3, H, W)`` to ``(N, 3, *size)``; uint8 stays uint8, and float stays in [0, 1]."""
        height, width = frames.shape[-2:]
        if (height, width) == self.size:
            return frames
        if self.resize_mode == "squash":
            return self._resize(frames, self.size)
        return self._crop_or_pad(self._resize(frames, self._scaled(height, width)))

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Size after the resize that keeps the aspect; rounded as the reference transforms round."""
        rows, cols = self.size
        if self.resize_mode == "shortest" and rows == cols:
            short = min(height, width)
            return int(rows * height / short), int(rows * width / short)
        ratios = (height / rows, width / cols)
        ratio = min(ratios) if self.resize_mode == "shortest" else max(ratios)
        return max(round(height / ratio), 1), max(round(width / ratio), 1)

    def _resize(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(frames.shape[-2:]) == size:
            return frames
        resize = partial(
            functional.interpolate, size=size, mode=self.interpolation, antialias=True, align_corners=False
        )
        if frames.is_floating_point():
            return resize(frames.float()).clamp(0, 1)
        if frames.device.type == "cpu":
            return resize(frames)
        return resize(frames.float()).round().clamp(0, 255).to(torch.uint8)  # only the CPU has an 8-bit kernel

    def _crop_or_pad(self, frames: Tensor) -> Tensor:
        (height, width), (rows, cols) = frames.shape[-2:], self.size
        if height > rows or width > cols:
            halves = ((height - rows) / 2, (width - cols) / 2)
            top, left = (max(int(h) if self.floor_crop else round(h), 0) for h in halves)
            frames = frames[..., top : top + rows, left : left + cols]
            height, width = frames.shape[-2:]
        if height < rows or width < cols:
            top, left = (rows - height) // 2, (cols - width) // 2
            pad = (left, cols - width - left, top, rows - height - top)
            fill = self.fill if frames.is_floating_point() else round(255 * self.fill)
            frames = functional.pad(frames, pad, value=fill)
        return frames

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        # A half-precision mean would shift every pixel by up to 0.2 %.
        self.mean, self.std = (torch.tensor(v, device=self.mean.device).view(1, 3, 1, 1) for v in self._stats)
        return self
