"""Searches: they agree with the sampler where they must, count what they spend, and find better videos."""

import pytest
import torch
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

from vrm.diffusion.kernels import ddim, ode
from vrm.diffusion.latent_rewards import LatentRewardModel
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.search import (
    METHODS,
    BeamSearch,
    BestOfN,
    Budget,
    BudgetError,
    Case,
    NoiseOptimisation,
    Pruning,
    RewardGuidance,
)
from vrm.errors import NonFiniteError, PromptError, UnknownNameError
from vrm.rewards import RewardModel

torch.set_num_threads(1)

SEED = 100
AMPLE = Budget(10**6)


class Channel(RewardModel):
    """How much one colour exceeds the mean of the three."""

    def __init__(self, channel=0, factor=1.0):
        super().__init__()
        self.channel, self.factor = channel, factor

    def terms(self, clips, goals=None, state=None):
        means = clips.float().mean(dim=(3, 4))
        return {"excess": self.factor * (means[..., self.channel] - means.mean(dim=-1))}

    def combine(self, terms):
        return terms["excess"]

    def config(self):
        return {"channel": self.channel, "factor": self.factor}

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls(**config)


class Opaque(Channel):
    """The same without gradient."""

    differentiable = False


def redness(**rewards):
    return RewardObjective({"red": Channel(), **rewards})


def small(method, generator=None, objective=None, **settings):
    return METHODS[method](generator or tiny_wan(), objective or redness(), **{"steps": 4, **settings})


def plain_score(generator, prompts, **sampling):
    return redness().score(generator.sample(prompts, seed=SEED, **sampling), prompts)["red"]


@pytest.mark.parametrize("kernel", [ode, ddim(1.0)])
@pytest.mark.parametrize("build", [tiny_wan, tiny_unet])
def test_one_beam_with_one_candidate_and_best_of_one_are_the_sampler_bit_for_bit(build, kernel):
    generator = build()
    plain = generator.sample(PROMPTS[:2], steps=3, seed=[7, 5], kernel=kernel)
    alone = torch.cat(
        [generator.sample([p], steps=3, seed=s, kernel=kernel) for p, s in zip(PROMPTS[:2], (7, 5), strict=True)]
    )
    assert torch.allclose(plain, alone, atol=1e-5)
    for searcher in (
        BeamSearch(generator, redness(), size=1, candidates=1, steps=3, kernel=kernel),
        BestOfN(generator, redness(), size=1, steps=3, kernel=kernel),
        Pruning(generator, redness(), size=1, steps=3, kernel=kernel),
        RewardGuidance(generator, redness(), size=1, weight=0.0, steps=3, kernel=kernel),
    ):
        found = searcher.sample(PROMPTS[:2], AMPLE, seed=[7, 5])
        assert torch.equal(found.videos, alone), type(searcher).__name__


@pytest.mark.parametrize("method", METHODS)
def test_every_search_finds_redder_videos_than_the_plain_samples_within_its_budget(method):
    generator, budget = tiny_wan(), Budget(64, 300)
    prompts = PROMPTS[:2]
    found = METHODS[method](generator, redness()).sample(prompts, budget, seed=SEED)
    assert found.videos.shape == (2, 4, 3, 16, 16)
    assert 0 <= found.videos.min() <= found.videos.max() <= 1
    assert torch.allclose(found.scores, redness().score(found.videos, prompts)["red"], atol=1e-6)
    assert bool((found.scores > plain_score(generator, prompts) + 0.002).all())
    assert max(found.nfe) <= 64
    assert max(found.reward_calls) <= 300


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("best_of_n", {"size": 3}),
        ("dlbs", {"size": 2, "candidates": 3, "lookahead": 1}),
        ("dlbs", {"size": 2, "candidates": 2, "lookahead": 3}),
        ("dlbs", {"size": 2, "candidates": 2, "first": 0.25, "last": 0.5}),
        ("prune", {"size": 5, "cuts": (0.3, 0.6), "keep": (0.5, 0.5)}),
        ("reno", {"size": 2, "explore": 2}),
        ("nrg", {"size": 2}),
    ],
)
def test_what_is_spent_is_what_the_formula_says(method, settings, guidance):
    objective = redness(blue=Channel(2))
    searcher = small(method, objective=objective, guidance=guidance, **settings)
    cost = searcher.cost(settings["size"])
    found = searcher.sample(PROMPTS[:2], AMPLE)
    assert found.nfe == (cost.nfe,) * 2
    assert found.reward_calls == (cost.reward_calls,) * 2
    assert sum(found.nfe) == searcher.generator.denoiser.nfe


def test_costs_are_those_worked_out_by_hand():
    generator = tiny_wan()
    assert BestOfN(generator, redness(), steps=10, guidance=3.0).cost(8).nfe == 8 * 10 * 2
    # One prediction to begin with; 9 branching steps with 2 candidates, whose lookahead of 3 is cut to 2 and 1 at last.
    beams = BeamSearch(generator, redness(), steps=10, candidates=2, lookahead=3)
    assert beams.cost(4).nfe == 4 * (1 + 2 * (7 * 3 + 2 + 1))
    assert beams.cost(4).reward_calls == 4 * (9 * 2 + 1)
    # 10 candidates for steps 0 to 2, 4 to step 6, 2 to step 11, 1 to the end.
    cascade = Pruning(generator, redness(), steps=20)
    assert cascade.cost(10).nfe == 10 * 3 + 4 * 4 + 2 * 5 + 1 * 8
    assert cascade.cost(10).reward_calls == 10 + 4 + 2 + 1


def test_a_search_takes_the_largest_size_its_budget_allows():
    searcher = small("best_of_n")
    assert searcher.affordable(Budget(23)) == 5
    assert searcher.affordable(Budget(23, reward_calls=3)) == 3
    assert small("best_of_n", size=2).affordable(AMPLE) == 2


@pytest.mark.parametrize("method", METHODS)
def test_too_small_a_budget_is_refused_in_one_sentence_before_anything_is_spent(method):
    searcher = small(method)
    least = searcher.cost(1)
    for budget in (Budget(least.nfe - 1), Budget(least.nfe, least.reward_calls - 1 or 1)):
        if budget.allows(least):
            continue
        with pytest.raises(BudgetError, match=rf"needs {least.nfe} model calls.*raise it") as caught:
            searcher.sample(PROMPTS[:1], budget)
        assert "\n" not in str(caught.value)
    assert searcher.generator.denoiser.nfe == 0
    with pytest.raises(BudgetError, match=r"with 9 .* needs"):
        small(method, size=9).sample(PROMPTS[:1], Budget(least.nfe))
    with pytest.raises(BudgetError, match="at least 1"):
        Budget(0)


def test_looking_one_step_ahead_is_tweedies_estimate_and_all_steps_the_rest_of_the_chain():
    generator = tiny_wan()
    searcher = BeamSearch(generator, redness(), steps=5, lookahead=1)
    case = Case(generator, redness(), PROMPTS[0], 3, searcher.sampling)
    x = case.noise([case.source(i) for i in range(2)])
    prediction = case.predict(x, 2)
    assert torch.equal(searcher.look(case, x, prediction, 2), prediction.x0)
    far = BeamSearch(generator, redness(), steps=5, lookahead=3).look(case, x, prediction, 2)
    rest = x
    for place in (2, 3, 4):
        t, t_next = (generator.denoiser.times(x, case.grid[i]) for i in (place, place + 1))
        rest = ode(case.predict(rest, place), rest, t, t_next, generator.denoiser.schedule).mean
    assert torch.allclose(far, rest, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_batches_change_nothing(method):
    sizes = {"reno": 2}
    together, apart = (small(method, size=sizes.get(method, 4), batch=batch) for batch in (None, 1))
    found, again = (searcher.sample(PROMPTS[:1], AMPLE, seed=SEED) for searcher in (together, apart))
    assert torch.allclose(found.latents, again.latents, atol=1e-4)
    assert found.nfe == again.nfe


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_is_searched_alike_whatever_else_is_in_the_call(method):
    searcher = small(method, size=2)
    alone = searcher.sample([PROMPTS[1]], AMPLE, seed=9)
    among = searcher.sample([PROMPTS[0], PROMPTS[1]], AMPLE, seed=[4, 9])
    assert torch.equal(among.videos[1], alone.videos[0])
    assert among.candidates[1] == alone.candidates[0]


def test_more_videos_never_make_the_best_worse():
    scores = [small("best_of_n", size=n).sample(PROMPTS[:1], AMPLE, seed=3).scores.item() for n in (1, 2, 4, 8)]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]


def test_judgements_tell_of_every_candidate_and_who_went_on():
    found = small("prune", size=6, cuts=(0.5,), keep=(0.5,)).sample(PROMPTS[:1], AMPLE)
    (noted,) = found.candidates
    early, final = ([j for j in noted if j.stage == stage] for stage in (2, 4))
    assert [len(early), sum(j.kept for j in early), len(final), sum(j.kept for j in final)] == [6, 3, 3, 1]
    assert min(j.score for j in early if j.kept) >= max(j.score for j in early if not j.kept)
    assert max(j.score for j in final) == pytest.approx(found.scores.item())


def test_pruning_ranks_rewards_so_that_none_drowns_the_other():
    generator = tiny_wan()
    loud = redness(blue=Channel(2, factor=1000.0))
    ranked, summed = (
        small("prune", generator, loud, size=8, cuts=(0.5,), keep=(0.25,), rule=rule)
        for rule in ("rank_sum", "weighted_sum")
    )
    kept = [
        {j.candidate for j in s.sample(PROMPTS[:1], AMPLE, seed=2).candidates[0] if j.stage == 2 and j.kept}
        for s in (ranked, summed)
    ]
    blue = small("prune", generator, RewardObjective({"blue": Channel(2)}), size=8, cuts=(0.5,), keep=(0.25,))
    bluest = {j.candidate for j in blue.sample(PROMPTS[:1], AMPLE, seed=2).candidates[0] if j.stage == 2 and j.kept}
    assert kept[1] == bluest != kept[0]


def test_guidance_on_a_flow_is_the_published_velocity():
    generator = tiny_wan()
    searcher = RewardGuidance(generator, redness(), weight=0.7, normalise=False)
    case = Case(generator, redness(), PROMPTS[0], 0, searcher.sampling)
    x = case.noise([case.source(0)])
    t, gradient = torch.tensor([0.6]), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    prediction = generator.denoiser.predict(x, t, case.conditions(1))
    pushed = searcher.push(prediction, x, t, gradient, generator.denoiser.schedule)
    assert torch.allclose(pushed.v, prediction.v - 0.7 * 0.6 / 0.4 * gradient, atol=1e-4)
    assert torch.allclose(0.4 * pushed.x0 + 0.6 * pushed.eps, x, atol=1e-5)


def test_guidance_of_an_epsilon_model_shifts_the_noise_by_its_level_times_the_gradient():
    generator = tiny_unet()
    searcher = RewardGuidance(generator, redness(), weight=0.7, normalise=False)
    x, t = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
    prediction = generator.denoiser.predict(x, t, generator.condition(PROMPTS[:1]))
    _, sigma = generator.denoiser.schedule.levels(t)
    pushed = searcher.push(prediction, x, t, torch.ones_like(x), generator.denoiser.schedule)
    assert torch.allclose(pushed.eps, prediction.eps - 0.7 * sigma, atol=1e-6)
    assert torch.allclose(generator.denoiser.noise(pushed.x0, t, pushed.eps), x, atol=1e-5)


def test_stronger_guidance_makes_redder_videos_on_both_kinds_of_model():
    for build in (tiny_wan, tiny_unet):
        generator = build()
        scores = [
            small("nrg", generator, size=1, guidance=1.0, steps=3, weight=weight)
            .sample(PROMPTS[:1], AMPLE, seed=SEED)
            .scores.item()
            for weight in (0.0, 0.1, 0.3)
        ]
        assert scores[0] < scores[1] < scores[2]


def test_a_latent_reward_prunes_and_guides_without_decoding_on_the_way():
    generator = tiny_wan()
    latent = LatentRewardModel(generator.denoiser, depth=1, heads=2, hidden=(16,))
    latent.requires_grad_(False)
    for searcher, looks in (
        (Pruning(generator, redness(), latent_reward=latent, size=4, cuts=(0.5,), keep=(0.5,), steps=4), 4),
        (RewardGuidance(generator, redness(), latent_reward=latent, size=2, steps=4), 2 * 3),
    ):
        generator.codec.decodes = 0
        found = searcher.sample(PROMPTS[:1], AMPLE)
        assert found.reward_calls == (looks + 2,)
        assert generator.codec.decodes == 4 * (2 + 1)  # the two finished videos, and the winner for the result


def test_a_latent_rewards_own_gradient_raises_it():
    generator = tiny_wan()
    latent = LatentRewardModel(generator.denoiser, depth=1, heads=2, hidden=(16,))
    latent.requires_grad_(False)
    ends = [
        small("nrg", generator, latent_reward=latent, size=1, weight=weight).sample(PROMPTS[:1], AMPLE).latents
        for weight in (0.0, 0.2)
    ]
    plain, guided = (latent(end, 0.0, generator.condition(PROMPTS[:1])).item() for end in ends)
    assert guided > plain


def test_noise_optimisation_stays_where_normal_noise_lies_and_returns_its_best_iterate():
    generator = tiny_wan()
    searcher = small("reno", generator, size=6, explore=2, steps=2)
    found = searcher.sample(PROMPTS[:1], AMPLE, seed=SEED)
    (noted,) = found.candidates
    assert max(j.score for j in noted) == pytest.approx(found.scores.item())
    case = Case(generator, redness(), PROMPTS[0], 0, searcher.sampling)
    far = 1.3 * case.noise([case.source(0)])
    still = NoiseOptimisation(generator, RewardObjective({"red": Channel()}, {"red": 0.0}), steps=2)
    _, direction = still.gradient(case, far)
    assert (far + direction).norm() < far.norm()
    assert direction.norm() <= 0.1 + 1e-6


def test_the_gradient_of_each_reward_is_clipped_before_they_are_added():
    generator = tiny_wan()
    objective = redness(loud=Channel(2, factor=1e6))
    searcher = NoiseOptimisation(generator, objective, steps=2, regulariser=0.0, clip=0.1)
    case = Case(generator, objective, PROMPTS[0], 0, searcher.sampling)
    noise = case.noise([case.source(0)])
    _, both = searcher.gradient(case, noise)
    alone = [
        NoiseOptimisation(generator, RewardObjective({"one": reward}), steps=2, regulariser=0.0).gradient(case, noise)[
            1
        ]
        for reward in (Channel(), Channel(2))
    ]
    expected = alone[0] + alone[1]
    assert torch.allclose(both, expected * min(1.0, 0.1 / float(expected.norm())), atol=1e-5)


def test_gradient_searches_refuse_rewards_without_gradient_and_the_others_take_them():
    opaque = RewardObjective({"opaque": Opaque()})
    for method in ("reno", "nrg"):
        with pytest.raises(ValueError, match=r"'opaque'.*not differentiable"):
            small(method, objective=opaque)
    for method in ("best_of_n", "dlbs", "prune"):
        assert small(method, objective=opaque, size=2).sample(PROMPTS[:1], AMPLE).scores.isfinite().all()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        small("dlbs", size=0)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        small("dlbs", candidates=0)
    with pytest.raises(ValueError, match="first < last"):
        small("dlbs", first=0.5, last=0.5)
    with pytest.raises(ValueError, match="ascending cuts"):
        small("prune", cuts=(0.5, 0.3), keep=(0.5, 0.5))
    with pytest.raises(ValueError, match="one share"):
        small("prune", cuts=(0.5,), keep=(0.5, 0.5))
    with pytest.raises(ValueError, match="learning_rate > 0"):
        small("reno", learning_rate=0.0)
    with pytest.raises(UnknownNameError, match="aggregation rule"):
        small("best_of_n", rule="best")
    with pytest.raises(ValueError, match="kernel with noise"):
        small("dlbs", kernel=ode, size=1).sample(PROMPTS[:1], AMPLE)
    with pytest.raises(PromptError, match="list of texts"):
        small("best_of_n").sample("a humanoid", AMPLE)
    with pytest.raises(ValueError, match="One seed per prompt"):
        small("best_of_n", size=1).sample(PROMPTS[:2], AMPLE, seed=[1])
    broken = RewardObjective({"broken": Channel(factor=float("nan"))})
    with pytest.raises(NonFiniteError, match="'broken'"):
        small("best_of_n", objective=broken, size=1).sample(PROMPTS[:1], AMPLE)
