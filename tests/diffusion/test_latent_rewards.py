import pytest
import torch
from redness import OpaqueRedness, Redness
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

from vrm.diffusion.aligners import Batch, Training
from vrm.diffusion.aligners.consistency import ConsistencyReward, consistency, pseudo_huber
from vrm.diffusion.aligners.latent_reward import LatentReward, Proxy, SampledProxy
from vrm.diffusion.aligners.reward_gradient import Climb
from vrm.diffusion.kernels import lcm
from vrm.diffusion.latent_rewards import (
    LatentRewardModel,
    label_loss,
    matched_pairs_loss,
    preference_loss,
    regression_loss,
)
from vrm.diffusion.objective import RewardObjective

torch.set_num_threads(1)
WIDE = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "proj_out")
HEAD = {"depth": 1, "heads": 2, "hidden": (32,)}
VIDEOS = torch.rand(4, 4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def coloured(count, seed):
    """Latents whose colour differs from video to video."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 1, 1, 1, generator=draw) + 0.5 * torch.randn(count, 4, 4, 8, 8, generator=draw)


def redness(generator, latents):
    with torch.no_grad():
        return Redness().score(generator.codec.decode(latents))


def distilled(generator, steps=50):
    model = LatentRewardModel(generator.denoiser, **HEAD)
    draw, optimiser = torch.Generator().manual_seed(0), torch.optim.AdamW(model.parameters(), 1e-2)
    model.standardise(redness(generator, coloured(32, 999)))
    conditions = generator.condition(["a"] * 16)
    for step in range(steps):
        latents = coloured(16, step)
        loss = regression_loss(model, latents, redness(generator, latents), conditions, draw)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@pytest.fixture(scope="module")
def taught():
    return distilled(tiny_wan())


def test_a_distilled_latent_reward_agrees_with_the_pixels_at_every_noise_level(taught):
    generator = tiny_wan()
    latents = coloured(48, 12345)
    wanted = redness(generator, latents)
    eps = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    for time, least in ((0.0, 0.85), (0.5, 0.8), (0.8, 0.6)):
        with torch.no_grad():
            got = taught(generator.denoiser.noise(latents, time, eps), time, generator.condition(["a"] * 48))
        assert float(torch.corrcoef(torch.stack([got, wanted]))[0, 1]) > least


@pytest.mark.parametrize("make", [tiny_wan, tiny_unet])
def test_the_head_sits_on_a_trainable_copy_of_the_first_blocks_of_any_network(make):
    generator = make()
    model = LatentRewardModel(generator.denoiser, **HEAD)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (model.backbone, generator.denoiser)]
    assert sizes[0] < sizes[1]
    latents = torch.randn(generator.latent_shape(2), requires_grad=True)
    model(latents, generator.denoiser.schedule.grid(4)[1], generator.condition(PROMPTS[:2])).sum().backward()
    assert float(latents.grad.norm()) > 0
    assert all(parameter.grad is None for parameter in generator.denoiser.parameters())
    assert generator.denoiser.nfe == 0


def test_labels_and_preferences_teach_too():
    generator = tiny_wan()
    latents = coloured(16, 1)
    good, bad = latents[redness(generator, latents).argsort(descending=True)].chunk(2)
    conditions = generator.condition(["a"] * 8)
    for loss, arguments in (
        (preference_loss, (good, bad, conditions)),
        (label_loss, (torch.cat([good, bad]), torch.arange(16).lt(8).float(), conditions.repeat(2))),
    ):
        model = LatentRewardModel(generator.denoiser, **HEAD, bounded=loss is label_loss)
        optimiser, losses = torch.optim.AdamW(model.parameters(), 1e-2), []
        for step in range(25):
            value = loss(model, *arguments, torch.Generator().manual_seed(step))
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            losses.append(float(value.detach()))
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_matching_an_expert_pair_by_pair_is_zero_where_only_the_zero_differs():
    expert = torch.tensor([[0.0, 1.0, 3.0]])
    assert matched_pairs_loss(expert + 5, expert).item() == pytest.approx(0, abs=1e-6)
    assert matched_pairs_loss(-expert, expert).item() > 0.1


def test_prfl_raises_a_reward_that_has_no_gradient_through_a_latent_one(taught):
    generator = tiny_wan().with_defaults(steps=6)
    before = float(Redness().score(generator.sample(PROMPTS, seed=1000)).mean())
    objective = RewardObjective({"red": OpaqueRedness()})
    training = Training(lr=1e-2, targets=WIDE)
    aligner = LatentReward(generator, objective, training, model=taught, target=9.0, alternate=False)
    for _ in range(8):
        metrics = aligner.step(Batch(PROMPTS))
    assert float(Redness().score(generator.sample(PROMPTS, seed=1000)).mean()) > before + 0.02
    assert metrics["decodes"] == metrics["reward_calls"] == 0


@pytest.mark.parametrize("lesson", ["regression", "label", "preference"])
def test_prfl_teaches_its_latent_reward_first_and_resumes_as_if_never_stopped(lesson):
    def make():
        proxy = SampledProxy(**HEAD, warmup=1, fits=1, lesson=lesson)
        generator = tiny_wan().with_defaults(steps=3)
        return LatentReward(generator, RewardObjective({"red": OpaqueRedness()}), Training(lr=1e-3), proxy)

    batch = Batch(PROMPTS[:2], VIDEOS[:2])
    through, first, second = make(), make(), make()
    wanted = [through.step(batch) for _ in range(3)]
    assert wanted[0]["grad_norm"] == 0
    assert {"reward/red", "proxy_loss", "reward/latent", "matching"} <= set(wanted[1])
    got = [first.step(batch) for _ in range(2)]
    second.load_state_dict(first.state_dict())
    assert [*got, second.step(batch)] == wanted


def test_the_consistency_function_ends_at_its_argument():
    generator = tiny_wan()
    x = torch.randn(generator.latent_shape(2))
    end = consistency(generator.denoiser, x, torch.zeros(2), generator.condition(PROMPTS[:2]))
    assert torch.equal(end, x)
    assert pseudo_huber(torch.zeros(3)).item() == 0
    assert pseudo_huber(torch.tensor([3.0, -5.0])).item() == pytest.approx(4.0, abs=2e-3)


def test_distillation_with_a_reward_raises_it_for_a_sampler_of_two_steps():
    generator = tiny_wan()
    few = {"steps": 2, "guidance": 1.0, "kernel": lcm, "seed": 1000}
    before = float(Redness().score(generator.sample(PROMPTS, **few)).mean())
    training = Training(lr=1e-2, targets=WIDE, ema=0.9)
    climb = Climb(matching=0.1)
    aligner = ConsistencyReward(generator, RewardObjective({"red": Redness()}), training, climb, guidance=(1.0, 3.0))
    for _ in range(10):
        metrics = aligner.step(Batch(PROMPTS, VIDEOS))
    assert float(Redness().score(generator.sample(PROMPTS, **few)).mean()) > before + 0.02
    assert metrics["matching"] > 0


def test_a_latent_proxy_stands_in_for_an_opaque_reward_and_resumes():
    def make():
        objective = RewardObjective({"red": OpaqueRedness()})
        proxy = Proxy(**HEAD, warmup=1, fits=1)
        return ConsistencyReward(tiny_wan(), objective, Training(lr=1e-3, ema=0.9), proxy=proxy, guidance=(1.0, 3.0))

    batch = Batch(PROMPTS[:2], VIDEOS[:2])
    through, first, second = make(), make(), make()
    wanted = [through.step(batch) for _ in range(3)]
    assert wanted[0]["reward_calls"] == 3 * 2
    got = [first.step(batch)]
    second.load_state_dict(first.state_dict())
    assert [*got, *(second.step(batch) for _ in range(2))] == wanted


def test_what_cannot_work_is_refused_in_one_sentence():
    generator, opaque = tiny_wan(), RewardObjective({"red": OpaqueRedness()})
    with pytest.raises(ValueError, match="depth must lie between 1 and the 2 blocks"):
        LatentRewardModel(generator.denoiser, depth=3)
    with pytest.raises(ValueError, match="heads must divide"):
        LatentRewardModel(generator.denoiser, depth=1, heads=7)
    with pytest.raises(ValueError, match="ConsistencyReward climbs"):
        ConsistencyReward(generator, opaque)
    with pytest.raises(ValueError, match="needs samples >= 2"):
        SampledProxy(lesson="preference", samples=1)
    with pytest.raises(ValueError, match="rewards that differ"):
        LatentRewardModel(generator.denoiser, **HEAD).standardise(torch.ones(3))
