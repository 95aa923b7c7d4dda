import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vrm.data.demos import Demo, DemoError
from vrm.data.process_labels import milestones, process_labels, stage_demo, stages


def pick_and_place(noise: float = 0.0, seed: int = 0):
    """Reach, rest over the thing at 20-24, lower, close at 40, carry, open at 80, leave until 99."""
    rng = np.random.default_rng(seed)
    speed = np.full(100, 1.0)
    speed[20:25] = speed[37:44] = speed[77:84] = 0.0
    gripper = np.ones(100)
    gripper[40:80] = -1
    return gripper + noise * rng.normal(size=100), np.abs(speed + noise * rng.normal(size=100) * (speed > 0))


def test_gripper_changes_and_rests_between_them_are_milestones():
    assert milestones(*pick_and_place()).tolist() == [20, 40, 80, 99]


def test_without_motion_only_the_gripper_counts():
    assert milestones(pick_and_place()[0]).tolist() == [40, 80, 99]


@pytest.mark.parametrize("seed", range(10))
def test_noise_moves_no_milestone(seed):
    assert milestones(*pick_and_place(0.1, seed)).tolist() == [20, 40, 80, 99]


@pytest.mark.parametrize("seed", range(10))
def test_sensor_noise_of_a_gripper_that_never_moves_is_no_change(seed):
    gripper = 0.04 + 1e-4 * np.random.default_rng(seed).normal(size=100)
    assert milestones(gripper).tolist() == [99]


def test_a_change_that_does_not_last_is_none():
    gripper, speed = pick_and_place()
    gripper[60:62] = 1
    assert milestones(gripper, speed).tolist() == [20, 40, 80, 99]
    assert 60 in milestones(gripper, speed, hold=2)


def test_positions_give_the_velocity():
    gripper, speed = pick_and_place()
    positions = np.stack([np.cumsum(speed), np.zeros(100)], axis=1)
    assert milestones(gripper, positions=positions).tolist() == milestones(gripper, speed).tolist()


def test_standing_still_at_the_start_or_to_the_end_finishes_nothing():
    speed = np.ones(50)
    speed[:8] = speed[42:] = 0
    assert milestones(np.zeros(50), speed).tolist() == [49]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.booleans())
def test_units_and_the_gripper_sign_do_not_matter(seed, scale, flip):
    gripper, speed = pick_and_place(0.2, seed)
    assert np.array_equal(milestones(gripper * (-1 if flip else 1) * 3, speed * scale), milestones(gripper, speed))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.data())
def test_labels_rise_from_zero_to_one_and_reach_each_milestone(total, data):
    inner = data.draw(st.sets(st.integers(1, total - 1)))
    found = sorted(inner | {total - 1})
    labels = process_labels(total, found)
    assert labels[0] == 0
    assert labels[-1] == 1
    assert (np.diff(labels) > 0).all()
    np.testing.assert_allclose(labels[found], np.arange(1, len(found) + 1) / len(found), atol=1e-6)
    assert np.flatnonzero(process_labels(total, found, "milestone")).tolist() == found
    steps = stages(total, found)
    assert steps[found].tolist() == list(range(len(found)))
    assert set(np.diff(steps)) <= {0, 1}


def demo_of(actions):
    frames = torch.arange(len(actions) + 1, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    return Demo(frames.contiguous(), "pick", actions=actions)


def test_a_demonstration_gets_its_steps_from_its_actions():
    gripper, speed = pick_and_place()
    actions = np.stack([speed, np.zeros(100), gripper], axis=1).astype(np.float32)
    staged = stage_demo(demo_of(actions))
    assert staged.stages.dtype == np.int64
    assert np.flatnonzero(np.diff(staged.stages)).tolist() == [21, 41, 81]  # actions[t] leads to frame t + 1
    first = stage_demo(demo_of(actions[:, ::-1].copy()), gripper=0)
    assert np.array_equal(first.stages, staged.stages)
    assert np.flatnonzero(np.diff(stage_demo(demo_of(actions), motion=[]).stages)).tolist() == [41, 81]


def test_what_cannot_be_labelled_is_refused():
    gripper, speed = pick_and_place()
    with pytest.raises(ValueError, match="not both"):
        milestones(gripper, speed, np.zeros((100, 3)))
    with pytest.raises(ValueError, match="100 rows"):
        milestones(gripper, speed[:50])
    with pytest.raises(ValueError, match="finite"):
        milestones(np.full(100, np.nan))
    with pytest.raises(ValueError, match="smooth odd"):
        milestones(gripper, smooth=2)
    with pytest.raises(ValueError, match="the last of them T - 1 = 4"):
        process_labels(5, [2])
    with pytest.raises(ValueError, match="form must be"):
        process_labels(5, [4], "steps")
    plain = demo_of(np.zeros((9, 2), np.float32))
    with pytest.raises(DemoError, match="must be among them"):
        stage_demo(plain, gripper=2)
    with pytest.raises(DemoError, match="has no actions"):
        stage_demo(Demo(plain.frames, "silent"))
