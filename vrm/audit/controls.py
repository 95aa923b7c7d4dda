"""Clips on which a reward should behave in a known way, made from a good one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from vrm.video import sample_indices


def played_backwards(clip: Tensor) -> Tensor:
    """The clip ``(T, 3, H, W)`` in reverse order."""
    return clip.flip(0)


def held(clip: Tensor, frame: int) -> Tensor:
    """One frame of the clip for as long as the clip lasts."""
    return clip[frame].expand_as(clip).contiguous()


def frozen_start(clip: Tensor) -> Tensor:
    """The first frame for half of the clip's length, then the whole clip at double speed."""
    half = len(clip) // 2
    return torch.cat([clip[:1].expand(half, *clip.shape[1:]), clip[sample_indices(len(clip), len(clip) - half)]])


def black(clip: Tensor) -> Tensor:
    """Nothing but black."""
    return torch.zeros_like(clip)


def white(clip: Tensor) -> Tensor:
    """Nothing but white."""
    return torch.full_like(clip, 255 if clip.dtype == torch.uint8 else 1)


def dimmed(clip: Tensor, share: float = 0.1) -> Tensor:
    """The clip in ``share`` less light."""
    return (clip.float() * (1 - share)).to(clip.dtype)


def noise(clip: Tensor, seed: int = 0) -> Tensor:
    """Independent uniform noise in every pixel of every frame."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 256, clip.shape, generator=generator, dtype=torch.uint8)
    return drawn.to(clip.device) if clip.dtype == torch.uint8 else drawn.to(clip) / 255


def cropped(clip: Tensor, share: float = 0.05) -> Tensor:
    """The clip without ``share`` of its height and width at every edge."""
    down, across = (max(1, round(share * side)) for side in clip.shape[-2:])
    return clip[..., down : clip.shape[-2] - down, across : clip.shape[-1] - across].contiguous()


def shifted(clip: Tensor, share: float = 0.05) -> Tensor:
    """The clip moved down and to the right by ``share`` of its size, its edge repeated."""
    height, width = clip.shape[-2:]
    down, across = max(1, round(share * height)), max(1, round(share * width))
    padded = functional.pad(clip.float(), (across, 0, down, 0), mode="replicate")[..., :height, :width]
    return padded.to(clip.dtype)


def still_start(clip: Tensor) -> Tensor:
    """The first frame for as long as the clip lasts."""
    return held(clip, 0)


def still_end(clip: Tensor) -> Tensor:
    """The last frame for as long as the clip lasts."""
    return held(clip, -1)


ALL: dict[str, Callable[[Tensor], Tensor]] = {
    "reversed": played_backwards,
    "still start": still_start,
    "frozen start": frozen_start,
    "static end": still_end,
    "black": black,
    "white": white,
    "noise": noise,
    "cropped": cropped,
    "shifted": shifted,
    "dimmed": dimmed,
}
