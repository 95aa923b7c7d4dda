"""Clips in a form that every browser plays; others are converted once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Lock

import numpy as np

from vrm.data.demo_arrays import BAD_NPZ, check_stack
from vrm.data.demos import DemoError
from vrm.errors import DecodeError
from vrm.frames import from_hwc
from vrm.video import read_video, video_info, write_video

PLAYED = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
CODECS = ("h264", "vp8", "vp9", "av1")
DEFAULT_FPS = 20.0  # of rollouts that do not say


class ClipShelf:
    """Finds or makes, for any clip, a file that browsers play.

    Args:
        folder: where converted clips are kept, made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        """Convert nothing yet."""
        self.folder = folder
        self._known: dict[tuple[str, int, int], Path] = {}
        self._lock = Lock()  # two requests for one clip convert it once

    def playable(self, file: Path) -> Path:
        """The clip itself where browsers play it, else its conversion to mp4.

        Raises:
            DecodeError: if it is missing, damaged or no video.
            DemoError: if it is a rollout without proper ``frames``.
        """
        with self._lock:
            try:
                facts = file.stat()
            except OSError as error:
                raise DecodeError(f"There is no clip {file}.", "missing") from error
            key = (str(file), facts.st_mtime_ns, facts.st_size)
            if key not in self._known:
                self._known[key] = self._find(file, key)
            return self._known[key]

    def _find(self, file: Path, key: tuple[str, int, int]) -> Path:
        rollout = file.suffix.lower() == ".npz"
        if not rollout and file.suffix.lower() in PLAYED and video_info(file).codec in CODECS:
            return file
        target = self.folder / f"{file.stem[:40]}-{hashlib.blake2b(repr(key).encode(), digest_size=6).hexdigest()}.mp4"
        if target.is_file():
            return target
        if rollout:
            return _convert_rollout(file, target)
        return write_video(target, read_video(file), fps=video_info(file).fps or DEFAULT_FPS)


def _convert_rollout(file: Path, target: Path) -> Path:
    try:
        with file.open("rb") as opened:  # numpy leaves the file open where it gives up
            arrays = np.load(opened, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, not an archive of named ones")
            frames = arrays["frames"]
            fps = float(arrays["fps"].item()) if "fps" in arrays else DEFAULT_FPS
    except BAD_NPZ as error:
        raise DemoError(f"{file} cannot be shown: it is no .npz file with 'frames' ({error}).") from error
    check_stack(frames, str(file))
    if frames.ndim != 4:
        raise DemoError(f"{file} holds {len(frames)} rollouts; write one rollout (T, H, W, 3) a file to compare them.")
    return write_video(target, from_hwc(frames), fps=fps)
