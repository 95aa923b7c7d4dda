"""Demonstrations from wherever they lie: one call for video files, folders, frame stacks and robot datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from vrm.data.demo_arrays import HDF5, read_hdf5, read_npz
from vrm.data.demo_frames import Clip, Reading, natural
from vrm.data.demos import Demo, DemoError
from vrm.data.lerobot import is_lerobot, read_lerobot
from vrm.data.minari import find_minari, read_minari
from vrm.data.recordings import is_recording, read_recording
from vrm.video import read_video

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


def load_demos(
    sources: Sequence[str | Path] | str | Path,
    *,
    fps: float | None = None,
    max_side: int = 256,
    text: str | None = None,
    camera: str | None = None,
    limit: int | None = None,
) -> list[Demo]:
    """Read demonstrations from local files; nothing is downloaded and nothing in them is executed.

    A source is one of:

    - a video file; a ``.txt`` of the same name beside it says what is done;
    - a folder of videos or frame stacks (one demonstration each), of pictures in natural order (one demonstration),
      or of such folders of pictures; a ``NAME.txt`` beside the folder of pictures ``NAME`` says what is done;
    - ``.npz`` or HDF5 with frames ``(T, H, W, 3)`` uint8, see :func:`~vrm.data.demo_arrays.read_npz` and
      :func:`~vrm.data.demo_arrays.read_hdf5`, also in robomimic's layout;
    - a folder that ``vrm record`` wrote;
    - a Minari dataset with image observations: its folder, or its id under the local Minari root;
    - a LeRobot dataset (v2 or v3) on local disk.

    Args:
        sources: paths, or one.
        fps: frames per second to sample at, by time stamps, at most what the source has; None for every frame.
            Actions are dropped where this leaves frames out.
        max_side: frames with a longer side are shrunk to it, with antialiasing and their aspect kept.
        text: what is done in all of them, instead of what the sources say.
        camera: which camera of a dataset that has several; None takes the first, and demonstrations are named after it.
        limit: read at most this many demonstrations of each source, the first ones.

    Returns:
        The demonstrations, in the order of the sources, with names that differ.

    Raises:
        DemoError: if a source is missing, empty, mixed or malformed, or has no frame rate, or a lower one than ``fps``.
        DecodeError: if a video or picture is damaged.
        UnknownNameError: if a dataset has no such ``camera``.
        MissingExtraError: if a format needs an optional package.

    Example:
        >>> import tempfile, torch
        >>> from vrm.video import write_video
        >>> clip = torch.zeros(12, 3, 48, 64, dtype=torch.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     demos = load_demos([write_video(f"{folder}/push.mp4", clip, fps=12)], fps=4, max_side=32)
        >>> demos[0].name, tuple(demos[0].frames.shape), demos[0].fps
        ('push', (4, 3, 24, 32), 4)
    """
    reading = Reading(fps, max_side, text, camera)
    if limit is not None and limit < 1:
        raise DemoError(f"limit must be at least 1 demonstration per source, got {limit}.")
    paths = [sources] if isinstance(sources, str | Path) else list(sources)
    if not paths:
        raise DemoError("There are no demonstrations to read; name at least one video, folder or dataset.")
    return _distinct([demo for path in paths for demo in islice(_read(path, reading), limit)])


def _read(source: str | Path, reading: Reading) -> Iterator[Demo]:
    path = Path(source)
    if path.is_file():
        return _read_file(path, reading)
    minari = find_minari(source)
    if minari is not None:
        return read_minari(minari, reading)
    if not path.is_dir():
        raise DemoError(f"There is no file, folder or local Minari dataset {str(source)!r}.")
    if is_recording(path):
        return read_recording(path, reading)
    if is_lerobot(path):
        return read_lerobot(path, reading)
    return _read_folder(path, reading)


def _read_file(path: Path, reading: Reading) -> Iterator[Demo]:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        yield from read_npz(path, reading)
    elif suffix in HDF5:
        yield from read_hdf5(path, reading)
    else:
        yield _read_clip(path, reading)


def _read_clip(path: Path, reading: Reading) -> Demo:
    clip = Clip(path)
    rate = clip.info.fps or None
    frames, rows = clip.take(lambda times: reading.rows(times, rate, str(path)), reading)
    return reading.demo(frames, path.stem, rows, len(clip.times), rate=rate, text=_sidecar(path.with_suffix(".txt")))


def _read_folder(path: Path, reading: Reading) -> Iterator[Demo]:
    """Read a folder that is no dataset: of files, of pictures, or of folders of pictures."""
    files, pictures, folders = _contents(path)
    kinds = {"videos or frame stacks": files, "pictures": pictures, "folders": folders}
    present = [f"{len(members)} {kind}" for kind, members in kinds.items() if members]
    if not present:
        raise DemoError(f"Folder {path} holds no videos, frame stacks, pictures or folders of pictures.")
    if len(present) > 1:
        raise DemoError(f"Folder {path} mixes {' and '.join(present)}; give each kind a folder of its own.")
    for file in files:
        yield from _read_file(file, reading)
    if pictures:
        yield _read_pictures(path, pictures, reading)
    for folder in folders:
        inner, shots, deeper = _contents(folder)
        if not shots or inner or deeper:
            raise DemoError(f"Folder {folder} must hold the pictures of one demonstration and no videos or folders.")
        yield _read_pictures(folder, shots, reading)


def _contents(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Files that hold demonstrations, pictures and folders, in natural order; hidden and other ones are left out."""
    entries = sorted((p for p in path.iterdir() if p.name[0] not in "._"), key=lambda p: natural(p.name))
    files = [p for p in entries if p.suffix.lower() in (*VIDEOS, ".npz", *HDF5) and p.is_file()]
    pictures = [p for p in entries if p.suffix.lower() in PICTURES and p.is_file()]
    return files, pictures, [p for p in entries if p.is_dir()]


def _read_pictures(folder: Path, pictures: Sequence[Path], reading: Reading) -> Demo:
    rows = reading.even_rows(len(pictures), None, f"Folder {folder}")
    first: torch.Size | None = None
    frames = []
    for path in pictures:
        picture = read_video(path)[:1]
        first = first or picture.shape
        if picture.shape != first:
            raise DemoError(
                f"{path} has {picture.shape[3]}x{picture.shape[2]} pixels, but {pictures[0].name} has "
                f"{first[3]}x{first[2]}; all pictures of a demonstration need one size."
            )
        frames.append(reading.shrink(picture))
    text = _sidecar(folder.with_name(f"{folder.name}.txt"))
    return reading.demo(torch.cat(frames), folder.name, rows, len(rows), text=text)


def _sidecar(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DemoError(f"{path} cannot be read as text ({error}).") from error


def _distinct(demos: list[Demo]) -> list[Demo]:
    """Number the demonstrations of one name: reports tell them apart by it."""
    counts, seen = Counter(demo.name for demo in demos), Counter[str]()
    renamed = []
    for demo in demos:
        seen[demo.name] += 1
        again = counts[demo.name] > 1
        renamed.append(replace(demo, name=f"{demo.name} #{seen[demo.name]}") if again else demo)
    return renamed
