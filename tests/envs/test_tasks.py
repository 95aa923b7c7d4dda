"""Tasks as Gymnasium environments: both checkers, seeds, time limits, names, sampling and configs."""

import copy
import pickle
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env
from hydra.utils import instantiate
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import vrm.configs
from vrm.envs import FAMILIES, TASKS, make_task
from vrm.envs.humanoid_poses import POSES, TASK_POSES
from vrm.errors import UnknownNameError
from vrm.rewards import GoalReward
from vrm.wrappers import FrameCapture, RewardWrapper

EVERY_TASK = pytest.mark.parametrize("name", TASKS)
CONFIGS = sorted((Path(vrm.configs.__path__[0]) / "task").glob("*.yaml"))
SMALL = [
    "cartpole", "mountain_car", "inverted_pendulum", "reacher_reach", "fetch_reach", "fetch_push", "ant_rearing",
    "half_cheetah_on_back", "hopper_leg_up", "walker2d_kneeling", "swimmer_u_shape", "humanoid_standup", "pusher",
    "inverted_double_pendulum", "pendulum",
]  # fmt: skip
ONE_OF_EACH = pytest.mark.parametrize("name", ["humanoid_kneeling", *SMALL])


@EVERY_TASK
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity")  # as MuJoCo's are
@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend using a symmetric")  # the pendulum's is +-3
def test_gymnasium_finds_nothing_to_complain_about(name, monkeypatch):
    monkeypatch.setattr(gym.logger, "min_level", gym.logger.WARN)
    check_env(gym.make(TASKS[name].env_id).unwrapped)


@ONE_OF_EACH
@pytest.mark.filterwarnings("ignore:.*We recommend you to use a symmetric and normalized Box action space")
def test_stable_baselines_finds_nothing_to_complain_about_in_wrapped_tasks(name, encoder):
    task = TASKS[name]
    env = RewardWrapper(FrameCapture(task.make(size=32)), GoalReward(encoder, task.goal, task.baseline, alpha=0.5))
    check_env_sb3(env)
    env.close()


@EVERY_TASK
def test_every_task_is_registered_and_says_what_it_wants(name):
    task = TASKS[name]
    assert task.env_id in gym.registry
    assert gym.spec(task.env_id).max_episode_steps == task.episode_steps
    assert all(task.goal)
    assert set(task.goal).isdisjoint(task.baseline)
    assert task.criterion


@EVERY_TASK
def test_episodes_are_cut_at_the_time_limit_and_never_end_before(name):
    env = TASKS[name].make(render_mode=None)
    env.action_space.seed(0)
    env.reset(seed=0)
    ends = []
    for _ in range(TASKS[name].episode_steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert np.isfinite(observation).all()
        assert not terminated
        ends.append(truncated)
    assert ends.index(True) == len(ends) - 1


@ONE_OF_EACH
def test_seed_decides_everything(name):
    def play(seed):
        env = TASKS[name].make(size=24)
        env.action_space.seed(0)
        seen = [env.reset(seed=seed)[0], env.render()]
        for _ in range(12):
            observation, reward, *_ = env.step(env.action_space.sample())
            seen += [observation, np.float64(reward), env.render()]
        env.close()
        return seen

    first, again, other = play(3), play(3), play(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@ONE_OF_EACH
def test_copies_keep_their_settings(name):
    options = {"pose": "lotus", "control": "torque"} if make_task(name).family == "humanoid" else {}
    env = make_task(name, **options).make(size=40, quality="full").unwrapped
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        other.reset(seed=0)
        assert other.render().shape == (40, 40, 3)
        assert other.quality == "full"
        if options:
            assert (other.pose.name, other.control) == ("lotus", "torque")
        other.close()


def test_make_task_changes_what_is_asked_and_nothing_else():
    task = make_task("humanoid_kneeling", "down on its knees", ("a robot", "a figure"), 7, control="torque")
    assert (task.goal, task.baseline, task.episode_steps) == (("down on its knees",), ("a robot", "a figure"), 7)
    env = task.make(render_mode=None)
    assert env.unwrapped.control == "torque"
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(7)] == [False] * 6 + [True]
    assert TASKS["humanoid_kneeling"].options == {}
    assert make_task("cartpole") == TASKS["cartpole"]


def test_unknown_names_and_bad_limits_are_told_in_one_sentence():
    with pytest.raises(UnknownNameError, match=r"Unknown task 'humanoid_kneling'\. Did you mean 'humanoid_kneeling'\?"):
        make_task("humanoid_kneling")
    with pytest.raises(UnknownNameError, match=r"Unknown humanoid pose 'lotos'\. Did you mean 'lotus'\?"):
        make_task("humanoid_lotus", pose="lotos").make()
    with pytest.raises(UnknownNameError, match=r"Unknown control 'positions'\. Did you mean 'position'\?"):
        make_task("humanoid_lotus", control="positions").make()
    with pytest.raises(ValueError, match="episode_steps must be at least 1, got 0"):
        make_task("cartpole", episode_steps=0)


@ONE_OF_EACH
def test_sampling_is_decided_by_the_seed(name):
    one, same, other = (TASKS[name].sample(15, seed, size=24) for seed in (5, 5, 6))
    assert one.frames.shape == (15, 24, 24, 3)
    assert np.array_equal(one.frames, same.frames)
    assert np.array_equal(one.success, same.success)
    assert not np.array_equal(one.frames, other.frames)


def test_sampling_does_not_depend_on_how_actions_are_read():
    position, torque = (
        make_task("humanoid_kneeling", control=c).sample(15, 1, size=24) for c in ("position", "torque")
    )
    assert np.array_equal(position.frames, torque.frames)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "humanoid"])
def test_sampled_states_hold_both_successes_and_failures(family, sampled):
    assert 0.02 < sampled(family).success.mean() < 0.8


@pytest.mark.parametrize("pose", TASK_POSES)
def test_sampled_humanoids_hold_both_successes_and_failures_of_every_pose(pose, sampled):
    success = [POSES[pose].holds(state) for state in sampled("humanoid").states]
    assert 2 <= sum(success) < 0.5 * len(success)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_task_configs_agree_with_the_table(path):
    config = yaml.safe_load(path.read_text())
    task = instantiate(config, _convert_="all")
    assert task.name == path.stem
    for text in ("goal", "baseline"):
        assert getattr(task, text) == getattr(TASKS[task.name], text)
    env = task.make(render_mode=None)
    assert env.spec.max_episode_steps == task.episode_steps
