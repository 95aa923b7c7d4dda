"""Offline agents on made-up data, where what they should learn is known."""

from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("torchrl")

from vrm.agents.evaluate import evaluate
from vrm.agents.record import record
from vrm.agents.rollouts import make_envs
from vrm.agents.run import RunFolder
from vrm.agents.torchrl_agent import quiet
from vrm.agents.torchrl_offline import BC, CQL, IQL, TD3BC
from vrm.agents.torchrl_train import Schedule, train_offline
from vrm.agents.train import build
from vrm.data.demos import DemoError
from vrm.data.trajectories import Transitions
from vrm.envs import make_task
from vrm.errors import VrmError
from vrm.rewards import StateValue

SMALL = {"hidden": [32], "learning_rate": 3e-3, "batch_size": 64}


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


def agent_for(kind, name="inverted_pendulum", **settings):
    venv = make_envs(make_task(name), 1, 16)
    agent = build(partial(kind, **{**SMALL, **settings}), venv, seed=0)
    venv.close()
    return agent


def bandit(count=1000):
    """One-step episodes: the farther right the action the better, while the dataset acts at random."""
    rng = torch.Generator().manual_seed(0)
    observations = torch.randn(count, 4, generator=rng) * 3 + 5
    actions = torch.rand(count, 1, generator=rng) * 4 - 2
    return Transitions(observations, actions, actions[:, 0].clone(), observations, torch.ones(count, dtype=torch.bool))


@pytest.mark.parametrize("kind", [IQL, CQL, TD3BC])
def test_rewards_move_the_policy_away_from_the_data(kind):
    agent, cloned = agent_for(kind), agent_for(BC)
    for learner in (agent, cloned):
        learner.study(bandit())
        for _ in range(60 if kind is CQL else 200):
            learner.update()
            learner.num_timesteps += 1
    observations = bandit().observations[:50].numpy()
    assert abs(cloned.predict(observations)[0].mean()) < 0.5
    assert agent.predict(observations)[0].mean() > cloned.predict(observations)[0].mean() + 0.3


def test_all_networks_are_normalised_by_the_data():
    agent = agent_for(IQL)
    agent.study(bandit())
    means = [values for name, values in agent._tensors() if name.endswith("mean")]
    assert len(means) > 4
    assert all(torch.allclose(values, torch.full_like(values, 5.0), atol=0.5) for values in means)


def test_cloning_learns_discrete_actions():
    agent = agent_for(BC, "cartpole")
    observations = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    actions = (observations[:, 2:3] > 0).float()
    ended = torch.zeros(500, dtype=torch.bool)
    agent.study(Transitions(observations, actions, torch.zeros(500), observations, ended))
    for _ in range(200):
        agent.update()
    chosen = agent.predict(observations.numpy())[0]
    assert (chosen == actions[:, 0].numpy()).mean() > 0.9
    assert chosen.dtype == np.int64


def test_an_offline_run_is_like_any_other_and_goes_on(tmp_path):
    task = make_task("inverted_pendulum", episode_steps=10)
    record(task, lambda obs: np.zeros((len(obs), 1), np.float32), tmp_path / "data", episodes=2, size=16,
           only_success=False, states=True)  # fmt: skip
    make, reward = partial(IQL, **SMALL), StateValue("env_reward")
    every = {"eval_every": 50, "checkpoint_every": 50, "eval_episodes": 2}
    train_offline(task, reward, make, tmp_path / "data", tmp_path / "run", Schedule(total_steps=60, **every))
    train_offline(
        task, reward, make, tmp_path / "data", tmp_path / "run", Schedule(total_steps=100, resume=True, **every)
    )
    run = RunFolder(tmp_path / "run")
    assert [row["step"] for row in run.evaluations()] == [0, 50, 60, 100]
    assert (run.path / "before_after.png").is_file()
    assert evaluate(task, reward, make, run.path, episodes=2, videos=0).success.shape == (2, 10)


def test_data_of_another_task_and_discrete_actions_are_refused():
    data = bandit()
    with pytest.raises(DemoError, match=r"observations have 4 numbers, but the task's have 10"):
        agent_for(IQL, "reacher_reach").study(data)
    wide = Transitions(data.observations, torch.zeros(1000, 2), data.rewards, data.next_observations, data.terminated)
    with pytest.raises(DemoError, match=r"actions have 2 numbers, but the task's 1"):
        agent_for(IQL).study(wide)
    with pytest.raises(VrmError, match="IQL needs continuous actions"):
        agent_for(IQL, "cartpole")
    with pytest.raises(VrmError, match="expectile must lie in"):
        agent_for(IQL, expectile=1.0)
