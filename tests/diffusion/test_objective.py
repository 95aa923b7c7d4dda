import math

import pytest
import torch
from redness import OpaqueRedness, Redness
from tiny import TinyEncoder
from tiny_generator import PROMPTS, tiny_wan

from vrm.diffusion.frames import TAR, AllFrames, EvenFrames, RandomFrames, Segments
from vrm.diffusion.objective import RewardObjective
from vrm.errors import UnknownNameError
from vrm.rewards import GoalReward, SegmentalReward

torch.set_num_threads(1)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def generator():
    return tiny_wan(frames=8)


@pytest.fixture
def latents(generator):
    return torch.randn(generator.latent_shape(2), generator=rng(1), requires_grad=True)


def goal():
    return GoalReward(TinyEncoder(), "a goal that prompts replace")


def gradient(objective, latents, codec, **options):
    values = objective.differentiable(latents, PROMPTS[:2], codec, **options)
    return torch.autograd.grad(objective.total(values).sum(), latents)[0]


def test_only_chosen_frames_are_decoded_and_their_gradient_is_that_of_a_full_decode(generator, latents):
    objective = RewardObjective({"goal": goal()}, selection=EvenFrames(4))
    before = generator.codec.decodes
    few = gradient(objective, latents, generator.codec, generator=rng(), chunk=1, checkpoint=True)
    assert generator.codec.decodes - before == 2 * 4
    indices = EvenFrames(4).indices(8, rng())
    frames = generator.codec.decode(latents)
    full = torch.autograd.grad(goal()(frames, PROMPTS[:2])[:, indices].mean(dim=1).sum(), latents)[0]
    assert torch.allclose(few, full, rtol=1e-4, atol=1e-8)
    untouched = [t for t in range(8) if t not in indices.tolist()]
    assert float(few[:, :, untouched].abs().max()) == 0


def test_prompts_take_the_place_of_goals_where_a_reward_takes_any(generator):
    objective = RewardObjective({"goal": goal(), "red": Redness()}, {"goal": 2.0, "red": 0.5})
    videos = torch.rand(2, 8, 3, 16, 16, generator=rng())
    values = objective.score(videos, PROMPTS[:2])
    assert torch.equal(values["goal"], goal().score(videos, PROMPTS[:2]))
    assert torch.allclose(objective.total(values), 2 * values["goal"] + 0.5 * values["red"])
    assert objective.reward_calls == 4


def test_a_segmental_reward_brings_its_own_frames_and_weights_until_a_selection_is_given(generator, latents):
    segmental = SegmentalReward(Redness(), segments=4, aggregate="tar")
    objective = RewardObjective({"red": segmental})
    own = objective.differentiable(latents, PROMPTS[:2], generator.codec)["red"]
    assert torch.allclose(own, segmental.score(generator.codec.decode(latents)), atol=1e-6)
    given = objective.differentiable(latents, PROMPTS[:2], generator.codec, selection=AllFrames())["red"]
    assert torch.allclose(given, Redness().score(generator.codec.decode(latents)), atol=1e-6)


def test_published_tar_weights_sum_to_their_golden_value_and_to_the_mean_without_decay():
    # arithmetic of the expectation over the random frame of each of four segments of 16, centre 8
    expected = [sum(math.exp(-abs(g - 8)) for g in range(4 * i, 4 * i + 4)) / 4 for i in range(4)]
    assert [round(weight, 4) for weight in expected] == [0.0026, 0.1428, 0.3883, 0.0071]
    assert sum(expected) == pytest.approx(0.54, abs=2e-3)
    draws = torch.stack([Segments(4).indices(16, rng(seed)) for seed in range(1000)])
    mean = TAR()(draws, 16).mean(dim=0) * 4
    assert torch.allclose(mean, torch.tensor(expected), atol=0.04)
    assert float(TAR(decay=0.0)(draws[0], 16).sum()) == pytest.approx(1.0)
    assert float(TAR(normalise=True)(draws[0], 16).sum()) == pytest.approx(1.0)


def test_tar_weights_reach_the_reward_and_its_gradient(generator, latents):
    objective = RewardObjective({"red": Redness()})
    selection = Segments(4, weighting=TAR())
    value = objective.differentiable(latents, PROMPTS[:2], generator.codec, rng(3), selection=selection)["red"]
    indices = selection.indices(8, rng(3))
    each = Redness()(generator.codec.decode(latents))[:, indices]
    assert torch.allclose(value, (each * torch.exp(-(indices.float() - 4).abs())).mean(dim=1), atol=1e-6)


def test_each_reward_may_look_at_frames_of_its_own(generator, latents):
    objective = RewardObjective({"a": Redness(), "b": Redness()})
    picks = {"a": RandomFrames(1), "b": EvenFrames(2)}
    values = objective.differentiable(latents, PROMPTS[:2], generator.codec, rng(5), selection=picks)
    draws = rng(5)
    frames = Redness()(generator.codec.decode(latents))
    for name, pick in picks.items():
        assert torch.allclose(values[name], frames[:, pick.indices(8, draws)].mean(dim=1), atol=1e-6)


def test_what_cannot_work_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="at least one reward"):
        RewardObjective({})
    with pytest.raises(UnknownNameError, match="Did you mean 'red'"):
        RewardObjective({"red": Redness()}, {"rod": 1.0})
    with pytest.raises(ValueError, match=r"DRaFT climbs .* 'judge' \(OpaqueRedness\) is not differentiable"):
        RewardObjective({"judge": OpaqueRedness()}).require_gradient("DRaFT")
