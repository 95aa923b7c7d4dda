import pytest
import torch
from redness import Redness
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

from vrm.diffusion.aligners import Batch, Training
from vrm.diffusion.aligners.instruct_video import InstructVideo
from vrm.diffusion.aligners.reward_gradient import Climb
from vrm.diffusion.frames import TAR, Segments
from vrm.diffusion.objective import RewardObjective

torch.set_num_threads(1)
WIDE = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "proj_out")


def objective():
    return RewardObjective({"red": Redness()})


def videos(count, frames=8):
    return torch.rand(count, frames, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def held_out(generator):
    return float(Redness().score(generator.sample(PROMPTS, seed=1000)).mean())


def test_the_published_grid_is_twelve_steps_from_551_to_1():
    aligner = InstructVideo(tiny_unet(), objective())
    assert aligner.grid.tolist() == [*range(551, 0, -50), -1]


def test_it_raises_the_reward_of_held_out_noise_on_a_flow_model():
    generator = tiny_wan(frames=8).with_defaults(steps=6)
    before = held_out(generator)
    selection = Segments(4, weighting=TAR(decay=2.0, normalise=True))
    aligner = InstructVideo(
        generator, objective(), Training(lr=1e-2, targets=WIDE), Climb(selection), steps=6, guidance=1
    )
    for _ in range(8):
        aligner.step(Batch(PROMPTS, videos(4)))
    assert held_out(generator) > before + 0.02


def test_one_update_of_an_epsilon_model_costs_what_the_paper_says():
    aligner = InstructVideo(tiny_unet(frames=4), objective(), Training(lr=1e-2), steps=5)
    metrics = aligner.step(Batch(PROMPTS[:1], videos(1, frames=4)))
    assert metrics["decodes"] == 4  # one frame per segment
    assert metrics["nfe"] == 3 * 2 + 2  # tau D steps with guidance, and the two looks of the divergence
    assert metrics["grad_norm"] > 0
    assert metrics["kl"] == 0


def test_a_small_tau_stays_near_the_source_video():
    found = {}
    for tau in (0.1, 1.0):
        generator = tiny_wan(frames=8)
        aligner = InstructVideo(generator, objective(), tau=tau, steps=10, guidance=1.0, offset=0.0)
        source = generator.codec.encode(videos(1))
        edited = aligner.draw(Batch(PROMPTS[:1], videos(1))).latents.detach()
        found[tau] = float((edited - source).square().mean())
    assert found[0.1] < 0.5 * found[1.0]


def test_without_videos_it_says_what_is_missing():
    with pytest.raises(ValueError, match="InstructVideo learns from videos"):
        InstructVideo(tiny_wan(), objective()).step(Batch(PROMPTS))
