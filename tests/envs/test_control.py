"""What actions do to the humanoid: joint targets within the actuators' own limits, or torques."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrm.envs import make_task
from vrm.envs.humanoid import SMOOTHING
from vrm.envs.humanoid_poses import POSES, joint_vector


@pytest.fixture(scope="module")
def limits():
    """Largest torque (N m) of each joint in Gymnasium's own humanoid, by joint name."""
    model = gym.make("Humanoid-v5").unwrapped.model
    joints = [model.joint(j).name for j in model.actuator_trnid[:, 0]]
    return dict(zip(joints, model.actuator_gear[:, 0] * model.actuator_ctrlrange[:, 1], strict=True))


def make(control):
    env = make_task("humanoid_kneeling", control=control).make(render_mode=None).unwrapped
    env.reset(seed=0)
    return env


def torques(env):
    """Torque (N m) at each actuated joint, by name."""
    model = env.model
    joints = model.actuator_trnid[:, 0]
    return {model.joint(j).name: env.data.qfrc_actuator[model.jnt_dofadr[j]] for j in joints}


def test_servos_stay_within_the_limits_of_gymnasiums_actuators(limits):
    env, rng, used = make("position"), np.random.default_rng(0), dict.fromkeys(limits, 0.0)
    for step in range(150):
        if step % 10 == 0:
            targets = env.joint_targets(rng.choice([-1.0, 1.0], env.model.nu))
        env.do_simulation(targets, 1)
        for name, torque in torques(env).items():
            used[name] = max(used[name], abs(torque) / limits[name])
    assert max(used.values()) <= 1 + 1e-9
    assert np.mean([share > 0.999 for share in used.values()]) > 0.7, "the limits are reached, or this shows nothing"


def test_torque_control_is_gymnasiums(limits):
    env = make("torque")
    for sign in (1.0, -1.0):
        env.step(np.full(env.model.nu, 5 * sign, dtype=np.float32))
        assert torques(env) == pytest.approx({name: sign * limit for name, limit in limits.items()})
    env.step(np.full(env.model.nu, 0.25, dtype=np.float32))
    assert torques(env) == pytest.approx({name: 0.25 * limit for name, limit in limits.items()})


def test_both_controls_are_the_same_body_with_the_same_actions():
    position, torque = make("position"), make("torque")
    assert position.action_space == torque.action_space == gym.spaces.Box(-1.0, 1.0, (17,), np.float32)
    assert torque.observation_space.shape == (45,)
    assert position.observation_space.shape == (45 + 17,)  # and where the servos aim
    np.testing.assert_array_equal(position.model.body_mass, torque.model.body_mass)
    np.testing.assert_array_equal(position.model.jnt_range, torque.model.jnt_range)


def test_zero_is_the_stance_and_the_ends_are_the_joints_limits():
    env = make("position")
    low, high = env.model.jnt_range[env.model.actuator_trnid[:, 0]].T
    np.testing.assert_allclose(env.joint_targets(-np.ones(17)), low)
    np.testing.assert_allclose(env.joint_targets(np.ones(17)), high)
    np.testing.assert_allclose(env.joint_targets(np.zeros(17)), np.clip(0, low, high))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=17, max_size=17))
def test_actions_and_joint_targets_are_inverse(actions):
    env, action = SHARED, np.array(actions)
    angles = env.joint_targets(action)
    low, high = env.model.jnt_range[env.model.actuator_trnid[:, 0]].T
    assert (angles >= low - 1e-12).all()
    assert (angles <= high + 1e-12).all()
    back = env.action_for(angles)
    np.testing.assert_allclose(env.joint_targets(back), angles, atol=1e-9)
    moves = (env.joint_targets(np.sign(action)) != env.joint_targets(np.zeros(17))) & (np.abs(action) > 1e-6)
    np.testing.assert_allclose(back[moves], action[moves], atol=1e-6)


SHARED = make_task("humanoid_kneeling").make(render_mode=None).unwrapped


def test_actions_beyond_the_box_count_as_its_edge():
    one, other = make("position"), make("position")
    np.testing.assert_array_equal(one.step(np.full(17, 9.0))[0], other.step(np.ones(17))[0])


def test_servos_reach_the_pose_they_are_told():
    """Kneeling by hand: fold the knees from standing, and most of the body is where it was told to be."""
    env = make("position")
    actuated = env.model.jnt_qposadr[env.model.actuator_trnid[:, 0]]
    angles = joint_vector(env.model, POSES["kneeling"].joints)[actuated - 7]
    for _ in range(100):
        env.step(env.action_for(angles).astype(np.float32))
    assert np.median(np.abs(env.data.qpos[actuated] - angles)) < np.radians(8)


def test_servos_aim_at_a_smoothed_action():
    env = make("position")
    env.reset(seed=0)
    action = np.full(17, 0.5, dtype=np.float32)
    for step in range(1, 12):
        aim = env.step(action)[0][45:]
        np.testing.assert_allclose(aim, 0.5 * (1 - SMOOTHING**step), atol=1e-9)
    assert not env.reset(seed=0)[0][45:].any()


def test_both_controls_tell_their_frame_rate():
    for control, fps in (("position", 33), ("torque", 67)):
        env = make(control)
        assert env.metadata["render_fps"] == fps == round(1 / env.dt)
