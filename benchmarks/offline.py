"""From unlabelled, sub-optimal data to a policy: does a reward's labelling teach more than imitation?

For each task an agent is trained on the goal sentence, and records episodes in which most of its steps are random. A
reward relabels the recording; IQL learns from it. Beside it stand behaviour cloning, which no reward helps, and IQL on
the task's own rewards. What is done already in ``--out`` is not done again, so the script can be stopped and continued;
``--report`` only reads. It writes ``offline.csv`` (a row per agent), ``offline.png``, and prints the table: success by
the task's predicate over the last fifth of 20 evaluation episodes, median over seeds, and that of the data itself.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import matplotlib
import numpy as np
from timing import print_table
from trainings import VRM, resuming, run, success


@dataclass(frozen=True)
class Setting:
    """How a task's data are made and learned from.

    Attributes:
        steps: environment steps of the agent that records.
        noise: share of random steps in the recording.
        episodes: recorded.
    """

    steps: int
    noise: float
    episodes: int


TASKS = {"inverted_pendulum": Setting(16_000, 0.6, 100), "reacher_reach": Setting(30_000, 0.6, 200)}
TEACHER = "sac"
AGENTS = {
    "cloning": ("bc", "recording"),
    "relabelled": ("iql", "relabelled"),
    "true rewards": ("iql", "recording"),
}
EPISODES = 20


def train(folder: Path, steps: int, settings: list[str]) -> float | None:
    """Train an agent, or go on with it."""
    if success(folder, steps) is None:
        command = resuming(folder, steps)
        if command is None:
            command = [
                *VRM, "train", *settings, f"agent.total_steps={steps}", f"eval_every={max(steps // 5, 1000)}",
                f"eval_episodes={EPISODES}", f"checkpoint_every={max(steps // 5, 1000)}", f"video_every={steps}",
                f"hydra.run.dir={folder}",
            ]  # fmt: skip
        run(command, folder.parent / f"{folder.name}.log")
        print(f"{folder}: success {success(folder, steps)}", flush=True)
    return success(folder, steps)


def make_data(task: str, out: Path) -> bool:
    """Train the agent that records, record, and relabel, each once."""
    setting, home = TASKS[task], out / task
    teacher, recording, labelled = home / "teacher", home / "recording", home / "relabelled"
    train(teacher, setting.steps, [f"task={task}", "reward=goal", f"agent={TEACHER}"])
    if labelled.is_dir():
        return True
    record = [*VRM, "record", str(teacher), "--out", str(recording), "--all", "--states", "--size", "64"]
    record += ["--episodes", str(setting.episodes), "--noise", str(setting.noise)]
    relabel = [*VRM, "relabel", str(recording), "--reward", str(teacher / "reward.safetensors"), "--out", str(labelled)]
    return run(record, home / "record.log") and run(relabel, home / "relabel.log")


def folder(task: str, name: str, seed: int, out: Path) -> Path:
    """Where an offline agent's run is kept."""
    return out / task / f"{name.replace(' ', '_')}_{seed}"


def work(out: Path, tasks: list[str], seeds: int, updates: int) -> None:
    """Do all that is missing, the first seed of everything first."""
    ready = [task for task in tasks if make_data(task, out)]
    for seed in range(seeds):
        for task in ready:
            for name, (agent, data) in AGENTS.items():
                settings = [f"task={task}", "reward=own", "calibrate=false", f"seed={seed}", f"agent=torchrl_{agent}"]
                settings += [f"agent.dataset={(out / task / data).absolute()}"]
                train(folder(task, name, seed, out), updates, settings)


def of_the_data(task: str, out: Path) -> float | None:
    """Mean success of the recorded episodes."""
    path = out / task / "recording" / "episodes.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return mean(json.loads(line)["success_rate"] for line in lines) if lines else None


def report(out: Path, tasks: list[str], seeds: int, updates: int) -> None:
    """Write the csv and the figure, and print the table."""
    cells: dict[tuple[str, str], list[float]] = {}
    for task in tasks:
        data = of_the_data(task, out)
        cells[task, "the data"] = [] if data is None else [data]
        for name in AGENTS:
            rates = [success(folder(task, name, seed, out), updates) for seed in range(seeds)]
            cells[task, name] = [rate for rate in rates if rate is not None]
    with (out / "offline.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "agent", "updates", "seed", "success_rate"])
        for (task, name), rates in cells.items():
            writer.writerows([task, name, updates, seed, f"{rate:.4f}"] for seed, rate in enumerate(rates))
    names = ["the data", *AGENTS]
    table = [[name, *(_cell(cells[task, name]) for task in tasks)] for name in names]
    print_table("Success, median over seeds (each seed)", ["learned from", *tasks], table)
    draw(out / "offline.png", cells, tasks, names)


def _cell(rates: list[float]) -> str:
    return "-" if not rates else f"{median(rates):.2f} ({', '.join(f'{rate:.2f}' for rate in rates)})"


def draw(path: Path, cells: dict[tuple[str, str], list[float]], tasks: list[str], names: list[str]) -> None:
    """Draw a panel of bars per task, with a dot per seed."""
    from matplotlib.figure import Figure

    from vrm.pictures.style import NEUTRAL, REWARD, STYLE, SUCCESS, save_png

    colours = {"relabelled": REWARD, "true rewards": SUCCESS}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(tasks), 3.4), layout="constrained", dpi=130)
        for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            for place, name in enumerate(names):
                rates = cells[task, name]
                axes.bar(place, median(rates) if rates else 0, color=colours.get(name, NEUTRAL), width=0.7)
                axes.plot(np.full(len(rates), place), rates, "o", color="black", markersize=3)
            axes.set(title=f"{task}, {TASKS[task].episodes} episodes", ylim=(0, 1.05), xticks=range(len(names)))
            axes.set_xticklabels(names, rotation=30, ha="right")
            axes.set_ylabel("success rate")
        save_png(path, figure.savefig)


def main() -> None:
    """Work, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20_000, help="of each offline agent")
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.report:
        work(given.out, given.tasks, given.seeds, given.updates)
    report(given.out, given.tasks, given.seeds, given.updates)


if __name__ == "__main__":
    main()
