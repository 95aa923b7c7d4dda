import math

import pytest
import torch
from redness import Redness
from tiny_generator import PROMPTS, tiny_wan

from vrm.diffusion.aligners import Batch, Training
from vrm.diffusion.aligners.one_step import OneStep, uncertain_reward
from vrm.diffusion.aligners.reward_gradient import Climb
from vrm.diffusion.objective import RewardObjective

torch.set_num_threads(1)
WIDE = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "proj_out")
VIDEOS = torch.rand(4, 4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def make(generator, **options):
    training = Training(lr=1e-2, targets=WIDE)
    return OneStep(generator, RewardObjective({"red": Redness()}), training, Climb(matching=0.01), **options)


def test_uncertainty_lowers_a_reward_by_its_formula():
    first, second = torch.tensor([0.5, 0.5, -0.2]), torch.tensor([0.5, 0.8, 0.1])
    wanted = [0.5, math.exp(-0.3) * 0.5 - 0.3, -math.exp(-0.3) * 0.2 - 0.3]
    assert torch.allclose(uncertain_reward(first, second), torch.tensor(wanted))


@pytest.mark.parametrize("options", [{"highest": 0.2}, {"highest": 0.4, "uncertainty": True}], ids=["plain", "ctrl_u"])
def test_it_raises_the_reward_of_held_out_noise(options):
    generator = tiny_wan().with_defaults(steps=4)
    before = float(Redness().score(generator.sample(PROMPTS, seed=1000)).mean())
    aligner = make(generator, **options)
    for _ in range(10):
        metrics = aligner.step(Batch(PROMPTS, VIDEOS))
    assert float(Redness().score(generator.sample(PROMPTS, seed=1000)).mean()) > before + 0.01
    assert "matching" in metrics


def test_times_stay_below_the_highest_level_and_copies_share_a_video():
    generator = tiny_wan()
    drawn = make(generator, highest=0.4, uncertainty=True).draw(Batch(PROMPTS, VIDEOS))
    assert float(drawn.times.max()) <= float(generator.denoiser.schedule.at(torch.tensor(0.401)))
    assert drawn.prompts == PROMPTS * 2
    assert len(drawn.latents) == 8
    assert not torch.equal(drawn.latents[:4], drawn.latents[4:])


def test_one_update_is_one_forward_pass_and_the_divergence():
    metrics = make(tiny_wan()).step(Batch(PROMPTS, VIDEOS))
    assert metrics["nfe"] == 4 + 2 * 4


def test_a_level_outside_the_chain_is_refused():
    with pytest.raises(ValueError, match="highest must lie in"):
        make(tiny_wan(), highest=1.5)
