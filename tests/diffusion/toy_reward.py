"""A reward that a tiny random generator can learn within seconds: how red the frames are."""

from __future__ import annotations

import torch
from redness import Redness
from tiny_generator import PROMPTS, tiny_wan
from torch import Tensor

from vrm.diffusion.aligners import Aligner, Batch, Training
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.objective import RewardObjective
from vrm.rewards.base import check_call

FAST = Training(lr=2e-2, targets=("net.0.proj", "net.2", "proj_out"))


class Brightness(Redness):
    """Mean of all channels."""

    def terms(self, clips, goals=None, state=None):
        return {"red": check_call(clips, goals, state).float().mean(dim=(-1, -2, -3))}


def small_wan() -> VideoGenerator:
    return tiny_wan(frames=2).with_defaults(steps=3)


def redness() -> RewardObjective:
    return RewardObjective({"red": Redness()})


def held_out(generator: VideoGenerator, seed: int = 1000) -> Tensor:
    """Redness of 16 videos of prompts and noises that are not trained on."""
    prompts = [PROMPTS[1 + i % 3] for i in range(16)]
    return Redness().score(generator.sample(prompts, seed=seed))


def gain(aligner: Aligner, steps: int, batch: Batch | None = None) -> tuple[float, float]:
    """How much the held-out reward rises in so many steps, and the standard error of that."""
    before = held_out(aligner.generator)
    for _ in range(steps):
        aligner.step(batch or Batch(PROMPTS[:1]))
    risen = held_out(aligner.generator) - before
    return float(risen.mean()), float(risen.std() / len(risen) ** 0.5)


def check_resume(make, batch: Batch, steps: int = 2) -> None:
    """Save after ``steps``, go on; a new aligner that loads the state must see the same metrics and end up alike."""
    first = make(small_wan())
    for _ in range(steps):
        first.step(batch)
    state = first.state_dict()
    later = [first.step(batch) for _ in range(2)]
    second = make(small_wan())
    second.load_state_dict(state)
    assert [second.step(batch) for _ in range(2)] == later
    one, other = first.denoiser.lora_state(), second.denoiser.lora_state()
    assert all(torch.equal(one[name], other[name]) for name in one)
