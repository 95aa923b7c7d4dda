"""Recordings of real play: what is kept, what is played again, and what is read back."""

import json

import gymnasium as gym
import numpy as np
import pytest

from vrm.agents.record import record, record_command, record_run
from vrm.agents.rollouts import make_envs
from vrm.agents.run import RunFolder
from vrm.agents.train import build
from vrm.configuration import build_algorithm, build_task, compose
from vrm.data import DemoError, load_demos
from vrm.envs import make_task
from vrm.errors import CheckpointError
from vrm.video import read_video

STEPS = 20


@pytest.fixture(scope="module")
def task():
    return make_task("cartpole", episode_steps=STEPS)


def balance(observation):
    """Push the cart under the falling pole."""
    return (observation[:, 2] + observation[:, 3] > 0).astype(np.int64)


def push_left(observation):
    return np.zeros(len(observation), np.int64)


class Counting:
    """A policy that counts its steps."""

    def __init__(self, policy):
        self.policy, self.steps = policy, 0

    def __call__(self, observation):
        self.steps += len(observation)
        return self.policy(observation)


def fails_at_odd_seeds(task):
    """A policy that balances in every other episode: episodes are told apart by their first observation."""
    env = task.make(size=32)
    odd = {float(env.reset(seed=seed)[0][2]) for seed in range(1, 20, 2)}
    env.close()
    state = {"act": balance}

    def act(observation):
        if abs(float(observation[0, 2])) < 0.06 and float(observation[0, 2]) in odd:
            state["act"] = push_left
        elif state.get("steps", 0) % STEPS == 0:
            state["act"] = balance
        state["steps"] = state.get("steps", 0) + 1
        return state["act"](observation)

    return act


def test_a_recording_is_read_back_with_all_it_says(task, tmp_path):
    paths = record(task, balance, tmp_path / "good", episodes=2, seed=3)
    assert [path.name for path in paths] == ["episode_00003.mp4", "episode_00004.mp4"]
    first, second = load_demos([tmp_path / "good"])
    assert (first.name, first.text, first.success) == ("good/episode_00003", task.goal[0], True)
    assert first.frames.shape == (STEPS + 1, 3, 128, 128)
    assert first.fps == 50
    assert first.actions.shape == (STEPS, 1)
    assert first.stages is None
    assert not np.array_equal(first.frames, second.frames)


def test_the_recorded_actions_lead_from_frame_to_frame(task, tmp_path):
    record(task, push_left, tmp_path, episodes=1, seed=7, only_success=False)
    (demo,) = load_demos([tmp_path])
    env = task.make(size=128)
    env.reset(seed=7)
    shots = [env.render().copy()]
    for action in demo.actions:
        env.step(int(action[0]))
        shots.append(env.render().copy())
    env.close()
    seen = demo.frames.permute(0, 2, 3, 1).numpy().astype(int)
    errors = np.array([[np.abs(frame - shot).mean() for shot in shots] for frame in seen])
    assert errors.argmin(axis=1).tolist()[2:] == list(range(2, STEPS + 1))  # the first two hardly differ


def test_failed_episodes_are_left_out_but_remembered(task, tmp_path):
    paths = record(task, fails_at_odd_seeds(task), tmp_path, episodes=2)
    assert [path.name for path in paths] == ["episode_00000.mp4", "episode_00002.mp4"]
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["done"], row["file"] is None) for row in rows] == [
        (0, True, False), (1, False, True), (2, True, False),
    ]  # fmt: skip
    assert len(load_demos([tmp_path])) == 2


def test_all_episodes_are_kept_with_their_outcome_if_asked(task, tmp_path):
    record(task, fails_at_odd_seeds(task), tmp_path, episodes=2, only_success=False)
    assert [demo.success for demo in load_demos([tmp_path])] == [True, False]


def test_episodes_already_there_are_not_played_again(task, tmp_path):
    before = record(task, balance, tmp_path, episodes=2, size=32)
    stamps = [path.stat().st_mtime_ns for path in before]
    policy = Counting(balance)
    after = record(task, policy, tmp_path, episodes=3, size=32)
    assert policy.steps == STEPS
    assert after[:2] == before
    assert [path.stat().st_mtime_ns for path in before] == stamps


def test_a_recording_that_lost_its_last_line_or_a_video_equals_an_uninterrupted_one(task, tmp_path):
    whole = record(task, balance, tmp_path / "whole", episodes=3, size=32)
    record(task, balance, tmp_path / "cut", episodes=3, size=32)
    index = tmp_path / "cut" / "episodes.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:2]))
    (tmp_path / "cut" / "episode_00000.mp4").unlink()
    again = record(task, balance, tmp_path / "cut", episodes=3, size=32)
    assert sorted(p.name for p in again) == [p.name for p in whole]
    assert all((read_video(p) == read_video(tmp_path / "cut" / p.name)).all() for p in whole)


def test_rejected_episodes_are_played_again_once_the_bar_is_lower(task, tmp_path):
    with pytest.raises(
        DemoError, match=r"Only 0 of 2 episodes, not 2, meet the criterion of cartpole.*best reaches 0%"
    ):
        record(task, push_left, tmp_path, episodes=2, max_tries=2, size=32)
    assert len(record(task, push_left, tmp_path, episodes=2, max_tries=2, size=32, only_success=False)) == 2


def test_a_folder_holds_one_recording(task, tmp_path):
    record(task, balance, tmp_path, episodes=1, size=32)
    with pytest.raises(DemoError, match="with size 32, not 64"):
        record(task, balance, tmp_path, episodes=2, size=64)
    with pytest.raises(DemoError, match="with policy 'policy', not 'other'"):
        record(task, balance, tmp_path, episodes=2, size=32, policy_name="other")


def test_nothing_but_failures_cannot_be_read(task, tmp_path):
    with pytest.raises(DemoError, match="Only 0 of 1"):
        record(task, push_left, tmp_path, episodes=1, max_tries=1, size=32)
    with pytest.raises(DemoError, match="keeps no episode"):
        load_demos([tmp_path])


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "is damaged"), ('{"seed": 1}', "is damaged"), ("[]", "is damaged"), (None, "describes 3")],
)
def test_a_damaged_index_is_named(task, tmp_path, line, message):
    record(task, balance, tmp_path, episodes=1, size=32)
    index = tmp_path / "episodes.jsonl"
    row = json.loads(index.read_text())
    index.write_text(json.dumps({**row, "success": [1, 1, 1]}) if line is None else line)
    with pytest.raises(DemoError, match=message):
        load_demos([tmp_path])


def test_an_index_cannot_point_outside_its_folder(task, tmp_path):
    record(task, balance, tmp_path, episodes=1, size=32)
    index = tmp_path / "episodes.jsonl"
    index.write_text(json.dumps({**json.loads(index.read_text()), "file": "../secret.mp4"}))
    with pytest.raises(DemoError, match="a name in the same folder"):
        load_demos([tmp_path])


@pytest.mark.parametrize(
    "settings", [{"episodes": 0}, {"size": 4}, {"min_success": 0.0}, {"min_success": 1.5}, {"max_tries": 1}]
)
def test_numbers_out_of_range_are_refused(task, tmp_path, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        record(task, balance, tmp_path, **settings)
    assert not (tmp_path / "episodes.jsonl").exists()


class Stages(gym.Wrapper):
    """Says how far the episode is."""

    def reset(self, **kwargs):
        self.left = STEPS // 2
        observation, info = self.env.reset(**kwargs)
        return observation, {**info, "stage": 0}

    def step(self, action):
        self.left -= 1
        *step, info = self.env.step(action)
        return *step, {**info, "stage": int(self.left < 0)}


def test_true_stages_are_recorded_where_the_environment_says_them(tmp_path):
    class Staged(type(make_task("cartpole"))):
        def make(self, **options):
            return Stages(super().make(**options))

    plain = make_task("cartpole", episode_steps=STEPS)
    record(Staged(**vars(plain)), balance, tmp_path, episodes=1, size=32)
    (demo,) = load_demos([tmp_path], fps=25)
    assert demo.stages.tolist() == [0] * 6 + [1] * 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose agent has not learned anything yet, with its checkpoint of step 40."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "short")
    config = compose("train", ["task=cartpole", "agent=ppo"])
    config["task"]["episode_steps"] = STEPS
    folder.write_config(config)
    venv = make_envs(build_task(config), 2, config["size"])
    algorithm = build(build_algorithm(config), venv, seed=0)
    algorithm.num_timesteps = 40
    folder.save_checkpoint(algorithm)
    venv.close()
    return folder.path


def test_a_run_is_recorded_from_its_newest_checkpoint(run, tmp_path, capsys):
    arguments = [str(run), "--out", str(tmp_path), "--episodes", "2", "--size", "32", "--all", "--seed", "5"]
    assert record_command(arguments) == 0
    assert "2 episodes kept, 2 tried" in capsys.readouterr().out
    demos = load_demos([tmp_path])
    assert [demo.name for demo in demos] == [f"{tmp_path.name}/episode_0000{seed}" for seed in (5, 6)]
    assert demos[0].frames.shape == (STEPS + 1, 3, 32, 32)
    row = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])
    assert row["policy"] == "short at step 40"
    assert record_run(run, tmp_path, episodes=2, size=32, only_success=False, seed=5)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run"):
        record_run(tmp_path, tmp_path / "out")


def test_a_bad_number_on_the_command_line_is_a_usage_error(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        record_command([str(run), "--out", str(tmp_path), "--episodes", "0"])
    assert "episodes must be at least 1" in capsys.readouterr().err
