"""What benchmarks that train agents share: the command as a process with its output in a file, and what came of it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

VRM = [sys.executable, "-m", "vrm.cli"]


def run(command: list[str], log: Path) -> bool:
    """Run a command with its output in a file; what fails says so and leaves a gap in the table."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        print(f"failed, see {log}: {' '.join(command)}", flush=True)
    return done.returncode == 0


def resuming(folder: Path, steps: int) -> list[str] | None:
    """The command that goes on with the run in ``folder`` up to ``steps``; None if there is nothing to go on with."""
    if not any((folder / "checkpoints").glob("[0-9]*")):
        return None
    return [*VRM, "train", "--resume", str(folder), f"agent.total_steps={steps}"]


def success(folder: Path, steps: int) -> float | None:
    """Success rate of the agent in ``folder`` after ``steps``; None as long as it is not there yet."""
    path = folder / "evaluations.csv"
    if not path.is_file():
        return None
    last = list(csv.DictReader(path.read_text().splitlines()))[-1]
    return float(last["success_rate"]) if int(last["step"]) >= steps else None
