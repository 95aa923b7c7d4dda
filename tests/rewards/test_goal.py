"""Goal and contrastive rewards: golden values, identities, calibration, prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny import BASELINE, GOAL, NaNEncoder, TinyEncoder, random_clips
from torch.nn.functional import normalize

import vrm
from vrm.errors import CheckpointError, NonFiniteError, PromptError
from vrm.rewards import ContrastiveGoalReward, GoalReward, contrast_probability, goal_baseline_reward

CONFIGS = Path(vrm.__file__).parent.parent / "configs" / "reward"


@pytest.mark.parametrize(("alpha", "expected"), [(0, 0.6), (0.25, 0.7715), (0.5, 0.894), (1, 0.992)])
def test_goal_baseline_golden(alpha, expected):
    s, g, b = torch.tensor([[0.6, 0, 0.8], [1, 0, 0], [0.8, 0.6, 0]], dtype=torch.float64)
    assert goal_baseline_reward(s, g, b, alpha).item() == pytest.approx(expected, abs=1e-12)


def test_contrast_golden():
    z = torch.tensor([-0.01, 0, 0.015, 0.03, 0.05])
    torch.testing.assert_close(contrast_probability(z, 0.0, 0.03), torch.tensor([1, 1, 0.5, 0, 0]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 1), size=st.integers(2, 12))
def test_two_dot_products_equal_the_projection_matrix(seed, alpha, size):
    """The paper's form with its D x D matrix: R = 1 - 0.5 * ||(s - g) P||^2."""
    s, g, b = normalize(
        torch.randn(3, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )
    direction = (g - b)[None]
    matrix = alpha * direction.T @ direction / (direction @ direction.T) + (1 - alpha) * torch.eye(size).double()
    expected = 1 - 0.5 * ((s - g) @ matrix).square().sum()
    torch.testing.assert_close(goal_baseline_reward(s, g, b, alpha), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("goal", [GOAL, [GOAL, "an upright pole", "a balanced pole"]])
def test_alpha_zero_is_the_cosine(encoder, goal):
    clips = random_clips()
    images = encoder.encode_image(clips.flatten(0, 1))
    texts = encoder.encode_text([goal] if isinstance(goal, str) else goal).mean(dim=0)
    expected = torch.cosine_similarity(images, texts[None]).reshape(4, 5)
    torch.testing.assert_close(GoalReward(encoder, goal)(clips), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(GoalReward(encoder, goal, BASELINE)(clips), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [GoalReward, ContrastiveGoalReward])
def test_goals_override_clip_by_clip(encoder, cls):
    clips, other = random_clips(batch=2), "a pole lying down"
    mixed = cls(encoder, GOAL, BASELINE)(clips, goals=[GOAL, other])
    torch.testing.assert_close(mixed[0], cls(encoder, GOAL, BASELINE)(clips)[0])
    torch.testing.assert_close(mixed[1], cls(encoder, other, BASELINE)(clips)[1])


def test_calibration_maps_percentiles_and_is_saved(encoder, tmp_path):
    clips = random_clips(batch=8)
    reward = GoalReward(encoder, GOAL, BASELINE, alpha=0.5)
    raw = reward.terms(clips)["goal"]
    assert reward.calibrate([clips[:3], clips[3:]]) is reward
    low, high = np.percentile(raw.numpy(), [5, 95])
    np.testing.assert_allclose(reward(clips), (raw - low) / (high - low), atol=1e-4)
    assert torch.equal(reward.terms(clips)["goal"], raw)
    reward.save(tmp_path / "a.safetensors")
    assert torch.equal(vrm.load_reward(tmp_path / "a.safetensors", encoder)(clips), reward(clips))


def test_calibrated_contrast_reaches_both_ends(encoder):
    clips = random_clips(batch=8)
    reward = ContrastiveGoalReward(encoder, GOAL, BASELINE).calibrate(clips, low=10, high=90)
    z, p = reward.terms(clips)["contrast"], reward(clips)
    assert p.min() == 0
    assert p.max() == 1
    assert p.flatten()[z.argmin()] == 1
    assert (p == 1).sum() == 4
    assert (p == 0).sum() == 4


@pytest.mark.parametrize("cls", [GoalReward, ContrastiveGoalReward])
def test_calibration_refuses_useless_data(encoder, cls):
    reward = cls(encoder, GOAL, BASELINE)
    with pytest.raises(ValueError, match="constant reward"):
        reward.calibrate(torch.full((2, 3, 3, 24, 24), 0.5))
    with pytest.raises(ValueError, match="at least one clip"):
        reward.calibrate([])
    with pytest.raises(ValueError, match="low < high"):
        reward.calibrate(random_clips(), low=95, high=5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"goal": ""}, PromptError, "goal must be a sentence"),
        ({"goal": []}, PromptError, "goal must be a sentence"),
        ({"goal": [GOAL, " "]}, PromptError, "goal must be a sentence"),
        ({"goal": GOAL, "baseline": ""}, PromptError, "baseline must be a sentence"),
        ({"goal": GOAL, "baseline": GOAL}, PromptError, "must differ"),
        ({"goal": GOAL, "baseline": f"  {GOAL.upper()} ", "alpha": 0.5}, PromptError, "must differ"),
        ({"goal": GOAL, "alpha": 0.5}, PromptError, "needs a baseline"),
        ({"goal": GOAL, "baseline": BASELINE, "alpha": 1.5}, ValueError, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"goal": GOAL, "baseline": BASELINE, "alpha": float("nan")}, ValueError, "alpha must lie"),
    ],
)
def test_goal_reward_refuses(encoder, arguments, error, message):
    with pytest.raises(error, match=message):
        GoalReward(encoder, **arguments)


def test_goals_that_embed_like_the_baseline_are_refused(encoder):
    reward = GoalReward(encoder, GOAL, "red blue", alpha=0.5)
    with pytest.raises(PromptError, match="same vector"):
        reward(random_clips(batch=1), goals=["blue red"])  # a bag of words has no order


def test_contrastive_refuses(encoder):
    with pytest.raises(PromptError, match="must differ"):
        ContrastiveGoalReward(encoder, GOAL, GOAL)
    with pytest.raises(ValueError, match="low < high"):
        ContrastiveGoalReward(encoder, GOAL, BASELINE, low=0.03, high=0.03)


def test_nan_from_an_encoder_is_named(encoder):
    with pytest.raises(NonFiniteError, match="'tiny' produced NaN"):
        GoalReward(NaNEncoder(), GOAL)(random_clips())


def test_loading_checks_the_encoder_weights(encoder, tmp_path):
    path = tmp_path / "a.safetensors"
    GoalReward(encoder, GOAL).save(path)
    with pytest.raises(CheckpointError, match="saved with encoders"):
        vrm.load_reward(path, TinyEncoder(seed=1))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="damaged"):
        vrm.load_reward(path, encoder)
    with pytest.raises(CheckpointError, match="No reward file"):
        vrm.load_reward(tmp_path / "b.safetensors", encoder)


@pytest.mark.parametrize(("name", "cls"), [("goal", GoalReward), ("contrastive", ContrastiveGoalReward)])
def test_configs_build_rewards_of_the_task(encoder, name, cls):
    config = OmegaConf.create(
        {"task": {"goal": [GOAL], "baseline": BASELINE}, "reward": OmegaConf.load(CONFIGS / f"{name}.yaml")}
    )
    reward = instantiate(config.reward)(encoder=encoder)
    assert isinstance(reward, cls)
    torch.testing.assert_close(reward(random_clips()), cls(encoder, GOAL, BASELINE)(random_clips()))
