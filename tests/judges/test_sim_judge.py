"""The errors of the stand-in judge: as many as asked for, the same every time."""

import pytest
import torch
from pictures import quick
from real_frames import BASELINE, GOAL

from vrm.errors import PromptError
from vrm.judges import Question, SimJudge, change, holds, prefer


def noise_pictures(count):
    return torch.randint(0, 256, (count, 1, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("form", ["one", "two"])
def test_noise_turns_that_share_of_pairs_round_in_both_orders(sim_encoder, form):
    a, b = noise_pictures(240)[:120], noise_pictures(240)[120:]
    right = prefer(quick(SimJudge(sim_encoder, BASELINE, 0.001)), a, b, [GOAL] * 120, form)
    wrong = prefer(quick(SimJudge(sim_encoder, BASELINE, 0.001, noise=0.3, seed=1)), a, b, [GOAL] * 120, form)
    turned = (right.verdict - wrong.verdict).abs() == 1
    assert 0.2 < turned.float().mean() < 0.4
    assert (right.agree == wrong.agree).all()
    torch.testing.assert_close(wrong.label[turned], 1 - right.label[turned], rtol=1e-4, atol=1e-5)


def test_errors_depend_on_content_and_seed_only(sim_encoder):
    a = noise_pictures(40)
    whole = holds(quick(SimJudge(sim_encoder, noise=0.5)), a, [GOAL] * 40)
    back = holds(quick(SimJudge(sim_encoder, noise=0.5)), a.flip(0), [GOAL] * 40).flip(0)
    torch.testing.assert_close(whole, back)
    assert (whole - holds(quick(SimJudge(sim_encoder, noise=0.5, seed=2)), a, [GOAL] * 40)).abs().max() > 0.01


def test_noise_reaches_signed_progress_and_leaves_signs_opposite(sim_encoder):
    a, b = noise_pictures(40)[:20, 0], noise_pictures(40)[20:, 0]
    clean = change(quick(SimJudge(sim_encoder)), a, b, [GOAL] * 20)
    wrong = change(quick(SimJudge(sim_encoder, noise=1.0)), a, b, [GOAL] * 20)
    torch.testing.assert_close(wrong.delta, -clean.delta, rtol=1e-4, atol=1e-5)


def test_it_says_what_it_cannot_answer(sim_encoder):
    with pytest.raises(PromptError, match="reads no prose"):
        quick(SimJudge(sim_encoder)).ask([Question(("Well?",), ("yes", "no"))])


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"noise": 1.5}, {"tie": -1}, {"position_bias": float("nan")}])
def test_numbers_out_of_range_are_refused(sim_encoder, wrong):
    with pytest.raises(ValueError, match="stand-in judge needs"):
        SimJudge(sim_encoder, **wrong)
