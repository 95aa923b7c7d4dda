"""Which of two is better, asked in both orders."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import grey, quick
from real_frames import BASELINE, GOAL, frames_of

from vrm.errors import PromptError
from vrm.judges import Preferences, SimJudge, prefer
from vrm.judges.preference import combine_orders


@pytest.fixture(scope="module")
def kneeling():
    return frames_of("kneeling", 4)


@pytest.fixture(scope="module")
def standing():
    return frames_of("standing", 4)


@pytest.mark.parametrize("form", ["one", "two"])
def test_the_stand_in_prefers_kneeling_to_standing_for_the_kneeling_goal(sim_encoder, kneeling, standing, form):
    runner = quick(SimJudge(sim_encoder, BASELINE))
    found = prefer(runner, kneeling[:, None], standing[:, None], [GOAL] * 4, form)
    assert found.label.min() > 0.9
    assert found.agreement == 1
    upright = prefer(runner, kneeling[:, None], standing[:, None], ["a humanoid robot standing"] * 4, form)
    assert upright.label.max() < 0.5
    assert prefer(runner, kneeling[None], standing[None], [GOAL], form).label > 0.9


@pytest.mark.parametrize("form", ["one", "two"])
@pytest.mark.parametrize("bias", [0.7, -3.0])
def test_both_orders_remove_a_position_bias_exactly(sim_encoder, kneeling, standing, form, bias):
    sides = kneeling[:, None], standing[:, None]
    fair = prefer(quick(SimJudge(sim_encoder, BASELINE)), *sides, [GOAL] * 4, form)
    biased = prefer(quick(SimJudge(sim_encoder, BASELINE, position_bias=bias)), *sides, [GOAL] * 4, form)
    assert (biased.forward - fair.forward).abs().max() > 1e-3
    torch.testing.assert_close(biased.probabilities, fair.probabilities, rtol=1e-4, atol=1e-5)


def test_a_judge_that_only_sees_positions_has_no_preference(sim_encoder, kneeling, standing):
    judge = SimJudge(sim_encoder, temperature=1e12, position_bias=2.0)
    found = prefer(quick(judge), kneeling[:, None], standing[:, None], [GOAL] * 4, "one")
    assert (found.forward[:, 0] > 0.8).all()
    assert found.label.tolist() == [0.5] * 4
    assert found.verdict.tolist() == [0.5] * 4
    assert found.agreement == 0
    alone = prefer(quick(judge), kneeling[:, None], standing[:, None], [GOAL] * 4, "one", swap=False)
    assert alone.label.min() > 0.8


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.floats(-5, 5))
@settings(deadline=None, max_examples=50)
def test_whatever_is_added_to_the_logit_of_the_first_place_cancels(weights, bias):
    fair = torch.tensor([weights], dtype=torch.float64)
    tilt = torch.tensor([bias / 2, -bias / 2, 0], dtype=torch.float64).exp()
    forward, backward = fair * tilt, fair[:, [1, 0, 2]] * tilt
    forward, backward = forward / forward.sum(), backward / backward.sum()
    torch.testing.assert_close(combine_orders(forward, backward[:, [1, 0, 2]]), fair / fair.sum())


def test_orders_that_contradict_are_a_tie_and_no_answer_is_nan():
    forward = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8], [float("nan")] * 3])
    backward = torch.tensor([[0.2, 0.5, 0.3], [0.5, 0.2, 0.3], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]])
    agree = torch.tensor([False, True, True, False])
    found = Preferences(combine_orders(forward, backward), forward, backward, agree)
    assert found.label[0] == 0.5
    assert found.label[1] > 0.5
    assert found.label[3].isnan()
    assert found.verdict[:3].tolist() == [0.5, 1.0, 0.5]
    assert found.verdict[3].isnan()
    assert found.agreement == pytest.approx(2 / 3)


def test_two_pictures_alike_are_a_tie_in_any_form(sim_encoder):
    found = prefer(quick(SimJudge(sim_encoder)), grey(0.3)[None], grey(0.3)[None], [GOAL])
    assert (found.label.item(), found.verdict.item()) == (0.5, 0.5)


def test_an_undescribed_pair_is_not_concluded(server):
    from vrm.judges import HTTPJudge

    server.text = "  "
    runner = quick(HTTPJudge(server.url, "m"))
    found = prefer(runner, grey(0.3)[None], grey(0.6)[None], [GOAL])
    assert found.label.isnan().all()
    assert runner.counts.unparsable == 2
    assert runner.counts.requests == 2


def test_wrong_calls_are_refused(sim_encoder):
    runner = quick(SimJudge(sim_encoder))
    with pytest.raises(ValueError, match="form 'two' or 'one'"):
        prefer(runner, grey(0.3)[None], grey(0.6)[None], [GOAL], form="three")
    with pytest.raises(ValueError, match="sides of one shape"):
        prefer(runner, grey(0.3)[None], grey(0.6, 0.7)[None], [GOAL])
    with pytest.raises(PromptError, match="one goal sentence for each of 1"):
        prefer(runner, grey(0.3)[None], grey(0.6)[None], [])
