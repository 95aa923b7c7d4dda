"""A slow reward in a process of its own, asked through a pipe for one batch at a time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vrm.errors import VrmError
from vrm.frames import from_hwc
from vrm.rewards.base import RewardModel
from vrm.rewards.distilled import ask_teacher, check_teacher

MakeTeacher = Callable[[], RewardModel]
Floats = NDArray[np.float32]
PATIENCE = 5.0  # seconds that a process is given to end before it is killed


class TeacherLostError(VrmError, RuntimeError):
    """The teacher's process ended without being asked to."""


class TeacherFailedError(VrmError, RuntimeError):
    """The teacher itself raised an error; asking again would raise it again."""


class TeacherProcess:
    """Holds a teacher in a spawned process.

    The process ends with its parent, and leaves Ctrl-C to it.

    Args:
        make: builds the teacher there; a function that can be pickled, such as
            ``functools.partial(load_teacher, path)``.
        threads: torch's in that process.
    """

    def __init__(self, make: MakeTeacher, threads: int = 1) -> None:
        """Start the process; it loads the teacher meanwhile."""
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, make, threads), daemon=True, name="vrm-teacher")
        self._process.start()
        other.close()  # so that the pipe ends where the process ends
        self._ready = False

    def wait_ready(self) -> None:
        """Wait until the teacher is loaded.

        Raises:
            TeacherLostError: if the process is gone.
            TeacherFailedError: if the teacher could not be made.
        """
        if not self._ready:
            with self._lost_if_gone():
                self._answer()
            self._ready = True

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return self._process.pid

    def label(self, frames: NDArray[np.uint8]) -> Floats:
        """The teacher's rewards ``(N,)`` of frames ``(N, H, W, 3)``; waits for them.

        Raises:
            TeacherLostError: if the process is gone.
            TeacherFailedError: if the teacher raised an error.
        """
        self.wait_ready()
        with self._lost_if_gone():
            self._pipe.send(frames)
            values: Floats = self._answer()
        return values

    def close(self) -> None:
        """End the process, whatever it is doing; may be called while another thread waits for labels."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(PATIENCE)

    @contextmanager
    def _lost_if_gone(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.join(PATIENCE)
            raise TeacherLostError(f"The teacher's process ended, exit code {self._process.exitcode}.") from error

    def _answer(self) -> Any:
        kind, value = self._pipe.recv()
        if kind == "error":
            raise TeacherFailedError(f"The teacher cannot label frames: {value}")
        return value


def serve(pipe: Connection, make: MakeTeacher, threads: int) -> None:
    """Label what comes through ``pipe`` until it is closed; what runs in the teacher's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    torch.set_num_threads(threads)
    try:
        teacher = check_teacher(make())
        pipe.send(("ready", None))
        while True:
            frames = pipe.recv()
            pipe.send(("labels", ask_teacher(teacher, from_hwc(frames)).numpy()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except Exception as error:  # whatever a teacher raises is told to the parent, which raises it
        pipe.send(("error", f"{type(error).__name__}: {error}"))
