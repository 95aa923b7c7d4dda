"""Small real things for tests: an encoder, rewards that look back, environments that render."""

from __future__ import annotations

import zlib
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from vrm.encoders import Encoder, Preprocess
from vrm.rewards import GoalReward, RewardModel
from vrm.rewards.base import check_call

GOAL, BASELINE = "a pole standing upright", "a pole on a cart"


class TinyEncoder(Encoder):
    """A random convolution and a hashed bag of words, ending in one 16-dimensional space."""

    def __init__(self, seed: int = 0, name: str = "tiny") -> None:
        super().__init__(name, 16, Preprocess((32, 32), (0.5,) * 3, (0.25,) * 3, "bilinear", "squash"), max_batch=64)
        self.calls: list[int] = []
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.tower = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 8, 2, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 16),
        )
        self.words = nn.EmbeddingBag(64, 16)
        torch.random.set_rng_state(state)
        self.requires_grad_(False).eval()

    def encode_image(self, frames: Tensor) -> Tensor:
        self.calls.append(len(frames))
        return super().encode_image(frames)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels)

    def text_features(self, texts) -> Tensor:
        bags = [torch.tensor([zlib.crc32(w.encode()) % 64 for w in text.lower().split()]) for text in texts]
        return torch.stack([self.words(bag.to(self.device)[None])[0] for bag in bags])


class NaNEncoder(TinyEncoder):
    """An encoder whose image tower has broken weights."""

    def image_features(self, pixels: Tensor) -> Tensor:
        return super().image_features(pixels) * float("nan")


class RisingReward(RewardModel):
    """Goal reward minus its mean over the last three frames: a reward that looks back at pixels."""

    window = 3

    def __init__(self, goal: GoalReward) -> None:
        super().__init__()
        self.inner = goal

    def terms(self, clips, goals=None, state=None):
        now = self.inner(check_call(clips, goals, state), goals)
        spans = [now[:, max(t - 2, 0) : t + 1].mean(dim=1) for t in range(now.shape[1])]
        return {"now": now, "before": torch.stack(spans, dim=1)}

    def combine(self, terms):
        return terms["now"] - terms["before"]

    def config(self) -> dict[str, Any]:
        return self.inner.config()

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls(GoalReward.from_config(config, encoder))


class StateInfo(gym.Wrapper):
    """Shows the first observation value as ``info["position"]``."""

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        return obs, {**info, "position": obs[0]}

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "position": obs[0]}


class ScaledActions(gym.ActionWrapper):
    """Makes CartPole's two pushes one continuous action, for SAC."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def action(self, action):
        return int(action[0] > 0)


def make_cartpole(max_episode_steps: int = 500, continuous: bool = False) -> gym.Env:
    """CartPole that renders small pictures and reports its position."""
    env = gym.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=max_episode_steps)
    env.unwrapped.screen_width, env.unwrapped.screen_height = 180, 150  # less, and the cart would be out of view
    env = StateInfo(env)
    return ScaledActions(env) if continuous else env


def random_clips(batch: int = 4, frames: int = 5, size: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))
