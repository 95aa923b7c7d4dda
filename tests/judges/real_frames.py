"""Frames of the bundled videos."""

from pathlib import Path

import torch
from torch.nn import functional

from vrm.video import read_video

GOAL, BASELINE = "a humanoid robot kneeling", "a humanoid robot"
VIDEOS = Path(__file__).parents[2] / "videos"


def frames_of(name, count):
    """``(count, 3, 96, 96)`` uint8, evenly spaced over the second half of a video."""
    frames = read_video(VIDEOS / f"{name}.mp4")
    picked = frames[torch.linspace(len(frames) // 2, len(frames) - 1, count).long()]
    small = functional.interpolate(picked.float(), (96, 96), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)
