"""The page, running, and clips to show."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import torch
import uvicorn

from vrm.label.book import AnswerBook
from vrm.label.clips import ClipShelf
from vrm.label.page import LabelPage, build_app
from vrm.label.questions import answer_path, open_source
from vrm.video import write_video

START = "import sys; from vrm.label.command import label_command; sys.exit(label_command(sys.argv[1:]))"


class Process:
    """``vrm label``, running in a process of its own; reads what it says."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.said = self.process.stdout.readline()
        line = self.process.stdout.readline()
        found = re.search(r"open (http://\S+)", line)
        assert found, self.said + line + self.process.stderr.read()
        self.address = found[1]

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.communicate(timeout=20)


class Thread:
    """The same page, served by a thread of the tests."""

    def __init__(self, source: Path, goal: str = "", pairs: int = 200) -> None:
        answers = answer_path(source)
        page = LabelPage(
            open_source(source, answers, pairs, goal=goal), AnswerBook(answers), ClipShelf(source / ".label")
        )
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/secret/"
        app = build_app(page, "secret", ["127.0.0.1"])
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def stop(self) -> None:
        self.server.force_exit = self.server.should_exit = True
        self.thread.join(timeout=20)
        self.socket.close()


def write_clip(path: Path, level: int = 120, frames: int = 30, fps: float = 20) -> Path:
    """A grey clip with a bar that wanders, so that no two frames are the same."""
    pictures = torch.full((frames, 3, 48, 64), level, dtype=torch.uint8)
    for t in range(frames):
        pictures[t, :, :, 2 * t % 60 : 2 * t % 60 + 4] = 255
    return write_video(path, pictures, fps=fps)


def write_clips(folder: Path, count: int) -> list[Path]:
    return [write_clip(folder / f"clip {i} #%.mp4", 40 + 20 * i, 24 + 6 * i) for i in range(count)]
