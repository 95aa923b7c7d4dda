"""TorchRL agents train, resume and are played like those of Stable-Baselines3, in the same run folders."""

import os
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("torchrl")

from vrm.agents import evaluate
from vrm.agents.record import record_run
from vrm.agents.rollouts import make_envs
from vrm.agents.run import RunFolder
from vrm.agents.torchrl_agent import quiet
from vrm.agents.torchrl_collect import Collection
from vrm.agents.torchrl_ppo import PPO
from vrm.agents.torchrl_sac import SAC
from vrm.agents.torchrl_train import Schedule, train_torchrl
from vrm.agents.train import build
from vrm.configuration import build_algorithm, build_task, compose
from vrm.data import load_demos
from vrm.encoders import load_encoder
from vrm.envs import make_task
from vrm.errors import CheckpointError, UnknownNameError, VrmError
from vrm.rewards import GoalReward

make_sac = partial(SAC, hidden=[16], learning_starts=40, train_freq=4, gradient_steps=2, batch_size=16, buffer_size=64)
make_ppo = partial(PPO, hidden=[16], n_steps=20, batch_size=40, n_epochs=2)
EVERY = {"eval_every": 100, "checkpoint_every": 80, "video_every": 10_000, "eval_episodes": 2}


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


@pytest.fixture(scope="module")
def task():
    return make_task("inverted_pendulum", episode_steps=20)


@pytest.fixture(scope="module")
def reward(task):
    return GoalReward(load_encoder("vrm-sim"), task.goal, task.baseline)


def loaded(task, make, out):
    venv = make_envs(task, 1, 64)
    agent = build(make, venv, seed=1)
    RunFolder(out).load_checkpoint(agent)
    venv.close()
    return agent


@pytest.mark.parametrize(("make", "name"), [(make_sac, "inverted_pendulum"), (make_ppo, "inverted_pendulum"),
                                            (make_ppo, "cartpole")], ids=["sac", "ppo", "discrete ppo"])  # fmt: skip
def test_a_run_folder_holds_everything_and_is_evaluated(make, name, reward, tmp_path):
    task = make_task(name, episode_steps=20)
    result = train_torchrl(task, reward, make, tmp_path, Schedule(total_steps=240, **EVERY), n_envs=4)
    assert set(result) == {"reward_return", "true_return", "success_rate"}
    run = RunFolder(tmp_path)
    assert (run.evaluations()[0]["step"], run.evaluations()[-1]["step"]) == (0, 240)
    for file in ("reward.safetensors", "curve.png", "before_after.png", "evaluations.csv"):
        assert (tmp_path / file).stat().st_size > 0
    assert len(list(run.videos.glob("step_*.mp4"))) == 2
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))
    played = evaluate(task, reward, make, tmp_path, episodes=3, videos=1)
    assert played.reward.shape == (3, 20)
    assert (tmp_path / "evaluation.json").is_file()


def test_a_resumed_run_has_its_weights_optimisers_and_experience(task, reward, tmp_path):
    train_torchrl(task, reward, make_sac, tmp_path, Schedule(total_steps=160, **EVERY), n_envs=4)
    agent = loaded(task, make_sac, tmp_path)
    assert agent.num_timesteps == 160
    assert len(agent.buffer) == 64
    assert len(agent.optimisers["actor"].state_dict()["state"]) > 0
    rewards = agent.buffer[:]["next", "reward"].flatten()
    assert len(rewards.unique()) > 50  # the model's, not the task's own zeros and ones
    observations = np.random.default_rng(0).normal(size=(5, 4))
    assert np.array_equal(agent.predict(observations)[0], loaded(task, make_sac, tmp_path).predict(observations)[0])
    schedule = Schedule(total_steps=240, resume=True, **EVERY)
    train_torchrl(task, reward, make_sac, tmp_path, schedule, n_envs=4)
    assert loaded(task, make_sac, tmp_path).num_timesteps == 240


def test_experience_is_saved_oldest_first(task):
    venv = make_envs(task, 1, 64)
    agent = build(make_sac, venv, seed=0)
    from tensordict import TensorDict

    def steps(first, count):
        numbers = torch.arange(first, first + count, dtype=torch.float32)[None, :, None]
        ended = torch.zeros(1, count, 1, dtype=torch.bool)
        after = {"observation": numbers.expand(1, count, 4), "reward": numbers, "done": ended, "terminated": ended}
        values = {"observation": numbers.expand(1, count, 4), "action": numbers, "next": after}
        return TensorDict(values, [1, count])

    agent.learn(steps(0, 50))
    agent.learn(steps(50, 30))
    assert agent.memory()["next/reward"].flatten().tolist() == list(range(16, 80))
    fresh = build(make_sac, venv, seed=0)
    fresh.remember(agent.memory())
    assert fresh.memory()["action"].flatten().tolist() == list(range(16, 80))
    venv.close()


def test_an_interrupted_run_is_saved(task, reward, tmp_path, capsys):
    class Interrupted(SAC):
        def learn(self, data):
            if self.num_timesteps > 100:
                raise KeyboardInterrupt
            return super().learn(data)

    make = partial(Interrupted, **make_sac.keywords)
    with pytest.raises(KeyboardInterrupt):
        train_torchrl(task, reward, make, tmp_path, Schedule(total_steps=400, **EVERY), n_envs=4)
    assert "continue with: vrm train --resume" in capsys.readouterr().out
    assert loaded(task, make_sac, tmp_path).num_timesteps > 100


def test_a_checkpoint_of_another_agent_is_refused(task, reward, tmp_path):
    train_torchrl(task, reward, make_ppo, tmp_path, Schedule(total_steps=80, **EVERY), n_envs=4)
    with pytest.raises(CheckpointError, match="does not fit this SAC"):
        loaded(task, make_sac, tmp_path)


def test_a_run_is_recorded_from_its_configuration(tmp_path, reward):
    settings = ["task=inverted_pendulum", "task.episode_steps=20", "agent=torchrl_sac", "agent.algorithm.hidden=[16]"]
    config = compose("train", settings)
    RunFolder(tmp_path / "run").write_config(config)
    task, make = build_task(config), build_algorithm(config)
    train_torchrl(task, reward, make, tmp_path / "run", Schedule(total_steps=80, **EVERY), n_envs=4)
    record_run(tmp_path / "run", tmp_path / "films", episodes=2, size=32, only_success=False, states=True, noise=0.5)
    assert load_demos([tmp_path / "films"])[1].actions.shape == (20, 1)
    with np.load(tmp_path / "films" / "episode_00001.npz") as saved:
        assert saved["observations"].shape == (21, 4)
        assert saved["qpos"].shape == (21, 2)
        assert (saved["rewards"].shape, bool(saved["truncated"]), bool(saved["terminated"])) == ((20,), True, False)


def test_rewards_that_need_the_future_label_whole_episodes(task, reward, tmp_path):
    class Backwards(GoalReward):
        causal = False

        def terms(self, clips, goals=None, state=None):
            return {name: values.flip(1) for name, values in super().terms(clips, goals, state).items()}

    venv = make_envs(task, 1, 64)
    agent = build(make_sac, venv, seed=0)
    venv.close()
    model = Backwards(reward.encoder, task.goal, task.baseline)
    collection = Collection(agent, task, model, tmp_path / "none", 2, 64, 0)
    data = next(iter(collection))
    collection.close()
    assert data.shape == (2, 20)
    assert data["next", "done"][:, -1].all()
    assert len(data["next", "reward"].unique()) > 20


@pytest.mark.parametrize("kind", ["sync", "multi"])
def test_a_reward_that_goes_on_learning_is_refused(task, encoder, tmp_path, kind):
    class Learner(GoalReward):
        def observe(self, agent):
            return {}

    with pytest.raises(VrmError, match="Learner goes on learning"):
        train_torchrl(
            task, Learner(encoder, task.goal), make_sac, tmp_path, Schedule(total_steps=80, **EVERY), n_envs=4,
            collector={"kind": kind},
        )  # fmt: skip


def test_what_does_not_go_together_is_told(task, reward, tmp_path):
    cartpole = make_task("cartpole", episode_steps=20)
    with pytest.raises(VrmError, match=r"SAC needs continuous actions.*agent=torchrl_ppo"):
        train_torchrl(cartpole, reward, make_sac, tmp_path, Schedule(total_steps=80), n_envs=4)
    for settings, error, said in (
        ({"kind": "dask"}, UnknownNameError, "Unknown collector 'dask'"),
        ({"kind": "multi", "workers": 3}, VrmError, "n_envs must be a multiple"),
    ):
        with pytest.raises(error, match=said):
            train_torchrl(
                task, reward, make_sac, tmp_path, Schedule(total_steps=80, **EVERY), n_envs=4, collector=settings
            )


@pytest.mark.skipif("VRM_SLOW_TESTS" not in os.environ, reason="workers start in minutes; set VRM_SLOW_TESTS=1")
@pytest.mark.parametrize("kind", ["multi", "ray"])
def test_workers_collect(kind, task, reward, tmp_path):
    result = train_torchrl(
        task, reward, make_sac, tmp_path, Schedule(total_steps=160, **EVERY), n_envs=4,
        collector={"kind": kind, "workers": 2},
    )  # fmt: skip
    assert result["reward_return"] != 0
