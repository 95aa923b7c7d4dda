"""Image preprocessing as one batched, differentiable tensor op."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrm.frames import to_float

ResizeMode = Literal["shortest", "longest", "squash"]


class Preprocess(nn.Module):
    """Resize, crop or pad, and normalise, with the model's own numbers.

    Args:
        size: ``(H, W)`` the tower expects.
        mean: per-channel mean of pixels in [0, 1].
        std: per-channel standard deviation.
        interpolation: ``"bicubic"`` or ``"bilinear"``, antialiased as the PIL path is.
        resize_mode: ``"shortest"`` (shorter side to size, centre crop), ``"longest"`` (longer side to size, pad with
            ``fill``) or ``"squash"`` (both sides to size).
        fill: padding value in [0, 1] for ``"longest"``.
    """

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        resize_mode: ResizeMode = "shortest",
        fill: float = 0.0,
    ) -> None:
        """Keep the numbers; statistics follow the module's device."""
        super().__init__()
        self.size = size
        self.interpolation = interpolation
        self.resize_mode = resize_mode
        self.fill = fill
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._stats = (mean, std)

    mean: Tensor
    std: Tensor

    def extra_repr(self) -> str:
        """All that defines the op; part of an encoder's fingerprint."""
        mean, std = self._stats
        return f"{self.size}, {mean}, {std}, {self.interpolation}, {self.resize_mode}, {self.fill}"

    def forward(self, frames: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` uint8 or float in [0, 1] to normalised ``(N, 3, *size)`` float32."""
        return (self._fit(to_float(frames)) - self.mean.float()) / self.std.float()

    def _fit(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[-2:]
        if (height, width) == self.size:
            return frames
        if self.resize_mode == "squash":
            return self._resize(frames, self.size)
        ratios = (self.size[0] / height, self.size[1] / width)
        ratio = max(ratios) if self.resize_mode == "shortest" else min(ratios)
        return self._crop_or_pad(self._resize(frames, (round(height * ratio), round(width * ratio))))

    def _resize(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(frames.shape[-2:]) == size:
            return frames
        resized = functional.interpolate(frames, size, mode=self.interpolation, antialias=True, align_corners=False)
        return resized.clamp(0, 1)

    def _crop_or_pad(self, frames: Tensor) -> Tensor:
        (height, width), (rows, cols) = frames.shape[-2:], self.size
        if height > rows or width > cols:
            top, left = max(round((height - rows) / 2), 0), max(round((width - cols) / 2), 0)
            frames = frames[..., top : top + rows, left : left + cols]
            height, width = frames.shape[-2:]
        if height < rows or width < cols:
            top, left = (rows - height) // 2, (cols - width) // 2
            pad = (left, cols - width - left, top, rows - height - top)
            frames = functional.pad(frames, pad, value=self.fill)
        return frames
