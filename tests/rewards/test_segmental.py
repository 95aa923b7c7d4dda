"""Segmental reward: published weights, brute force over draws, every aggregate, features handed over, files."""

import itertools
import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny import BASELINE, GOAL, RisingReward, TinyEncoder, random_clips

from vrm import load_reward
from vrm.errors import UnknownNameError
from vrm.rewards import (
    ContrastiveGoalReward,
    GoalReward,
    SegmentalReward,
    StateValue,
    Sum,
    segment_indices,
    tar_weights,
)
from vrm.video import sample_indices

AGGREGATES = ["tar", "mean", "median", "min", "max", "last", "softmin", "topk"]


def seen_speeds(values, **options):
    """The reward of a clip whose frames are worth the given values."""
    state = {"speed": torch.tensor([values])}
    reward = SegmentalReward(StateValue("speed"), **options)
    return reward.score(torch.zeros(1, len(values), 3, 4, 4), state=state).item()


def test_published_weights_in_expectation():
    """F = 16, S = 4, lam = 1: expected weights .0026, .143, .388, .0071 over all draws; they sum to .54."""
    draws = torch.tensor(list(itertools.product(range(4), range(4, 8), range(8, 12), range(12, 16))))
    expected = tar_weights(draws, 16).mean(dim=0)
    torch.testing.assert_close(expected, torch.tensor([0.0026, 0.143, 0.388, 0.0071]), atol=5e-4, rtol=0)
    assert expected.sum().item() == pytest.approx(0.54, abs=0.002)
    assert (expected.max() / expected.sum()).item() == pytest.approx(0.72, abs=0.005)


def test_attenuated_reward_against_its_formula():
    values = torch.rand(16, generator=torch.Generator().manual_seed(0)).tolist()
    by_hand = sum(math.exp(-0.5 * abs(g - 8)) * values[g] for g in (1, 5, 9, 13)) / 4
    assert seen_speeds(values, lam=0.5) == pytest.approx(by_hand, rel=1e-5)
    weights = [math.exp(-0.5 * abs(g - 3)) for g in (1, 5, 9, 13)]
    mean = sum(w * values[g] for w, g in zip(weights, (1, 5, 9, 13), strict=True)) / sum(weights)
    assert seen_speeds(values, lam=0.5, centre=3, normalise=True) == pytest.approx(mean, rel=1e-5)


def test_no_attenuation_is_the_plain_mean():
    values = [0.1, 0.7, 0.4, 0.9, 0.2, 0.3, 0.8, 0.5]
    assert (
        seen_speeds(values, lam=0)
        == seen_speeds(values, aggregate="mean")
        == pytest.approx((0.1 + 0.4 + 0.2 + 0.8) / 4)
    )
    assert seen_speeds(values, lam=0, normalise=True) == pytest.approx((0.1 + 0.4 + 0.2 + 0.8) / 4)


def test_normalised_weights_survive_far_from_the_centre():
    weights = tar_weights(torch.tensor([[5000, 9000]]), 10, normalise=True)
    torch.testing.assert_close(weights, torch.tensor([[2.0, 0.0]]))


@pytest.mark.parametrize(
    ("aggregate", "options", "expected"),
    [
        ("mean", {}, 0.45),
        ("median", {}, 0.4),
        ("min", {}, 0.1),
        ("max", {}, 0.9),
        ("last", {}, 0.5),
        ("topk", {"k": 2}, 0.7),
        ("topk", {"k": 4}, 0.45),
        ("softmin", {"temperature": 1e-3}, 0.1),
        ("softmin", {"temperature": 1e3}, 0.45),
        ("softmin", {"temperature": 0.2}, 0.1936),
    ],
)
def test_aggregates(aggregate, options, expected):
    assert seen_speeds([0.3, 0.9, 0.1, 0.5], aggregate=aggregate, **options) == pytest.approx(expected, abs=2e-4)


def test_indices_lie_in_their_segments():
    generator = torch.Generator().manual_seed(0)
    for total, segments in itertools.product(range(1, 40), range(1, 12)):
        first = [i * total // segments for i in range(segments)]
        ends = [max((i + 1) * total // segments, begin + 1) for i, begin in enumerate(first)]
        drawn = segment_indices(total, segments, generator).tolist()
        assert all(a <= g < b for a, g, b in zip(first, drawn, ends, strict=True))
        middle = segment_indices(total, segments).tolist()
        assert middle == sample_indices(total, segments, "middle")
        if total >= segments:
            assert all(a <= g < b for a, g, b in zip(first, middle, ends, strict=True))


def test_every_frame_of_a_segment_is_drawn_equally_often():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([segment_indices(12, 3, generator) for _ in range(3000)])
    shares = torch.bincount(draws.flatten(), minlength=12) / 3000
    torch.testing.assert_close(shares, torch.full((12,), 0.25), atol=0.03, rtol=0)


def test_training_draws_and_evaluation_does_not(encoder):
    reward, clips = SegmentalReward(GoalReward(encoder, GOAL), segments=2), random_clips(batch=3, frames=12)
    reward.train()
    torch.manual_seed(3)
    first = reward.segments(clips)
    torch.manual_seed(3)
    assert torch.equal(reward.segments(clips).indices, first.indices)
    assert not torch.equal(reward.segments(clips).indices, first.indices)
    reward.eval()
    assert reward.segments(clips).indices.tolist() == [[2, 8]] * 3
    seeded = [reward.segments(clips, generator=torch.Generator().manual_seed(1)).indices for _ in range(2)]
    assert torch.equal(*seeded)
    assert len({tuple(row) for row in seeded[0].tolist()}) > 1  # each clip has its own draw


def test_only_the_chosen_frames_are_embedded_and_receive_gradient():
    encoder = TinyEncoder()
    reward, clips = (
        SegmentalReward(GoalReward(encoder, GOAL), segments=3),
        random_clips(frames=9).requires_grad_(),
    )
    reward.score(clips).sum().backward()
    assert sum(encoder.calls) == 4 * 3
    touched = clips.grad.flatten(2).abs().sum(-1) > 0
    assert touched.nonzero()[:, 1].unique().tolist() == reward.segments(clips).indices[0].tolist() == [1, 4, 7]


def test_segment_rewards_are_those_of_the_image_reward(encoder):
    clips, inner = random_clips(frames=8), GoalReward(encoder, GOAL)
    seen = SegmentalReward(inner, segments=4).segments(clips, goals=["a", "b", "c", "d"])
    alone = inner(clips, goals=["a", "b", "c", "d"]).gather(1, seen.indices)
    torch.testing.assert_close(seen.rewards, alone)


def test_a_clip_shorter_than_its_segments_repeats_frames(encoder):
    reward = SegmentalReward(GoalReward(encoder, GOAL), segments=5, aggregate="mean")
    assert reward.segments(random_clips(frames=2)).indices.tolist()[0] == [0, 0, 0, 0, 1]
    still = random_clips(frames=1)
    torch.testing.assert_close(reward.score(still), reward.image_reward.score(still))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_score_forward_and_dimensions_agree(encoder, aggregate):
    parts = {"goal": GoalReward(encoder, GOAL), "speed": StateValue("speed")}
    reward = SegmentalReward(Sum(parts, weights={"speed": 0.1}), aggregate=aggregate)
    clips, state = random_clips(), {"speed": torch.rand(4, 5, generator=torch.Generator().manual_seed(2))}
    score, spread, parts = (call(clips, state=state) for call in (reward.score, reward, reward.dimensions))
    assert torch.equal(spread, score[:, None].expand(-1, 5))
    assert list(parts) == ["goal/goal", "speed/speed"]
    if aggregate in ("tar", "mean", "last"):
        torch.testing.assert_close(parts["goal/goal"] + 0.1 * parts["speed/speed"], score)


def test_positions_in_a_longer_file_set_the_attenuation():
    clips, index = torch.zeros(1, 4, 3, 4, 4), torch.tensor([[10, 30, 50, 70]])
    state = {"speed": torch.ones(1, 4), "frame_index": index, "frame_count": torch.full((1, 4), 80)}
    reward = SegmentalReward(StateValue("speed"), segments=4, lam=0.1)
    seen = reward.segments(clips, state=state)
    assert torch.equal(seen.positions, index)
    expected = sum(math.exp(-0.1 * abs(g - 40)) for g in (10, 30, 50, 70)) / 4
    assert reward.score(clips, state=state).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="reads state 'frame_count'"):
        reward.score(clips, state={"speed": torch.ones(1, 4), "frame_index": index})


def test_features_handed_over_replace_the_tower():
    encoder = TinyEncoder()
    clips = random_clips(frames=8)
    reward = SegmentalReward(
        Sum({"goal": GoalReward(encoder, GOAL), "safe": ContrastiveGoalReward(encoder, GOAL, BASELINE, -1, 1)})
    )
    expected = reward.score(clips)
    features = encoder.encode_image(clips.flatten(0, 1)).unflatten(0, (4, 8))
    encoder.calls.clear()
    placeholder = torch.zeros(4, 8, 3, 1, 1, dtype=torch.uint8)
    with encoder.supply(placeholder, features):
        torch.testing.assert_close(reward.score(placeholder), expected)
    assert encoder.calls == []
    assert not reward.reads_pixels


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_saves_and_loads_with_the_calibrated_reward_inside(encoder, tmp_path, aggregate):
    inner = GoalReward(encoder, GOAL).calibrate(random_clips(seed=5))
    options = {"tar": {"lam": 0.3, "normalise": True}, "softmin": {"temperature": 0.5}, "topk": {"k": 3}}
    reward = SegmentalReward(inner, segments=3, aggregate=aggregate, **options.get(aggregate, {}))
    reward.save(tmp_path / "reward.safetensors")
    again = load_reward(tmp_path / "reward.safetensors", encoder)
    assert torch.equal(again.score(random_clips()), reward.score(random_clips()))
    assert again.config() == reward.config()


def test_config_builds_around_an_encoder(encoder, pytestconfig):
    config = OmegaConf.load(pytestconfig.rootpath / "configs" / "reward" / "segmental.yaml")
    config = OmegaConf.create({"reward": config, "task": {"goal": GOAL, "baseline": BASELINE}})
    reward = instantiate(config["reward"])(encoder)
    assert isinstance(reward.image_reward, GoalReward)
    assert reward.image_reward.encoder is encoder
    assert reward.config()["lam"] == 1.0


def test_refuses_what_cannot_work(encoder):
    goal = GoalReward(encoder, GOAL)
    with pytest.raises(ValueError, match="RisingReward looks at several"):
        SegmentalReward(RisingReward(goal))
    with pytest.raises(ValueError, match="SegmentalReward looks at several"):
        SegmentalReward(SegmentalReward(goal))
    with pytest.raises(TypeError, match="must be a RewardModel, got str"):
        SegmentalReward("goal")
    with pytest.raises(UnknownNameError, match="Did you mean 'softmin'"):
        SegmentalReward(goal, aggregate="softmn")
    with pytest.raises(UnknownNameError, match="option of aggregate 'mean' 'lam'"):
        SegmentalReward(goal, aggregate="mean", lam=2)
    with pytest.raises(ValueError, match="lam must be at least 0 and finite, got -1"):
        SegmentalReward(goal, lam=-1)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        SegmentalReward(goal, aggregate="softmin", temperature=0)
    with pytest.raises(ValueError, match=r"k must lie between 1 and the number of segments \(4\), got 5"):
        SegmentalReward(goal, aggregate="topk", k=5)
    with pytest.raises(ValueError, match="segments must be at least 1, got 0"):
        SegmentalReward(goal, segments=0)
    with pytest.raises(ValueError, match="at least one frame and one segment"):
        segment_indices(0, 4)
