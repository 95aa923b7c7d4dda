"""The one frame layout of the library, and the checks at its edges.

A batch of images is ``(N, C, H, W)`` and a batch of clips ``(B, T, C, H, W)``: RGB, ``uint8`` in [0, 255] or
floating point in [0, 1]. Renderers and decoders speak ``(..., H, W, C)`` numpy; they convert here, explicitly.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vrm.errors import FrameError

LAYOUTS = {4: "(N, C, H, W)", 5: "(B, T, C, H, W)"}


def check_frames(frames: Tensor, ndim: int) -> Tensor:
    """Return ``frames`` unchanged if they follow the contract.

    Args:
        frames: ``(N, C, H, W)`` when ``ndim`` is 4, ``(B, T, C, H, W)`` when it is 5; RGB, uint8 or float in [0, 1].
        ndim: 4 for images, 5 for clips.

    Raises:
        FrameError: on another type, number of axes, channel count, dtype, empty axis or a float outside [0, 1].
    """
    layout = LAYOUTS[ndim]
    if not isinstance(frames, Tensor):
        raise FrameError(
            f"Frames must be a torch tensor {layout}, got {type(frames).__name__}; "
            "convert height-width-channel numpy frames with vrm.frames.from_hwc(array)."
        )
    shape = tuple(frames.shape)
    if frames.ndim != ndim or shape[-3] != 3:
        hint = "; the channels come last here, use vrm.frames.from_hwc(array)" if shape[-1:] == (3,) else ""
        raise FrameError(f"Frames must be {layout} with C = 3 (RGB), got shape {shape}{hint}.")
    if 0 in shape:
        raise FrameError(f"Frames must not be empty, got shape {shape}.")
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise FrameError(f"Frames must be uint8 in [0, 255] or floating point in [0, 1], got {frames.dtype}.")
    if frames.is_floating_point():
        low, high = (float(v) for v in torch.aminmax(frames.detach()))
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise FrameError(
                f"Float frames must lie in [0, 1], got values in [{low:.4g}, {high:.4g}]; divide by 255 or pass uint8."
            )
    return frames


def from_hwc(frames: NDArray[np.uint8]) -> Tensor:
    """Turn rendered frames ``(..., H, W, 3)`` uint8 into a tensor ``(..., 3, H, W)`` uint8 (a copy).

    Raises:
        FrameError: if the last axis is not 3 or the dtype is not uint8.
    """
    array = np.asarray(frames)
    if array.ndim < 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise FrameError(f"Expected uint8 frames (..., H, W, 3), got {array.dtype} with shape {array.shape}.")
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


def to_float(frames: Tensor) -> Tensor:
    """Map checked frames to float in [0, 1]; differentiable for float input."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()


def fit_side(frames: Tensor, side: int) -> Tensor:
    """Make uint8 frames ``(..., 3, H, W)`` smaller, aspect kept, where their longest side is above ``side`` pixels."""
    longest = max(frames.shape[-2:])
    if longest <= side or not frames.numel():
        return frames
    height, width = (max(round(n * side / longest), 1) for n in frames.shape[-2:])
    flat = frames.reshape(-1, *frames.shape[-3:])
    small = functional.interpolate(flat, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return small.reshape(*frames.shape[:-2], height, width)
