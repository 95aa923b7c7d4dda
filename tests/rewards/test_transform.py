"""Shaping and differences: the formula, its sums, its place in the contract, and what is refused."""

import sys

import pytest
import torch
from contract import CHECKS, _refuses_wrong_calls, check_reward
from hypothesis import given
from hypothesis import strategies as st
from tiny import GOAL, RisingReward, random_clips

from vrm.rewards import GoalReward, StateValue, SubjectConsistency, Sum
from vrm.rewards.transform import Clip, Difference, PotentialShaping, Standardise

FRAMES = torch.zeros(1, 6, 3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    "factory",
    [
        lambda e: Difference(GoalReward(e, GOAL)),
        lambda e: Difference(RisingReward(GoalReward(e, GOAL)), scale=3.0),
        lambda e: Sum({"goal": GoalReward(e, GOAL), "progress": Difference(GoalReward(e, GOAL), scale=5.0)}),
        lambda e: Clip(Standardise(GoalReward(e, GOAL)).calibrate(random_clips(seed=2)), -1, 1),
        lambda e: Clip(RisingReward(GoalReward(e, GOAL)), -5, 5),
        lambda e: Difference(Clip(GoalReward(e, GOAL), -0.5, 0.5)),
        lambda e: Standardise(RisingReward(GoalReward(e, GOAL))).calibrate(random_clips(seed=2)),
        lambda e: Clip(Standardise(SubjectConsistency(e)), 0.2, 0.4),
    ],
)
def test_contract(factory, encoder, tmp_path):
    check_reward(factory, encoder, tmp_path)


@pytest.mark.parametrize("potential", [lambda e: GoalReward(e, GOAL), lambda e: RisingReward(GoalReward(e, GOAL))])
@pytest.mark.parametrize("check", [check for check in CHECKS if check is not _refuses_wrong_calls])
def test_shaping_keeps_the_contract(potential, check, encoder, tmp_path):
    """All of it but one point: a call without ``terminated`` is no error, it means that nothing ended."""
    check(PotentialShaping(potential(encoder), gamma=0.9, scale=2.0), encoder, tmp_path)


@given(
    values=st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6),
    gamma=st.floats(0.1, 1.0),
    terminates=st.booleans(),
)
def test_sums_telescope(values, gamma, terminates):
    ended = torch.zeros(1, 6)
    ended[0, -1] = float(terminates)
    state = {"height": torch.tensor([values]), "terminated": ended}
    rewards = PotentialShaping(StateValue("height"), gamma)(FRAMES, state=state)[0]
    assert rewards[0] == 0
    total = sum(gamma**t * r for t, r in enumerate(rewards[1:].tolist()))
    last = 0.0 if terminates else gamma**5 * values[-1]
    assert total == pytest.approx(last - values[0], abs=1e-4)


@given(st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6), st.floats(0.1, 0.99))
def test_a_difference_is_a_state_reward_up_to_shaping(values, gamma):
    """``V' - V = (gamma V' - V) + (1 - gamma) V'`` (VIP)."""
    state = {"height": torch.tensor([values])}
    shaping = PotentialShaping(StateValue("height"), gamma)(FRAMES, state=state)
    level = StateValue("height", scale=1 - gamma)(FRAMES, state=state)
    torch.testing.assert_close(
        Difference(StateValue("height"))(FRAMES, state=state)[:, 1:], (shaping + level)[:, 1:], rtol=1e-4, atol=1e-4
    )


def test_nothing_ends_unless_it_is_said(encoder):
    clips = random_clips()
    reward = PotentialShaping(GoalReward(encoder, GOAL), gamma=0.9)
    goal = GoalReward(encoder, GOAL)(clips)
    torch.testing.assert_close(reward(clips)[:, 1:], 0.9 * goal[:, 1:] - goal[:, :-1])
    torch.testing.assert_close(reward(clips), reward(clips, state={"terminated": torch.zeros(4, 5)}))


def test_windows_grow_by_the_frame_before(encoder):
    assert Difference(RisingReward(GoalReward(encoder, GOAL))).window == 4
    endless = RisingReward(GoalReward(encoder, GOAL))
    endless.window = sys.maxsize
    assert Difference(endless).window == sys.maxsize


def test_terms_show_the_potential(encoder):
    clips = random_clips()
    terms = PotentialShaping(GoalReward(encoder, GOAL), gamma=0.9).terms(clips)
    assert set(terms) == {"potential/goal", "factor", "before"}
    torch.testing.assert_close(terms["before"][:, 1:], terms["potential/goal"][:, :-1])


def test_refusals(encoder):
    goal = GoalReward(encoder, GOAL)
    for gamma in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"gamma must lie in \(0, 1\]"):
            PotentialShaping(goal, gamma)
    for scale in (0, -1, float("inf")):
        with pytest.raises(ValueError, match="scale must be positive"):
            Difference(goal, scale)
    with pytest.raises(ValueError, match="SubjectConsistency needs frames from the future"):
        Difference(SubjectConsistency(encoder))
    with pytest.raises(ValueError, match="finite low < high"):
        Clip(goal, 1, 0)
    with pytest.raises(ValueError, match="'terminated' must be"):
        PotentialShaping(goal, 0.9)(random_clips(), state={"terminated": torch.zeros(4, 2)})


def test_differences_cannot_be_clipped_however_deep_they_are(encoder):
    progress = Difference(GoalReward(encoder, GOAL))
    with pytest.raises(ValueError, match="Clip would destroy what Difference is for"):
        Clip(progress, -1, 1)
    with pytest.raises(ValueError, match="Clip would destroy what PotentialShaping is for"):
        Clip(Sum({"a": StateValue("x"), "b": PotentialShaping(GoalReward(encoder, GOAL), 0.9)}), -1, 1)


def test_standardising_scales_to_size_one_and_keeps_zero(encoder):
    clips, goal = random_clips(batch=8), GoalReward(encoder, GOAL)
    scaled = Standardise(goal).calibrate(clips)
    paid = scaled(clips)[:, 1:]
    assert paid.square().mean().sqrt() == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(paid / scaled.factor, goal(clips)[:, 1:])


def test_centring_is_warned_of(encoder):
    clips, centred = random_clips(batch=8), Standardise(GoalReward(encoder, GOAL), centre=True)
    with pytest.warns(UserWarning, match="longer episodes"):
        centred.calibrate(clips)
    paid = centred(clips)[:, 1:]
    assert paid.mean() == pytest.approx(0.0, abs=1e-4)
    assert paid.std(correction=0) == pytest.approx(1.0, abs=1e-3)


def test_nothing_to_calibrate_on(encoder):
    with pytest.raises(ValueError, match="at least 2 frames"):
        Standardise(GoalReward(encoder, GOAL)).calibrate(random_clips()[:, :1])
    with pytest.raises(ValueError, match="constant reward"):
        Standardise(Difference(GoalReward(encoder, GOAL))).calibrate(random_clips()[:, :1].repeat(1, 4, 1, 1, 1))
