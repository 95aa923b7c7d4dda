"""Success predicates on hand-made poses and on slightly broken ones."""

from dataclasses import replace

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import vrm.envs
from vrm.envs.humanoid_poses import ARMS_DOWN, POSES, TASK_POSES, both, show
from vrm.envs.humanoid_state import measure

# which criteria hold on which example; a pose that only adds something to another one holds both
HOLDS = {
    "standing": {"standing"}, "kneeling": {"kneeling"}, "lotus": {"lotus"}, "splits": {"splits"},
    "arms_raised": {"standing", "arms_raised"}, "hands_on_hips": {"standing", "hands_on_hips"},
    "one_leg": {"one_leg"}, "arms_crossed": {"standing", "arms_crossed"}, "t_pose": {"standing"},
    "arms_forward": {"standing"}, "right_arm_raised": {"standing"}, "left_arm_raised": {"standing"},
    "legs_apart": {"standing"}, "sitting_on_heels": {"kneeling"}, "kneeling_arms_raised": {"kneeling"},
}  # fmt: skip
RIGHT_ARM_DOWN = {name: angle for name, angle in ARMS_DOWN.items() if "right" in name}
BROKEN = {
    "standing, knees bent": ("standing", both({"right_knee": -70, "right_hip_y": -60})),
    "standing, one knee drawn up": ("standing", {"right_knee": -90, "right_hip_y": -60}),
    "kneeling, one foot planted": ("kneeling", {"right_knee": -90, "right_hip_y": -90}),
    "kneeling, legs in front": ("kneeling", both({"right_knee": -10, "right_hip_y": -90})),
    "kneeling, knees turned out": ("kneeling", POSES["lotus"].joints),
    "lotus, legs stretched": ("lotus", both({"right_knee": -5})),
    "lotus, knees in front": ("lotus", both({"right_hip_z": 0, "right_knee": -120})),
    "arms raised, one down": ("arms_raised", RIGHT_ARM_DOWN),
    "arms raised, on the knees": ("arms_raised", POSES["kneeling"].joints | POSES["kneeling_arms_raised"].joints),
    "splits, legs closed": ("splits", both({"right_hip_z": 0, "right_hip_x": 0})),
    "splits, knees bent": ("splits", both({"right_knee": -120})),
    "hands on hips, one down": ("hands_on_hips", RIGHT_ARM_DOWN),
    "hands on hips, on the knees": ("hands_on_hips", both({"right_knee": -95, "right_hip_y": -5})),
    "one leg, both feet down": ("one_leg", {"right_knee": -2, "right_hip_y": 0}),
    "one leg, foot hardly lifted": ("one_leg", {"right_knee": -25, "right_hip_y": -12}),
    "arms crossed, one down": ("arms_crossed", RIGHT_ARM_DOWN),
    "arms crossed, arms forward": ("arms_crossed", POSES["arms_forward"].joints),
}


def held(state):
    return {name for name in TASK_POSES if POSES[name].holds(state)}


@pytest.mark.parametrize("name", POSES)
def test_criteria_that_hold_on_each_example_from_any_side(humanoid, name):
    for yaw in range(0, 360, 25):
        assert held(show(humanoid.model, humanoid.data, POSES[name], yaw)) == HOLDS.get(name, set()), yaw


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pose_does_not_count(humanoid, name):
    pose, joints = BROKEN[name]
    state = show(humanoid.model, humanoid.data, replace(POSES[pose], joints=POSES[pose].joints | joints))
    assert not POSES[pose].holds(state)


@pytest.mark.parametrize("name", TASK_POSES)
@pytest.mark.parametrize("turn", [{"pitch": 65}, {"pitch": -65}, {"roll": 65}, {"pitch": 90}, {"roll": 180}])
def test_no_pose_counts_when_tipped_over(humanoid, name, turn):
    assert held(show(humanoid.model, humanoid.data, replace(POSES[name], **turn))) == set()


@pytest.mark.parametrize("name", TASK_POSES)
def test_no_pose_counts_in_the_air(humanoid, name):
    show(humanoid.model, humanoid.data, POSES[name])
    humanoid.data.qpos[2] += 0.4
    mujoco.mj_forward(humanoid.model, humanoid.data)
    assert held(measure(humanoid.model, humanoid.data)) == set()


@pytest.mark.parametrize("name", TASK_POSES)
def test_small_noise_does_not_matter(humanoid, name):
    rng = np.random.default_rng(0)
    for _ in range(5):
        joints = {k: v + rng.normal(0, 1.0) for k, v in POSES[name].joints.items()}
        assert POSES[name].holds(show(humanoid.model, humanoid.data, replace(POSES[name], joints=joints)))


def test_one_leg_counts_for_the_left_leg_too(humanoid):
    joints = {k: v for k, v in POSES["one_leg"].joints.items() if "arm" not in k}
    swapped = {"right_knee": -2, "right_hip_y": 0, "left_knee": -90, "left_hip_y": -60}
    assert held(show(humanoid.model, humanoid.data, replace(POSES["one_leg"], joints=joints | swapped))) == {"one_leg"}


@pytest.mark.parametrize("pose", TASK_POSES)
def test_environment_pays_for_its_own_criterion(pose):
    env = vrm.envs.TASKS[f"humanoid_{pose}"].make(render_mode=None)
    env.reset(seed=0)
    base = env.unwrapped
    show(base.model, base.data, POSES[pose])
    assert base.success()
    assert base.pose.name == pose
    show(base.model, base.data, POSES["lying_back"])
    assert not base.success()


def test_both_sides_are_measured_alike(humanoid):
    state = show(humanoid.model, humanoid.data, POSES["lotus"], yaw=77)
    for pair in (state.hand_at, state.elbow_at, state.knee_at, state.foot_at, state.knees, state.feet, state.hands):
        np.testing.assert_allclose(pair[0], pair[1], atol=1e-6)
    state = show(humanoid.model, humanoid.data, POSES["right_arm_raised"])
    assert state.hands[0] > state.head > state.hands[1]


def test_cartpole_counts_within_twelve_degrees_on_the_track():
    env = gym.make("vrm/CartPole-v0").unwrapped
    env.reset(seed=0)
    inside, outside = [(0, 0), (11, 0), (-11, 2)], [(13, 0), (-13, 0), (180, 0), (0, 2.4)]
    for degrees, x in inside + outside:
        env.state = np.array([x, 0.0, np.radians(degrees), 0.0])
        assert env.success() is ((degrees, x) in inside)


def test_cartpole_swings_all_around_and_stops_at_the_end_of_the_track():
    env = gym.make("vrm/CartPole-v0").unwrapped
    env.reset(seed=0)
    angles, places = [], []
    for _ in range(200):
        observation, reward, terminated, truncated, info = env.step(1)
        assert env.observation_space.contains(observation)
        assert reward == info["success"]
        assert not terminated
        assert not truncated
        angles.append(observation[2])
        places.append(observation[0])
    assert min(angles) < -3
    assert max(angles) > 3
    assert max(places) == np.float32(2.4)
    assert env.reset(seed=0)[1]["success"], "what happened before is forgotten"


def test_mountain_car_is_held_at_the_flag_until_the_reset():
    env = gym.make("vrm/MountainCar-v0").unwrapped
    assert not env.reset(seed=0)[1]["success"]
    env.state = np.array([0.44, 0.05], dtype=np.float32)
    assert not env.success()
    for push in (1.0, -1.0, -1.0, -1.0):
        observation, reward, terminated, _, info = env.step(np.array([push], dtype=np.float32))
        assert (reward, info["success"], terminated) == (1.0, True, False)
        assert observation[0] == np.float32(env.goal_position)
    assert not env.reset(seed=0)[1]["success"]
    assert not env.step(np.array([0.0], dtype=np.float32))[4]["success"]


def test_inverted_pendulum_counts_within_a_fifth_of_a_radian_after_any_number_of_turns():
    env = gym.make("vrm/InvertedPendulum-v0").unwrapped
    env.reset(seed=0)
    for angle, expected in ((0, True), (0.19, True), (-0.19, True), (0.21, False), (np.pi, False), (4 * np.pi, True)):
        env.set_state(np.array([0.0, angle]), np.zeros(2))
        assert env.success() is expected
    for _ in range(60):
        info = env.step(np.array([3.0], dtype=np.float32))[4]
    assert not info["success"], "the pole falls where the cart is pushed to one side"
    assert env.reset(seed=0)[1]["success"]
