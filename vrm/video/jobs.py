"""Life inside a decoding process: take a job, decode, transform, answer."""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

import av
import torch
from torch import Tensor

from vrm.errors import DecodeError
from vrm.video.decord_backend import decord_module
from vrm.video.hashing import file_hash
from vrm.video.read import Backend, Sample, VideoInfo, sample_video
from vrm.video.sampling import FrameSampler

Transform = Callable[[Tensor], Any]


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


def run_job(
    job: Job, transform: Transform | None, on_info: Callable[[VideoInfo], None] | None = None
) -> Sample | DecodeError:
    """Decode, transform and hash one file; whatever goes wrong with it is the result."""
    try:
        sample = sample_video(job.path, job.sampler, job.backend, on_info=on_info)
        frames = sample.frames if transform is None else transform(sample.frames)
        return replace(sample, frames=frames, video_hash=file_hash(job.path))
    except DecodeError as error:
        return error
    except MemoryError:
        return DecodeError(f"There is not enough memory to decode {job.path}; sample fewer frames.", "too_large")
    except Exception as error:  # one bad file, or a transform that cannot take it, must not end the run
        return DecodeError(f"{job.path} cannot be processed: {type(error).__name__}: {error}", "crash")


class _Pickler(pickle.Pickler):
    """Copies tensors through the pipe: shared memory is scarce in containers and dies with its process."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor) and obj.dtype != torch.bfloat16:
            return torch.from_numpy, (obj.detach().cpu().contiguous().numpy(),)
        return NotImplemented


def send(connection: Connection, message: object) -> None:
    """Send an object, its tensors as plain bytes."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(message)
    connection.send_bytes(buffer.getbuffer())


def serve(connection: Connection, transform: Transform | None) -> None:
    """Answer jobs until the other end closes; dies with its parent and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    av.logging.set_level(None)
    decord_module()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the C libraries print goes nowhere
    try:
        send(connection, Ready())
        while True:
            job = connection.recv()
            send(connection, run_job(job, transform, lambda info: send(connection, Lasting(info.duration))))
    except (EOFError, OSError):
        return


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
