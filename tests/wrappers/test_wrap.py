"""``wrap`` picks the wrapper; bad input gets one sentence; official checkers pass."""

import re
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from tiny import BASELINE, GOAL, NaNEncoder, RisingReward, StateInfo, make_cartpole

import vrm
from vrm.errors import FrameError, NonFiniteError, PromptError, RenderingError
from vrm.frames import from_hwc
from vrm.rewards import GoalReward, StateSteadiness, StateValue, Sum
from vrm.wrappers import FrameCapture, RewardWrapper, VecRewardWrapper, VectorRewardWrapper


def test_wrap_picks_the_wrapper_and_captures_frames(encoder):
    single = vrm.wrap(make_cartpole(), GOAL, baseline=BASELINE, alpha=0.5, encoder=encoder)
    assert isinstance(single, RewardWrapper)
    assert isinstance(single.env, FrameCapture)
    assert vrm.wrap(single.env, GOAL, encoder=encoder).env is single.env
    vector = vrm.wrap(gym.vector.SyncVectorEnv([make_cartpole] * 2), GOAL, encoder=encoder)
    assert isinstance(vector, VectorRewardWrapper)
    venv = vrm.wrap(VecMonitor(DummyVecEnv([make_cartpole] * 2)), GOAL, encoder=encoder)
    assert isinstance(venv, VecRewardWrapper)
    for env in (single, vector):
        env.reset(seed=0)
        assert np.isfinite(env.step(env.action_space.sample())[1]).all()
    venv.reset()
    assert np.isfinite(venv.step(np.array([0, 1]))[1]).all()


def test_wrap_takes_torchrl(encoder):
    pytest.importorskip("torchrl")
    from torchrl.envs import GymWrapper

    env = vrm.wrap(GymWrapper(make_cartpole(), from_pixels=True, pixels_only=False), GOAL, encoder=encoder)
    assert env.rollout(3)["next", "reward"].shape == (3, 1)


def test_wrap_takes_a_reward_or_its_file(encoder, tmp_path):
    reward = Sum({"goal": GoalReward(encoder, GOAL), "place": StateValue("position")})
    reward.save(tmp_path / "r.safetensors")
    paid = []
    for given in (reward, tmp_path / "r.safetensors", str(tmp_path / "r.safetensors")):
        env = vrm.wrap(make_cartpole(), reward=given, encoder=encoder)
        env.reset(seed=0)
        paid.append(env.step(0)[1])
    assert paid[0] == paid[1] == paid[2]


def test_capture_survives_the_environment_spec():
    env = FrameCapture(gym.make("CartPole-v1", render_mode="rgb_array"))
    again = gym.make(env.spec)
    assert isinstance(again, FrameCapture)
    frame = again.reset(seed=0)[1]["frame"]
    assert frame.flags["C_CONTIGUOUS"]
    assert frame.flags["OWNDATA"]
    assert frame.dtype == np.uint8
    assert frame.shape == (400, 600, 3)


@pytest.mark.parametrize("window", [1, 3])
def test_official_checkers_pass(encoder, window):
    goal = GoalReward(encoder, GOAL)
    env = vrm.wrap(make_cartpole(), reward=goal if window == 1 else RisingReward(goal))
    with warnings.catch_warnings():
        # CartPole's own infinite bounds, and gymnasium's advice to check unwrapped environments only
        warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
        gymnasium_check_env(env, skip_render_check=True, skip_close_check=True)  # no spec can hold a model
    sb3_check_env(env)


def fails(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    sentence = re.sub(r"'[^']*'|\([^)]*\)|\d\.\d|\w+\.\w+|\.\.\.", "", str(caught.value))
    assert "\n" not in sentence
    assert sentence.rstrip(".").count(". ") == 0


def test_refusals_are_one_sentence(encoder):
    cartpole = make_cartpole()
    silent = gym.make("CartPole-v1")
    human = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")])
    fails(RenderingError, 'render_mode="rgb_array"', lambda: vrm.wrap(silent, GOAL, encoder=encoder))
    fails(RenderingError, 'render_mode="rgb_array"', lambda: vrm.wrap(human, GOAL, encoder=encoder))
    fails(PromptError, "non-empty", lambda: vrm.wrap(cartpole, "", encoder=encoder))
    fails(PromptError, "must differ", lambda: vrm.wrap(cartpole, GOAL, baseline=GOAL, encoder=encoder))
    fails(PromptError, "got neither", lambda: vrm.wrap(cartpole, encoder=encoder))
    fails(PromptError, "got both", lambda: vrm.wrap(cartpole, GOAL, reward=GoalReward(encoder, GOAL)))
    fails(PromptError, "belong to a goal", lambda: vrm.wrap(cartpole, baseline="x", reward=GoalReward(encoder, GOAL)))
    fails(TypeError, "got list", lambda: vrm.wrap([], GOAL, encoder=encoder))
    env = RewardWrapper(make_cartpole(), GoalReward(encoder, GOAL))
    fails(FrameError, r"wrappers=\[vrm.FrameCapture\]", lambda: env.reset())
    venv = VecRewardWrapper(DummyVecEnv([make_cartpole]), GoalReward(encoder, GOAL))
    fails(FrameError, r"wrappers=\[vrm.FrameCapture\]", venv.reset)


def test_zero_environments(encoder):
    class Empty(gym.vector.VectorEnv):
        num_envs = 0

    fails(ValueError, "num_envs must be at least 1, got 0", lambda: vrm.wrap(Empty(), GOAL, encoder=encoder))
    fails(ValueError, "num_envs must be at least 1, got 0", lambda: vrm.RewardStream(GoalReward(encoder, GOAL), 0))


def test_vector_without_autoreset_mode(encoder):
    class Unclear(gym.vector.VectorEnv):
        num_envs = 1

    fails(ValueError, "does not say when it resets", lambda: vrm.wrap(Unclear(), GOAL, encoder=encoder))


def test_nan_is_told_at_the_step(encoder):
    env = vrm.wrap(make_cartpole(), GOAL, encoder=NaNEncoder())
    env.reset(seed=0)
    fails(NonFiniteError, "produced NaN or infinity", lambda: env.step(0))
    broken = GoalReward(encoder, GOAL)
    broken.scale.fill_(float("inf"))
    env = vrm.wrap(make_cartpole(), reward=broken)
    env.reset(seed=0)
    fails(NonFiniteError, "rewards must be finite", lambda: env.step(0))


@pytest.mark.parametrize("kind", ["single", "vector", "sb3"])
def test_missing_state_is_named(encoder, kind):
    def plain():
        return FrameCapture(make_cartpole().env)

    reward = Sum({"goal": GoalReward(encoder, GOAL), "speed": StateValue("speed")})
    make = {
        "single": plain,
        "vector": lambda: gym.vector.SyncVectorEnv([plain] * 2),
        "sb3": lambda: DummyVecEnv([plain] * 2),
    }
    env = vrm.wrap(make[kind](), reward=reward)
    env.reset()
    action = 0 if kind == "single" else np.array([0, 1])
    fails(ValueError, "reads state 'speed', but info has only", lambda: env.step(action))
    look_back = vrm.wrap(make[kind](), reward=StateSteadiness("speed", 1, window=2))
    fails(ValueError, "reads state 'speed'", look_back.reset)


def test_state_that_one_environment_of_many_lacks(encoder):
    envs = gym.vector.SyncVectorEnv([lambda: FrameCapture(make_cartpole()), lambda: FrameCapture(make_cartpole().env)])
    assert isinstance(envs.envs[0].env, StateInfo)
    envs = vrm.wrap(envs, reward=StateValue("position"))
    envs.reset()
    fails(ValueError, "reads state 'position'", lambda: envs.step(np.array([0, 1])))


def test_wrong_frames(encoder):
    class Odd(gym.Wrapper):
        def render(self):
            return np.zeros((4, 4), np.uint8)

    fails(FrameError, r"one \(H, W, 3\) uint8 frame", lambda: FrameCapture(Odd(make_cartpole())).reset())
    stream = vrm.RewardStream(GoalReward(encoder, GOAL), 2)
    fails(FrameError, "Frames must be", lambda: stream.push(torch.zeros(2, 4, 4, 3), torch.zeros(2)))
    fails(ValueError, "each of 2 environments, got 1", lambda: stream.push(torch.zeros(1, 3, 4, 4), torch.zeros(1)))
    fails(FrameError, "Expected uint8 frames", lambda: from_hwc(np.zeros((4, 4, 3))))


def test_looking_back_needs_the_first_frame(encoder):
    stream = vrm.RewardStream(RisingReward(GoalReward(encoder, GOAL)), 1)
    fails(ValueError, "first frame is unknown", lambda: stream.push(torch.zeros(1, 3, 4, 4), torch.zeros(1)))
    stream.begin(torch.zeros(1, 3, 4, 4))
    stream.push(torch.zeros(1, 3, 4, 4), torch.ones(1))
    fails(ValueError, "first frame is unknown", lambda: stream.push(torch.zeros(1, 3, 4, 4), torch.zeros(1)))


def test_future_frames_are_refused_online(encoder):
    reward = GoalReward(encoder, GOAL)
    reward.causal = False
    fails(ValueError, "frames from the future", lambda: vrm.wrap(make_cartpole(), reward=reward))


def test_import_stays_light():
    """``import vrm`` and Gymnasium wrapping load neither Stable-Baselines3 nor TorchRL."""
    code = "import sys, vrm; vrm.wrap; print({'stable_baselines3', 'torchrl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_absent_torchrl_is_one_sentence():
    absent = "import sys; sys.modules['torchrl'] = sys.modules['tensordict'] = None"
    code = f"{absent}\nfrom vrm.wrappers import RewardTransform"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: RewardTransform needs torchrl" in run.stderr
    assert "pip install 'vrm[torchrl]'" in run.stderr
