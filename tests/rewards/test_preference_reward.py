"""The preference reward: what it learns, keeps, says and refuses."""

import math

import pytest
import torch
from contract import check_reward
from tiny import TinyEncoder, random_clips

from vrm import load_reward
from vrm.configuration import build_reward, build_rewards, compose
from vrm.data.comparisons import ComparisonError, Comparisons
from vrm.errors import PromptError, UnknownNameError, UntaughtError
from vrm.rewards.preference import PreferenceReward
from vrm.rewards.preference_exam import calibration_error, contradictions, questions, split_questions
from vrm.rewards.preference_networks import restandardise
from vrm.rewards.progress import FeatureHead

SMALL = {"hidden": (32,), "learning_rate": 3e-3, "epochs": 60}


def comparisons(count=160, frames=3, seed=0, tie=0.0, wrong=0.0):
    """Pairs of features, of which the one with more of the first number is better."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, count, frames, 16, generator=generator)
    sides[..., 0] *= 2
    first, second = torch.nn.functional.normalize(sides, dim=-1)
    lead = (first - second)[..., 0].sum(dim=1)
    labels = (lead > 0).float()
    labels = torch.where(torch.rand(count, generator=generator) < wrong, 1 - labels, labels)
    return Comparisons.of(first, second, torch.where(lead.abs() < tie, 0.5, labels))


def accuracy(reward, asked):
    said = reward.probabilities(asked.first, asked.second).mean(dim=0) > 0.5
    return float((said == (asked.labels > 0.5)).float().mean())


@pytest.fixture(scope="module")
def encoder():
    return TinyEncoder()


@pytest.fixture(scope="module")
def fitted(encoder):
    return PreferenceReward.fit(encoder, comparisons(), **SMALL)


FACTORIES = {
    "untrained": lambda e: PreferenceReward(e, hidden=(8,)),
    "one-member": lambda e: PreferenceReward(e, members=1, hidden=(), caution=1.0),
    "cautious": lambda e: PreferenceReward.fit(e, comparisons(20), hidden=(8,), epochs=3, caution=0.5, anchor=1.0),
    "regret": lambda e: PreferenceReward.fit(e, comparisons(20), hidden=(8,), epochs=3, link="regret"),
    "pixels": lambda e: PreferenceReward(e, input="pixels", size=56),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_contract(name, encoder, tmp_path):
    check_reward(FACTORIES[name], encoder, tmp_path)


@pytest.mark.parametrize("link", ["bradley_terry", "rao_kupper", "davidson"])
def test_every_link_learns_what_is_better(link, encoder):
    tie = 0.0 if link == "bradley_terry" else 0.4
    reward = PreferenceReward.fit(encoder, comparisons(300, tie=tie), link=link, **SMALL)
    assert accuracy(reward, comparisons(300, seed=1)) > 0.85
    assert reward.found.figures["held_out_accuracy"] > 0.8
    assert all(math.isfinite(value) for value in reward.found.figures.values())


def walks(count, seed=0):
    """Walks on a line; the better one has come farther, wherever it started."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(2, count, 1, generator=generator)
    pace = torch.rand(2, count, 1, generator=generator) * 0.3 - 0.15
    places = start + pace * torch.arange(4)
    features = torch.exp(-20 * (places[..., None] - torch.linspace(-0.5, 1.5, 16)) ** 2)
    first, second = torch.nn.functional.normalize(features, dim=-1)
    return Comparisons.of(first, second, (pace[0] > pace[1]).float().flatten())


def test_regret_explains_answers_about_progress_that_partial_return_cannot(encoder):
    settings = {**SMALL, "hidden": (64,), "epochs": 150}
    data, asked = walks(300), walks(300, seed=1)
    found = {link: accuracy(PreferenceReward.fit(encoder, data, link=link, held_out=0, **settings), asked)
             for link in ("bradley_terry", "regret")}  # fmt: skip
    assert found["regret"] > 0.9
    assert found["bradley_terry"] < found["regret"] - 0.1


def test_a_tie_model_foretells_ties(encoder):
    data = comparisons(400, tie=0.8)
    assert 0.2 < (data.labels == 0.5).float().mean() < 0.8
    reward = PreferenceReward.fit(encoder, data, link="rao_kupper", **SMALL)
    commonest = max(float((data.labels == label).float().mean()) for label in (0, 0.5, 1))
    assert reward.found.figures["held_out_accuracy_with_ties"] > commonest + 0.05


def test_the_free_constant_is_anchored_on_what_was_compared(encoder):
    data = comparisons()
    frames = torch.cat([data.first, data.second])
    for anchor in (0.0, 2.0):
        reward = PreferenceReward.fit(encoder, data, anchor=anchor, held_out=0, **SMALL)
        for _ in range(2):  # also after a refit
            empty = torch.zeros(*frames.shape[:2], 3, 1, 1, dtype=torch.uint8)
            with encoder.supply(empty, frames):
                paid = reward(empty)
            assert paid.mean().item() == pytest.approx(anchor, abs=1e-4)
            assert paid.std(correction=0).item() == pytest.approx(1, abs=1e-4)
            reward.update(data, seed=1)


def test_another_reference_set_can_be_the_anchor(encoder):
    clips = (random_clips(batch=6) * 255).to(torch.uint8)
    reward = PreferenceReward.fit(encoder, comparisons(), reference=clips, held_out=0, **SMALL)
    assert reward(clips).mean().item() == pytest.approx(0, abs=1e-4)
    assert reward(clips).std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_the_same_seed_gives_the_same_reward_and_leaves_the_global_generator_alone(encoder):
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        one = PreferenceReward.fit(encoder, comparisons(), seed=3, bootstrap=True, **SMALL)
    two = PreferenceReward.fit(encoder, comparisons(), seed=3, bootstrap=True, **SMALL)
    assert one.stamp() == two.stamp()
    assert torch.equal(before, torch.random.get_rng_state())
    assert PreferenceReward.fit(encoder, comparisons(), seed=4, bootstrap=True, **SMALL).stamp() != one.stamp()
    assert not any(p.requires_grad or p.grad is not None for p in two.parameters())


def test_a_refit_starts_warm_and_changes_the_stamp_which_a_file_keeps(encoder, tmp_path):
    reward = PreferenceReward(encoder, **SMALL)
    stamps = [reward.stamp()]
    first = reward.update(comparisons(100), seed=0)
    stamps.append(reward.stamp())
    again = reward.update(comparisons(100), seed=1)
    stamps.append(reward.stamp())
    assert len(set(stamps)) == 3
    assert 0 < again["epochs"] < first["epochs"]
    assert set(first) == {"accuracy", "loss", "disagreement", "epochs", "answers"}
    reward.save(tmp_path / "r.safetensors")
    assert load_reward(tmp_path / "r.safetensors", encoder).stamp() == stamps[-1]


def test_unanswered_questions_are_left_out(encoder):
    data = comparisons(60)
    more = Comparisons.of(data.first[:5], data.second[:5], [math.nan] * 5)
    rewards = [PreferenceReward.fit(encoder, part, held_out=0, **SMALL) for part in (data, data.joined(more))]
    assert rewards[0].stamp() == rewards[1].stamp()


@pytest.mark.parametrize("label", [0.5, math.nan])
def test_nothing_decided_is_refused_by_fit_and_survived_by_update(label, encoder):
    data = comparisons(6)
    nothing = Comparisons.of(data.first, data.second, [label] * 6)
    with pytest.raises(ComparisonError, match=r"ties|none has an answer"):
        PreferenceReward.fit(encoder, nothing)
    reward = PreferenceReward(encoder, hidden=(8,))
    before = reward.stamp()
    assert reward.update(nothing, seed=0)["epochs"] == 0
    assert reward.stamp() == before


def test_one_answer_is_learned_and_nothing_is_held_out(encoder):
    data = comparisons(1)
    reward = PreferenceReward.fit(encoder, data, **SMALL)
    assert accuracy(reward, data) == 1
    assert "Nothing was held out" in reward.found.notes[0]


def test_contradictory_answers_average_out_and_are_told(encoder):
    data = comparisons(8)
    turned = Comparisons.of(data.second, data.first, data.labels)  # the opposite, with sides changed
    reward = PreferenceReward.fit(encoder, data.joined(turned), hidden=(32,), epochs=100)
    assert reward.found.notes[0].startswith("8 of 8 questions got answers for either side")
    assert (reward.probabilities(data.first, data.second) - 0.5).abs().max() < 0.2


def test_a_question_is_never_on_both_sides_of_the_split():
    data = comparisons(10)
    both = data.joined(Comparisons.of(data.second, data.first, 1 - data.labels))
    numbers = questions(both)
    assert numbers == [*range(10), *range(10)]
    assert contradictions(both, numbers) == 0
    rows, held = split_questions(numbers, 0.3, torch.Generator().manual_seed(0))
    assert len(held) == 6
    assert not {numbers[i] for i in rows.tolist()} & {numbers[i] for i in held.tolist()}


def test_calibration_error_is_zero_for_shares_that_come_true():
    import numpy as np

    assert calibration_error(np.full(4, 0.75), np.array([1.0, 1, 1, 0])) == pytest.approx(0)
    assert calibration_error(np.full(4, 0.95), np.array([1.0, 1, 0, 0])) == pytest.approx(0.45)


def test_label_noise_keeps_probabilities_off_the_ends(encoder):
    reward = PreferenceReward.fit(encoder, comparisons(), noise=0.2, held_out=0, **SMALL)
    found = reward.probabilities(*torch.nn.functional.normalize(torch.randn(2, 50, 40, 16), dim=-1))
    assert found.min() >= 0.1 - 1e-6
    assert found.max() <= 0.9 + 1e-6


def test_treating_answers_by_their_strength_helps_where_many_are_wrong(encoder):
    data, asked = comparisons(300, wrong=0.3), comparisons(500, seed=9)
    plain, treated = (PreferenceReward.fit(encoder, data, shuffles=n, held_out=0, **SMALL) for n in (0, 5))
    assert accuracy(treated, asked) > accuracy(plain, asked) + 0.05
    figures = treated.found.figures
    assert 0 < figures["answers_flipped"] <= figures["answers_estimated_wrong"] < 150


def test_the_configuration_builds_one():
    config = compose("train", ["reward=preference", "reward.link=davidson"])
    reward = build_reward(config)
    assert isinstance(reward, PreferenceReward)
    assert reward.config() == PreferenceReward(reward.encoder, link="davidson").config()


@pytest.mark.parametrize("name", ["preference", "distilled"])
def test_what_has_learned_nothing_judges_no_videos(name):
    with pytest.raises(UntaughtError, match="has learned nothing yet"):
        build_rewards([name])


def test_scaling_anew_changes_no_output():
    head = FeatureHead([4, 8, 1])
    head.fit_scale(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)))
    x = 5 + 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    before = head(x)
    restandardise(head, x)
    torch.testing.assert_close(head(x), before, rtol=1e-4, atol=1e-4)
    assert head.scaled(x).mean().abs() < 1e-5


def test_pixels_need_no_encoder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 60, (2, 40, 1, 3, 60, 80), generator=generator, dtype=torch.uint8)
    bright = torch.randint(0, 196, (2, 40, 1, 1, 1, 1), generator=generator, dtype=torch.uint8)
    first, second = frames + bright
    labels = (bright[0] > bright[1]).flatten().float()
    data = Comparisons.of(first, second, labels)
    reward = PreferenceReward.fit(None, data, input="pixels", size=56, members=2, epochs=40, learning_rate=1e-3)
    assert accuracy(reward, data) > 0.85
    reward.save(tmp_path / "p.safetensors")
    again = load_reward(tmp_path / "p.safetensors")
    assert again.encoder is None
    assert again.reads_pixels
    assert torch.equal(again(first), reward(first))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"link": "thurstone"}, UnknownNameError, "link 'thurstone'"),
        ({"input": "pixel"}, UnknownNameError, "Did you mean 'pixels'"),
        ({"members": 0}, ValueError, "members"),
        ({"noise": 1.0}, ValueError, "noise must lie"),
        ({"caution": -1.0}, ValueError, "caution"),
        ({"encoder": None}, ValueError, "needs an encoder"),
        ({"input": "pixels", "size": 40}, ValueError, "at least 53"),
    ],
)
def test_wrong_settings_are_refused(arguments, error, message, encoder):
    with pytest.raises(error, match=message):
        PreferenceReward(**{"encoder": encoder, **arguments})


def test_what_cannot_be_compared_is_refused(encoder, fitted):
    data = comparisons(4)
    with pytest.raises(ComparisonError, match="features \\(N, L, 16\\)"):
        fitted.probabilities(data.first[..., :5], data.second[..., :5])
    with pytest.raises(ComparisonError, match="pixels"):
        PreferenceReward.fit(None, data, input="pixels")
    with pytest.raises(ComparisonError, match="at least 2 frames"):
        PreferenceReward.fit(encoder, comparisons(4, frames=1), link="regret")
    with pytest.raises(ComparisonError, match="NaN"):
        PreferenceReward.fit(encoder, Comparisons.of(data.first * math.nan, data.second, data.labels))
    with pytest.raises(ValueError, match="shuffles=2"):
        PreferenceReward.fit(encoder, data, shuffles=2, link="davidson")
    with pytest.raises(PromptError, match="reads no text"):
        fitted(random_clips(), goals=["a"] * 4)
