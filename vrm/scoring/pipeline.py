"""From videos to rows: decoding runs ahead, frames of several videos share a batch, rewards judge each video."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vrm.errors import DecodeError, NonFiniteError
from vrm.scoring.batches import FrameBatcher
from vrm.scoring.dataset import Row
from vrm.scoring.features import Clip, Facts, FeatureCache, FileState
from vrm.scoring.judge import Judge, Task
from vrm.video import Backend, DecodePool, FrameSampler, Sample

Video = tuple[str, list[Task]]


@dataclass(frozen=True)
class Settings:
    """How videos become features.

    Attributes:
        frames: which frames are looked at, see :class:`vrm.video.FrameSampler`.
        backend: what decodes them, see :func:`vrm.video.sample_video`.
        workers: decoding processes; 0 decodes in this one, which a hanging decoder then stops.
        timeout: seconds a file may take in a decoding process.
        batch_size: frames gathered for the encoder at once; without influence on the scores.
        cache: folder of the feature cache, None for none.
    """

    frames: str = "segments:8"
    backend: Backend = "auto"
    workers: int = 0
    timeout: float = 60.0
    batch_size: int = 128
    cache: Path | None = None

    @property
    def sampler(self) -> FrameSampler:
        """The sampler that :attr:`frames` names."""
        return FrameSampler.parse(self.frames)

    def identity(self) -> dict[str, Any]:
        """What the numbers depend on, as JSON values."""
        return {"sampler": str(self.sampler), "backend": self.backend}


@dataclass
class _Pending:
    """A video between its submission and its rows."""

    tasks: list[Task]
    state: FileState | None
    clip: Clip | None = None
    new: tuple[str, ...] = ()  # tensors that the cache does not have
    awaited: set[str] = field(default_factory=set)  # those of them that an encoder is still to give
    error: NonFiniteError | None = None


class Pipeline:
    """Scores videos one after another as they become ready; use as a context.

    Args:
        judge: the rewards.
        settings: how videos become features.
    """

    def __init__(self, judge: Judge, settings: Settings) -> None:
        """Open the cache; decoding processes start with the first video that needs them."""
        self.judge = judge
        self.settings = settings
        self._sampler = str(settings.sampler)
        self._batchers = {key: FrameBatcher(e, settings.batch_size) for key, e in judge.encoders.items()}
        self._pending: dict[int, _Pending] = {}
        self._stack = ExitStack()
        self._pool: DecodePool | None = None
        self._cache: FeatureCache | None = None
        if settings.cache is not None:
            self._cache = FeatureCache(settings.cache, f"{self._sampler} {settings.backend}")
            self._stack.callback(self._cache.close)

    def __enter__(self) -> Pipeline:
        """Do nothing yet."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the decoding processes and close the cache."""
        self._stack.close()

    def run(self, videos: Iterable[Video]) -> Iterator[list[Row]]:
        """Yield the rows of each video when it is done, in no particular order.

        Args:
            videos: paths with their tasks, drawn only as they are needed.
        """
        ahead = max(4 * self.settings.workers, 1)
        decoding: set[int] = set()
        source = enumerate(videos)
        exhausted = False
        while decoding or not exhausted:
            while not exhausted and len(decoding) < ahead:
                number, video = next(source, (-1, None))
                if video is None:
                    exhausted = True
                elif (rows := self._begin(number, *video)) is not None:
                    yield rows
                else:
                    decoding.add(number)
            if decoding:
                number, sample = self._next_sample()
                decoding.discard(number)
                yield from self._decoded(number, sample)
        for name, batcher in self._batchers.items():
            for key, features in batcher.flush():
                yield from self._encoded(name, key, features)

    def _begin(self, number: int, path: str, tasks: list[Task]) -> list[Row] | None:
        """Judge a video that the cache knows all of; else have it decoded."""
        video = _Pending(tasks, None)
        if self._cache is not None:
            video.state = FileState.of(path)
            clip = self._cache.find(video.state, self.judge.needs)
            if clip is not None and not set(self.judge.needs) - set(clip.tensors):
                return self.judge.rows(tasks, clip, self._sampler)
        self._pending[number] = video
        if self._pool is None:
            s = self.settings
            pool = DecodePool(s.workers, timeout=s.timeout, transform=self.judge.shrink())
            self._pool = self._stack.enter_context(pool)
        self._pool.submit(number, path, self.settings.sampler, self.settings.backend)
        return None

    def _next_sample(self) -> tuple[int, Sample | DecodeError]:
        assert self._pool is not None
        number, sample = next(self._pool.results())
        assert isinstance(number, int)
        return number, sample

    def _decoded(self, number: int, sample: Sample | DecodeError) -> Iterator[list[Row]]:
        video = self._pending[number]
        if isinstance(sample, DecodeError):
            del self._pending[number]
            yield self.judge.rows(video.tasks, sample, self._sampler)
            return
        facts = Facts.of(sample)
        known = self._cache.find_hash(facts.video_hash, self.judge.needs) if self._cache is not None else None
        video.clip = Clip(facts, dict(known.tensors) if known is not None else {})
        video.new = tuple(name for name in self.judge.needs if name not in video.clip.tensors)
        pictures = set(video.new) - set(self._batchers)
        video.awaited = set(video.new) - pictures
        made: Any = sample.frames  # what the pool's transform made of them
        video.clip.tensors |= {name: made[name] for name in pictures}
        if not video.awaited:
            yield self._finish(number)
        for name in sorted(video.awaited):
            for key, features in self._batchers[name].add(number, made[name]):
                yield from self._encoded(name, key, features)

    def _encoded(self, name: str, key: Hashable, features: Tensor | NonFiniteError) -> Iterator[list[Row]]:
        assert isinstance(key, int)
        video = self._pending[key]
        assert video.clip is not None
        video.awaited.discard(name)
        if isinstance(features, NonFiniteError):
            video.error = features
        else:
            video.clip.tensors[name] = features
        if not video.awaited:
            yield self._finish(key)

    def _finish(self, number: int) -> list[Row]:
        video = self._pending.pop(number)
        assert video.clip is not None
        if self._cache is not None and video.error is None:
            self._cache.remember(video.state, video.clip, video.new)
        return self.judge.rows(video.tasks, video.error or video.clip, self._sampler)
