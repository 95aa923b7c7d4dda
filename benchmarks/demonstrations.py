"""From five filmed episodes of a trained agent to a fresh agent: which demonstration reward teaches which task?

For each task agents are first trained on the environment's own reward and on the goal sentence. The best of them is
filmed: five successful episodes, as video files. Every kind of reward is fitted to these alone and trains new agents
of the same settings. What is done already in ``--out`` is not done again, so the script can be stopped and continued;
``--report`` only reads. It writes ``demonstrations.csv`` (a row per agent), ``demonstrations.png``, and prints the
table: success by the task's predicate over the last fifth of 20 evaluation episodes, median over seeds.
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

# environment steps each agent gets
TASKS = {"inverted_pendulum": 20_000, "reacher_reach": 30_000, "fetch_reach": 25_000, "humanoid_kneeling": 80_000}
TEACHERS = ("own", "goal")
KINDS = {
    "perceptual": ("perceptual",),
    "nearest": ("matching", "matcher=nearest"),
    "sinkhorn": ("matching", "matcher=sinkhorn"),
    "time": ("progress", "objective=time"),
    "tcc": ("progress", "objective=tcc"),
    "rank2reward": ("rank2reward",),
}
EPISODES, DEMOS = 20, 5


@dataclass(frozen=True)
class Agent:
    """One agent: a task, what pays it, and a seed."""

    task: str
    reward: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its run is kept."""
        return out / self.task / f"{self.reward}_{self.seed}"

    def success(self, out: Path) -> float | None:
        """Success rate of the finished agent; None as long as it is not finished."""
        return success(self.folder(out), TASKS[self.task])


def train(agent: Agent, out: Path) -> None:
    """Train an agent, or go on with it."""
    if agent.success(out) is not None:
        return
    folder, steps = agent.folder(out), TASKS[agent.task]
    command = resuming(folder, steps)
    if command is None:
        reward = agent.reward if agent.reward in TEACHERS else str(reward_file(agent.task, agent.reward, out))
        command = [
            *VRM, "train", f"task={agent.task}", f"reward={reward}", f"seed={agent.seed}",
            f"agent.total_steps={steps}", f"eval_every={max(steps // 8, 2000)}", f"eval_episodes={EPISODES}",
            f"checkpoint_every={max(steps // 4, 2000)}", f"video_every={steps}", f"hydra.run.dir={folder}",
        ]  # fmt: skip
    run(command, folder.parent / f"{folder.name}.log")
    print(f"{agent.task:20} {agent.reward:12} seed {agent.seed}: success {agent.success(out)}", flush=True)


def reward_file(task: str, kind: str, out: Path) -> Path:
    """Where a fitted reward is kept."""
    return out / task / "rewards" / f"{kind}.safetensors"


def film(task: str, seeds: int, out: Path) -> bool:
    """Film the best teacher, once; False if none has learned the task."""
    folder = out / task / "demos"
    if len(list(folder.glob("*.mp4"))) >= DEMOS:
        return True
    teachers = [Agent(task, reward, seed) for reward in TEACHERS for seed in range(seeds)]
    best = max(teachers, key=lambda agent: agent.success(out) or 0.0)
    if not best.success(out):
        return False
    size = ["--size", "64", "--min-success", "0.9"]
    run([*VRM, "record", str(best.folder(out)), "--out", str(folder), "--episodes", str(DEMOS), *size],
        out / task / "record.log")  # fmt: skip
    return len(list(folder.glob("*.mp4"))) >= DEMOS


def fit(task: str, kind: str, out: Path) -> None:
    """Fit a reward to the films, once."""
    path = reward_file(task, kind, out)
    if not path.is_file():
        name, *options = KINDS[kind]
        run([*VRM, "fit", name, str(out / task / "demos"), "--out", str(path), *options], path.with_suffix(".log"))


def work(out: Path, tasks: list[str], kinds: list[str], seeds: int, jobs: int) -> None:
    """Do all that is missing, the first seed of everything first."""
    with ThreadPoolExecutor(jobs) as pool:
        for seed in range(seeds):
            list(pool.map(lambda agent: train(agent, out), [Agent(t, r, seed) for t in tasks for r in TEACHERS]))
            ready = [task for task in tasks if film(task, seed + 1, out)]
            list(pool.map(lambda pair: fit(*pair, out), [(task, kind) for task in ready for kind in kinds]))
            wanted = [Agent(t, k, seed) for t in ready for k in kinds if reward_file(t, k, out).is_file()]
            list(pool.map(lambda agent: train(agent, out), wanted))


def rows(out: Path, tasks: list[str], kinds: list[str]) -> Iterator[tuple[str, str, list[float]]]:
    """Task, reward and the success of each finished seed."""
    for task in tasks:
        for reward in (*TEACHERS, *kinds):
            agents = [
                Agent(task, reward, seed) for seed in range(100) if Agent(task, reward, seed).folder(out).is_dir()
            ]
            found = [rate for agent in agents if (rate := agent.success(out)) is not None]
            if found:
                yield task, reward, found


def report(out: Path, tasks: list[str], kinds: list[str]) -> None:
    """Write the csv and the figure, and print the table."""
    found = list(rows(out, tasks, kinds))
    with (out / "demonstrations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "reward", "steps", "seed", "success_rate"])
        for task, reward, rates in found:
            writer.writerows([task, reward, TASKS[task], seed, f"{rate:.4f}"] for seed, rate in enumerate(rates))
    cells = {(task, reward): rates for task, reward, rates in found}
    done = [task for task in tasks if any(t == task for t, _ in cells)]
    table = [
        [reward, *(_cell(cells.get((task, reward))) for task in done)]
        for reward in (*TEACHERS, *kinds)
        if any((task, reward) in cells for task in done)
    ]
    print_table("Success after training, median over seeds (each seed)", ["reward", *done], table)
    draw(out / "demonstrations.png", cells, done, [row[0] for row in table])


def _cell(rates: list[float] | None) -> str:
    return "-" if not rates else f"{median(rates):.2f} ({', '.join(f'{rate:.2f}' for rate in rates)})"


def draw(path: Path, cells: dict[tuple[str, str], list[float]], tasks: list[str], rewards: list[str]) -> None:
    """Draw a panel of bars per task, with a dot per seed."""
    from matplotlib.figure import Figure

    from vrm.pictures.style import NEUTRAL, REWARD, STYLE, SUCCESS, save_png

    colours = {"own": NEUTRAL, "goal": REWARD}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * max(len(tasks), 1), 3.4), layout="constrained", dpi=130)
        for axes, task in zip(figure.subplots(1, max(len(tasks), 1), squeeze=False)[0], tasks, strict=False):
            for place, reward in enumerate(rewards):
                rates = cells.get((task, reward), [])
                axes.bar(place, median(rates) if rates else 0, color=colours.get(reward, SUCCESS), width=0.7)
                axes.plot(np.full(len(rates), place), rates, "o", color="black", markersize=3)
            axes.set(title=f"{task}, {TASKS[task]:,} steps", ylim=(0, 1.05), xticks=range(len(rewards)))
            axes.set_xticklabels(rewards, rotation=60, ha="right")
        save_png(path, figure.savefig)


def main() -> None:
    """Work, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demonstrations"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="agents trained at once")
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.report:
        work(given.out, given.tasks, given.kinds, given.seeds, given.jobs)
    report(given.out, given.tasks, given.kinds)


if __name__ == "__main__":
    main()
