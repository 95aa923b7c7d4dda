"""Which tasks does a sentence teach? Every text-goal task, trained from its sentence alone, several seeds each.

The eight humanoid tasks are those of VLM-RM (Rocamonde et al. 2024, table 1), whose published success with the
largest CLIP stands beside ours; theirs is judged by people and torque-controlled, ours by a predicate of the state and
position-controlled, but for rows that say torque. Each task is first probed: the AUC of its sentence for its predicate,
on sampled states, says whether a failure is the encoder's. What is done already in ``--out`` is not done again, so the
script can be stopped and continued; ``--report`` only reads. It writes ``control.csv`` (a row per agent),
``control.png``, and prints the table: success over the last fifth of 20 evaluation episodes.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib
import numpy as np
from timing import print_table
from trainings import VRM, resuming, run, success

EPISODES = 20


@dataclass(frozen=True)
class Trial:
    """A task, how long its agents are trained, and what VLM-RM published for it (ViT-bigG-14; None: not theirs)."""

    task: str
    steps: int
    published: float | None = None
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The task, and what differs from its defaults."""
        return "_".join([self.task, *(override.rpartition("=")[2] for override in self.overrides)])


TORQUE = ("task.control=torque",)
TRIALS = (
    Trial("humanoid_kneeling", 100_000, 1.00),
    Trial("humanoid_lotus", 100_000, 1.00),
    Trial("humanoid_standing", 100_000, 1.00),
    Trial("humanoid_arms_raised", 100_000, 1.00),
    Trial("humanoid_splits", 100_000, 1.00),
    Trial("humanoid_hands_on_hips", 100_000, 0.64),
    Trial("humanoid_one_leg", 100_000, 0.00),
    Trial("humanoid_arms_crossed", 100_000, 0.00),
    Trial("humanoid_kneeling", 300_000, 1.00, TORQUE),
    Trial("humanoid_standing", 300_000, 1.00, TORQUE),
    Trial("humanoid_arms_raised", 300_000, 1.00, TORQUE),
    Trial("cartpole", 30_000, None, ("agent=dqn",)),
    Trial("mountain_car", 30_000),
    Trial("inverted_pendulum", 20_000),
    Trial("inverted_double_pendulum", 30_000),
    Trial("pendulum", 20_000),
    Trial("reacher_reach", 30_000),
    Trial("half_cheetah_on_back", 50_000),
    Trial("ant_rearing", 50_000),
    Trial("hopper_leg_up", 50_000),
    Trial("walker2d_kneeling", 50_000),
    Trial("swimmer_u_shape", 30_000),
    Trial("humanoid_standup", 100_000),
    Trial("pusher", 50_000),
    Trial("fetch_reach", 25_000),
)


@dataclass(frozen=True)
class Work:
    """Where results are kept, and what all agents have in common."""

    out: Path
    encoder: str
    seeds: int

    def folder(self, trial: Trial, seed: int) -> Path:
        """Where an agent's run is kept."""
        return self.out / trial.name / str(seed)

    def rates(self, trial: Trial) -> list[tuple[int, float]]:
        """Seed and success of every finished agent."""
        found = ((seed, success(self.folder(trial, seed), trial.steps)) for seed in range(100))
        return [(seed, rate) for seed, rate in found if rate is not None]

    def auc(self, trial: Trial) -> float | None:
        """What the probe said, or None."""
        path = self.out / trial.name / "probe.json"
        return float(json.loads(path.read_text())["auc"]) if path.is_file() else None

    def probe(self, trial: Trial) -> None:
        """Ask once how well the sentence tells success from failure on sampled states."""
        from vrm import load_encoder
        from vrm.agents import probe
        from vrm.envs import make_task

        folder = self.out / trial.name
        if self.auc(trial) is None:
            found = probe(make_task(trial.task), load_encoder(self.encoder), None, folder)[0]
            (folder / "probe.json").write_text(json.dumps({"goal": found.goal, "auc": found.auc, "epic": found.epic}))

    def train(self, trial: Trial, seed: int) -> None:
        """Train an agent, or go on with it."""
        folder = self.folder(trial, seed)
        if success(folder, trial.steps) is not None:
            return
        every = max(trial.steps // 5, 2000)
        command = resuming(folder, trial.steps) or [
            *VRM, "train", f"task={trial.task}", *trial.overrides, f"encoder.name={self.encoder}", f"seed={seed}",
            f"agent.total_steps={trial.steps}", f"eval_every={every}", f"eval_episodes={EPISODES}",
            f"checkpoint_every={every}", f"video_every={trial.steps}", f"hydra.run.dir={folder}",
        ]  # fmt: skip
        run(command, folder.parent / f"{seed}.log")
        print(f"{trial.name:28} seed {seed}: success {success(folder, trial.steps)}", flush=True)

    def report(self, trials: Sequence[Trial]) -> None:
        """Write the csv and the figure, and print the table."""
        found = {trial: self.rates(trial) for trial in trials}
        with (self.out / "control.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["trial", "steps", "published", "probe_auc", "seed", "success_rate"])
            for trial, rates in found.items():
                auc = self.auc(trial)
                shown = ["" if value is None else f"{value:.3f}" for value in (trial.published, auc)]
                writer.writerows([trial.name, trial.steps, *shown, seed, f"{rate:.4f}"] for seed, rate in rates)
        rows = [
            [trial.name, f"{trial.steps:,}", _cell(self.auc(trial)), _cell(trial.published), *_summary(rates)]
            for trial, rates in found.items()
            if rates
        ]
        header = ["task", "steps", "probe AUC", "VLM-RM", "median success", "seeds"]
        print_table("Success after training from the sentence", header, rows)
        draw(self.out / "control.png", {trial: rates for trial, rates in found.items() if rates})


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _summary(rates: Sequence[tuple[int, float]]) -> tuple[str, str]:
    return f"{median(rate for _, rate in rates):.2f}", ", ".join(f"{rate:.2f}" for _, rate in rates)


def draw(path: Path, found: dict[Trial, list[tuple[int, float]]]) -> None:
    """Draw a bar per task with a dot per seed, and the published figure as a line across it."""
    from matplotlib.figure import Figure

    from vrm.pictures.style import NEUTRAL, REWARD, STYLE, save_png

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2 + 0.55 * max(len(found), 1), 4.2), layout="constrained", dpi=130)
        axes = figure.subplots()
        for place, (trial, rates) in enumerate(found.items()):
            axes.bar(place, median(rate for _, rate in rates), color=REWARD, width=0.7)
            axes.plot(np.full(len(rates), place), [rate for _, rate in rates], "o", color="black", markersize=3)
            if trial.published is not None:
                axes.hlines(trial.published, place - 0.45, place + 0.45, color=NEUTRAL, linewidth=2)
        axes.set(ylim=(0, 1.05), ylabel="success", xticks=range(len(found)), title="grey lines: VLM-RM, ViT-bigG-14")
        axes.set_xticklabels([trial.name for trial in found], rotation=60, ha="right")
        save_png(path, figure.savefig)


def main() -> None:
    """Work, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/control"))
    parser.add_argument("--encoder", default="vrm-sim")
    parser.add_argument("--trials", nargs="+", metavar="NAME", choices=[t.name for t in TRIALS], help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="agents trained at once")
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    trials = [trial for trial in TRIALS if given.trials is None or trial.name in given.trials]
    given.out.mkdir(parents=True, exist_ok=True)
    work = Work(given.out, given.encoder, given.seeds)
    if not given.report:
        for trial in trials:
            work.probe(trial)
        with ThreadPoolExecutor(given.jobs) as pool:  # the first seed of everything first
            agents = [(trial, seed) for seed in range(given.seeds) for trial in trials]
            list(pool.map(lambda agent: work.train(*agent), agents))
    work.report(trials)


if __name__ == "__main__":
    main()
