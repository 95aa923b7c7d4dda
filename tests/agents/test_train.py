"""Training runs for real: small networks, few steps, the bundled encoder."""

from functools import partial

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC

from vrm.agents import evaluate, train
from vrm.agents.rollouts import make_envs
from vrm.agents.run import RunFolder
from vrm.agents.train import build, calibrate_on_random_play
from vrm.encoders import load_encoder
from vrm.envs import make_task
from vrm.errors import CheckpointError
from vrm.rewards import GoalReward

SMALL = {"net_arch": [16]}
make = partial(SAC, "MlpPolicy", learning_starts=40, train_freq=4, gradient_steps=2, batch_size=16, buffer_size=600)
SETTINGS = {"n_envs": 4, "eval_every": 100, "checkpoint_every": 80, "video_every": 10_000, "eval_episodes": 2}


@pytest.fixture(scope="module")
def task():
    return make_task("humanoid_kneeling", episode_steps=20)


@pytest.fixture(scope="module")
def reward(task):
    reward = GoalReward(load_encoder("vrm-sim"), task.goal, task.baseline)
    calibrate_on_random_play(reward, task, episodes=3)
    return reward


class Crash(RuntimeError):
    """Stands for a power cut."""


class CrashingReward(GoalReward):
    """Pays a while, then fails."""

    left = 0

    def terms(self, clips, goals=None, state=None):
        if self.left <= 0:
            raise Crash
        self.left -= clips.shape[0]
        return super().terms(clips, goals, state)


def steps_and_buffer(task, out):
    venv = make_envs(task, 4, 64)
    algo = build(make, venv, seed=0)
    RunFolder(out).load_checkpoint(algo)
    venv.close()
    return algo


def test_run_folder_holds_everything(task, reward, tmp_path):
    result = train(task, reward, make, tmp_path, total_steps=240, **SETTINGS)
    assert set(result) == {"reward_return", "true_return", "success_rate"}
    assert 0 <= result["success_rate"] <= 1
    assert [row["step"] for row in RunFolder(tmp_path).evaluations()] == [0, 112, 208, 240]
    for name in ("reward.safetensors", "curve.png", "before_after.png", "evaluations.csv"):
        assert (tmp_path / name).stat().st_size > 0
    assert len(list((tmp_path / "videos").glob("step_*.mp4"))) == 2
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))


def test_buffer_holds_model_rewards_not_the_predicate(task, reward, tmp_path):
    train(task, reward, make, tmp_path, total_steps=160, **SETTINGS)
    rewards = steps_and_buffer(task, tmp_path).replay_buffer.rewards[:40]
    assert len(np.unique(rewards)) > 100
    assert not np.isin(rewards, (0.0, 1.0)).all()


def test_crashed_and_resumed_equals_uninterrupted(task, reward, tmp_path):
    train(task, reward, make, tmp_path / "whole", total_steps=320, **SETTINGS)
    crashing = CrashingReward(reward.encoder, task.goal, task.baseline)
    crashing.left = 320
    with pytest.raises(Crash):
        train(task, crashing, make, tmp_path / "crashed", total_steps=320, **SETTINGS)
    saved = steps_and_buffer(task, tmp_path / "crashed")
    assert 0 < saved.num_timesteps < 320
    train(task, reward, make, tmp_path / "crashed", total_steps=320, resume=True, **SETTINGS)
    whole, resumed = (steps_and_buffer(task, tmp_path / name) for name in ("whole", "crashed"))
    assert resumed.num_timesteps == whole.num_timesteps == 320
    assert resumed.replay_buffer.pos == whole.replay_buffer.pos
    kept = saved.replay_buffer.pos
    np.testing.assert_array_equal(resumed.replay_buffer.observations[:kept], saved.replay_buffer.observations[:kept])
    steps = [[row["step"] for row in RunFolder(tmp_path / n).evaluations()] for n in ("whole", "crashed")]
    assert steps[0][-1] == steps[1][-1] == 320
    assert steps[1] == sorted(set(steps[1]))


def test_resume_without_checkpoint_says_so(task, reward, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(task, reward, make, tmp_path, total_steps=10, resume=True, **SETTINGS)


def test_damaged_checkpoint_is_named(task, reward, tmp_path):
    train(task, reward, make, tmp_path, total_steps=80, **SETTINGS)
    weights = next((tmp_path / "checkpoints").iterdir()) / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        train(task, reward, make, tmp_path, total_steps=100, resume=True, **SETTINGS)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("humanoid_kneeling", partial(PPO, "MlpPolicy", n_steps=20, batch_size=20, n_epochs=1)),
        ("cartpole", partial(DQN, "MlpPolicy", learning_starts=20, buffer_size=200, batch_size=8)),
    ],
)
def test_other_algorithms_train(name, algorithm, reward, tmp_path):
    small = make_task(name, episode_steps=20)
    goal = GoalReward(reward.encoder, small.goal)
    result = train(small, goal, partial(algorithm, policy_kwargs=dict(SMALL)), tmp_path, total_steps=160, **SETTINGS)
    assert np.isfinite(list(result.values())).all()


def test_evaluate_writes_videos_and_report(task, reward, tmp_path):
    train(task, reward, make, tmp_path, total_steps=80, **SETTINGS)
    played = evaluate(task, reward, make, tmp_path, episodes=3, videos=1)
    assert played.success.shape == (3, 20)
    assert (tmp_path / "videos" / "evaluation_0.mp4").stat().st_size > 0
    assert (tmp_path / "evaluation.png").exists()
    again = evaluate(task, reward, make, tmp_path, episodes=3, videos=0)
    np.testing.assert_allclose(again.reward, played.reward, atol=1e-5)


def test_zero_steps_are_refused(task, reward, tmp_path):
    with pytest.raises(ValueError, match="total_steps"):
        train(task, reward, make, tmp_path, total_steps=0)
