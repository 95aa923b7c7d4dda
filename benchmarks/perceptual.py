"""Overlap of discovered steps and of learned step rewards with the true ones, the tables of Sermanet et al. 2016.

Sequences are rendered by the library's own tasks, moved by a script, so that their steps are known: a humanoid stands,
kneels and raises its arms, every joint a little off; a pole swings below its cart at one end of the rail, then at the
other, and is put upright. How long a step lasts and how fast the next is reached differ; a step begins half-way there.
Eight sequences are for training, four for testing; the method is told nothing but the number of steps.

Discovery is the Jaccard overlap (in per cent) of found and true steps on training sequences, against cuts drawn at
random in order. Reward is that of each step's reward above 0.5 on test sequences, against a coin toss per frame. All
numbers go to ``runs/perceptual.csv``. Last, the time that exact discovery takes.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import parse_with, print_table

import vrm
from vrm.data.demos import Demo
from vrm.encoders import Encoder
from vrm.envs import make_task
from vrm.envs.humanoid_poses import POSES, joint_vector, place
from vrm.frames import from_hwc
from vrm.rewards.perceptual import PerceptualReward
from vrm.rewards.steps import discover_steps, jaccard, random_cuts, step_masks
from vrm.video import replacing

TRAIN, TEST = 8, 4
OUT = Path("runs/perceptual.csv")
Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Sequences:
    """A kind of scripted video: ``film`` yields each frame with its true step."""

    name: str
    steps: tuple[str, ...]
    film: Callable[[Any, np.random.Generator, tuple[str, ...]], Iterator[tuple[Frame, int]]]
    task: str

    def record(self, count: int, size: int, seed: int) -> list[Demo]:
        """Film ``count`` sequences."""
        env, rng, demos = make_task(self.task).make(size=size), np.random.default_rng(seed), []
        for index in range(count):
            env.reset(seed=seed + index)
            frames, stages = zip(*self.film(env.unwrapped, rng, self.steps), strict=True)
            demos.append(Demo(from_hwc(np.stack(frames)), f"{self.name} {index}", stages=np.array(stages)))
        env.close()
        return demos


def durations(steps: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw how many frames each step lasts: 12 or more, 45 to 75 in all."""
    spare = int(rng.integers(45, 75)) - 12 * steps
    return 12 + np.floor(rng.dirichlet([2.0] * steps) * spare).astype(np.int64)


def progress(steps: int, rng: np.random.Generator) -> Iterator[tuple[int, float]]:
    """Yield for each frame the step it is in or on the way to, and how far it is on that way, 0 to 1."""
    speed = int(rng.integers(4, 10))
    for number, last in enumerate(durations(steps, rng)):
        for frame in range(last):
            yield number, 0.5 - 0.5 * np.cos(np.pi * min((frame + 1) / speed, 1.0)) if number else 1.0


def film_humanoid(body: Any, rng: np.random.Generator, poses: tuple[str, ...]) -> Iterator[tuple[Frame, int]]:
    """Move the body from pose to pose, each joint a little off for good and a little shaky."""
    angles = [joint_vector(body.model, POSES[pose].joints) for pose in poses]
    low, high = body.model.jnt_range[1:].T
    yaw, offset, shake = rng.normal(0, 0.15), rng.normal(0, np.radians(4), len(low)), np.zeros(len(low))
    for number, done in progress(len(poses), rng):
        shake = 0.8 * shake + rng.normal(0, np.radians(1.5), len(low))
        posture = (1 - done) * angles[max(number - 1, 0)] + done * angles[number] + offset + shake
        place(body.model, body.data, np.clip(posture, low, high), np.array([yaw, 0.0, 0.0]))
        yield body.render().copy(), number if done >= 0.5 else number - 1


def film_pendulum(body: Any, rng: np.random.Generator, steps: tuple[str, ...]) -> Iterator[tuple[Frame, int]]:
    """Swing the pole below the cart at one place after another, then put it upright."""
    states = {"left": (-0.6, np.pi), "right": (0.6, np.pi), "upright": (0.6, 0.0)}
    targets = [np.array(states[step]) for step in steps]
    offset, phase, swing = rng.normal(0, 0.05, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5)
    for frame, (number, done) in enumerate(progress(len(steps), rng)):
        state = (1 - done) * targets[max(number - 1, 0)] + done * targets[number] + offset
        state[1] += swing * (0.5 - 0.5 * np.cos(state[1])) * np.sin(phase + 0.5 * frame)
        body.set_state(state, np.zeros(2))
        yield body.render().copy(), number if done >= 0.5 else number - 1


KINDS = (
    Sequences("humanoid", ("standing", "kneeling"), film_humanoid, "humanoid_kneeling"),
    Sequences("humanoid", ("standing", "kneeling", "kneeling_arms_raised"), film_humanoid, "humanoid_kneeling"),
    Sequences("pendulum", ("right", "upright"), film_pendulum, "inverted_pendulum"),
    Sequences("pendulum", ("left", "right", "upright"), film_pendulum, "inverted_pendulum"),
)


def true_masks(demo: Demo, steps: int) -> NDArray[np.bool_]:
    """Frames of each true step, ``(n, T)``."""
    return demo.stages == np.arange(steps)[:, None]


def overlap(found: Sequence[NDArray[np.bool_]], demos: Sequence[Demo], steps: int) -> NDArray[np.float64]:
    """Mean over sequences of each step's overlap with the true one."""
    pairs = zip(found, demos, strict=True)
    return np.mean([jaccard(masks, true_masks(demo, steps)) for masks, demo in pairs], axis=0)


def discovered(reward: PerceptualReward, demos: Sequence[Demo]) -> list[NDArray[np.bool_]]:
    """Frames of each step that was found in training sequences."""
    assert reward.found.steps is not None
    return [step_masks(cuts, len(demo)) for cuts, demo in zip(reward.found.steps, demos, strict=True)]


def rewarded(reward: PerceptualReward, demos: Sequence[Demo]) -> list[NDArray[np.bool_]]:
    """Frames of each sequence that are above 0.5 for each step."""
    with torch.no_grad():
        terms = [reward.terms(demo.frames[None]) for demo in demos]
    return [np.stack([values[0].numpy() > 0.5 for values in own.values()]) for own in terms]


def measure(kind: Sequences, encoder: Encoder, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """All rows of one kind: table, kind, steps, features, method, overlap per step, mean."""
    size, steps = max(encoder.preprocess.size), len(kind.steps)
    train, test = kind.record(TRAIN, size, seed=0), kind.record(TEST, size, seed=100)
    draws = [[step_masks(random_cuts(len(d), steps, rng), len(d)) for d in train] for _ in range(200)]
    tosses = [[rng.random((steps, len(d))) > 0.5 for d in test] for _ in range(200)]
    about = (kind.name, str(steps))
    yield row("discovery", about, "-", "ordered random", np.mean([overlap(d, train, steps) for d in draws], axis=0))
    yield row("reward", about, "-", "random", np.mean([overlap(t, test, steps) for t in tosses], axis=0))
    for layer in ("global", "patches"):
        for method, joint in (("each alone", False), ("joint", True)):
            reward = PerceptualReward.fit(encoder, train, steps=steps, layer=layer, joint=joint)
            yield row("discovery", about, layer, method, overlap(discovered(reward, train), train, steps))
            yield row("reward", about, layer, method, overlap(rewarded(reward, test), test, steps))
        chosen = PerceptualReward.fit(encoder, train, layer=layer).found.figures["steps"]
        yield ("number", *about, layer, "BIC", "", f"{chosen:.0f}")


def row(table: str, about: tuple[str, str], layer: str, method: str, values: NDArray[np.float64]) -> tuple[str, ...]:
    """Write overlaps in per cent."""
    return (table, *about, layer, method, "/".join(f"{100 * v:.1f}" for v in values), f"{100 * values.mean():.1f}")


def discovery_seconds(total: int = 600, dims: int = 64, steps: int = 4) -> float:
    """Best of three times to cut one demonstration."""
    features, times = np.random.default_rng(0).normal(size=(total, dims)), []
    for _ in range(3):
        start = time.perf_counter()
        discover_steps(features, steps)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure, print and write."""
    options = parse_with(__doc__)
    encoder, rng = vrm.load_encoder(options.encoder), np.random.default_rng(0)
    rows = [found for kind in KINDS for found in measure(kind, encoder, rng)]
    header = ["table", "sequences", "steps", "features", "method", "per step", "mean"]
    for title, name in (
        (f"Step discovery on {TRAIN} training sequences, Jaccard overlap in per cent", "discovery"),
        (f"Step reward above 0.5 on {TEST} test sequences, Jaccard overlap in per cent", "reward"),
    ):
        print_table(title, header[1:], [list(found[1:]) for found in rows if found[0] == name])
    numbers = [[*found[1:4], found[6]] for found in rows if found[0] == "number"]
    print_table("Number of steps found by BIC", ["sequences", "true steps", "features", "found"], numbers)
    print(f"\nexact discovery of 4 steps in 600 frames of 64 features: {discovery_seconds():.2f} s")
    OUT.parent.mkdir(exist_ok=True)
    with replacing(OUT, ".csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
