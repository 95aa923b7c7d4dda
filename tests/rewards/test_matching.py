"""The matching reward: under the contract, on real demonstrations, and what its fit finds."""

import sys

import pytest
import torch
from contract import check_reward
from tiny import random_clips

import vrm
from vrm.data.demos import Demo, DemoError
from vrm.errors import UnknownNameError
from vrm.rewards.matchers import MATCHERS, SinkhornOT
from vrm.rewards.matching import MatchingReward
from vrm.video import read_video, write_video

KINDS = {
    **{name: {"matcher": name} for name in MATCHERS},
    "segment-online": {"matcher": {"name": "segment", "horizon": 5}},
    "sinkhorn-linear-mean": {"matcher": "sinkhorn", "squash": "linear", "pick": "mean"},
    "dtw-mass-raw": {"matcher": {"name": "soft_dtw", "scaling": "mass"}, "squash": "none"},
}


def moving_square(frames, start=0, way=1, name="square", shade=255):
    """A bright square that goes once across the picture."""
    film = torch.zeros(frames, 3, 32, 32, dtype=torch.uint8)
    for t in range(frames):
        x = start + round(t * (24 - start) / (frames - 1))
        film[t, :, 12:20, (x if way > 0 else 24 - x) :][..., :8] = shade
    return Demo(film, name)


def demos():
    return [moving_square(n, name=f"square {n}") for n in (12, 7, 20)]


def noise(frames, seed):
    """What the contract's clips are like, so that their rewards are not all near 0."""
    return Demo((random_clips(1, frames, seed=seed)[0] * 255).to(torch.uint8), f"noise {seed}")


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind, encoder, tmp_path):
    three = [noise(5, 1), noise(3, 2), noise(8, 3)]
    check_reward(lambda e: MatchingReward.fit(e, three, **KINDS[kind]), encoder, tmp_path)


@pytest.mark.parametrize(
    ("kind", "causal", "window"),
    [
        ("nearest", True, 1),
        ("orca", True, sys.maxsize),
        ("segment-online", True, sys.maxsize),
        ("segment", False, sys.maxsize),
        ("sinkhorn", False, sys.maxsize),
    ],
)
def test_the_matcher_decides_what_is_usable_online(kind, causal, window, encoder):
    reward = MatchingReward.fit(encoder, demos(), **KINDS[kind])
    assert (reward.causal, reward.window, reward.granularity) == (causal, window, "frame")


@pytest.mark.parametrize("name", MATCHERS)
def test_a_demonstration_earns_more_than_noise(name, encoder):
    reward = MatchingReward.fit(encoder, demos(), matcher={"name": name, **({"tau": 0.1} if name == "orca" else {})})
    own = reward.score(demos()[0].frames[None])
    assert float(own) > float(reward.score(random_clips(1, 12, 32)))
    assert 0 <= reward.range[0] < reward.range[1] <= 5


def test_the_best_demonstration_is_picked_and_the_mean_is_lower(encoder):
    two = [moving_square(10, name="right"), moving_square(10, way=-1, name="left")]
    for matcher in ("soft_dtw", "segment", "sinkhorn"):
        best, mean = (
            MatchingReward.fit(encoder, two, matcher=matcher, pick=p, squash="none") for p in ("best", "mean")
        )
        each = best.match(encoder.encode_image(two[1].frames)[None]).reward[0]
        torch.testing.assert_close(best(two[1].frames[None])[0], each[each.sum(1).argmax()])
        torch.testing.assert_close(mean(two[1].frames[None])[0], each.mean(0))


def test_the_scale_makes_held_out_demonstrations_lose_ten_or_half_an_exponent(encoder):
    linear = MatchingReward.fit(encoder, demos(), matcher="sinkhorn", squash="linear")
    held_out, mean_length = linear.found.figures["held_out"], (12 + 7 + 20) / 3
    assert linear.scale * held_out * mean_length == pytest.approx(-10, rel=1e-4)
    exponential = MatchingReward.fit(encoder, demos(), matcher="sinkhorn")
    assert exponential.beta * exponential.scale * held_out == pytest.approx(-0.5, rel=1e-4)


def test_fit_says_whether_order_counts(encoder):
    blind, sees = (MatchingReward.fit(encoder, demos(), matcher=m).found for m in ("sinkhorn", "soft_dtw"))
    assert abs(blind.figures["order"]) < 0.01
    assert any("does not see order" in note for note in blind.notes)
    assert sees.figures["order"] > 0.2
    assert not any("does not see order" in note for note in sees.notes)


@pytest.mark.parametrize("matcher", ["nearest", "sinkhorn", "soft_dtw"])
def test_fit_names_the_odd_one_out(matcher, encoder):
    odd = Demo((random_clips(1, 9, 32)[0] * 255).to(torch.uint8), "something else")
    found = MatchingReward.fit(encoder, [*demos(), odd], matcher=matcher).found
    named = [note for note in found.notes if "times worse" in note]
    assert len(named) == 1
    assert "'something else'" in named[0]
    assert not any("times worse" in note for note in MatchingReward.fit(encoder, demos(), matcher=matcher).found.notes)


@pytest.mark.parametrize("name", MATCHERS)
def test_one_demonstration_is_enough(name, encoder):
    reward = MatchingReward.fit(encoder, demos()[:1], matcher=name)
    assert torch.isfinite(reward(random_clips())).all()
    assert any("cannot be held out" in note for note in reward.found.notes)


@pytest.mark.parametrize("name", MATCHERS)
def test_demonstrations_of_very_different_length_work(name, encoder):
    uneven = [moving_square(2, name="short"), moving_square(90, name="long")]
    reward = MatchingReward.fit(encoder, uneven, matcher=name)
    rewards = reward(torch.cat([moving_square(30).frames[None], moving_square(30, way=-1).frames[None]]))
    assert torch.isfinite(rewards).all()
    assert all(-1e9 < value < 1e9 for value in reward.found.figures.values())


def test_thinned_demonstrations_keep_both_ends(encoder):
    reward = MatchingReward.fit(encoder, demos(), matcher="orca", max_frames=5)
    assert reward.lengths == [5, 5, 5]
    features = encoder.encode_image(demos()[2].frames)
    torch.testing.assert_close(reward.features[2], features[[0, 5, 10, 14, 19]], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="max_frames must be at least 2, got 1"):
        MatchingReward.fit(encoder, demos(), max_frames=1)


def test_what_cannot_be_learned_from_is_refused(encoder):
    still = Demo(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), "still")
    with pytest.raises(DemoError, match="'still' shows the same picture"):
        MatchingReward.fit(encoder, [still])
    hardly = torch.zeros(5, 3, 320, 320, dtype=torch.uint8)
    hardly[2, :, 0, 0] = 1
    with pytest.raises(DemoError, match="does not tell the frames of demonstration 'hardly' apart"):
        MatchingReward.fit(encoder, [Demo(hardly, "hardly")])
    with pytest.raises(DemoError, match="at least 1 demonstrations, got 0"):
        MatchingReward.fit(encoder, [])


def test_wrong_options_get_one_clear_sentence(encoder):
    features = torch.ones(2, 4, 16)
    with pytest.raises(ValueError, match="D = 16"):
        MatchingReward(encoder, torch.ones(2, 4, 8))
    with pytest.raises(ValueError, match="lengths must be 2 numbers"):
        MatchingReward(encoder, features, [4, 5])
    with pytest.raises(ValueError, match="squash='linear' is for costs"):
        MatchingReward(encoder, features, matcher="orca", squash="linear")
    with pytest.raises(ValueError, match="must be positive"):
        MatchingReward(encoder, features, scale=0)
    with pytest.raises(UnknownNameError, match="Unknown pick 'bets'"):
        MatchingReward(encoder, features, pick="bets")
    with pytest.raises(UnknownNameError, match="Unknown squash"):
        MatchingReward(encoder, features, squash="exponental")


def test_a_fit_on_a_film_loads_and_pays_the_same(encoder, tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(16).frames, fps=8)
    film = Demo(read_video(tmp_path / "a.mp4"), "a")
    reward = MatchingReward.fit(encoder, [film, moving_square(11)], matcher=SinkhornOT(eps=0.02))
    reward.save(tmp_path / "reward.safetensors")
    again = vrm.load_reward(tmp_path / "reward.safetensors", encoder)
    assert again.matcher == reward.matcher
    assert torch.equal(again(film.frames[None]), reward(film.frames[None]))
