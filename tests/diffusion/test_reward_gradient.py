from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from redness import OpaqueRedness, Redness
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

import vrm.configs
from vrm.diffusion.aligners import Batch, Training
from vrm.diffusion.aligners.reward_gradient import Chain, Climb, RewardGradient
from vrm.diffusion.frames import RandomFrames
from vrm.diffusion.grad_sampler import LastSteps, ListedSteps, RandomCutoff, RandomSteps
from vrm.diffusion.kernels import ddim
from vrm.diffusion.objective import RewardObjective
from vrm.rewards import SegmentalReward

torch.set_num_threads(1)
WIDE = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "proj_out")
TRAINING = Training(lr=1e-2, targets=WIDE)
BATCH = Batch(PROMPTS, torch.rand(4, 4, 3, 16, 16, generator=torch.Generator().manual_seed(9)))
METHODS = {
    "draft_1": (Climb(), Chain()),
    "draft_lv": (Climb(), Chain(renoise=2)),
    "alignprop": (Climb(), Chain(RandomCutoff(), kernel=ddim(1.0))),
    "vader": (Climb(selection=RandomFrames(1)), Chain()),
    "refl": (Climb(target=2.0, matching=0.01), Chain(RandomSteps(1, low=0.75), early=True)),
    "drtune": (Climb(), Chain(RandomSteps(3), detach_input=True)),
}


def objective(reward=None):
    return RewardObjective({"red": Redness() if reward is None else reward})


def held_out(generator):
    return float(Redness().score(generator.sample(PROMPTS, seed=1000)).mean())


def gradients(chain, climb=None):
    """LoRA gradient of one update from nudged adapters, at which nothing is zero by construction."""
    aligner = RewardGradient(tiny_wan(), objective(), Training(targets=WIDE, clip_norm=1e9), climb, chain)
    for i, parameter in enumerate(aligner.parameters):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    found = []
    aligner.descend = lambda: found.extend(p.grad.clone() for p in aligner.parameters)
    aligner.step(Batch(PROMPTS[:2]))
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("method", METHODS)
def test_each_method_raises_the_reward_of_held_out_noise(method):
    generator = tiny_wan().with_defaults(steps=4)
    before = held_out(generator)
    climb, chain = METHODS[method]
    aligner = RewardGradient(generator, objective(), TRAINING, climb, chain)
    for _ in range(6):
        metrics = aligner.step(BATCH)
    assert held_out(generator) > before + 0.02
    assert {"loss", "reward/red", "reward/red_std", "grad_norm", "nfe", "reward_calls", "decodes", "kl"} <= set(metrics)


def test_the_last_step_and_all_steps_differ_and_all_are_full_backpropagation():
    everything = gradients(Chain(LastSteps(8)))
    assert torch.allclose(gradients(Chain(ListedSteps(tuple(range(8))))), everything)
    last = gradients(Chain(LastSteps(1)))
    assert torch.nn.functional.cosine_similarity(last, everything, dim=0) < 0.999
    assert float(last.norm()) > 0


def test_a_step_that_carries_no_gradient_leaves_none_and_detached_inputs_still_reach_early_steps():
    early, detached = (gradients(Chain(ListedSteps((0,)), detach_input=detach)) for detach in (False, True))
    assert float(detached.norm()) > 0
    both = [gradients(Chain(ListedSteps((0, 7)), detach_input=detach)) for detach in (False, True)]
    assert torch.allclose(early, detached)  # with a single step there is no Jacobian to leave out
    assert not torch.allclose(both[0], both[1], rtol=1e-3)


def test_memory_savers_change_no_gradient():
    plain = gradients(Chain(LastSteps(2)), Climb(checkpoint=False))
    assert torch.allclose(gradients(Chain(LastSteps(2), offload=True), Climb(chunk=1)), plain, rtol=1e-4, atol=1e-9)


def test_the_divergence_starts_at_zero_and_its_coefficient_holds_the_model_back():
    distances = {}
    for coefficient in (0.0, 10.0):
        generator = tiny_wan().with_defaults(steps=4)
        aligner = RewardGradient(generator, objective(), TRAINING, Climb(kl=coefficient))
        seen = [aligner.step(Batch(PROMPTS[:2]))["kl"] for _ in range(4)]
        assert seen[0] == 0
        distances[coefficient] = seen[-1]
    assert 0 < distances[10.0] < 0.5 * distances[0.0]


def test_only_adapters_move_and_the_base_is_there_bit_for_bit():
    generator = tiny_wan().with_defaults(steps=4)
    before = generator.sample(PROMPTS[:1], seed=5)
    aligner = RewardGradient(generator, objective(), TRAINING)
    aligner.step(Batch(PROMPTS[:2]))
    with generator.denoiser.reference():
        assert torch.equal(generator.sample(PROMPTS[:1], seed=5), before)
    assert not torch.equal(generator.sample(PROMPTS[:1], seed=5), before)


def test_resuming_equals_never_having_stopped():
    def make():
        return RewardGradient(tiny_wan().with_defaults(steps=4), objective(), Training(lr=1e-2, ema=0.9),
                              Climb(RandomFrames(1), kl=0.1), Chain(RandomCutoff(), kernel=ddim(1.0)))  # fmt: skip

    through, first, second = make(), make(), make()
    wanted = [through.step(Batch(PROMPTS[:2])) for _ in range(3)]
    got = [first.step(Batch(PROMPTS[:2]))]
    second.load_state_dict(first.state_dict())
    assert got + [second.step(Batch(PROMPTS[:2])) for _ in range(2)] == wanted


def test_a_segmental_reward_on_an_epsilon_model_decodes_one_frame_per_segment():
    generator = tiny_unet().with_defaults(steps=2)
    aligner = RewardGradient(generator, objective(SegmentalReward(Redness(), segments=2)), Training(lr=1e-2))
    metrics = aligner.step(Batch(PROMPTS[:1]))
    assert metrics["decodes"] == 2
    assert metrics["grad_norm"] > 0


def test_what_cannot_work_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="RewardGradient climbs the gradient"):
        RewardGradient(tiny_wan(), objective(OpaqueRedness()))
    with pytest.raises(ValueError, match="early and offload would have no effect"):
        Chain(renoise=2, early=True)
    with pytest.raises(ValueError, match="kl must be at least 0"):
        Climb(kl=-1.0)
    with pytest.raises(ValueError, match="put them into the batch"):
        RewardGradient(tiny_wan(), objective(), climb=Climb(matching=1.0)).step(Batch(PROMPTS))


CONFIGS = ["draft", "draft_lv", "alignprop", "vader", "refl", "drtune", "instruct_video", "one_step", "ctrl_u", "prfl",
           "rg_lcd"]  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_builds_its_aligner_and_takes_a_step(name):
    own = OmegaConf.load(Path(vrm.configs.__file__).parent / "aligner" / f"{name}.yaml")
    for key in ("steps", "chain.steps"):
        if OmegaConf.select(own, key) is not None:
            OmegaConf.update(own, key, 4)
    config = OmegaConf.create({"seed": 5, "aligner": own})
    make = instantiate(config, _convert_="all")["aligner"]
    aligner = make(tiny_wan(), objective(), accelerator=None)
    assert aligner.training.seed == 5
    metrics = aligner.step(Batch(PROMPTS[:2], BATCH.videos[:2]))
    assert {"loss", "grad_norm", "nfe", "reward_calls", "decodes", "reward/red", "reward/red_std"} <= set(metrics)
