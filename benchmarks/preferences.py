"""Agents that learn from answers about their own behaviour: which labeller teaches which task, and how well?

For each task, new agents of the same settings are trained with each teacher: the environment's own reward; a stand-in
judge that answers a tenth, three tenths or none of its questions wrongly, and HERON's factors, from which an ensemble
learns a reward while the agent trains; and SPO, which is paid its win rate under that judge. What is done already in
``--out`` is not done again, so the script can be stopped and continued; ``--report`` only reads. It writes
``preferences.csv`` (a row per agent), ``preferences.png``, and prints the table: success by the task's predicate over
the last fifth of 20 evaluation episodes, median over seeds.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib
import numpy as np
from timing import print_table
from trainings import VRM, resuming, run, success

# environment steps each agent gets, and its algorithm
TASKS = {
    "inverted_pendulum": (30_000, "sac"),
    "cartpole": (30_000, "dqn"),
    "humanoid_kneeling": (80_000, "sac"),
    "fetch_reach": (40_000, "sac"),
}
LEARNER = ("reward=preference", "reward.hidden=[128,128]", "reward.epochs=50", "preference.segment=10")  # for two cores
JUDGE = (*LEARNER, "labeller=judge")
TEACHERS = {
    "own": ("reward=own",),
    "judge 0": (*JUDGE, "labeller.judge.sim.noise=0.0"),
    "judge .1": (*JUDGE, "labeller.judge.sim.noise=0.1"),
    "judge .3": (*JUDGE, "labeller.judge.sim.noise=0.3"),
    "heron": (*LEARNER, "labeller=heron"),
    "spo": ("reward=win_rate", "labeller=judge"),
}
EPISODES, SESSIONS, BUDGET = 20, 10, 400


@dataclass(frozen=True)
class Agent:
    """One agent: a task, who teaches it, and a seed."""

    task: str
    teacher: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its run is kept."""
        return out / self.task / f"{self.teacher.replace(' ', '_')}_{self.seed}"

    def steps(self, out: Path) -> int:
        """How long it is trained: as long as the tasks say, unless ``--steps`` made the file that says otherwise."""
        path = out / "steps.txt"
        return int(path.read_text()) if path.is_file() else TASKS[self.task][0]

    def success(self, out: Path) -> float | None:
        """Success rate of the finished agent; None as long as it is not finished."""
        return success(self.folder(out), self.steps(out))

    def label_accuracy(self, out: Path) -> float | None:
        """Share of answers in line with the environment's own reward, mean over sessions; None where none is known."""
        path = self.folder(out) / "preferences" / "sessions.csv"
        rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
        known = [float(row["label_accuracy"]) for row in rows if row["label_accuracy"] not in ("", "nan")]
        return float(np.mean(known)) if known else None


def train(agent: Agent, out: Path) -> None:
    """Train an agent, or go on with it."""
    if agent.success(out) is not None:
        return
    folder, steps = agent.folder(out), agent.steps(out)
    command = resuming(folder, steps)
    if command is None:
        asking = {
            "budget": BUDGET, "queries_per_session": BUDGET // SESSIONS, "unsupervised_steps": steps // 12,
            "session_every": steps // (SESSIONS + 2),
        }  # fmt: skip
        command = [
            *VRM, "train", f"task={agent.task}", f"agent={TASKS[agent.task][1]}", *TEACHERS[agent.teacher],
            f"seed={agent.seed}", f"agent.total_steps={steps}", f"eval_every={max(steps // 8, 2000)}",
            f"eval_episodes={EPISODES}", f"checkpoint_every={max(steps // 4, 2000)}", f"video_every={steps}",
            *(f"preference.{name}={value}" for name, value in asking.items()), f"hydra.run.dir={folder}",
        ]  # fmt: skip
    run(command, folder.parent / f"{folder.name}.log")
    print(f"{agent.task:20} {agent.teacher:10} seed {agent.seed}: success {agent.success(out)}", flush=True)


def work(out: Path, tasks: list[str], teachers: list[str], seeds: int, jobs: int) -> None:
    """Do all that is missing, the first seed of everything first."""
    agents = [Agent(task, teacher, seed) for seed in range(seeds) for task in tasks for teacher in teachers]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda agent: train(agent, out), agents))


def rows(out: Path, tasks: list[str], teachers: list[str]) -> Iterator[tuple[Agent, float]]:
    """The finished agents, and their success."""
    for task in tasks:
        for teacher in teachers:
            for seed in range(100):
                agent = Agent(task, teacher, seed)
                if (rate := agent.success(out)) is not None:
                    yield agent, rate


def report(out: Path, tasks: list[str], teachers: list[str]) -> None:
    """Write the csv and the figure, and print the table."""
    cells: dict[tuple[str, str], list[float]] = {}
    with (out / "preferences.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "teacher", "steps", "seed", "success_rate", "label_accuracy"])
        for agent, rate in rows(out, tasks, teachers):
            right = agent.label_accuracy(out)
            labels = "" if right is None else f"{right:.4f}"
            writer.writerow([agent.task, agent.teacher, agent.steps(out), agent.seed, f"{rate:.4f}", labels])
            cells.setdefault((agent.task, agent.teacher), []).append(rate)
    done = [task for task in tasks if any(t == task for t, _ in cells)]
    shown = [teacher for teacher in teachers if any((task, teacher) in cells for task in done)]
    table = [[teacher, *(_cell(cells.get((task, teacher))) for task in done)] for teacher in shown]
    print_table("Success after training, median over seeds (each seed)", ["teacher", *done], table)
    draw(out / "preferences.png", cells, done, shown)


def _cell(rates: list[float] | None) -> str:
    return "-" if not rates else f"{median(rates):.2f} ({', '.join(f'{rate:.2f}' for rate in rates)})"


def draw(path: Path, cells: dict[tuple[str, str], list[float]], tasks: list[str], teachers: list[str]) -> None:
    """Draw a panel of bars per task, with a dot per seed."""
    from matplotlib.figure import Figure

    from vrm.pictures.style import NEUTRAL, STYLE, SUCCESS, save_png

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * max(len(tasks), 1), 3.4), layout="constrained", dpi=130)
        for axes, task in zip(figure.subplots(1, max(len(tasks), 1), squeeze=False)[0], tasks, strict=False):
            for place, teacher in enumerate(teachers):
                rates = cells.get((task, teacher), [])
                colour = NEUTRAL if teacher == "own" else SUCCESS
                axes.bar(place, median(rates) if rates else 0, color=colour, width=0.7)
                axes.plot(np.full(len(rates), place), rates, "o", color="black", markersize=3)
            axes.set(title=task, ylim=(0, 1.05), xticks=range(len(teachers)))
            axes.set_xticklabels(teachers, rotation=60, ha="right")
        save_png(path, figure.savefig)


def main() -> None:
    """Work, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/preferences"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of every agent in this folder, to try things out")
    parser.add_argument("--jobs", type=int, default=2, help="agents trained at once")
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.steps:
        (given.out / "steps.txt").write_text(str(given.steps))
    if not given.report:
        work(given.out, given.tasks, given.teachers, given.seeds, given.jobs)
    report(given.out, given.tasks, given.teachers)


if __name__ == "__main__":
    main()
