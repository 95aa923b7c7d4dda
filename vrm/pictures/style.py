"""What all pictures share: colours, fonts, frames as images, and files that are never half written.

One colour means one thing everywhere: blue is the reward, green is success, grey is everything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageFont
from torch import Tensor

from vrm.video import replacing

REWARD, SUCCESS, NEUTRAL = "#2563eb", "#16a34a", "#9ca3af"
INK, FAINT, PAPER = "#1f2937", "#e5e7eb", "#ffffff"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": NEUTRAL,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,
}


def save_png(path: str | os.PathLike[str], save: Callable[..., Any]) -> Path:
    """Let ``save(file, format="png")`` write the picture at ``path``, which appears when it is complete.

    Raises:
        ValueError: if the name does not end in ``.png``.
    """
    with replacing(path, ".png") as partial:
        save(partial, format="png")
    return Path(path)


def images(frames: Tensor, height: int) -> list[Image.Image]:
    """Turn checked frames ``(N, C, H, W)`` into pictures of one height; tiny ones are enlarged without blur."""
    if frames.is_floating_point():
        frames = (frames.detach().clamp(0, 1) * 255).round().byte()
    size = (max(round(frames.shape[-1] * height / frames.shape[-2]), 1), height)
    method = Image.Resampling.NEAREST if height >= 4 * frames.shape[-2] else Image.Resampling.LANCZOS
    pictures = np.ascontiguousarray(frames.cpu().numpy().transpose(0, 2, 3, 1))
    return [Image.fromarray(picture).resize(size, method) for picture in pictures]


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load the typeface that matplotlib brings along, so that pictures look alike on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
