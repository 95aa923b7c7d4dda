"""The two-link arm: where it starts, what counts, what is paid, and an expert that shows it can be done."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrm.envs import TASKS, make_task
from vrm.envs.reacher import RADIUS, TARGET, TextGoalReacher, expert, fingertip, joint_angles, measure, sample

BOTH = pytest.mark.parametrize("name", ["reacher_reach", "reacher_reach_anywhere"])


def put(env, joints, target=TARGET):
    env.set_state(np.array([*joints, *target]), np.zeros(4))
    return env


@pytest.fixture
def env():
    env = TextGoalReacher(render_mode="rgb_array")
    env.reset(seed=0)
    yield env
    env.close()


@BOTH
def test_episodes_start_at_rest_away_from_the_target_in_any_posture(name):
    env = TASKS[name].make(render_mode=None).unwrapped
    starts, targets = [], []
    for seed in range(40):
        assert not env.reset(seed=seed)[1]["success"]
        assert measure(env).distance > 0.1
        assert not env.data.qvel.any()
        starts.append(env.data.qpos[:2].copy())
        targets.append(env.data.qpos[2:].copy())
    assert (np.ptp(starts, axis=0) > (5.0, 4.0)).all()
    assert bool(np.ptp(targets, axis=0).any()) is (name == "reacher_reach_anywhere")
    assert all(RADIUS[0] <= np.hypot(*target) <= RADIUS[1] for target in targets)


@BOTH
def test_the_expert_reaches_the_target_and_stays(name):
    env = TASKS[name].make(render_mode=None)
    for seed in range(20):
        env.reset(seed=seed)
        success = [env.step(expert(env))[4]["success"] for _ in range(TASKS[name].episode_steps)]
        assert all(success[-10:]), seed


@pytest.mark.parametrize(("offset", "counts"), [(0.0, True), (0.024, True), (0.026, False), (0.1, False)])
def test_a_touch_counts_within_25_millimetres(env, offset, counts):
    tip = np.array(TARGET) * (1 - offset / np.hypot(*TARGET))
    for joints in joint_angles(tip):
        assert put(env, joints).success() is counts
        assert measure(env).distance == pytest.approx(offset, abs=1e-9)


def test_pay_and_observation_are_reacher_v5s(env):
    theirs = gym.make("Reacher-v5").unwrapped
    theirs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        state = np.array([*rng.uniform(-2, 2, 2), *TARGET]), np.array([*rng.normal(0, 2, 2), 0, 0])
        action = rng.uniform(-1, 1, 2)
        for one in (env, theirs):
            one.set_state(*state)
        ours, reward, *_ = env.step(action)
        observation, other, *_ = theirs.step(action)
        np.testing.assert_allclose(ours, observation, atol=1e-2)  # drawn thicker, the links are a little heavier
        assert reward == pytest.approx(other, abs=2e-3)


@given(st.floats(*RADIUS), st.floats(-np.pi, np.pi))
def test_both_postures_reach_the_point(radius, angle):
    point = radius * np.array([np.cos(angle), np.sin(angle)])
    for joints in joint_angles(point):
        np.testing.assert_allclose(fingertip(joints), point, atol=1e-9)


def test_the_postures_are_the_simulators(env):
    for joints in [(0.3, -1.2), (-2.0, 2.4)]:
        np.testing.assert_allclose(put(env, joints).get_body_com("fingertip")[:2], fingertip(np.array(joints)))


def where(frame, channel):
    """Centre ``(x, y)`` in the picture of what is redder (0) or bluer (2) than anything else."""
    others = frame.astype(int).sum(axis=2) - frame[..., channel]
    rows, columns = np.nonzero(frame[..., channel] - others / 2 > 60)
    assert len(rows) >= 4
    return columns.mean(), rows.mean()


def test_the_picture_shows_arm_and_target_where_captions_say(env):
    frame = put(env, (-0.8, 0.0)).render()  # the arm points to the lower right, the target is upper left
    (arm_x, arm_y), (ball_x, ball_y) = where(frame, 2), where(frame, 0)
    assert arm_x > ball_x + 10
    assert arm_y > ball_y + 5


def test_a_target_out_of_reach_is_told():
    for target in [(0.3, 0.0), (0.0, 0.0), (0.1, 0.1, 0.1)]:
        with pytest.raises(ValueError, match=r"target must be \(x, y\) between 0.03 and 0.19 m from the shoulder"):
            make_task("reacher_reach", target=target).make()
    env = make_task("reacher_reach", target=[0.1, 0.0]).make(render_mode=None).unwrapped
    assert env.reset(seed=0)[0][4:6] == pytest.approx([0.1, 0.0])


def test_sampling_keeps_the_tasks_target_unless_told_to_vary():
    for vary, spread in ((False, False), (True, True)):
        env = TextGoalReacher()
        seen = [s.target for _, s in zip(range(10), sample(env, np.random.default_rng(0), vary), strict=False)]
        assert bool(np.ptp(seen, axis=0).any()) is spread
