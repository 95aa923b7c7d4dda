"""Yes, ratings, rubrics and progress of the stand-in judge on real frames, and golden values."""

import math

import pytest
import torch
from pictures import grey, quick
from real_frames import BASELINE, GOAL, VIDEOS, frames_of

from vrm.judges import (
    Criterion,
    HTTPJudge,
    SimJudge,
    change,
    holds,
    judge_by,
    log_true,
    rate,
    shuffled_progress,
    signed_progress,
)
from vrm.judges.verdict import weighted_mean
from vrm.metrics import value_order_correlation
from vrm.video import read_video

STANDING = "a humanoid robot standing"


@pytest.fixture
def runner(sim_encoder):
    return quick(SimJudge(sim_encoder, BASELINE))


@pytest.fixture(scope="module")
def both():
    return torch.stack([frames_of("kneeling", 1), frames_of("standing", 1)])


@pytest.fixture(scope="module")
def kneeling_down():
    frames = read_video(VIDEOS / "kneeling.mp4")
    return frames[torch.linspace(0, len(frames) - 1, 10).long()]


def test_yes_true_and_ratings_tell_kneeling_from_standing(runner, both):
    yes = holds(runner, both, [GOAL] * 2)
    assert yes[0] > 0.5 > yes[1]
    torch.testing.assert_close(holds(runner, both, [GOAL] * 2, "statement"), yes)
    torch.testing.assert_close(log_true(runner, both, [GOAL] * 2), yes.log())
    torch.testing.assert_close(rate(runner, both, [GOAL] * 2, levels=5), 1 + 4 * yes, rtol=1e-4, atol=1e-4)


def test_the_probability_is_the_sigmoid_of_the_goal_baseline_contrast(runner, sim_encoder, both):
    goal, baseline = sim_encoder.encode_text([GOAL, BASELINE])
    image = sim_encoder.encode_image(both[:, 0])
    torch.testing.assert_close(holds(runner, both, [GOAL] * 2), torch.sigmoid((image @ goal - image @ baseline) / 0.1))


def test_a_rubric_reports_every_criterion_and_their_weighted_mean(runner, both):
    criteria = [Criterion("kneels", GOAL, 3), Criterion("stands", STANDING)]
    found = judge_by(runner, both, criteria, [GOAL] * 2)
    assert list(found.criteria) == ["kneels", "stands"]
    torch.testing.assert_close(found.total, 0.75 * found.criteria["kneels"] + 0.25 * found.criteria["stands"])
    assert found.criteria["kneels"][0] > found.criteria["kneels"][1]
    assert found.criteria["stands"][0] < found.criteria["stands"][1]
    assert weighted_mean(torch.tensor([1.0, 0.0]), criteria) == 0.75


def test_shuffled_frames_come_back_in_order_of_time(runner, kneeling_down):
    (found,) = shuffled_progress(runner, [kneeling_down], [GOAL])
    assert found.indices.tolist() == list(range(10))
    assert found.values[0] == 0
    each = holds(runner, kneeling_down[:, None], [GOAL] * 10)
    torch.testing.assert_close(found.values[1:], each[1:])
    assert found.order == pytest.approx(value_order_correlation(each[1:].tolist()))
    (other,) = shuffled_progress(runner, [kneeling_down], [GOAL], seed=7)
    torch.testing.assert_close(other.values, found.values)
    assert runner.counts.requests == 12  # another seed is another question
    (fewer,) = shuffled_progress(runner, [kneeling_down], [GOAL], frames=4)
    assert fewer.indices.tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize("form", ["scale", "number"])
def test_signed_progress_has_a_sign_and_turns_with_the_order(runner, both, form):
    there = change(runner, both[1], both[0], [GOAL], form)
    back = change(runner, both[0], both[1], [GOAL], form)
    assert there.delta > 0.3
    torch.testing.assert_close(back.delta, -there.delta)
    assert there.agreement == 1


def test_pictures_almost_alike_make_no_progress_and_no_question(runner):
    a = grey(0.500)
    assert change(runner, a, a + 1, [GOAL]).delta.item() == 0
    assert runner.counts.asked == 0


def test_signed_progress_composes_values(runner, kneeling_down):
    (found,) = signed_progress(runner, [kneeling_down], [GOAL], stride=3)
    assert found.indices.tolist() == [0, 3, 6, 9]
    assert found.values[0] == 0
    assert found.values[-1] > 0.3
    assert bool(((found.values >= 0) & (found.values <= 1)).all())


def test_text_that_is_no_number_is_counted_not_guessed(server):
    server.text = "about half"
    runner = quick(HTTPJudge(server.url, "m", logprobs=False))
    dark, light = grey(0.1, 0.1), grey(0.6, 0.9)
    assert change(runner, dark, light, [GOAL] * 2, "number").delta.isnan().all()
    assert rate(runner, light[:, None], [GOAL] * 2).isnan().all()
    assert log_true(runner, light[:, None], [GOAL] * 2).isnan().all()
    (found,) = shuffled_progress(runner, [grey(0.1, 0.2, 0.3)], [GOAL])
    assert found.values.isnan().all()
    assert math.isnan(found.order)
    (composed,) = signed_progress(runner, [grey(0.1, 0.5, 0.9)], [GOAL], stride=1)
    assert composed.values.isnan().tolist() == [False, True, True]
    assert runner.counts.unparsable == 11


def test_wrong_calls_are_refused(runner):
    with pytest.raises(ValueError, match=r"levels must lie in \[2, 9\], got 10"):
        rate(runner, grey(0.1)[None], [GOAL], levels=10)
    with pytest.raises(ValueError, match="claim must be one of question, statement"):
        holds(runner, grey(0.1)[None], [GOAL], "maybe")
    with pytest.raises(ValueError, match="criteria of different names"):
        judge_by(runner, grey(0.1)[None], [Criterion("a", "b"), Criterion("a", "c")])
    with pytest.raises(ValueError, match="positive weight"):
        Criterion("a", "b", 0)
    with pytest.raises(ValueError, match="at least 3 frames"):
        shuffled_progress(runner, [grey(0.1, 0.2)], [GOAL])
    with pytest.raises(ValueError, match="stride >= 1"):
        signed_progress(runner, [grey(0.1, 0.2)], [GOAL], stride=0)
