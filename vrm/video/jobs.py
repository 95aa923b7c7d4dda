"""Life inside a decoding process: take a job, decode, answer; torch is imported only for samples that are large."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import av
import numpy as np

from vrm.errors import DecodeError
from vrm.video.decoding import Backend, Decoded, Pictures, decode_sample
from vrm.video.hashing import file_hash
from vrm.video.sampling import FrameSampler

Transform = Callable[[Pictures], Any]

NO_PICTURES = np.empty((0, 0, 0, 3), np.uint8)
PARENT_CHECK = 0.5  # seconds between looks at whether the parent still lives


@dataclass(frozen=True)
class Job:
    """One file to decode.

    Attributes:
        key: the caller's name for it.
        path: the file.
        sampler: which frames.
        backend: with what.
        attempt: 1, or 2 after a process was lost over it.
        round: jobs of an earlier round than the pool's are of no interest any more.
    """

    key: Hashable
    path: str
    sampler: FrameSampler
    backend: Backend = "auto"
    attempt: int = 1
    round: int = 0


@dataclass(frozen=True)
class Ready:
    """A process has started."""


@dataclass(frozen=True)
class Lasting:
    """A file turned out to last this many seconds."""

    seconds: float


@dataclass(frozen=True)
class Transformed:
    """What the transform made of a sample's frames, and the rest of the sample."""

    decoded: Decoded
    made: Any


@dataclass(frozen=True)
class Work:
    """What a process is told at its start.

    Attributes:
        transform: pickled, because what it needs may take seconds to import.
        large: bytes of pictures from which on it is applied in the process.
    """

    transform: bytes
    large: int


def run_job(
    job: Job, work: Work, on_duration: Callable[[float], None] | None = None
) -> Decoded | Transformed | DecodeError:
    """Decode and hash one file, and transform it if it is large; whatever goes wrong with it is the result."""
    try:
        decoded = decode_sample(job.path, job.sampler, job.backend, on_duration=on_duration)
        decoded = replace(decoded, video_hash=file_hash(job.path))
        transform = pickle.loads(work.transform) if decoded.pictures.nbytes >= work.large else None
        if transform is None:
            return decoded
        return Transformed(replace(decoded, pictures=NO_PICTURES), transform(decoded.pictures))
    except DecodeError as error:
        return error
    except MemoryError:
        return DecodeError(f"There is not enough memory to decode {job.path}; sample fewer frames.", "too_large")
    except Exception as error:  # one bad file, or a transform that cannot take it, must not end the run
        return unprocessed(job, error)


def unprocessed(job: Job, error: Exception) -> DecodeError:
    """Say that something that nobody foresaw went wrong with a file."""
    return DecodeError(f"{job.path} cannot be processed: {type(error).__name__}: {error}", "crash")


class _Pickler(pickle.Pickler):
    """Sends tensors as arrays; torch's own way is shared memory, which is scarce in containers."""

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, torch.Tensor) and obj.dtype != torch.bfloat16:
            return torch.from_numpy, (obj.detach().cpu().contiguous().numpy(),)
        return NotImplemented


def send(connection: Connection, message: object) -> None:
    """Send an object, its arrays as plain bytes after it."""
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(message)
    parts = [buffer.raw() for buffer in buffers]
    connection.send((head.getvalue(), [part.nbytes for part in parts]))
    for part in parts:
        if part.nbytes:
            connection.send_bytes(part)


def receive(connection: Connection) -> Any:
    """Receive what :func:`send` sent.

    Raises:
        EOFError: if the other end closed.
    """
    head, sizes = connection.recv()
    parts = [bytearray(size) for size in sizes]
    for part in parts:
        if part:
            connection.recv_bytes_into(part)
    return pickle.loads(head, buffers=parts)


def main(descriptor: int) -> None:
    """Answer jobs until the other end closes; dies with its parent and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the torch that a large sample imports
    av.logging.set_level(None)
    connection = Connection(descriptor)
    try:
        work: Work = connection.recv()
        if work.large <= 0:
            pickle.loads(work.transform)  # imports what it needs before the clock of the first file runs
        send(connection, Ready())
        while True:
            job = connection.recv()
            send(connection, run_job(job, work, lambda seconds: send(connection, Lasting(seconds))))
    except (EOFError, OSError):
        return


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK)
    os._exit(1)
