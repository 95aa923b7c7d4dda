"""What a frame costs, and whether both renderers show the same: OpenGL against the ray-caster (``vrm[warp]``).

Milliseconds per frame of the text-goal humanoid in the fast profile, as processor time of this process with all its
threads, so that other processes hardly show; Mesa and torch are held to one thread. The ray-caster draws one state a
call, or 64. Below it, on the same sampled states under both renderers: Pearson correlation of pixels and mean absolute
difference, and Spearman correlation of an encoder's scores for "a humanoid robot kneeling".
"""

from __future__ import annotations

import os

os.environ["LP_NUM_THREADS"] = "1"  # of Mesa's software renderer, before it starts

import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from timing import Work, in_turns, make_reward, open_encoder, parse_with, print_table

from vrm.envs import make_task
from vrm.errors import MissingExtraError
from vrm.frames import from_hwc

TASK = "humanoid_kneeling"
BATCH = 64
RENDERERS = ("opengl", "warp")


def open_env(renderer: str, size: int) -> Any:
    """One humanoid that is ready to be rendered."""
    env: Any = make_task(TASK, renderer=renderer).make(size=size).unwrapped
    env.reset(seed=0)
    env.render()
    return env


def draw(env: Any) -> int:
    """Draw one frame."""
    env.render()
    return 1


def works(size: int) -> dict[str, Work]:
    """Name of a way to draw frames, and what draws some and says how many."""
    from vrm.envs.warp_renderer import WarpRenderer

    found: dict[str, Work] = {}
    for renderer in RENDERERS:
        env = open_env(renderer, size)
        found[f"{renderer}, one state a call"] = partial(draw, env)
    batch = WarpRenderer(env.model, size, "fast", worlds=BATCH)

    def many() -> int:
        return len(batch.render_batch([batch.snapshot(env.data, env.camera) for _ in range(BATCH)]))

    return found | {f"warp, {BATCH} states a call": many}


def compare(states: int, size: int, encoder: str) -> list[list[str]]:
    """Agreement of frames and scores, as rows of a table."""
    loaded, _ = open_encoder(encoder)
    reward = make_reward(loaded)
    frames, scores = [], []
    for renderer in RENDERERS:
        frames.append(make_task(TASK, renderer=renderer).sample(states, seed=5, size=size).frames)
        with torch.no_grad():
            scores.append(reward(from_hwc(frames[-1])[:, None]).flatten().numpy())
    a, b = (f.astype(np.float64) for f in frames)
    return [
        ["pixel correlation", f"{np.corrcoef(a.ravel(), b.ravel())[0, 1]:.3f}"],
        ["mean absolute difference, of 255", f"{np.abs(a - b).mean():.1f}"],
        ["Spearman correlation of scores", f"{spearmanr(*scores)[0]:.3f}"],
    ]


def main() -> None:
    """Measure and print."""
    options = parse_with(__doc__, states=200, size=64)
    torch.set_num_threads(1)
    try:
        agreement = compare(options.states, options.size, options.encoder)
        rates = in_turns(works(options.size), seconds=6.0, rounds=3, clock=time.process_time)
    except MissingExtraError as error:
        sys.exit(str(error))
    rows = [[name, f"{1000 / np.median(rate):.2f}"] for name, rate in rates.items()]
    print_table(f"Milliseconds of one core per {options.size}-pixel frame", ["", "ms"], rows)
    print_table(f"Agreement of both renderers on {options.states} states", ["", "value"], agreement)


if __name__ == "__main__":
    main()
