"""What the benchmarks share: work measured in turns, tables, and the encoder that is named on the command line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

import vrm
from vrm.encoders import Encoder
from vrm.errors import VrmError
from vrm.rewards import GoalReward

Work = Callable[[], int]  # does something and says how many units of it
Clock = Callable[[], float]


def rate(work: Work, seconds: float, clock: Clock = time.perf_counter) -> float:
    """Units of work per second of ``clock``, over at least ``seconds``."""
    start, units = clock(), 0
    while (spent := clock() - start) < seconds or not units:
        units += work()
    return units / spent


def in_turns(
    works: Mapping[str, Work], seconds: float, rounds: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Rates of several works in turns of ``seconds / rounds``, so that what disturbs one disturbs all.

    ``time.process_time`` as ``clock`` counts the processor time of this process, of all its threads: what other
    processes do hardly shows.
    """
    for work in works.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        for name in sorted(works, reverse=bool(turn % 2)):
            rates[name].append(rate(works[name], seconds / rounds, clock))
    return rates


def median_ratio(rates: Mapping[str, Sequence[float]], name: str, to: str) -> float:
    """Median over the turns of one rate divided by another's in the same turn."""
    return median(a / b for a, b in zip(rates[name], rates[to], strict=True))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print right-aligned columns; the first is left-aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}\n")
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]))


def parse(doc: str | None, seconds: float) -> argparse.Namespace:
    """Read ``--encoder`` and ``--seconds``; the module's docstring is the help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vrm-sim", help="what vrm.load_encoder takes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=seconds, help="per measured number (default: %(default)s)")
    return parser.parse_args()


def parse_with(doc: str | None, **numbers: int) -> argparse.Namespace:
    """Read ``--encoder`` and whole numbers given with their defaults; the module's docstring is the help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vrm-sim", help="what vrm.load_encoder takes (default: %(default)s)")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    return parser.parse_args()


def open_encoder(name: str) -> tuple[Encoder, int]:
    """Load an encoder and say which size of frames, in pixels, it reads; end with one sentence if there is none."""
    try:
        encoder = vrm.load_encoder(name)
    except VrmError as error:
        sys.exit(str(error))
    size = max(encoder.preprocess.size)
    print(f"encoder {name}, {size} pixels, {torch.get_num_threads()} torch thread(s)")
    return encoder, size


def make_reward(encoder: Encoder) -> GoalReward:
    """The reward of every benchmark: the cosine to one goal sentence."""
    return GoalReward(encoder, "a humanoid robot kneeling")
