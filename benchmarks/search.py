"""Which search makes most of the same model calls? All methods of ``vrm search`` on one generator, several seeds each.

The budget is counted in plain samples: 8 allows as many rows through the denoiser as best of 8 needs. Every method may
spend it as it likes, for each prompt; how often it asks the reward is shown beside. Gains are over the plain samples of
the same seeds, by the reward that is searched with and by a judge that is not. A trial (method, budget, seed) leaves
one JSON file; what is done already in ``--out`` is not done again, and ``--report`` only reads. It writes
``search.csv`` (a row per trial), ``search.png``, and prints the table: mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from timing import print_table

from vrm.configuration import build_rewards, compose
from vrm.diffusion import VideoGenerator, load_generator
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.search import METHODS, Budget, BudgetError
from vrm.pictures.style import NEUTRAL, REWARD, STYLE, SUCCESS, save_png

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "best of N": ("best_of_n", {}),
    "DLBS, K 4, lookahead 1": ("dlbs", {}),
    "DLBS, K 2, lookahead 2": ("dlbs", {"candidates": 2, "lookahead": 2}),
    "DLBS, K 2, lookahead 6": ("dlbs", {"candidates": 2, "lookahead": 6}),
    "pruning": ("prune", {}),
    "noise optimisation": ("reno", {"explore": 1}),
    "explore 4, then optimise": ("reno", {"explore": 4}),
    "guidance": ("nrg", {}),
}
COLOURS = (NEUTRAL, REWARD, "#60a5fa", "#93c5fd", SUCCESS, "#d97706", "#f59e0b", "#dc2626")
APART = 10_000  # between the noises of two seeds

Row = dict[str, Any]


@dataclass
class Bench:
    """Where results are kept, and what all trials have in common."""

    out: Path
    asked: dict[str, Any]
    prompts: Sequence[str]
    loaded: list[tuple[VideoGenerator, RewardObjective, RewardObjective]] = field(default_factory=list)

    def open(self) -> tuple[VideoGenerator, RewardObjective, RewardObjective]:
        """Generator, objective and judge, loaded when first needed."""
        if not self.loaded:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            sampling = {key: self.asked[key] for key in ("frames", "steps")}
            sampling["size"] = tuple(self.asked["size"]) if self.asked["size"] else None
            generator = load_generator(self.asked["generator"], **sampling)
            judges = []
            for name in (self.asked["reward"], self.asked["judge"]):
                rewards = build_rewards([name], self.asked["encoder"], device=device)
                judges.append(RewardObjective({label: reward.to(device) for label, reward in rewards.items()}))
            self.loaded.append((generator.to(device), *judges))
        return self.loaded[0]

    def trial(self, name: str, samples: int, seed: int) -> Row | None:
        """One search of all prompts, from its file or made now; None if the budget is too small for the method."""
        path = self.out / "trials" / f"{name.replace(', ', '-').replace(' ', '_')}-{samples}-seed{seed}.json"
        if path.is_file() and (row := json.loads(path.read_text()))["asked"] == self.asked:
            return row
        generator, objective, judge = self.open()
        method, settings = VARIANTS[name]
        searcher = METHODS[method](generator, objective, **settings)
        budget = Budget(samples * searcher.sampling.steps * searcher.rows)
        seeds = [seed * APART + i for i in range(len(self.prompts))]
        start = time.perf_counter()
        try:
            found = searcher.sample(self.prompts, budget, seeds)
        except BudgetError:
            return None
        seconds = time.perf_counter() - start
        plain = torch.cat([generator.sample([p], seed=s) for p, s in zip(self.prompts, seeds, strict=True)])
        scores = {
            which: {"reward": _mean(objective, videos, self.prompts), "judge": _mean(judge, videos, self.prompts)}
            for which, videos in (("plain", plain), ("found", found.videos))
        }
        row = {
            "asked": self.asked, "method": name, "samples": samples, "seed": seed, **scores, "nfe": max(found.nfe),
            "reward_calls": max(found.reward_calls), "seconds": seconds / len(self.prompts),
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(row, indent=1))
        os.replace(partial, path)
        gain = row["found"]["reward"] - row["plain"]["reward"]
        print(f"{name:26} {samples:3} samples, seed {seed}: {gain:+.3g} in {seconds:.0f} s", flush=True)
        return row

    def finished(self) -> list[Row]:
        """What is there."""
        rows = [json.loads(path.read_text()) for path in sorted((self.out / "trials").glob("*.json"))]
        order = {name: place for place, name in enumerate(VARIANTS)}
        rows = [row for row in rows if row["asked"] == self.asked and row["method"] in order]
        return sorted(rows, key=lambda row: (row["samples"], order[row["method"]], row["seed"]))


def _mean(objective: RewardObjective, videos: torch.Tensor, prompts: Sequence[str]) -> float:
    return float(objective.total(objective.score(videos, prompts)).mean())


def gains(rows: Sequence[Row], which: str) -> list[float]:
    """Found minus plain, one for each seed."""
    return [row["found"][which] - row["plain"][which] for row in rows]


def spread(values: Sequence[float]) -> float:
    """Standard deviation; not a number for a single value."""
    return stdev(values) if len(values) > 1 else float("nan")


def report(bench: Bench) -> None:
    """Write the csv and the figure, and print the table."""
    rows = bench.finished()
    if not rows:
        print("No trial is finished yet.")
        return
    with (bench.out / "search.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        keys = ("method", "samples", "seed", "nfe", "reward_calls", "seconds")
        scores = [(which, name) for which in ("plain", "found") for name in ("reward", "judge")]
        writer.writerow([*keys, *(f"{which}_{name}" for which, name in scores)])
        writer.writerows([*(row[key] for key in keys), *(row[which][name] for which, name in scores)] for row in rows)
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["samples"], row["method"]), []).append(row)
    lines = []
    for (samples, name), group in groups.items():
        cells = []
        for which in ("reward", "judge"):
            values = gains(group, which)
            cells += [f"{fmean(values):+.3g}", f"{spread(values):.2g}"]
        costs = (f"{fmean(row[key] for row in group):.0f}" for key in ("nfe", "reward_calls"))
        seconds = f"{fmean(row['seconds'] for row in group):.1f}"
        lines.append([name, str(samples), *cells, *costs, seconds, str(len(group))])
    header = ["method", "samples", "gain", "sd", "judge's gain", "sd", "nfe", "reward calls", "s/prompt", "seeds"]
    print_table(f"Gain over the plain sample at equal model calls, {bench.asked['generator']}", header, lines)
    draw(bench.out / "search.png", groups, bench.asked)


def draw(path: Path, groups: dict[tuple[int, str], list[Row]], asked: dict[str, Any]) -> None:
    """Draw gain over budget, a line per method with the deviation over seeds."""
    titles = {"reward": f"Gain in {asked['reward']}, searched with", "judge": f"Gain in {asked['judge']}, a judge"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.6), layout="constrained", dpi=130)
        for axes, (which, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            axes.axhline(0, color=NEUTRAL, linewidth=1)
            for name, colour in zip(VARIANTS, COLOURS, strict=True):
                budgets = sorted(samples for samples, method in groups if method == name)
                found = [gains(groups[samples, name], which) for samples in budgets]
                if found:
                    means, spreads = [fmean(f) for f in found], [spread(f) if len(f) > 1 else 0 for f in found]
                    axes.errorbar(budgets, means, spreads, color=colour, marker="o", capsize=3, linewidth=2, label=name)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set(title=title, xlabel="model calls, in plain samples")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        save_png(path, figure.savefig)


def main() -> None:
    """Search, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--generator", default="vrm-tiny", help="what load_generator takes (%(default)s)")
    parser.add_argument("--encoder", default="vrm-sim")
    parser.add_argument("--reward", default="segmental", help="searched with (%(default)s)")
    parser.add_argument("--judge", default="video_judge", help="only looked at (%(default)s)")
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 8, 16], help="in plain samples (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=6, help="how many of the held-out ones (%(default)s)")
    parser.add_argument("--frames", type=int, help="length of the videos (the generator's own)")
    parser.add_argument("--steps", type=int, help="of the sampler (the generator's own)")
    parser.add_argument("--size", type=int, nargs=2, help="height and width of the frames (the generator's own)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--report", action="store_true", help="search nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    prompts = compose("finetune")["prompts"]["held_out"][: given.prompts]
    asked = {key: getattr(given, key) for key in ("generator", "encoder", "reward", "judge", "frames", "steps", "size")}
    bench = Bench(given.out, {**asked, "prompts": len(prompts)}, prompts)
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.report:
        for seed in range(given.seeds):  # the first seed of everything first
            for samples in given.budgets:
                for name in given.methods:
                    bench.trial(name, samples, seed)
    report(bench)


if __name__ == "__main__":
    main()
