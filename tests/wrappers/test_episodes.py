"""Rewards that label whole episodes, and rewards whose history is long: paid once, in the right place, cheaply."""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from histories import BestYet, Centred, CentredBrightness, Novelty
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import GOAL, TinyEncoder, make_cartpole

import vrm
from vrm.agents import train
from vrm.agents.rollouts import Examiner, film
from vrm.agents.run import RunFolder
from vrm.agents.train import build
from vrm.encoders import load_encoder
from vrm.envs import make_task
from vrm.errors import UnknownNameError
from vrm.frames import from_hwc
from vrm.rewards import GoalReward, RewardModel, Sum
from vrm.wrappers import DeferredReplayBuffer, FrameCapture, VecRewardWrapper, VectorRewardWrapper, attach_reward

LIMIT = 9  # constant pushes topple the pole about here, other pushes reach the limit


def make():
    return FrameCapture(make_cartpole(LIMIT))


@pytest.fixture(params=[Centred, CentredBrightness, lambda goal: Sum({"a": Centred(goal), "b": goal})])
def model(request, encoder):
    return request.param(GoalReward(encoder, GOAL))


def labels(model: RewardModel, frames) -> np.ndarray:
    """What the model gives to the steps of an episode."""
    return model(from_hwc(np.stack(frames))[None])[0, 1:].numpy()


def test_features_are_made_once_per_frame():
    """T steps of a reward that looks back over sixteen frames, or all, cost T + 1 frames and T calls."""
    for reward in (Novelty, BestYet):
        encoder = TinyEncoder()
        env = vrm.wrap(make_cartpole(30), reward=reward(GoalReward(encoder, GOAL)))
        env.reset(seed=0)
        for t in range(30):
            env.step(t % 2)
        assert sum(encoder.calls) == 31
        assert len(encoder.calls) == 30


def test_one_frame_is_scored_as_before():
    encoder = TinyEncoder()
    env = vrm.wrap(make_cartpole(), reward=GoalReward(encoder, GOAL))
    env.reset(seed=0)
    for t in range(5):
        env.step(t % 2)
    assert encoder.calls == [1] * 5


@pytest.mark.parametrize("reward", [Novelty, BestYet, Centred])
def test_deferred_features_are_made_once_per_frame(reward):
    encoder = TinyEncoder()
    algo = PPO("MlpPolicy", DummyVecEnv([make] * 2), n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    if reward is Centred:
        algo = sac(DummyVecEnv([continuous] * 2))
    callback = attach_reward(algo, reward(GoalReward(encoder, GOAL)), batch=10)
    algo.learn(64, callback=callback)
    ended = len(callback.queue.episode_sums)
    assert ended > 4
    assert max(encoder.calls) <= 20
    assert 64 <= sum(encoder.calls) <= 64 + 2 + ended
    assert not any(m.frame is not None for e in callback.queue._running for m in e.moments[:-10])


def test_state_only_rewards_keep_no_pixels():
    from vrm.rewards import StateSteadiness

    stream = vrm.RewardStream(StateSteadiness("x", 1.0, window=5), num_envs=1)
    stream.begin(torch.rand(1, 3, 50, 50), [{"x": 0.0}])
    assert stream.push(torch.rand(1, 3, 50, 50), torch.zeros(1), [{"x": 0.5}]) == pytest.approx(0.75)
    assert all(m.frame.numel() == 3 for m in stream._history._clips[0])


def test_single_environment_pays_the_sum_at_the_end(model):
    env = vrm.wrap(make_cartpole(LIMIT), reward=model, mode="episode_end", keep_frame=True)
    for episode in range(3):
        frames, paid, over = [env.reset(seed=episode)[1]["frame"]], [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(episode % 2 or len(frames) % 2)
            over = terminated or truncated
            frames.append(info["frame"])
            paid.append(reward)
            assert ("episode_rewards" in info) == over
        assert set(paid[:-1]) == {0.0}
        np.testing.assert_allclose(info["episode_rewards"], labels(model, frames), atol=1e-6)
        assert paid[-1] == pytest.approx(info["episode_rewards"].sum(), abs=1e-5)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vector_environments_pay_each_episode_at_its_own_end(model, mode):
    envs = SyncVectorEnv([make] * 3, autoreset_mode=mode)
    envs = VectorRewardWrapper(envs, model, keep_frame=True, mode="episode_end")
    _, info = envs.reset(seed=0)
    frames, ended = [[f] for f in info["frame"]], 0
    over = np.zeros(3, dtype=bool)
    for t in range(40):
        _, rewards, terminated, truncated, info = envs.step(np.array([t % 2, 1, (t // 2) % 2]))
        for i in range(3):
            if over[i]:
                frames[i] = [info["frame"][i]]
                continue
            done = terminated[i] or truncated[i]
            same = done and mode is AutoresetMode.SAME_STEP
            frames[i].append((info["final_info"] if same else info)["frame"][i])
            assert done == ("episode_rewards" in info and info["_episode_rewards"][i])
            if not done:
                assert rewards[i] == 0
                continue
            ended += 1
            np.testing.assert_allclose(info["episode_rewards"][i], labels(model, frames[i]), atol=1e-6)
            assert rewards[i] == pytest.approx(info["episode_rewards"][i].sum(), abs=1e-5)
            frames[i] = [info["frame"][i]]
        over = (terminated | truncated) if mode is AutoresetMode.NEXT_STEP else over
    assert ended > 6


def test_stable_baselines_pays_each_episode_at_its_own_end(model):
    venv = VecRewardWrapper(DummyVecEnv([make] * 2), model, keep_frame=True, mode="episode_end")
    venv.seed(0)
    venv.reset()
    frames, ended = [[] for _ in range(2)], 0
    for t in range(40):
        _, rewards, dones, infos = venv.step(np.array([t % 2, 1]))
        for i, info in enumerate(infos):
            frames[i].append(info["frame"])
            if not dones[i]:
                assert rewards[i] == 0
                continue
            ended += 1
            assert len(info["episode_rewards"]) == len(frames[i])
            assert rewards[i] == pytest.approx(info["episode_rewards"].sum(), abs=1e-5)
            frames[i] = []
    assert ended > 4


def test_torchrl_pays_the_sum_at_the_end(model):
    pytest.importorskip("torchrl")
    from torchrl.envs import GymWrapper, TransformedEnv

    from vrm.wrappers import RewardTransform

    env = GymWrapper(make_cartpole(LIMIT), from_pixels=True, pixels_only=False)
    env = TransformedEnv(env, RewardTransform(model, keep_frame=True, mode="episode_end"))
    data = env.rollout(LIMIT)
    assert data["next", "done"][-1]
    frames = [data["pixels"][0].numpy(), *data["next", "pixels"].numpy()]
    paid = data["next", "reward"].flatten()
    assert (paid[:-1] == 0).all()
    assert paid[-1].item() == pytest.approx(labels(model, frames).sum(), abs=1e-5)


def test_causal_rewards_may_be_paid_at_the_end_too(encoder):
    paid = []
    for mode in ("step", "episode_end"):
        env = vrm.wrap(make_cartpole(LIMIT), GOAL, encoder=encoder, mode=mode)
        env.reset(seed=0)
        paid.append([env.step(t % 2)[1] for t in range(LIMIT)])
    assert sum(paid[0]) == pytest.approx(paid[1][-1], abs=1e-5)


def continuous():
    return FrameCapture(make_cartpole(LIMIT, continuous=True))


def sac(venv, **options):
    defaults = {"buffer_size": 60, "learning_starts": 4, "batch_size": 8, "train_freq": 3, "gradient_steps": 1}
    return SAC(
        "MlpPolicy", venv, replay_buffer_class=DeferredReplayBuffer, seed=3, device="cpu",
        policy_kwargs={"net_arch": [8]}, **{**defaults, **options},
    )  # fmt: skip


class Recorder(FrameCapture):
    """Keeps all it showed, episode by episode, and whether each ended."""

    def __init__(self, env):
        super().__init__(env)
        self.episodes: list[list] = []
        self.ended: list[bool] = []

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        self.episodes.append([info["frame"]])
        self.ended.append(False)
        return obs, info

    def step(self, action):
        *rest, terminated, truncated, info = super().step(action)
        self.episodes[-1].append(info["frame"])
        self.ended[-1] = terminated or truncated
        return *rest, terminated, truncated, info


def recorders(count=2, limit=LIMIT):
    return DummyVecEnv([lambda: Recorder(make_cartpole(limit, continuous=True))] * count)


def expected_rewards(model, venv, steps):
    """``(steps, num_envs)``: the labels of episodes that ended, NaN for the others."""
    columns = []
    for env in venv.envs:
        column = []
        for frames, ended in zip(env.episodes, env.ended, strict=True):
            if len(frames) > 1:
                column += labels(model, frames).tolist() if ended else [np.nan] * (len(frames) - 1)
        columns.append(column[:steps])
    return np.array(columns).T


@pytest.mark.parametrize("batch", [5, 1000])
def test_replay_buffers_hold_the_labels_of_ended_episodes(model, batch):
    """Before and after the ring wrapped, for episodes cut by the limit and others."""
    venv = recorders()
    algo = sac(venv)
    callback = attach_reward(algo, model, batch)
    algo.learn(44, callback=callback)
    buffer = algo.replay_buffer
    filled = buffer.pos
    assert not buffer.full
    expected = expected_rewards(model, venv, filled)
    assert 0 < np.isnan(expected).sum() < filled
    np.testing.assert_allclose(buffer.rewards[:filled], expected, atol=1e-5)
    assert buffer.timeouts.any()
    algo.learn(60, callback=callback, reset_num_timesteps=False)
    assert buffer.full
    steps = filled + 30
    recent = expected_rewards(model, venv, steps)[-len(buffer.rewards) :]
    np.testing.assert_allclose(np.roll(buffer.rewards, -buffer.pos, axis=0), recent, atol=1e-5)


def test_learning_waits_for_the_first_label_and_sees_no_other(model):
    sampled = []

    class Watched(DeferredReplayBuffer):
        def sample(self, batch_size, env=None):
            samples = super().sample(batch_size, env)
            sampled.append((self.pos, samples.rewards))
            return samples

    algo = sac(recorders(limit=7))
    algo.replay_buffer = Watched(60, algo.observation_space, algo.action_space, device="cpu", n_envs=2)
    algo.learn(80, callback=attach_reward(algo, model))
    assert sampled[0][0] >= 7
    assert algo.learning_starts >= 12
    assert all(len(rewards) == 8 and torch.isfinite(rewards).all() for _, rewards in sampled)


def fill(algo, steps):
    """Step by hand, so that nothing is learned; goes on where the environments are."""
    venv, obs = algo.get_env(), algo._last_obs
    for _ in range(steps):
        actions = np.array([venv.action_space.sample() for _ in range(venv.num_envs)])
        following, rewards, dones, infos = venv.step(actions)
        algo.replay_buffer.add(obs, following, actions, rewards, dones, infos)
        obs = following
    algo._last_obs = obs


def started(model, venv, **options):
    algo = sac(venv, **options)
    queue = attach_reward(algo, model).queue
    venv.seed(1)
    venv.action_space.seed(1)
    algo._last_obs = venv.reset()
    queue.begin(restart=True)
    return algo


def test_samples_are_uniform_over_what_has_a_label(encoder):
    algo = started(Centred(GoalReward(encoder, GOAL)), recorders())
    fill(algo, 25)
    rewards = algo.replay_buffer.rewards[:25]
    known = rewards[~np.isnan(rewards)]
    assert 20 < len(known) < 50
    np.random.seed(0)
    drawn = algo.replay_buffer.sample(20_000)
    assert drawn.observations.shape == (20_000, 4)
    values, counts = np.unique(drawn.rewards.numpy().round(6), return_counts=True)
    expected, each = np.unique(known.round(6), return_counts=True)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(counts / 20_000, each / len(known), atol=0.006)


def test_nothing_to_sample_is_said(encoder):
    algo = started(Centred(GoalReward(encoder, GOAL)), recorders())
    fill(algo, 3)
    with pytest.raises(RuntimeError, match="no episode in it has ended"):
        algo.replay_buffer.sample(4)


def test_an_episode_longer_than_the_buffer_pays_the_steps_that_are_left(encoder):
    model, venv = Centred(GoalReward(encoder, GOAL)), recorders(count=1)
    algo = started(model, venv, buffer_size=5)
    while not any(venv.envs[0].ended):
        fill(algo, 1)
    frames = venv.envs[0].episodes[0]
    assert len(frames) > 6
    paid = np.roll(algo.replay_buffer.rewards, -algo.replay_buffer.pos, axis=0)[:, 0]
    np.testing.assert_allclose(paid, labels(model, frames)[-5:], atol=1e-5)


@pytest.mark.parametrize("way", ["pickle", "run folder"])
def test_saving_in_the_middle_of_an_episode(model, way, tmp_path):
    """The running program loses nothing; what is loaded knows which transitions have no reward, and never gets one."""
    venv = recorders()
    algo = started(model, venv)
    fill(algo, 23)
    saved = expected_rewards(model, venv, 23)
    assert np.isnan(saved).any()
    if way == "pickle":
        algo.save_replay_buffer(tmp_path / "buffer.pkl")
    else:
        RunFolder(tmp_path).save_checkpoint(algo)
    fill(algo, LIMIT)
    whole = expected_rewards(model, venv, 23 + LIMIT)
    assert not np.isnan(whole[:23]).any()
    np.testing.assert_allclose(
        np.roll(algo.replay_buffer.rewards, -algo.replay_buffer.pos, axis=0), whole[-30:], atol=1e-5
    )

    other_venv = recorders()
    again = sac(other_venv)
    if way == "pickle":
        again.load_replay_buffer(tmp_path / "buffer.pkl")
    else:
        RunFolder(tmp_path).load_checkpoint(again)
    again.learn(42, callback=attach_reward(again, model), reset_num_timesteps=False)
    kept = np.roll(again.replay_buffer.rewards, -again.replay_buffer.pos, axis=0)
    added = expected_rewards(model, other_venv, 21)
    np.testing.assert_allclose(kept, np.concatenate([saved, added])[-30:], atol=1e-5)


def test_a_buffer_loaded_while_episodes_run_gets_no_reward_of_the_old_one(encoder, tmp_path):
    model, venv = Centred(GoalReward(encoder, GOAL)), recorders()
    algo = started(model, venv)
    fill(algo, 12)
    algo.save_replay_buffer(tmp_path / "buffer.pkl")
    fill(algo, 2)
    queue = algo.replay_buffer.queue
    algo.load_replay_buffer(tmp_path / "buffer.pkl")
    before = algo.replay_buffer.rewards.copy()
    queue.aim(algo.replay_buffer.rewards)
    algo.replay_buffer.queue = queue
    fill(algo, LIMIT)
    np.testing.assert_array_equal(algo.replay_buffer.rewards[:12], before[:12])
    np.testing.assert_allclose(
        algo.replay_buffer.rewards[12:21], expected_rewards(model, venv, 23)[14:], atol=1e-5, equal_nan=True
    )


def test_another_reward_attached_later_leaves_nothing_unpaid(encoder):
    goal = GoalReward(encoder, GOAL)
    algo = started(goal, recorders())
    fill(algo, 4)
    assert (algo.replay_buffer.rewards[:4] == 1).all()
    attach_reward(algo, Novelty(goal))
    assert (algo.replay_buffer.rewards[:4] != 1).all()


def test_refusals(encoder):
    model = Centred(GoalReward(encoder, GOAL))
    algo = PPO("MlpPolicy", DummyVecEnv([make]), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="rollouts of PPO end in the middle"):
        attach_reward(algo, model)
    with pytest.raises(ValueError, match='mode="episode_end"'):
        vrm.wrap(make_cartpole(), reward=model)
    with pytest.raises(UnknownNameError, match="Did you mean 'episode_end'"):
        vrm.wrap(make_cartpole(), reward=model, mode="episode-end")
    stream = vrm.RewardStream(model, 1, mode="episode_end")
    with pytest.raises(ValueError, match="looks back over the whole episode"):
        stream.push(torch.zeros(1, 3, 4, 4), torch.zeros(1))
    bare = DQN("MlpPolicy", DummyVecEnv([make]), buffer_size=50, replay_buffer_class=DeferredReplayBuffer, device="cpu")
    attach_reward(bare, model)
    with pytest.raises(ValueError, match="looks back over the whole episode"):
        bare.learn(10)  # without the callback that knows when episodes began


@pytest.fixture(scope="module")
def task():
    return make_task("humanoid_kneeling", episode_steps=12)


@pytest.fixture(scope="module")
def centred(task):
    return Centred(GoalReward(load_encoder("vrm-sim"), task.goal))


def test_training_evaluating_and_filming_with_whole_episode_labels(task, centred, tmp_path):
    make_sac = partial(
        SAC, "MlpPolicy", learning_starts=8, train_freq=4, gradient_steps=1, batch_size=8, buffer_size=400,
        policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    options = {"n_envs": 2, "eval_every": 30, "checkpoint_every": 30, "video_every": 1000, "eval_episodes": 2}
    result = train(task, centred, make_sac, tmp_path, total_steps=64, **options)
    assert np.isfinite(result["reward_return"])
    result = train(task, centred, make_sac, tmp_path, total_steps=96, resume=True, **options)
    venv = recorders()
    venv = vrm.agents.rollouts.make_envs(task, 2, 64)
    algo = build(make_sac, venv, seed=0)
    RunFolder(tmp_path).load_checkpoint(algo)
    venv.close()
    rewards = algo.replay_buffer.rewards[: algo.replay_buffer.pos]
    gone = np.isnan(rewards).any(axis=1)
    assert len(rewards) == 48
    assert 0 < gone.sum() < 24
    assert (np.abs(rewards[~gone]) > 0).any()


def test_examiners_and_films_show_the_labels(task, centred):
    def still(observation):
        return np.zeros((len(observation), *task.make().action_space.shape), np.float32)

    examiner = Examiner(task, centred, 64, lanes=2)
    played = examiner.play(still, 3, seed=0)
    examiner.close()
    assert played.reward.shape == played.true.shape == (3, 12)
    shot = film(still, task, centred, 64, seed=0)
    assert np.isnan(shot.reward[0])
    np.testing.assert_allclose(shot.reward[1:], played.reward[0], atol=1e-4)
    assert len(np.unique(played.reward[0])) > 6
