"""The pusher and the humanoid that gets up: Gymnasium's bodies, what is measured of them, and what counts as done."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from vrm.envs import humanoid_standup, pusher
from vrm.envs.humanoid_poses import joint_vector, place
from vrm.envs.humanoid_standup import CAPTIONER, EXAMPLES, TextGoalHumanoidStandup
from vrm.envs.pusher import LYING, TextGoalPusher


@pytest.fixture(scope="module")
def standup():
    env = TextGoalHumanoidStandup()
    env.reset(seed=0)
    return env


def test_the_pusher_is_gymnasiums_with_a_success():
    ours, theirs = TextGoalPusher(), gym.make("Pusher-v5").unwrapped
    np.testing.assert_array_equal(ours.reset(seed=2)[0], theirs.reset(seed=2)[0])
    ours.action_space.seed(0)
    for _ in range(30):
        action = ours.action_space.sample()
        observation, reward, terminated, truncated, info = ours.step(action)
        expected = theirs.step(action)
        np.testing.assert_allclose(observation, expected[0])
        assert (reward, terminated, truncated) == (pytest.approx(expected[1]), False, False)
        assert info["success"] is False


@pytest.mark.parametrize(("offset", "done"), [((0, 0), True), ((0.03, 0.03), True), ((0.06, 0), False)])
def test_the_cylinder_counts_as_pushed_within_five_centimetres(offset, done):
    env = TextGoalPusher()
    env.reset(seed=0)
    pusher._place(env, np.zeros(7), np.array(offset), np.zeros(2))
    scene = pusher.measure(env)
    assert scene.cylinder[:2] == pytest.approx(np.add(LYING, offset))
    assert scene.miss == pytest.approx(np.hypot(*offset))
    assert env.success() is done


def test_cylinder_and_target_show_where_they_lie():
    env = TextGoalPusher(size=96, render_mode="rgb_array")
    env.reset(seed=0)

    def seen(cylinder):
        pusher._place(env, np.array([-2.2, -0.5, 0, 0, 0, 0, 0]), np.array(cylinder), np.zeros(2))
        red, green, blue = env.render().astype(int).transpose(2, 0, 1)
        places = [np.argwhere(mask).mean(axis=0) for mask in (blue - red > 70, (red - green > 120) & (blue < 90))]
        return places[0] - places[1]  # rows down, columns to the right

    assert seen((0, 0.2))[1] > 10  # +y is the picture's right
    assert seen((0, -0.2))[1] < -10
    assert seen((0.2, 0))[0] > 5  # +x is towards the camera
    assert seen((-0.2, 0))[0] < -5
    env.close()


def test_sampled_arms_lie_neither_in_the_table_nor_in_the_cylinder():
    env = TextGoalPusher()
    env.reset(seed=0)
    for _, scene in zip(range(150), pusher.sample(env, np.random.default_rng(0), True), strict=False):
        assert not pusher._overlaps(env)
        assert scene.fork[2] > -0.33


@pytest.mark.parametrize(
    ("pose", "facts"),
    [
        ("lying_back", ("lying", "lying_back", "head_low", "on_floor", "legs_straight")),
        ("lying_front", ("lying", "lying_front", "head_low")),
        ("lying_left", ("lying", "lying_side")),
        ("sitting", ("sitting", "upright", "half_up")),
        ("kneeling", ("kneeling", "upright", "knees_bent")),
        ("squatting", ("squatting", "knees_bent")),
        ("bent_over", ("bent_over",)),
        ("all_fours", ("all_fours", "knees_bent")),
        ("standing", ("standing", "upright", "head_high", "legs_straight")),
        ("standing_legs_apart", ("standing", "legs_apart")),
    ],
)
def test_example_poses_are_what_their_names_say(standup, pose, facts):
    example = EXAMPLES[pose]
    turn = np.radians([30, example.pitch, example.roll])
    place(standup.model, standup.data, joint_vector(standup.model, example.joints), turn)
    state = humanoid_standup.measure(standup.model, standup.data)
    truths = dict(zip([f.name for f in CAPTIONER.facts], CAPTIONER.truths(state), strict=True))
    assert {name: truths[name] for name in facts if truths[name] < 0.7} == {}
    assert standup.success() == pose.startswith("standing")


def test_it_starts_lying_on_its_back_and_is_paid_for_height():
    env = TextGoalHumanoidStandup()
    _, info = env.reset(seed=0)
    assert info["success"] is False
    state = humanoid_standup.measure(env.model, env.data)
    assert (state.facing_up > 0.95, state.head < 0.2) == (True, True)
    _, low, *_ = env.step(np.zeros(17, np.float32))
    place(env.model, env.data, joint_vector(env.model, EXAMPLES["standing"].joints), np.radians([0, 90, 0]))
    _, high, _, _, info = env.step(np.zeros(17, np.float32))
    assert low < 0.2 < 1.0 < high
    assert info["success"] is True


def test_the_body_and_its_motors_are_gymnasiums(standup):
    theirs = gym.make("HumanoidStandup-v5").unwrapped.model
    np.testing.assert_array_equal(standup.model.body_mass, theirs.body_mass)
    np.testing.assert_array_equal(standup.model.jnt_range, theirs.jnt_range)
    torque = TextGoalHumanoidStandup(control="torque")
    np.testing.assert_allclose(torque.model.actuator_gear[:, 0], 0.4 * theirs.actuator_gear[:, 0])
    assert isinstance(torque.data, mujoco.MjData)
    assert torque.control == "torque"
