"""What each aligner does to the bundled generators: rewards, diversity and cost over several seeds.

Sections:

* ``table``: every aligner on ``vrm_tiny``.
* ``instruct_video``: InstructVideo, DRaFT-1, DDPO and RWR on ``vrm_tiny``, the comparison of the paper
  (arXiv 2312.12490, table 1: HPSv2 .2542 before, .2717, .2584, .2511 and .2550 after).
* ``segments``: InstructVideo on 1, 2, 4 and 8 segments with and without temporal attenuation (TAR), all judged by the
  plain goal reward of every frame.

Each training runs in a process of its own, so that its peak memory is its own, and leaves one JSON file; a benchmark
that was cut off goes on where it was. The guard watches but does not stop, so that all make as many updates. Gains are
those of the last weights on held-out prompts; "beyond" says by how many standard deviations over seeds the mean gain
is above zero. Writes ``SECTION.csv`` and ``SECTION.png`` into the output folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from timing import print_table

from vrm.configuration import compose, list_options
from vrm.pictures.style import NEUTRAL, REWARD, STYLE, save_png

COUNTS = ("seconds", "nfe", "reward_calls", "decodes")
PANELS = (
    ("trained", "Gain in the trained reward"),
    ("held_out", "Gain of the held-out judge"),
    ("diversity", "Change of diversity"),
)
COMPARED = ("instruct_video", "draft", "ddpo", "rwr")
SEGMENTS = (1, 2, 4, 8)

Variant = tuple[str, list[str]]  # a name, and overrides of configs/finetune.yaml
Row = dict[str, Any]


def variants(section: str, aligners: Sequence[str], generator: str | None) -> list[Variant]:
    """What a section trains."""
    if section == "segments":
        base = [f"generator={generator or 'vrm_tiny'}", "aligner=instruct_video", "held_out_reward=goal"]
        made = []
        for count in SEGMENTS:
            common = [*base, f"reward.segments={count}"]
            made.append((f"{count} segments, TAR", common))
            made.append((f"{count} segments, mean", [*common, "reward.aggregate=mean", "~reward.lam"]))
        return made
    if section == "instruct_video":
        return [(name, [f"generator={generator or 'vrm_tiny'}", f"aligner={name}"]) for name in COMPARED]
    return [(name, [f"generator={generator or 'vrm_tiny'}", f"aligner={name}"]) for name in aligners]


def train_once(folder: str, overrides: list[str]) -> Row:
    """Train in this process and say what came of it; peak memory is that of the whole process."""
    import torch

    from vrm.diffusion.finetune.command import finetune_from_config, second_group

    torch.set_num_threads(1)
    config = compose("finetune", [part for override in overrides for part in second_group(override)])
    summary = finetune_from_config(config, Path(folder))
    with Path(folder, "logs", "from_000000000", "progress.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    counts = {name: sum(float(step.get(name) or 0) for step in steps) for name in COUNTS}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available() and config["device"] != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {
        "before": summary["before"],
        "after": summary["last"],
        "hacking": summary["verdicts"][-1]["state"] in ("hacking", "stop"),
        "peak_mib": peak,
        **counts,
    }


def measured(out: Path, section: str, variant: Variant, seed: int, settings: list[str]) -> Row:
    """The row of one training, from its file or made now."""
    name, overrides = variant
    folder = out / section / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}"
    file = folder / "row.json"
    asked = [*overrides, *settings, f"seed={seed}"]
    if file.is_file():
        row: Row = json.loads(file.read_text())
        if row["asked"] == asked:
            return row
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        row = {"asked": asked, **pool.submit(train_once, str(folder), asked).result()}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=1))
    os.replace(partial, file)
    return row


def gains(rows: Sequence[Row], name: str) -> list[float]:
    """After minus before, one for each seed."""
    return [row["after"][name] - row["before"][name] for row in rows]


def line(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """One line of the table: means over seeds, and spreads."""
    found: dict[str, Any] = {"aligner": name, "seeds": len(rows)}
    for key, _ in PANELS:
        change = gains(rows, key)
        found[f"{key}_before"] = fmean(row["before"][key] for row in rows)
        found[f"{key}_after"] = fmean(row["after"][key] for row in rows)
        found[f"{key}_spread"] = stdev(change) if len(change) > 1 else float("nan")
    change = fmean(gains(rows, "trained"))
    found["beyond"] = change / max(found["trained_spread"], 1e-12) if len(rows) > 1 else float("nan")
    found["hacking"] = sum(row["hacking"] for row in rows)
    return found | {key: fmean(row[key] for row in rows) for key in (*COUNTS, "peak_mib")}


def write_table(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write the lines as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in lines)


def draw(path: Path, results: dict[str, list[Row]], title: str) -> None:
    """Draw each seed's gain as a dot and their mean as a bar."""
    names = list(results)[::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14, 1.6 + 0.36 * len(names)), layout="constrained", dpi=110)
        panels = figure.subplots(1, len(PANELS) + 1, sharey=True)
        for axes, (key, heading) in zip(panels, PANELS, strict=False):
            axes.axvline(0, color=NEUTRAL, linewidth=1)
            for place, name in enumerate(names):
                change = gains(results[name], key)
                axes.barh(place, fmean(change), color=REWARD if key == "trained" else NEUTRAL, alpha=0.35, height=0.6)
                axes.plot(change, [place] * len(change), "o", color=REWARD if key == "trained" else NEUTRAL)
            axes.set(title=heading)
        nfe = [fmean(row["nfe"] for row in results[name]) for name in names]
        panels[-1].plot(nfe, range(len(names)), "s", color=NEUTRAL)
        panels[-1].set(title="Rows through the denoiser", xscale="log")
        panels[0].set_yticks(range(len(names)), names)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        save_png(path, figure.savefig)


def main() -> None:
    """Train what is missing, then print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = ("table", "instruct_video", "segments")
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    parser.add_argument("--aligners", nargs="+", default=list_options("aligner"), help="of the table; default: all")
    parser.add_argument("--generator", help="instead of the section's own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100, help="updates of each training (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="more settings of configs/finetune.yaml")
    args = parser.parse_args()
    settings = [f"steps={args.steps}", f"eval_every={max(args.steps // 4, 1)}", f"film_every={args.steps}"]
    settings += [f"checkpoint_every={args.steps}", "guard.enabled=false", "scales=[]", *args.overrides]
    for section in args.sections:
        results = {
            variant[0]: [measured(args.out, section, variant, seed, settings) for seed in args.seeds]
            for variant in variants(section, args.aligners, args.generator)
        }
        lines = [line(name, rows) for name, rows in results.items()]
        write_table(args.out / f"{section}.csv", lines)
        title = f"{section}: {args.steps} updates, held-out prompts, seeds {', '.join(map(str, args.seeds))}"
        draw(args.out / f"{section}.png", results, title)
        shown = ("trained_before", "trained_after", "trained_spread", "beyond", "held_out_before", "held_out_after")
        shown += ("diversity_before", "diversity_after", "hacking", "seconds", "peak_mib", *COUNTS[1:])
        cells = [[row["aligner"], *(f"{row[name]:.4g}" for name in shown)] for row in lines]
        print_table(title, ["aligner", *(name.replace("_", " ") for name in shown)], cells)


if __name__ == "__main__":
    main()
