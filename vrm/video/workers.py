"""Many files at once, each decoded in a process that may hang or die without harm to the others."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Self

from vrm.errors import DecodeError, VrmError
from vrm.video.decoding import Backend, Decoded, check_backend
from vrm.video.jobs import Job, Lasting, Ready, Transform, Transformed, Work, receive, run_job, unprocessed
from vrm.video.read import Sample
from vrm.video.sampling import FrameSampler

Request = tuple[Hashable, str | os.PathLike[str], FrameSampler | str]
Result = tuple[Hashable, Sample | DecodeError]
Found = Decoded | Transformed | DecodeError
SECONDS_PER_SECOND = 1.0  # what a file may take beyond the time limit, for each second it lasts
START_SECONDS = 300.0  # until a new process must have imported everything
LARGE = 64 << 20  # bytes of a sample's pictures that are worth importing torch for in the process that has them
BOOT = "import sys; sys.path[:] = eval(sys.argv[2]); from vrm.video.jobs import main; main(int(sys.argv[1]))"


@dataclass
class _Worker:
    """A process and what it is at."""

    process: subprocess.Popen[bytes]
    connection: Connection
    deadline: float
    ready: bool = False
    job: Job | None = None


@dataclass
class _Shared:
    """What the caller's thread and the dispatching thread both touch, under one lock."""

    pending: deque[Job] = field(default_factory=deque)
    finished: deque[tuple[Job, Found]] = field(default_factory=deque)
    outstanding: int = 0  # submitted and not yet handed out
    round: int = 0
    woken: bool = False
    closing: bool = False
    failure: Exception | None = None


class DecodePool:
    """Decodes files in processes of its own: a hang or crash costs one process, and is recorded.

    Results come in the order they are finished. At most ``2 * workers`` finished results wait to be taken; until then
    no more work is given out, so memory stays bounded whatever the number of jobs.

    A process that exceeds its time is killed and replaced, as is one that died; its file is tried once more, with
    libav, and then recorded as a :class:`~vrm.errors.DecodeError` of kind "timeout" or "crash". The time limit of a
    file is ``timeout`` plus one second for each second it lasts.

    With ``workers=0`` everything happens in the caller's process: simple, and without any protection against a
    decoder that hangs or crashes.

    Processes inherit nothing of the caller's state, and import little, so they are there at once.

    Args:
        workers: number of processes, 0 for none.
        timeout: seconds that a file may take.
        transform: maps ``(T, H, W, 3)`` uint8 pictures to what takes the place of frames in the sample. It must be
            picklable: a function or object of a module.
        large: samples of this many bytes or more are transformed in the process that decoded them, smaller ones by
            whoever takes the results: what the transform needs may take a process seconds to import.

    Raises:
        ValueError: if ``workers`` is negative or ``timeout`` not above 0.

    Example:
        >>> with DecodePool(workers=0) as pool:
        ...     for key, result in pool.map_unordered([("a", "missing.mp4", "segments:8")]):
        ...         print(key, result.kind)
        a missing
    """

    def __init__(
        self, workers: int, *, timeout: float = 60.0, transform: Transform | None = None, large: int = LARGE
    ) -> None:
        """Start the processes; they import in the background."""
        if workers < 0:
            raise ValueError(f"A decode pool needs 0 or more workers, got {workers}.")
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}.")
        self.workers = workers
        self.timeout = timeout
        self.transform = transform
        self._work = Work(_pickled(transform), large)
        self._shared = _Shared()
        self._changed = threading.Condition()
        self._crew: list[_Worker] = []
        self._thread: threading.Thread | None = None
        if workers:
            self._wake_out, self._wake_in = Pipe(duplex=False)
            self._crew = [self._start() for _ in range(workers)]
            self._thread = threading.Thread(target=self._dispatch, name="vrm-decode", daemon=True)
            self._thread.start()

    def submit(
        self, key: Hashable, path: str | os.PathLike[str], sampler: FrameSampler | str, backend: Backend = "auto"
    ) -> None:
        """Queue one file.

        Args:
            key: comes back with the result.
            path: the file.
            sampler: which frames, see :class:`~vrm.video.FrameSampler`.
            backend: see :func:`~vrm.video.sample_video`.

        Raises:
            ValueError: if ``sampler`` or ``backend`` is unknown.
            VrmError: if the pool is closed.
        """
        check_backend(backend)
        rule = FrameSampler.parse(sampler)
        with self._changed:
            if self._shared.closing:
                raise VrmError("The decode pool is closed; make a new one.")
            self._shared.pending.append(Job(key, os.path.abspath(path), rule, backend, round=self._shared.round))
            self._shared.outstanding += 1
            self._wake()

    def results(self) -> Iterator[Result]:
        """Yield ``(key, Sample or DecodeError)`` until every file submitted so far, or meanwhile, is done.

        Raises:
            VrmError: if the pool is closed or its processes cannot start.
        """
        while self._shared.outstanding:
            yield self._next()

    def map_unordered(self, jobs: Iterable[Request], backend: Backend = "auto") -> Iterator[Result]:
        """Decode any number of files, drawing them only as they are needed.

        Args:
            jobs: ``(key, path, sampler)`` each.
            backend: for all of them.

        Yields:
            ``(key, Sample or DecodeError)``, as they are finished.

        Raises:
            ValueError: if a sampler or ``backend`` is unknown.
            VrmError: if the pool is closed or its processes cannot start.
        """
        source = iter(jobs)
        ahead = max(4 * self.workers, 1)  # half of it running or waiting to run, half waiting to be taken
        try:
            while True:
                while self._shared.outstanding < ahead and (request := next(source, None)) is not None:
                    self.submit(*request, backend)
                if not self._shared.outstanding:
                    return
                yield self._next()
        except GeneratorExit:
            self._forget()
            raise

    def close(self) -> None:
        """Kill the processes, whatever they are at; harmless if called again."""
        with self._changed:
            self._shared.closing = True
            self._changed.notify_all()
            self._wake()
        if self._thread is not None:
            self._thread.join()
        for worker in self._crew:
            _kill(worker)
        if self.workers and self._crew:
            self._wake_in.close()
            self._wake_out.close()
        self._crew = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Result:
        """Take a finished result, waiting for it."""
        shared = self._shared
        if not self.workers:
            job = shared.pending.popleft()
            shared.outstanding -= 1
            return job.key, self._sample(job, run_job(job, self._work))
        with self._changed:
            while not shared.finished:
                if shared.failure is not None:
                    raise shared.failure
                if shared.closing:
                    raise VrmError("The decode pool was closed while results were awaited.")
                self._changed.wait()
            job, found = shared.finished.popleft()
            shared.outstanding -= 1
            self._wake()
        return job.key, self._sample(job, found)

    def _sample(self, job: Job, found: Found) -> Sample | DecodeError:
        """Transform what has not been transformed."""
        if isinstance(found, DecodeError):
            return found
        if isinstance(found, Transformed):
            return Sample.of(found.decoded, found.made)
        if self.transform is None:
            return Sample.of(found)
        try:
            return Sample.of(found, self.transform(found.pictures))
        except Exception as error:  # as in the process
            return unprocessed(job, error)

    def _forget(self) -> None:
        """Drop all jobs and results: nobody waits for them any more."""
        with self._changed:
            self._shared.pending.clear()
            self._shared.finished.clear()
            self._shared.outstanding = 0
            self._shared.round += 1

    def _wake(self) -> None:
        """Make the dispatching thread look again; the lock is held."""
        if self._crew and not self._shared.woken:
            self._shared.woken = True
            self._wake_in.send_bytes(b"")

    def _start(self) -> _Worker:
        """Spawn a process."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", BOOT, str(theirs.fileno()), repr(sys.path)],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        connection = Connection(ours.detach())
        with suppress(OSError):  # a process that has died is noticed by its closed connection
            connection.send(self._work)
        return _Worker(process, connection, time.monotonic() + START_SECONDS)

    def _dispatch(self) -> None:
        """Give out jobs, collect results and watch the clock; runs in a thread of its own."""
        try:
            while not self._shared.closing:
                self._assign()
                busy = [worker for worker in self._crew if worker.job is not None or not worker.ready]
                soonest = min((worker.deadline for worker in busy), default=time.monotonic() + 3600)
                ready = wait(
                    [self._wake_out, *(worker.connection for worker in self._crew)],
                    max(soonest - time.monotonic(), 0),
                )
                if self._wake_out in ready:
                    with self._changed:
                        self._wake_out.recv_bytes()
                        self._shared.woken = False
                for place, worker in enumerate(self._crew):
                    if worker.connection in ready:
                        self._receive(place, worker)
                    elif worker in busy and time.monotonic() >= worker.deadline:
                        self._replace(place, worker, "timeout")
        except Exception as error:
            with self._changed:
                self._shared.failure = error
                self._changed.notify_all()

    def _assign(self) -> None:
        """Give each idle process a job, as long as the finished results are taken."""
        for worker in self._crew:
            with self._changed:
                room = len(self._shared.finished) < 2 * self.workers
                if not room or not self._shared.pending or worker.job is not None or not worker.ready:
                    continue
                worker.job = self._shared.pending.popleft()
            worker.deadline = time.monotonic() + self.timeout
            with suppress(OSError):  # a process that has died is noticed by its closed connection
                worker.connection.send(worker.job)

    def _receive(self, place: int, worker: _Worker) -> None:
        """Read one message."""
        try:
            message = receive(worker.connection)
        except (EOFError, OSError):
            self._replace(place, worker, "crash")
            return
        if isinstance(message, Ready):
            worker.ready = True
        elif isinstance(message, Lasting):
            worker.deadline += SECONDS_PER_SECOND * message.seconds
        elif worker.job is not None:
            self._finish(worker.job, message)
            worker.job = None

    def _replace(self, place: int, worker: _Worker, kind: str) -> None:
        """Kill a process that hangs or has died, start another, and try its job again or record it."""
        _kill(worker)
        if not worker.ready:
            raise VrmError(
                f"A decoding process could not start (exit code {worker.process.returncode}): "
                f"{sys.executable} -c 'import vrm.video.jobs' may say why."
            )
        code = worker.process.returncode
        self._crew[place] = self._start()
        job = worker.job
        if job is None or job.round != self._shared.round:
            return
        if job.attempt == 1:
            with self._changed:
                self._shared.pending.appendleft(replace(job, backend="av", attempt=2))
        elif kind == "timeout":
            self._finish(job, DecodeError(f"{job.path} took more than {self.timeout:g} seconds, twice.", "timeout"))
        else:
            self._finish(job, DecodeError(f"{job.path} crashed the decoder twice (exit code {code}).", "crash"))

    def _finish(self, job: Job, result: Found) -> None:
        """Make a result available."""
        with self._changed:
            if job.round == self._shared.round:
                self._shared.finished.append((job, result))
                self._changed.notify_all()


def _pickled(transform: Transform | None) -> bytes:
    """Pickle a transform, so that it can travel to another process."""
    try:
        return pickle.dumps(transform)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"transform must be a function or object of a module, got {transform!r}: {error}") from error


def _kill(worker: _Worker) -> None:
    """End a process for certain."""
    worker.process.kill()
    worker.process.wait()
    worker.connection.close()
