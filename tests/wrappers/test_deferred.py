"""Deferred rewards equal stepwise ones: rollouts with their returns and advantages, and replay buffers."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from histories import long_histories, shaped
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from tiny import BASELINE, GOAL, RisingReward, TinyEncoder, make_cartpole

from vrm.rewards import GoalReward, StateValue, Sum
from vrm.wrappers import DeferredReplayBuffer, FrameCapture, VecRewardWrapper, attach_reward

LIMIT = 7  # steps; episodes end by time limit, or by toppling where the pilot is unlucky


def one_frame(encoder):
    goal = GoalReward(encoder, GOAL, BASELINE, alpha=0.5)
    return Sum({"goal": goal, "place": StateValue("position")}, weights={"goal": 20.0})


def three_frames(encoder):
    parts = {"rise": RisingReward(GoalReward(encoder, GOAL)), "env": StateValue("env_reward", scale=0.1)}
    return Sum(parts, weights={"rise": 20.0})


WINDOWS = pytest.mark.parametrize("build", [one_frame, three_frames, long_histories, shaped])


def make_venv(continuous=False, num_envs=2, limit=LIMIT):
    return DummyVecEnv([lambda: FrameCapture(make_cartpole(limit, continuous))] * num_envs)


class Rollouts(BaseCallback):
    """Keeps what PPO is about to learn from."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.truncations = 0

    def _on_step(self):
        self.truncations += sum(info["TimeLimit.truncated"] for info in self.locals["infos"])
        assert not any("frame" in info for info in self.locals["infos"])
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.seen.append([buffer.rewards.copy(), buffer.returns.copy(), buffer.advantages.copy()])


def on_policy(cls, venv, reward=None, steps=16, batch=5, **options):
    algo = cls("MlpPolicy", venv, n_steps=steps, seed=3, device="cpu", policy_kwargs={"net_arch": [8]}, **options)
    rollouts = Rollouts()
    callbacks = [rollouts] if reward is None else [attach_reward(algo, reward, batch), rollouts]
    algo.learn(2 * steps * venv.num_envs, callback=CallbackList(callbacks))
    algo.learn(steps * venv.num_envs, callback=CallbackList(callbacks), reset_num_timesteps=False)
    return algo, rollouts


@WINDOWS
@pytest.mark.parametrize(("cls", "options"), [(PPO, {"batch_size": 16, "n_epochs": 1}), (A2C, {})])
def test_on_policy_equals_stepwise(encoder, build, cls, options):
    """Three rollouts, the last after a second ``learn`` that goes on with the running episodes."""
    _, stepwise = on_policy(cls, VecRewardWrapper(make_venv(), build(encoder)), **options)
    _, deferred = on_policy(cls, make_venv(), build(encoder), **options)
    assert stepwise.truncations == deferred.truncations > 4
    assert len(stepwise.seen) == len(deferred.seen) == 3
    for one, other in zip(stepwise.seen, deferred.seen, strict=True):
        for name, a, b in zip(("rewards", "returns", "advantages"), one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)
    plain = on_policy(cls, make_venv(), StateValue("env_reward", scale=0.0), **options)[1].seen[0][0]
    assert (plain != 0).any(), "what is left of a zero reward is the time-limit bootstrap"


def off_policy(cls, venv, reward=None, steps=120, batch=7, **options):
    if reward is not None:
        options["replay_buffer_class"] = DeferredReplayBuffer
    algo = cls(
        "MlpPolicy", venv, buffer_size=50, learning_starts=20, batch_size=8, train_freq=5, gradient_steps=1, seed=3,
        device="cpu", policy_kwargs={"net_arch": [8]}, **options,
    )  # fmt: skip
    callback = None if reward is None else attach_reward(algo, reward, batch)
    return algo.learn(steps, callback=callback)


@WINDOWS
@pytest.mark.parametrize(("cls", "continuous"), [(SAC, True), (DQN, False)])
@pytest.mark.parametrize("batch", [7, 1000])
def test_off_policy_equals_stepwise_after_the_ring_wrapped(encoder, build, cls, continuous, batch):
    stepwise = off_policy(cls, VecRewardWrapper(make_venv(continuous), build(encoder)))
    deferred = off_policy(cls, make_venv(continuous), build(encoder), batch=batch)
    one, other = stepwise.replay_buffer, deferred.replay_buffer
    assert other.full
    assert other.rewards.shape == (25, 2)
    assert other.timeouts.any()
    np.testing.assert_allclose(other.rewards, one.rewards, atol=1e-5)
    for name in ("observations", "actions", "dones", "timeouts"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-4)
    assert one.rewards.std() > 1e-3


def step_by_hand(algo, reward, steps):
    """Add steps to the replay buffer without ``learn``; returns what the reward pays for their frames."""
    buffer, venv = algo.replay_buffer, algo.get_env()
    obs, expected = venv.reset(), []
    for _ in range(steps):
        actions = np.array([venv.action_space.sample() for _ in range(2)])
        following, env_rewards, dones, infos = venv.step(actions)
        frames = torch.stack([torch.from_numpy(info["frame"]) for info in infos]).movedim(-1, -3)[:, None]
        places = torch.tensor([[float(info["position"])] for info in infos])
        expected.append(reward(frames, state={"position": places})[:, 0].numpy())
        buffer.add(obs, following, actions, env_rewards, dones, infos)
        obs = following
    return np.array(expected)


def bare_dqn():
    return DQN("MlpPolicy", make_venv(), buffer_size=50, replay_buffer_class=DeferredReplayBuffer, device="cpu")


def test_sampling_scores_a_partly_filled_queue(encoder):
    algo, reward = bare_dqn(), one_frame(encoder)
    attach_reward(algo, reward)
    expected = step_by_hand(algo, reward, 3)
    buffer = algo.replay_buffer
    assert (buffer.rewards[:3] == 1).all(), "not scored yet"
    samples = buffer.sample(16)
    np.testing.assert_allclose(buffer.rewards[:3], expected, atol=1e-5)
    assert np.isin(samples.rewards.numpy().round(3), expected.round(3)).all()


def test_saving_scores_first_and_leaves_the_model_out(encoder, tmp_path):
    algo, reward = bare_dqn(), one_frame(encoder)
    attach_reward(algo, reward)
    expected = step_by_hand(algo, reward, 5)
    algo.save(tmp_path / "algo.zip")
    assert (algo.replay_buffer.rewards[:5] == 1).all(), "not scored yet"
    algo.save_replay_buffer(tmp_path / "buffer.pkl")
    assert b"TinyEncoder" not in (tmp_path / "buffer.pkl").read_bytes()
    assert b"TinyEncoder" not in (tmp_path / "algo.zip").read_bytes()
    again = DQN.load(tmp_path / "algo.zip", env=make_venv())
    again.load_replay_buffer(tmp_path / "buffer.pkl")
    np.testing.assert_allclose(again.replay_buffer.rewards[:5], expected, atol=1e-5)
    with pytest.raises(RuntimeError, match="no reward model"):
        again.replay_buffer.sample(4)
    again.learn(10, callback=attach_reward(again, reward), reset_num_timesteps=False)
    assert again.replay_buffer.pos > 10
    assert (again.replay_buffer.rewards[: again.replay_buffer.pos] != 1).all()
    np.testing.assert_allclose(again.replay_buffer.rewards[:5], expected, atol=1e-5)


def test_a_buffer_loaded_after_attaching_is_paid_too(encoder, tmp_path):
    algo = off_policy(SAC, make_venv(True), one_frame(encoder), steps=30)
    algo.save_replay_buffer(tmp_path / "buffer.pkl")
    callback = attach_reward(algo, one_frame(encoder))
    algo.load_replay_buffer(tmp_path / "buffer.pkl")
    algo.learn(10, callback=callback)
    assert (algo.replay_buffer.rewards[: algo.replay_buffer.pos] != 1).all()


def test_mean_and_episode_sums_are_logged(encoder):
    reward = one_frame(encoder)
    algo = PPO("MlpPolicy", VecMonitor(make_venv()), n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    callback = attach_reward(algo, reward)

    class Look(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.logged = dict(self.logger.name_to_value)
            target = callback.queue.target
            starts = self.model.rollout_buffer.episode_starts
            self.mean = target.mean()
            cut = [np.flatnonzero(starts[:, i]) for i in range(2)]
            self.sums = [target[a:b, i].sum() for i in range(2) for a, b in pairwise(cut[i])]

    look = Look()
    algo.learn(32, callback=CallbackList([callback, look]))
    assert look.logged["rollout/reward_model_mean"] == pytest.approx(look.mean, abs=1e-5)
    assert len(look.sums) >= 4
    finished = sorted(callback.queue.episode_sums)
    assert all(np.isclose(finished, s, atol=1e-4).any() for s in look.sums)
    assert algo.ep_info_buffer[0]["r"] == algo.ep_info_buffer[0]["l"], "the environment's own reward is untouched"


def test_refusals(encoder):
    reward = one_frame(encoder)
    with pytest.raises(ValueError, match="replay_buffer_class=vrm"):
        attach_reward(DQN("MlpPolicy", make_venv(), buffer_size=50, device="cpu"), reward)
    with pytest.raises(ValueError, match="norm_reward=False"):
        attach_reward(PPO("MlpPolicy", VecNormalize(make_venv()), device="cpu"), reward)
    algo = PPO("MlpPolicy", make_venv(), n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(ValueError, match="batch must be at least 1"):
        attach_reward(algo, reward, batch=0)
    callback = attach_reward(algo, reward)
    algo.set_env(make_venv())
    with pytest.raises(ValueError, match="another environment"):
        algo.learn(16, callback=callback)
    bare = bare_dqn()
    with pytest.raises(RuntimeError, match="no reward model"):
        bare.learn(10)
    look_back = three_frames(TinyEncoder())
    attach_reward(bare, look_back)
    with pytest.raises(ValueError, match="first frame is unknown"):
        bare.learn(10)  # without the callback that knows when episodes began
