"""What scoring keeps of a video: its facts, its features and small pictures; and a cache of them by content."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vrm.errors import VrmError
from vrm.video import Sample, VideoInfo, file_hash

FORMAT = 2  # of the cached files and of what is done to frames before they reach an encoder
PIXELS = "pixels"


def pixels_name(side: int | None) -> str:
    """Name of the frames that rewards see which look at pixels: uint8 of this longest side, or small squashed ones."""
    return PIXELS if side is None else f"{PIXELS}-{side}"


@dataclass(frozen=True)
class Facts:
    """What is known of a decoded video.

    Attributes:
        indices: numbers of the sampled frames in the file.
        times: their time stamps, in seconds from the first frame.
        info: what the file holds.
        backend: decoder and version.
        warning: what looks wrong although frames came out, or None.
        video_hash: of the file's bytes.
    """

    indices: tuple[int, ...]
    times: tuple[float, ...]
    info: VideoInfo
    backend: str
    warning: str | None
    video_hash: str

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """Take the facts of a sample that was hashed."""
        assert sample.video_hash is not None
        return cls(sample.indices, sample.times, sample.info, sample.backend, sample.warning, sample.video_hash)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        raw = json.loads(text)
        raw |= {"info": VideoInfo(**raw["info"]), "indices": tuple(raw["indices"]), "times": tuple(raw["times"])}
        return cls(**raw)

    def to_json(self) -> str:
        """Write as text; floats keep every bit."""
        return json.dumps(asdict(self))


@dataclass
class Clip:
    """A video on its way through the run.

    Attributes:
        facts: what is known of it.
        tensors: ``(T, D)`` float32 features by the name of their encoder's content (:func:`vrm.scoring.judge.Judge`),
            and under the names of :func:`pixels_name` frames themselves, where asked for.
    """

    facts: Facts
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class FileState:
    """A path with what changes when its file does."""

    path: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: str) -> FileState | None:
        """Look at a file; None if it is not there."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return cls(path, found.st_size, found.st_mtime_ns)


class FeatureCache:
    """Features by what they were made from: video bytes, sampler, decoder choice, and encoder.

    A second reward or prompt over the same videos then decodes and encodes nothing. Files are found by content, so a
    moved or renamed video is known too; the hash of a file that did not change is remembered, not computed again.

    Args:
        folder: where the files live, shared by any number of processes.
        policy: what else features depend on: sampler and decoder choice.

    Raises:
        VrmError: if the folder cannot be written or its index is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], policy: str) -> None:
        """Open the index of file hashes."""
        self.folder = Path(folder)
        self.policy = policy
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._index = sqlite3.connect(self.folder / "files.sqlite", timeout=60, isolation_level=None)
            self._index.execute("PRAGMA synchronous=OFF")  # losing it costs time, not results
            self._index.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, hash TEXT)"
            )
            self._index.execute("CREATE INDEX IF NOT EXISTS sizes ON files (size)")
        except (OSError, sqlite3.Error) as error:
            raise VrmError(
                f"The feature cache {str(self.folder)!r} cannot be used ({error}); delete it, choose another folder, "
                "or go without."
            ) from error

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def find(self, state: FileState | None, names: Iterable[str]) -> Clip | None:
        """Return what is known of a file: a clip with those of the tensors ``names`` that are there, or None."""
        digest = None if state is None else self._hash(state)
        return None if digest is None else self.find_hash(digest, names)

    def find_hash(self, digest: str, names: Iterable[str]) -> Clip | None:
        """Return what is known of a video by its hash, as :meth:`find` does."""
        clip: Clip | None = None
        for name in names:
            if (found := self._read(digest, name)) is not None:
                clip = clip or Clip(found[0])
                clip.tensors[name] = found[1]
        return clip

    def remember(self, state: FileState | None, clip: Clip, names: Iterable[str]) -> None:
        """Keep the tensors ``names`` of a clip, and which file it came from."""
        for name in names:
            path = self._path(clip.facts.video_hash, name)
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            save_file({"t": clip.tensors[name].contiguous()}, partial, metadata={"facts": clip.facts.to_json()})
            os.replace(partial, path)
        if state is not None:
            row = (_plain(state.path), state.size, state.changed, clip.facts.video_hash)
            self._index.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", row)

    def _hash(self, state: FileState) -> str | None:
        """Look up a file's hash, or compute it where some known file has the same size; None for an unknown file."""
        where = "SELECT hash FROM files WHERE path = ? AND size = ? AND changed = ?"
        row = self._index.execute(where, (_plain(state.path), state.size, state.changed)).fetchone()
        if row is not None:
            return str(row[0])
        is_known_size = self._index.execute("SELECT 1 FROM files WHERE size = ? LIMIT 1", (state.size,)).fetchone()
        try:
            return file_hash(state.path) if is_known_size else None
        except OSError:
            return None  # decoding will say what is wrong with it

    def _read(self, digest: str, name: str) -> tuple[Facts, Tensor] | None:
        try:
            with safe_open(self._path(digest, name), framework="pt") as file:
                return Facts.from_json((file.metadata() or {})["facts"]), file.get_tensor("t")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None  # damaged; it will be written anew

    def _path(self, digest: str, name: str) -> Path:
        key = hashlib.sha256(json.dumps([FORMAT, digest, self.policy, name]).encode()).hexdigest()
        return self.folder / key[:2] / f"{key[2:40]}.safetensors"


def _plain(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
