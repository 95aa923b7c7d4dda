"""Video files and tensors: write, read, sample, frame-exact and many at once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrm.video.decoding import MAX_FRAMES as MAX_FRAMES
    from vrm.video.decoding import Backend as Backend
    from vrm.video.decoding import VideoInfo as VideoInfo
    from vrm.video.hashing import file_hash as file_hash
    from vrm.video.read import Sample as Sample
    from vrm.video.read import read_video as read_video
    from vrm.video.read import sample_video as sample_video
    from vrm.video.read import video_info as video_info
    from vrm.video.sampling import FrameSampler as FrameSampler
    from vrm.video.sampling import Sampling as Sampling
    from vrm.video.sampling import sample_indices as sample_indices
    from vrm.video.workers import DecodePool as DecodePool
    from vrm.video.writing import MAX_GIF_FPS as MAX_GIF_FPS
    from vrm.video.writing import Picture as Picture
    from vrm.video.writing import replacing as replacing
    from vrm.video.writing import write_gif as write_gif
    from vrm.video.writing import write_video as write_video

_NAMES = {
    "decoding": ("MAX_FRAMES", "Backend", "VideoInfo"),
    "hashing": ("file_hash",),
    "read": ("Sample", "read_video", "sample_video", "video_info"),
    "sampling": ("FrameSampler", "Sampling", "sample_indices"),
    "workers": ("DecodePool",),
    "writing": ("MAX_GIF_FPS", "Picture", "replacing", "write_gif", "write_video"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: decoding processes need none that need torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vrm.video' has no attribute {name!r}")
    return getattr(import_module(f"vrm.video.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return __all__
