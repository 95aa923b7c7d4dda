"""Rewards of users whose tastes are opposed."""

from pathlib import Path

import pytest
import torch
from contract import check_reward
from tiny import TinyEncoder

import vrm
from vrm.data.comparisons import ComparisonError, Comparisons
from vrm.rewards.preference import PreferenceReward
from vrm.rewards.preference_queries import information_gain
from vrm.rewards.preference_users import IdealPointReward
from vrm.rewards.preference_variational import AnswerSet, VariationalReward, annealed, kl_divergence
from vrm.video import read_video

VIDEOS = Path(__file__).parents[2] / "videos"
SMALL = {"width": 48, "latent": 8, "steps": 500}


def opposed(count, seed=0):
    """User 0 wants much of the first number, user 1 little."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, count, 2, 16, generator=generator)
    sides[..., 0] *= 4
    first, second = torch.nn.functional.normalize(sides, dim=-1)
    users = torch.randint(2, (count,), generator=generator)
    lead = (first - second)[..., 0].sum(dim=1) * (1 - 2 * users)
    return Comparisons.of(first, second, (lead > 0).float(), users)


@pytest.fixture(scope="module")
def encoder():
    return TinyEncoder()


@pytest.fixture(scope="module")
def variational(encoder):
    return VariationalReward.fit(encoder, opposed(300), held_out=0, **SMALL)


@pytest.fixture(scope="module")
def ideal(encoder):
    return IdealPointReward.fit(encoder, opposed(300), held_out=0, steps=300)


FACTORIES = {
    "ideal-points": lambda e: IdealPointReward.fit(e, opposed(20), steps=3),
    "one-user-of-two": lambda e: IdealPointReward(e, [4, 7], user=7, hidden=(8,)),
    "variational": lambda e: VariationalReward.fit(e, opposed(20), width=8, latent=2, steps=3),
    "variational-win": lambda e: VariationalReward.fit(
        e, opposed(20), width=8, latent=2, steps=3, scaling="win", rivals=10
    ).for_user(1),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_contract(name, encoder, tmp_path):
    check_reward(FACTORIES[name], encoder, tmp_path)


def test_opposed_tastes_are_told_apart_where_one_reward_cannot(encoder, variational, ideal):
    asked = opposed(400, seed=1)
    for reward in (variational, ideal):
        assert min(reward.accuracies(asked).values()) > 0.7
    one = PreferenceReward.fit(encoder, opposed(300), hidden=(32,), epochs=30, held_out=0)
    said = one.probabilities(asked.first, asked.second).mean(dim=0) > 0.5
    assert 0.35 < (said == (asked.labels > 0.5)).float().mean() < 0.65


def test_opposed_tastes_about_real_videos_are_told_apart():
    encoder = vrm.load_encoder("vrm-sim")
    names = ("kneeling", "sitting_down", "standing", "arms_out", "falling", "flailing")
    features = torch.stack([encoder.encode_image(read_video(VIDEOS / f"{name}.mp4", 12)) for name in names])
    kneeling, standing = encoder.encode_text(["a humanoid robot kneeling", "a humanoid robot standing"])
    worth = features @ (kneeling - standing)

    def draw(count, frames, seed):
        generator = torch.Generator().manual_seed(seed)
        clip = torch.randint(len(names), (2, count), generator=generator)
        frame = frames[torch.randint(len(frames), (2, count), generator=generator)]
        users = torch.randint(2, (count,), generator=generator)
        lead = (worth[clip[0], frame[0]] - worth[clip[1], frame[1]]) * (1 - 2 * users)
        first, second = features[clip, frame][:, :, None]
        return Comparisons.of(first, second, (lead > 0).float(), users)

    told, asked = draw(300, torch.arange(0, 12, 2), 0), draw(300, torch.arange(1, 12, 2), 1)
    reward = VariationalReward.fit(encoder, told, held_out=0, **SMALL)
    assert min(reward.accuracies(asked).values()) > 0.75
    one = PreferenceReward.fit(encoder, told, hidden=(32,), epochs=30, held_out=0)
    said = one.probabilities(asked.first, asked.second).mean(dim=0) > 0.5
    assert (said == (asked.labels > 0.5)).float().mean() < 0.65


@pytest.mark.parametrize("name", ["variational", "ideal"])
def test_a_new_user_is_placed_by_a_few_answers_and_saved(name, encoder, tmp_path, request):
    reward = request.getfixturevalue(name)
    mine = opposed(300, seed=2)
    mine = mine[mine.users == 1]
    before = {k: v.clone() for k, v in reward.state_dict().items()}
    joined = reward.for_answers(mine[:24], 9)
    assert all(torch.equal(reward.state_dict()[k], v) for k, v in before.items())
    assert (joined.user, joined.users, reward.users) == (9, [0, 1, 9], [0, 1])
    asked = Comparisons(mine.first, mine.second, mine.labels, torch.full_like(mine.users, 9))
    assert joined.accuracies(asked)[9] > 0.7
    joined.save(tmp_path / "r.safetensors")
    again = vrm.load_reward(tmp_path / "r.safetensors", encoder)
    assert again.accuracies(asked) == joined.accuracies(asked)
    with pytest.raises(ValueError, match="known already"):
        joined.for_answers(mine[:4], 9)


def test_the_reward_of_a_user_is_not_that_of_another_and_both_make_the_mean(encoder, variational):
    clips = torch.rand(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rewards = [variational.for_user(user)(clips) for user in (0, 1)]
    assert not torch.allclose(*rewards, atol=0.1)
    torch.testing.assert_close(variational(clips), (rewards[0] + rewards[1]) / 2)
    assert variational.user is None
    with pytest.raises(ValueError, match="User 5 has given no answers"):
        variational.for_user(5)


def test_users_pay_on_one_scale(encoder, variational):
    data = opposed(300)
    frames = torch.cat([data.first, data.second])
    empty = torch.zeros(*frames.shape[:2], 3, 1, 1, dtype=torch.uint8)
    for user in (0, 1):
        with encoder.supply(empty, frames):
            paid = variational.for_user(user)(empty)
        assert paid.mean().item() == pytest.approx(0, abs=1e-4)
        assert paid.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_win_rates_lie_in_the_unit_interval_and_keep_the_order(encoder):
    reward = VariationalReward.fit(encoder, opposed(100), held_out=0, scaling="win", rivals=50, **SMALL).for_user(0)
    clips = torch.rand(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    paid = reward(clips).flatten()
    assert 0 < paid.min() < paid.max() < 1
    features = encoder.encode_image(clips.flatten(0, 1))
    codes = reward.means[:1]
    assert torch.equal(paid.argsort(), reward._decoded(features, codes)[0].argsort())


def test_a_posterior_depends_on_answers_not_on_their_order_or_sides():
    torch.manual_seed(0)
    answers = AnswerSet(4, 8, 2)
    first, second, labels = torch.randn(1, 5, 4), torch.randn(1, 5, 4), torch.rand(1, 5)
    mean, log_variance = answers(first, second, labels)
    order = torch.randperm(5)
    for other in ((first[:, order], second[:, order], labels[:, order]), (second, first, 1 - labels)):
        torch.testing.assert_close(answers(*other), (mean, log_variance))
    assert not torch.allclose(answers(first, second, 1 - labels)[0], mean)


def test_kl_divergence_is_torchs():
    mean, log_variance = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0, 1)).sum(-1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    assert [annealed(step, 8, 1) for step in (0, 2, 4, 7)] == [0, 0.5, 1, 1]


def test_collapse_of_the_posterior_is_told(encoder):
    reward = VariationalReward.fit(encoder, opposed(100), kl_weight=100.0, width=16, latent=2, steps=150)
    assert max(reward.divergences().values()) < 0.1
    assert any("collapsed" in note for note in reward.found.notes)
    told = VariationalReward.fit(encoder, opposed(100), **SMALL)
    assert set(told.divergences()) == {0, 1}
    assert told.found.figures["kl_user_0"] > 0.1
    assert not any("collapsed" in note for note in told.found.notes)


def test_a_question_that_sets_unknown_users_apart_is_chosen(variational):
    """Opposite tastes disagree about the first number; two equal pieces tell nothing."""
    high, low = torch.zeros(1, 2, 16), torch.zeros(1, 2, 16)
    high[..., 0], low[..., 0] = 1, -1
    asked = opposed(4, seed=3)
    first, second = torch.cat([asked.first, high]), torch.cat([asked.first, low])
    chosen = information_gain(variational, first, second, 1, torch.Generator().manual_seed(0))
    assert chosen.tolist() == [4]


@pytest.mark.parametrize("kind", [IdealPointReward, VariationalReward])
def test_nothing_decided_is_refused(kind, encoder):
    data = opposed(6)
    with pytest.raises(ComparisonError, match="All 6 answers are ties"):
        kind.fit(encoder, Comparisons(data.first, data.second, torch.full((6,), 0.5), data.users))
    with pytest.raises(ValueError, match="steps and batch"):
        kind.fit(encoder, data, steps=0)
