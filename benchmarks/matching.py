"""Episodes labelled per second by each matcher, against POT's ``ot.sinkhorn`` called for each episode.

Episodes are demonstrations played at an uneven pace, with noise; each is matched with all demonstrations, whose
lengths lie between two thirds and four thirds of an episode's. All start from the same cost matrices. POT gets the
same ``eps``, iterations and tolerance as ``SinkhornOT`` and works in float64 as it does by default; the last column
is the median ratio to it over turns. What both pay is compared where both have converged, and everywhere.

Rates count wall-clock time, or with ``--cpu`` the processor time of all threads, in which other work on the machine
hardly shows, but neither does what a second core brings.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import ot
import torch
from timing import in_turns, median_ratio, print_table
from torch import Tensor
from torch.nn import functional

from vrm.rewards.matchers import MATCHERS, SinkhornOT
from vrm.rewards.matching import cosine_cost

POT = "POT ot.sinkhorn, per pair"
POT_EPISODES = 4  # that POT labels before its clock is read


def walks(count: int, frames: int, width: int, generator: torch.Generator) -> Tensor:
    """Unit features ``(count, frames, width)`` that begin alike and drift apart."""
    start = torch.randn(1, 1, width, generator=generator)
    return functional.normalize(start + 0.1 * torch.randn(count, frames, width, generator=generator).cumsum(1), dim=-1)


def replay(demo: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Play ``demo`` ``(T', D)`` in ``frames`` frames at an uneven pace, with noise."""
    pace = torch.rand(frames, generator=generator).cumsum(0)
    played = demo[(pace / pace[-1] * (len(demo) - 1)).round().long()]
    return functional.normalize(played + 0.02 * torch.randn(played.shape, generator=generator), dim=-1)


def by_pot(cost: Tensor, matcher: SinkhornOT) -> tuple[np.ndarray, bool]:
    """Reward of each frame by POT, and whether it converged."""
    matrix = cost.double().numpy()
    rows, columns = (np.full(n, 1 / n) for n in matrix.shape)
    options = {"numItermax": matcher.iterations, "stopThr": matcher.tolerance, "warn": False, "log": True}
    plan, log = ot.sinkhorn(rows, columns, matrix, matcher.eps, **options)
    return -(plan * matrix).sum(1) * len(matrix), log["err"][-1] <= matcher.tolerance


def agreement(costs: Tensor, lengths: list[int], matcher: SinkhornOT) -> str:
    """Say how far rewards are from POT's."""
    pairs = costs[: 2 * len(lengths)]
    ours = matcher(pairs, demo_lengths=torch.tensor(lengths).repeat(2)).reward.numpy()
    theirs = [by_pot(pair[:, :n], matcher) for pair, n in zip(pairs, lengths * 2, strict=True)]
    apart = [float(np.abs(own - reward).max()) for own, (reward, _) in zip(ours, theirs, strict=True)]
    met = [gap for gap, (_, converged) in zip(apart, theirs, strict=True) if converged]
    return (
        f"Largest difference from POT's rewards per frame: {max(met, default=0):.1e} in the {len(met)} of {len(apart)} "
        f"pairs in which POT converged, {max(apart):.1e} in all."
    )


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"episodes": 64, "demos": 5, "frames": 150, "width": 256, "threads": 2, "seconds": 12, "rounds": 4}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--cpu", action="store_true", help="count processor time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    lengths = np.linspace(args.frames * 2 // 3, args.frames * 4 // 3, args.demos).round().astype(int).tolist()
    demos = walks(args.demos, max(lengths), args.width, generator)
    played = [demos[i % args.demos][: lengths[i % args.demos]] for i in range(args.episodes)]
    episodes = torch.stack([replay(demo, args.frames, generator) for demo in played])
    costs = cosine_cost(episodes, demos).flatten(0, 1)
    demo_lengths = torch.tensor(lengths).repeat(args.episodes)

    def pot() -> int:
        for pair in range(POT_EPISODES * args.demos):
            by_pot(costs[pair, :, : lengths[pair % args.demos]], SinkhornOT())
        return POT_EPISODES

    def batched(name: str) -> int:
        MATCHERS[name]()(costs, demo_lengths=demo_lengths)
        return args.episodes

    works = {POT: pot, **{name: lambda name=name: batched(name) for name in MATCHERS}}
    rates = in_turns(works, args.seconds, args.rounds, time.process_time if args.cpu else time.perf_counter)
    rows = [[name, f"{median(rates[name]):.1f}", f"{median_ratio(rates, name, POT):.2f}x"] for name in works]
    title = (
        f"{args.episodes} episodes of {args.frames} frames x demonstrations of {lengths} frames, {args.threads} threads"
    )
    print_table(title, ["matcher", "episodes/s", "to POT"], rows)
    print(f"\n{agreement(costs, lengths, SinkhornOT())}")


if __name__ == "__main__":
    main()
