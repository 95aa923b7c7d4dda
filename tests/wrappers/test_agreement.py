"""One trajectory, many roads: forward, stream and every wrapper pay the same rewards, terminal frames included."""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from histories import STRETCH, long_histories, shaped
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import BASELINE, GOAL, RisingReward, TinyEncoder, make_cartpole

import vrm
from vrm.frames import from_hwc
from vrm.rewards import GoalReward, StateSteadiness, StateValue, Sum
from vrm.wrappers import FrameCapture, RewardWrapper, VecRewardWrapper, VectorRewardWrapper

NUM_ENVS, STEPS, SEED, LIMIT = 3, 40, 7, 14


def one_frame(encoder):
    goal = GoalReward(encoder, GOAL, BASELINE, alpha=0.5)
    return Sum({"goal": goal, "place": StateValue("position")}, weights={"goal": STRETCH})


def three_frames(encoder):
    parts = {
        "rise": RisingReward(GoalReward(encoder, GOAL)),
        "steady": StateSteadiness("position", maximum=0.2, window=3),
        "env": StateValue("env_reward", scale=0.1),
    }
    return Sum(parts, weights={"rise": STRETCH})


def act(i, episode, step):
    """Some episodes topple at once, others reach the time limit."""
    return (step + i) % 2 if (i + episode) % 3 else (i + episode) % 2


class Pilot:
    """Acts by each environment's own episode and step, so that autoreset modes see the same trajectories."""

    def __init__(self):
        self.clock = [[0, 0] for _ in range(NUM_ENVS)]

    def actions(self):
        return np.array([act(i, *self.clock[i]) for i in range(NUM_ENVS)])

    def advance(self, i, done):
        episode, step = self.clock[i]
        self.clock[i] = [episode + 1, 0] if done else [episode, step + 1]


def make():
    return FrameCapture(make_cartpole(LIMIT))


def record(i, steps=STEPS):
    """Episodes of environment ``i``, each as (frames, positions, terminated) from a single environment."""
    env, episodes, taken = make(), [], 0
    _, info = env.reset(seed=SEED + i)
    while taken < steps:
        frames, places, done, step = [info["frame"]], [info["position"]], False, 0
        while not done:
            _, _, terminated, truncated, info = env.step(act(i, len(episodes), step))
            frames.append(info["frame"])
            places.append(info["position"])
            done, step = terminated or truncated, step + 1
        episodes.append((from_hwc(np.stack(frames)), places, terminated))
        taken += step
        _, info = env.reset()
    return episodes


def by_forward(model, episodes):
    """``r[:, 1:]`` of each episode as one clip, in order."""
    paid = []
    for frames, places, terminated in episodes:
        rewarded = torch.tensor([[0.0] + [1.0] * (len(places) - 1)])
        ended = torch.tensor([[0.0] * (len(places) - 1) + [float(terminated)]])
        state = {"position": torch.tensor([places], dtype=torch.float32), "env_reward": rewarded, "terminated": ended}
        paid += model(frames[None], state=state)[0, 1:].tolist()
    return paid


@pytest.fixture(scope="module")
def trajectories():
    return [record(i) for i in range(NUM_ENVS)]


@pytest.fixture(params=[one_frame, three_frames, long_histories, shaped], ids=lambda build: build.__name__)
def model(request, encoder):
    return request.param(encoder)


@pytest.fixture
def expected(model, trajectories):
    return [by_forward(model, episodes) for episodes in trajectories]


def assert_prefix(paid, expected):
    for i in range(NUM_ENVS):
        assert len(paid[i]) > STEPS // 2
        np.testing.assert_allclose(paid[i][:STEPS], expected[i][: min(len(paid[i]), STEPS)], atol=1e-5)


def test_the_trajectories_can_tell_wrong_terminal_frames(model, trajectories):
    """Episodes differ in length, and an episode's end looks unlike the next one's start."""
    lengths = [len(places) - 1 for episodes in trajectories for _, places, _ in episodes]
    assert LIMIT in lengths
    assert len(set(lengths)) > 2
    assert {terminated for episodes in trajectories for *_, terminated in episodes} == {True, False}
    for episodes in trajectories:
        for (frames, *rest), (following, *_) in pairwise(episodes):
            wrong = (torch.cat([frames[:-1], following[:1]]), rest[0], False)
            right = (frames, rest[0], False)
            assert abs(by_forward(model, [right])[-1] - by_forward(model, [wrong])[-1]) > 1e-3


def test_stream(model, trajectories, expected):
    stream, paid = vrm.RewardStream(model, num_envs=1), []
    for frames, places, terminated in trajectories[0]:
        stream.begin(frames[:1], [{"position": places[0], "env_reward": 0.0, "terminated": 0.0}])
        for t in range(1, len(places)):
            last = t == len(places) - 1
            state = {"position": places[t], "env_reward": 1.0, "terminated": float(last and terminated)}
            paid.append(stream.push(frames[t : t + 1], torch.tensor([last]), [state]).item())
    np.testing.assert_allclose(paid, expected[0], atol=1e-5)


def test_single_environment(model, expected):
    paid = [[] for _ in range(NUM_ENVS)]
    for i in range(NUM_ENVS):
        env, pilot = RewardWrapper(make(), model), Pilot()
        env.reset(seed=SEED + i)
        for _ in range(STEPS):
            _, reward, terminated, truncated, info = env.step(pilot.actions()[i])
            assert type(reward) is float
            assert info["env_reward"] == 1.0
            assert "frame" not in info
            paid[i].append(reward)
            terms = {k.removeprefix("reward/"): torch.tensor([v]) for k, v in info.items() if k.startswith("reward/")}
            assert model.combine(terms).item() == pytest.approx(reward, abs=1e-5)
            pilot.advance(i, terminated or truncated)
            if terminated or truncated:
                env.reset()
    assert_prefix(paid, expected)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environment(model, expected, mode):
    envs, pilot = VectorRewardWrapper(SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=mode), model), Pilot()
    _, info = envs.reset(seed=SEED)
    assert not {"frame", "_frame"} & set(info)
    paid, over = [[] for _ in range(NUM_ENVS)], np.zeros(NUM_ENVS, dtype=bool)
    for _ in range(STEPS):
        _, rewards, terminated, truncated, info = envs.step(pilot.actions())
        done = terminated | truncated
        assert rewards.shape == (NUM_ENVS,)
        assert rewards.dtype == np.float64
        for i in range(NUM_ENVS):
            if over[i]:
                assert rewards[i] == info["env_reward"][i] == 0.0
            else:
                assert info["env_reward"][i] == 1.0
                paid[i].append(rewards[i])
                pilot.advance(i, done[i])
        assert all((info[k] == ~over).all() for k in info if k.startswith("_reward/"))
        assert not {"frame", "_frame"} & (set(info) | set(info.get("final_info", ())))
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done.copy()})
        over = done if mode is AutoresetMode.NEXT_STEP else over
    assert_prefix(paid, expected)


def test_stable_baselines(model, expected):
    venv, pilot = VecRewardWrapper(DummyVecEnv([make] * NUM_ENVS), model), Pilot()
    venv.seed(SEED)
    venv.reset()
    paid = [[] for _ in range(NUM_ENVS)]
    for _ in range(STEPS):
        _, rewards, dones, infos = venv.step(pilot.actions())
        assert rewards.dtype == np.float32
        for i in range(NUM_ENVS):
            paid[i].append(float(rewards[i]))
            assert infos[i]["env_reward"] == 1.0
            assert "frame" not in infos[i]
            assert infos[i]["TimeLimit.truncated"] == (dones[i] and pilot.clock[i][1] == LIMIT - 1)
            pilot.advance(i, dones[i])
    assert_prefix(paid, expected)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_torchrl(model, num_envs):
    pytest.importorskip("torchrl")
    from torchrl.envs import GymWrapper, SerialEnv, TransformedEnv
    from torchrl.envs.libs.gym import default_info_dict_reader
    from torchrl.envs.utils import check_env_specs

    from vrm.wrappers import RewardTransform

    def make_torch():
        env = GymWrapper(make_cartpole(LIMIT), from_pixels=True, pixels_only=False)
        return env.set_info_dict_reader(default_info_dict_reader(["position"]))

    env = TransformedEnv(SerialEnv(num_envs, make_torch), RewardTransform(model, keep_frame=True))
    torch.manual_seed(0)
    env.set_seed(SEED)
    data = env.rollout(STEPS, break_when_any_done=False)
    assert (data["next", "env_reward"] == 1).all()
    for i in range(num_envs):
        steps = data[i]
        ends = [-1, *torch.nonzero(steps["next", "done"].squeeze(-1)).flatten().tolist()]
        assert len(ends) > 2
        episodes = []
        for start, end in pairwise(ends):
            frames = torch.cat([steps["pixels"][start + 1][None], steps["next", "pixels"][start + 1 : end + 1]])
            first = steps["position"][start + 1].reshape(1)
            places = torch.cat([first, steps["next", "position"][start + 1 : end + 1].flatten()])
            episodes.append((frames.movedim(-1, -3), places.tolist(), steps["next", "terminated"][end].item()))
        paid = steps["next", "reward"].flatten()[: ends[-1] + 1]
        np.testing.assert_allclose(paid, by_forward(model, episodes), atol=1e-5)
    slim = TransformedEnv(SerialEnv(num_envs, make_torch), RewardTransform(model))
    check_env_specs(slim)
    assert "pixels" not in slim.rollout(3)["next"].keys()  # noqa: SIM118 (a TensorDict is no mapping)


def test_permuting_environments_permutes_rewards(model):
    def run(order):
        envs = VectorRewardWrapper(SyncVectorEnv([make] * NUM_ENVS), model)
        envs.reset(seed=[SEED + int(i) for i in order])
        return np.stack([envs.step(np.array([i % 2 for i in order]))[1] for _ in range(12)])

    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(order), run(np.arange(NUM_ENVS))[:, order], atol=1e-5)


def test_one_encoder_call_per_vector_step():
    encoder = TinyEncoder()
    envs = SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = VectorRewardWrapper(envs, three_frames(encoder))
    envs.reset(seed=SEED)
    for t in range(STEPS):
        envs.step(np.array([t % 2, 0, 1]))
    assert len(encoder.calls) == STEPS


def test_mujoco_pictures_are_scored(encoder):
    env = gym.make("InvertedPendulum-v5", render_mode="rgb_array", width=48, height=48)
    env = vrm.wrap(env, GOAL, encoder=encoder, keep_frame=True)
    env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, _, info = env.step(np.array([3.0]))
        frame = from_hwc(info["frame"])[None, None]
        assert reward == pytest.approx(env.stream.model(frame).item(), abs=1e-5)
        rewards.append(reward)
    assert len(set(rewards)) > 1
    env.close()
