"""Small real videos for the tests of scoring."""

import torch
from torch.nn import functional

from vrm.video import write_video


def write_clip(path, seed=0, size=64, frames=20):
    """Write a moving, fading pattern that differs by seed."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randint(60, 256, (1, 3, 8, 8), generator=generator).float()
    picture = functional.interpolate(grid, (size, size))
    fade = torch.linspace(0.3, 1, frames).view(-1, 1, 1, 1)
    moved = torch.cat([picture.roll(step, 3) for step in range(frames)])
    return write_video(path, (moved * fade).to(torch.uint8))


def write_clips(folder, count=4, size=64):
    """Write clips ``clip_0.mp4``, ... and return their paths."""
    return [write_clip(folder / f"clip_{n}.mp4", n, size) for n in range(count)]
