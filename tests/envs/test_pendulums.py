"""Pendulum and double pendulum: what their pictures show, and what counts as upright."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest

from vrm.envs.inverted_double_pendulum import CAPTIONER as DOUBLE
from vrm.envs.inverted_double_pendulum import Links, TextGoalInvertedDoublePendulum, measure
from vrm.envs.pendulum import CAPTIONER, LOOK, TextGoalPendulum, turn


def truth(captioner, name, state):
    return next(fact.truth(state) for fact in captioner.facts if fact.name == name)


def test_the_pendulum_is_gymnasiums_with_a_success():
    ours, theirs = TextGoalPendulum(), gym.make("Pendulum-v1").unwrapped
    np.testing.assert_array_equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
    ours.action_space.seed(0)
    for _ in range(50):
        action = ours.action_space.sample()
        observation, reward, terminated, truncated, info = ours.step(action)
        expected = theirs.step(action)
        np.testing.assert_array_equal(observation, expected[0])
        assert (reward, terminated, truncated) == (expected[1], False, False)
        assert info["success"] == (abs(turn(ours.state)) < np.degrees(0.2))


@pytest.mark.parametrize(
    ("angle", "where", "facts"),
    [
        (0.0, (0.5, 0.14), ("upright", "high")),
        (np.pi, (0.5, 0.86), ("hanging", "low")),
        (np.pi / 2, (0.14, 0.5), ("left", "flat_left", "horizontal")),
        (-np.pi / 2, (0.86, 0.5), ("right", "flat_right", "horizontal")),
        (np.pi / 4, (0.25, 0.25), ("upper_left", "left", "high")),
        (-3 * np.pi / 4, (0.75, 0.75), ("lower_right", "right", "low")),
    ],
)
def test_the_ball_is_drawn_where_the_facts_say(angle, where, facts):
    env = TextGoalPendulum(size=96, render_mode="rgb_array")
    env.reset(seed=0)
    env.state = np.array([angle + 6 * np.pi, 0.0])
    ball = np.argwhere((np.abs(env.render().astype(int) - LOOK.ball) < 30).all(axis=2)).mean(axis=0)[::-1] / 96
    assert ball == pytest.approx(where, abs=0.03)
    assert all(truth(CAPTIONER, name, env.state) == pytest.approx(1) for name in facts)


def test_the_double_pendulum_pays_as_gymnasiums_and_goes_on_after_a_fall():
    ours, theirs = TextGoalInvertedDoublePendulum(), gym.make("InvertedDoublePendulum-v5").unwrapped
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    ended = False
    for _ in range(40):
        observation, reward, terminated, _, info = ours.step(np.array([0.3], np.float32))
        expected = theirs.step(np.array([0.3], np.float32))
        np.testing.assert_allclose(observation, expected[0])
        assert reward == pytest.approx(expected[1])
        assert not terminated
        assert info["success"] == ours.success()
        ended = ended or expected[2]
    assert ended


@pytest.mark.parametrize(
    ("joints", "upper", "bend", "tip"),
    [
        ((0, 0), 0, 0, (0, 1.2)),
        ((90, 0), 90, 0, (1.2, 0)),
        ((0, 180), -180, 180, (0, 0)),
        ((-90, 90), 0, 90, (-0.6, 0.6)),
    ],
)
def test_links_are_measured_from_upright(joints, upper, bend, tip):
    env = TextGoalInvertedDoublePendulum()
    env.reset(seed=0)
    env.set_state(np.array([0.25, *np.radians(joints)]), np.zeros(3))
    links = measure(env)
    assert (links.cart, links.lower) == (0.25, pytest.approx(joints[0]))
    assert abs(links.upper) == pytest.approx(abs(upper))
    assert links.bend == pytest.approx(bend, abs=1e-6)
    assert links.tip == pytest.approx(tip, abs=1e-9)
    site = env.data.site("tip").xpos
    assert (site[0] - 0.25, site[2]) == pytest.approx(tip, abs=1e-9)
    assert env.success() == (joints == (0, 0))


def test_a_folded_double_pendulum_is_not_upright():
    folded, straight = Links(0.0, 2.0, -178.0), Links(0.0, 2.0, -3.0)
    assert truth(DOUBLE, "folded", folded) == truth(DOUBLE, "upright", straight) == 1
    assert truth(DOUBLE, "upright", folded) == truth(DOUBLE, "folded", straight) == 0
    assert truth(DOUBLE, "lower_up", folded) == truth(DOUBLE, "upper_down", folded) == 1


@pytest.mark.parametrize("kind", [TextGoalPendulum, TextGoalInvertedDoublePendulum])
def test_copies_keep_their_settings(kind):
    env = kind(size=40, quality="full", render_mode="rgb_array")
    env.reset(seed=0)
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        other.reset(seed=0)
        assert other.render().shape == (40, 40, 3)
        assert other.quality == "full"
        other.close()
    env.close()
