"""Shaping rewards of real episodes sum to what the theorem says, through every wrapper."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import make_cartpole

from vrm.rewards import StateValue
from vrm.rewards.transform import Difference, PotentialShaping
from vrm.wrappers import (
    DeferredReplayBuffer,
    FrameCapture,
    RewardWrapper,
    VecRewardWrapper,
    VectorRewardWrapper,
    attach_reward,
)

GAMMA = 0.9
POTENTIAL = StateValue("position", scale=100.0, shift=3.0)
SHAPING = PotentialShaping(POTENTIAL, GAMMA)


def maker(limit):
    return lambda: FrameCapture(make_cartpole(limit))


def single(model, limit):
    env = RewardWrapper(maker(limit)(), model)
    places, paid, over = [env.reset(seed=0)[1]["position"]], [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(1)
        places.append(info["position"])
        paid.append(reward)
        over = terminated or truncated
    return places, paid


def vector(model, limit, mode=AutoresetMode.SAME_STEP):
    envs = VectorRewardWrapper(SyncVectorEnv([maker(limit)], autoreset_mode=mode), model)
    places, paid, over = [envs.reset(seed=0)[1]["position"][0]], [], False
    while not over:
        _, reward, terminated, truncated, info = envs.step(np.array([1]))
        over = terminated[0] or truncated[0]
        last = info["final_info"] if over and mode is AutoresetMode.SAME_STEP else info
        places.append(last["position"][0])
        paid.append(reward[0])
    return places, paid


def next_step(model, limit):
    return vector(model, limit, AutoresetMode.NEXT_STEP)


def stable_baselines(model, limit):
    venv = VecRewardWrapper(DummyVecEnv([maker(limit)]), model)
    venv.seed(0)
    venv.reset()
    places, paid, over = [venv.unwrapped.reset_infos[0]["position"]], [], False
    while not over:
        _, rewards, dones, infos = venv.step(np.array([1]))
        places.append(infos[0]["position"])
        paid.append(rewards[0])
        over = dones[0]
    return places, paid


def deferred(model, limit):
    algo = DQN(
        "MlpPolicy", DummyVecEnv([maker(limit)]), buffer_size=50, replay_buffer_class=DeferredReplayBuffer, device="cpu"
    )
    buffer, venv = algo.replay_buffer, algo.get_env()
    queue = attach_reward(algo, model).queue
    venv.seed(0)
    obs = venv.reset()
    queue.begin(restart=True)
    places, over = [venv.unwrapped.reset_infos[0]["position"]], False
    while not over:
        following, rewards, dones, infos = venv.step(np.array([1]))
        places.append(infos[0]["position"])
        buffer.add(obs, following, np.array([1]), rewards, dones, infos)
        obs, over = following, dones[0]
    queue.flush()
    return places, buffer.rewards[: buffer.pos, 0]


def torchrl(model, limit):
    pytest.importorskip("torchrl")
    from tensordict.nn import TensorDictModule
    from torchrl.envs import GymWrapper, TransformedEnv
    from torchrl.envs.libs.gym import default_info_dict_reader

    from vrm.wrappers import RewardTransform

    env = GymWrapper(make_cartpole(limit), from_pixels=True, pixels_only=False)
    env = TransformedEnv(env.set_info_dict_reader(default_info_dict_reader(["position"])), RewardTransform(model))
    env.set_seed(0)
    right = TensorDictModule(lambda observation: torch.tensor([0, 1]), in_keys=["observation"], out_keys=["action"])
    data = env.rollout(limit, right)
    places = [data["position"][0].item(), *data["next", "position"].flatten().tolist()]
    return places, data["next", "reward"].flatten().numpy()


ROADS = pytest.mark.parametrize("play", [single, vector, next_step, stable_baselines, deferred, torchrl])


@ROADS
@pytest.mark.parametrize(("limit", "terminates"), [(6, False), (500, True)])
def test_discounted_sums_telescope(play, limit, terminates):
    """A time limit keeps the last potential, a true end does not."""
    places, paid = play(SHAPING, limit)
    steps = len(paid)
    assert len(places) == steps + 1
    assert (steps < limit) == terminates
    first, last = (float(POTENTIAL.scale * p + POTENTIAL.shift) for p in (places[0], places[-1]))
    expected = -first if terminates else GAMMA**steps * last - first
    assert np.dot(GAMMA ** np.arange(steps), paid) == pytest.approx(expected, abs=1e-3)
    assert abs(GAMMA**steps * last) > 1, "the two cases are told apart"


@ROADS
@pytest.mark.parametrize("limit", [6, 500])
def test_differences_add_up_to_how_far_the_episode_came(play, limit):
    places, paid = play(Difference(POTENTIAL), limit)
    assert np.sum(paid) == pytest.approx(POTENTIAL.scale * (places[-1] - places[0]), abs=1e-3)


def test_an_end_at_the_time_limit_is_an_end():
    """CartPole that topples in the very step the limit cuts it: terminated wins over truncated."""
    steps = len(single(SHAPING, 500)[1])
    for play in (single, stable_baselines, deferred):
        places, paid = play(SHAPING, steps)
        first = POTENTIAL.scale * places[0] + POTENTIAL.shift
        assert np.dot(GAMMA ** np.arange(steps), paid) == pytest.approx(-first, abs=1e-3)


def test_the_environment_need_not_report_termination_and_cannot_contradict_it():
    class Liar(FrameCapture):
        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {**info, "terminated": 1.0}

    places, paid = [], []
    env = RewardWrapper(Liar(make_cartpole(6)), SHAPING)
    places.append(env.reset(seed=0)[1]["position"])
    for _ in range(6):
        _, reward, *_, info = env.step(1)
        places.append(info["position"])
        paid.append(reward)
    assert (places, paid) == single(SHAPING, 6)
