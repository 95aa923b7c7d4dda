"""Policy gradients: exact ratios, a divergence that starts at zero, and videos that get better."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_generator import PROMPTS, tiny_unet
from toy_reward import FAST, Brightness, Redness, check_resume, gain, redness, small_wan

from vrm.diffusion.advantage import AdaptiveKL, Credit, PairwiseJudge
from vrm.diffusion.aligners import (
    AllSteps,
    BackwardProgression,
    Batch,
    PolicyGradient,
    PolicyLoss,
    Sampling,
    SlidingWindow,
    Training,
)
from vrm.diffusion.aligners.sampling import own_kernel, take_rows
from vrm.diffusion.kernels import cps, dance_sde, lcm, ode
from vrm.diffusion.objective import RewardObjective
from vrm.errors import NonFiniteError

ONE, TWO = Batch(PROMPTS[:1]), Batch(PROMPTS[:2])
GROUP = Sampling(group=8)
LOSS = PolicyLoss(clip=1e-3)

METHODS = {
    "ddpo": {"credit": Credit(baseline="prompt")},
    "flow_grpo": {"loss": PolicyLoss(clip=1e-3, kl=0.01, epochs=2)},
    "dance_grpo": {
        "sampling": Sampling(group=8, shared_noise=True),
        "kernel": dance_sde(),
        "plan": AllSteps(0.6),
        "credit": Credit("advantages", best=2, worst=2),
    },
    "mix_grpo": {"plan": SlidingWindow(width=2, every=4)},
    "cps": {"kernel": cps()},
    "grpo_guard": {"loss": PolicyLoss(clip=1e-3, ratio="guard", epochs=2)},
    "b2_diffurl": {
        "sampling": Sampling(group=2),
        "plan": BackwardProgression(branch=4, stages=4),
        "credit": Credit(baseline="prompt", decisive=True),
        "loss": PolicyLoss(clip=0.1),
    },
    "pref_grpo": {"credit": Credit("win_rate")},
    "rlcm": {"kernel": lcm},
}


def make(generator, objective=None, training=FAST, **changes):
    options = {"sampling": GROUP, "loss": LOSS, **changes}
    return PolicyGradient(generator, objective or redness(), training, **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_policy_gradient_raises_a_held_out_reward(method):
    credit = METHODS[method].get("credit")  # remembers prompts, so each aligner needs its own
    own = {**METHODS[method], **({"credit": replace(credit)} if credit else {})}
    risen, error = gain(make(small_wan(), **own), steps=6)
    assert risen > max(0.001, 3 * error)


@pytest.mark.parametrize("method", METHODS)
def test_the_ratio_is_exactly_one_before_the_first_update(method):
    aligner = make(small_wan(), **METHODS[method])
    assert [aligner.step(TWO)["ratio_start"] for _ in range(2)] == [0.0, 0.0]


def test_the_ratio_is_exactly_one_in_chunks_with_guidance_and_with_few_of_a_group():
    sampling = Sampling(group=6, guidance=3.0, chunk=5)
    credit = Credit(best=2, worst=2)
    assert make(small_wan(), sampling=sampling, credit=credit).step(TWO)["ratio_start"] == 0.0


def test_the_ratio_is_exactly_one_on_an_epsilon_model_with_dropout_layers():
    generator = tiny_unet(frames=2).with_defaults(steps=3, guidance=1.0)
    generator.train()
    metrics = make(generator, training=Training(lr=1e-3), sampling=Sampling(group=3)).step(ONE)
    assert metrics["ratio_start"] == 0.0
    assert metrics["ratio_max"] == 1.0


def test_a_second_update_on_the_same_videos_has_other_ratios():
    metrics = make(small_wan(), loss=PolicyLoss(clip=1e-5, epochs=2)).step(ONE)
    assert metrics["ratio_start"] == 0.0
    assert metrics["ratio_max"] > 1.0
    assert metrics["clip_frac"] > 0.0


def test_the_divergence_is_zero_at_the_start_and_positive_after_an_update():
    aligner = make(small_wan(), loss=PolicyLoss(clip=1e-3, kl=0.01))
    first, second = (aligner.step(ONE) for _ in range(2))
    assert first["kl"] == 0.0
    assert second["kl"] > 0.0


def test_without_adapters_the_generator_is_the_old_one_to_the_last_bit():
    generator = small_wan()
    before = generator.sample(PROMPTS[:2])
    aligner = make(generator)
    aligner.step(ONE)
    assert not torch.equal(generator.sample(PROMPTS[:2]), before)
    with generator.denoiser.reference():
        assert torch.equal(generator.sample(PROMPTS[:2]), before)


def test_an_adaptive_penalty_follows_the_divergence_and_is_resumed():
    def build(generator):
        penalty = AdaptiveKL(target=1e-6, horizon=1, low=0.01, high=1.0)
        return make(generator, loss=PolicyLoss(clip=1e-3, kl=penalty))

    aligner = build(small_wan())
    for _ in range(3):
        aligner.step(ONE)
    assert aligner.loss.penalty > 0.01
    check_resume(build, ONE)


def test_resuming_equals_going_on():
    def build(generator):
        training = replace(FAST, ema=0.9, warmup=3, accumulate=2)
        return make(
            generator,
            training=training,
            sampling=Sampling(group=2),
            plan=BackwardProgression(branch=3, stages=4),
            credit=Credit(baseline="prompt", history=8, least=4),
        )

    check_resume(build, TWO, steps=3)  # in the middle of an accumulated gradient


def test_a_constant_reward_changes_nothing():
    generator = small_wan()
    objective = RewardObjective({"flat": Brightness()})
    objective.rewards["flat"].combine = lambda terms: terms["red"] * 0 + 0.3
    aligner = make(generator, objective, Training(lr=1e-2))
    before = generator.denoiser.lora_state()
    metrics = aligner.step(ONE)
    assert metrics["grad_norm"] == 0.0
    assert all(torch.equal(before[k], v) for k, v in generator.denoiser.lora_state().items())


def test_only_the_window_is_stochastic_and_it_slides():
    plan = SlidingWindow(width=2, every=2, stride=1)
    random = torch.Generator()
    assert [plan.at(6, i, random).window for i in (0, 1, 2, 7, 8)] == [(0, 2), (0, 2), (1, 3), (3, 5), (0, 2)]
    aligner = make(small_wan(), plan=plan, sampling=Sampling(group=2, steps=4))
    (drawn,) = aligner.draw(PROMPTS[:1], own_kernel(aligner.denoiser), plan.at(4, 2, random))
    assert drawn.trajectory.stochastic == drawn.steps == (1, 2)


def test_the_trained_part_grows_backwards_and_branches_share_their_past():
    plan = BackwardProgression(first=0.5, last=1.0, stages=2, branch=3)
    random = torch.Generator()
    assert [plan.at(4, i, random).branch_at for i in (0, 1, 2, 9)] == [2, 1, 0, 0]
    aligner = make(small_wan(), sampling=Sampling(group=2, steps=4), plan=plan)
    (drawn,) = aligner.draw(PROMPTS[:1], cps(), plan.at(4, 0, random))
    states = [state.reshape(2, 3, -1) for state in drawn.trajectory.states]
    assert all(torch.equal(s[:, :1].expand_as(s), s) for s in states[:3])
    assert not torch.equal(states[3][:, 0], states[3][:, 1])
    assert not torch.equal(states[0][0], states[0][1])


def test_a_group_of_shared_noise_starts_from_one_latent():
    aligner = make(small_wan(), sampling=Sampling(group=3, shared_noise=True))
    (drawn,) = aligner.draw(PROMPTS[:2], ode)
    first = drawn.trajectory.states[0].reshape(2, 3, -1)
    assert torch.equal(first[:, 0], first[:, 2])
    assert not torch.equal(first[0], first[1])


def test_a_share_of_the_steps_is_trained_and_the_last_one_never():
    aligner = make(small_wan(), plan=AllSteps(0.5), sampling=Sampling(group=2, steps=4))
    (drawn,) = aligner.draw(PROMPTS[:1], own_kernel(aligner.denoiser), AllSteps(0.5).at(4, 0, aligner.rng))
    assert len(AllSteps(0.5).at(4, 0, aligner.rng).trained) == 2
    assert 3 not in drawn.steps
    assert drawn.trajectory.stochastic == (0, 1, 2)


def test_log_probabilities_of_some_rows_are_those_of_their_own_batch():
    aligner = make(small_wan())
    drawn = aligner.draw(PROMPTS[:1], own_kernel(aligner.denoiser), AllSteps().at(3, 0, aligner.rng))
    (some,) = take_rows(drawn, torch.tensor([True, False, True] + [False] * 5), aligner.denoiser)
    assert torch.equal(some.replay(aligner.denoiser), some.log_probs)
    assert torch.allclose(some.log_probs, drawn[0].log_probs[[0, 2]], atol=1e-5)


def test_calls_are_counted():
    aligner = make(small_wan(), loss=PolicyLoss(clip=1e-3, kl=0.1, epochs=2))
    metrics = aligner.step(TWO)
    rows, trained = 16, 2
    assert metrics["nfe"] == rows * 3 + 2 * 2 * rows * trained  # sampling; policy and reference, twice
    assert metrics["reward_calls"] == rows
    assert metrics["decodes"] == rows * 2


def test_several_rewards_and_a_judge_are_weighed():
    objective = RewardObjective({"red": Redness(), "light": Brightness()}, {"light": 0.5})
    aligner = make(
        small_wan(), objective, judge=PairwiseJudge(PrefersBright, weight=2.0), credit=Credit("advantages", clip=9.0)
    )
    metrics = aligner.step(ONE)
    assert {"reward/red", "reward/light", "reward/light_std", "reward/judge"} <= set(metrics)
    assert metrics["reward/judge"] == pytest.approx(0.5)
    assert metrics["comparisons"] == 28


class PrefersBright:
    """Prefers the brighter one."""

    sees_frames = True
    state_keys = ()

    def __init__(self, goal: str) -> None:
        self.goal = goal

    def compare(self, first, second):
        one, other = (segments.frames.float().mean(dim=(1, 2, 3, 4)) for segments in (first, second))
        return (one > other).float()


def test_a_reward_that_is_not_a_number_stops_the_step_and_keeps_the_weights():
    generator = small_wan()
    aligner = make(generator)
    aligner.objective.rewards["red"].combine = lambda terms: terms["red"] * math.nan
    before = generator.denoiser.lora_state()
    with pytest.raises(NonFiniteError, match="loss of nan"):
        aligner.step(ONE)
    assert all(torch.equal(before[k], v) for k, v in generator.denoiser.lora_state().items())


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="at least two videos"):
        make(small_wan(), sampling=Sampling(group=1))
    with pytest.raises(ValueError, match="stochastic"):
        make(small_wan(), kernel=ode).step(ONE)
    with pytest.raises(ValueError, match="flow models"):
        make(tiny_unet(), loss=PolicyLoss(ratio="guard"))
    with pytest.raises(ValueError, match="clip > 0"):
        PolicyLoss(clip=0.0)
    with pytest.raises(ValueError, match="at least one prompt"):
        Batch([])
