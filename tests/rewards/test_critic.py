import pytest
import torch
from contract import check_reward
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rewind import sweeps
from tiny import TinyEncoder, random_clips

from vrm import load_reward
from vrm.data.demos import Demo, DemoError
from vrm.errors import PromptError
from vrm.rewards.critic import PairNetwork, ProgressCritic, compose_progress
from vrm.rewards.critic_data import PairSampler, grey_thumbnails, signed_fraction

SMALL = {"width": 16, "steps": 4, "batch": 32}
FORMS = ("inverse", "simple", "mixed", "incremental")


@pytest.fixture(scope="module")
def learned():
    encoder = TinyEncoder()
    demos = sweeps(4) + sweeps(4, text="a bar at the left", flip=True)
    return demos, ProgressCritic.fit(encoder, demos, width=64, steps=150, batch=128, interval=3)


@pytest.mark.parametrize(("interval", "pay"), [(1, "delta"), (2, "both"), (7, "done")])
def test_contract(interval, pay, tmp_path):
    torch.manual_seed(0)
    check_reward(lambda e: ProgressCritic(e, "up", interval=interval, pay=pay, width=16), TinyEncoder(), tmp_path)


def test_a_fitted_critic_keeps_the_contract(tmp_path):
    encoder = TinyEncoder()
    fitted = ProgressCritic.fit(encoder, sweeps(2), **SMALL)
    check_reward(lambda _: fitted, encoder, tmp_path)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("simple", [0, 20, 44, 38.4, 69.2, 63.04]),
        ("inverse", [0, 20, 44, 37.7778, 68.8889, 61.1111]),
        ("mixed", [0, 20, 44, 39.6, 69.8, 62.25]),
        ("incremental", [0, 20, 44, 39.6, 69.8, 55.84]),
    ],
)
def test_values_compose_as_published(form, expected):
    values = compose_progress(torch.tensor([0.2, 0.3, -0.1, 0.5, -0.2]), form)
    torch.testing.assert_close(values, torch.tensor(expected) / 100, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=20), st.sampled_from(FORMS), st.floats(0, 1))
def test_values_stay_in_bounds_and_still_changes_nothing(deltas, form, start):
    values = compose_progress(torch.tensor(deltas).reshape(-1), form, start)
    assert values.shape == (len(deltas) + 1,)
    assert values.min() >= 0
    assert values.max() <= 1
    stilled = compose_progress(torch.cat([torch.tensor(deltas).reshape(-1), torch.zeros(3)]), form, start)
    torch.testing.assert_close(stilled[-1], values[-1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 18), min_size=1, max_size=12))
def test_true_fractions_compose_to_the_true_place(path):
    """Wherever a walk through a demonstration goes, the labels' composition says where it is."""
    frames = torch.tensor([0, *path])
    deltas = signed_fraction(frames[:-1], frames[1:], torch.tensor(20))
    torch.testing.assert_close(compose_progress(deltas), frames / 20, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50))
def test_labels_are_antisymmetric_and_bounded(i, j):
    there, back = (signed_fraction(torch.tensor(a), torch.tensor(b), torch.tensor(50)) for a, b in ((i, j), (j, i)))
    assert there == -back
    assert abs(float(there)) <= 1
    assert (float(there) == 0) == (i == j)


def test_deltas_are_antisymmetric_and_zero_for_one_frame_whatever_the_weights():
    torch.manual_seed(0)
    network = PairNetwork(16, 32).eval()
    a, b, text = torch.randn(3, 20, 16)
    torch.testing.assert_close(network.delta(a, b, text), -network.delta(b, a, text))
    assert (network.delta(a, a, text) == 0).all()
    assert network.delta(a, b, text).abs().max() > 0.01


def test_deltas_compare_with_the_frame_an_interval_ago(learned):
    _, critic = learned
    clips, goals = random_clips(frames=6), ["a bar at the right"] * 4
    features = critic.encoder.encode_image(clips.flatten(0, 1)).unflatten(0, (4, 6))
    text = critic.encoder.encode_text(goals)
    found = critic.terms(clips, goals)["delta"]
    assert (found[:, 0] == 0).all()
    for t, earlier in ((2, 0), (3, 0), (5, 2)):
        torch.testing.assert_close(found[:, t], critic.network.delta(features[:, earlier], features[:, t], text))


def test_anchors_lead_to_the_last_frame():
    critic = ProgressCritic(TinyEncoder(), "up", interval=3, width=4)
    assert critic.anchors(1) == [0]
    assert critic.anchors(3) == [0, 2]
    assert critic.anchors(8) == [0, 1, 4, 7]


def test_what_was_held_out_is_judged_in_order(learned):
    demos, critic = learned
    found = critic.found.figures
    assert found["voc"] > 0.9
    assert found["voc_reversed"] < -0.8
    assert found["mismatch_gap"] > 0.5
    clip, goals = demos[0].frames[None], ["a bar at the right"]
    assert critic.score(clip, goals) > 0.8
    done = critic.terms(clip, goals)["done"][0]
    assert done[-1] > 0.5 > done[: len(done) // 2].max()
    assert critic.terms(clip, ["a bar at the left"])["done"][0, -1] < done[-1]
    with pytest.raises(PromptError, match="several texts"):
        critic(clip)


def sampler_of(demos, **options):
    """Features are the number of the demonstration and of the frame."""
    texts = [demo.text for demo in demos]
    distinct = list(dict.fromkeys(texts))
    others = torch.arange(len(distinct))
    settings = {"interval": 4, "still": 0.01, "mismatch": 0.0, "irrelevant": 0.0, **options}
    return PairSampler(
        features=[torch.stack([torch.full((len(d),), float(n)), torch.arange(len(d)).float()], 1)
                  for n, d in enumerate(demos)],
        thumbnails=[grey_thumbnails(d.frames) for d in demos],
        told=torch.eye(len(distinct)),
        own=torch.tensor([distinct.index(t) for t in texts]),
        wrong=[others[others != i] for i in range(len(distinct))],
        **settings,
    )  # fmt: skip


def test_pairs_carry_the_fraction_of_what_remains():
    demos = sweeps(2, frames=21) + sweeps(2, frames=21, text="left", flip=True)
    pairs = sampler_of(demos).sample([0, 1, 2, 3], 400, torch.Generator().manual_seed(0))
    i, j = pairs.before[:, 1], pairs.after[:, 1]
    assert (i <= j).all()
    torch.testing.assert_close(pairs.delta, signed_fraction(i, j, torch.tensor(20)))
    assert 0.4 < float((j - i == 4).float().mean()) < 0.7
    assert i.min() == 0
    assert j.max() == 20


def test_frames_that_hardly_differ_are_still():
    (demo,) = sweeps(1, frames=21)
    frames = demo.frames.clone()
    frames[10:] = frames[10]
    frames[11:, :, 0, 0] ^= 2  # noise
    pairs = sampler_of([Demo(frames, "stops", "x"), *sweeps(1)]).sample([0], 400, torch.Generator().manual_seed(0))
    after_stop = pairs.before[:, 1] >= 10
    assert after_stop.any()
    assert (pairs.delta[after_stop] == 0).all()
    assert (pairs.delta[~after_stop & (pairs.before[:, 1] < pairs.after[:, 1])] > 0).all()


def test_wrong_texts_and_other_tasks_make_no_progress():
    demos = sweeps(2) + sweeps(1, text="left", flip=True)
    told = sampler_of(demos, mismatch=1.0).sample([0, 1, 2], 100, torch.Generator().manual_seed(0))
    assert (told.delta == 0).all()
    assert (told.done == 0).all()
    other = sampler_of(demos, irrelevant=1.0).sample([0, 1, 2], 100, torch.Generator().manual_seed(0))
    assert (other.delta == 0).all()
    assert ((other.before[:, 0] == 2) != (other.after[:, 0] == 2)).all()
    alone = sampler_of(demos, irrelevant=1.0).sample([0, 1], 100, torch.Generator().manual_seed(0))
    assert (alone.delta > 0).any()


def test_done_is_labelled_near_the_ends_only():
    pairs = sampler_of(sweeps(2, frames=41) + sweeps(1, text="left", flip=True)).sample(
        [0, 1], 1000, torch.Generator().manual_seed(0)
    )
    place, done = pairs.frame[:, 1] / 40, pairs.done.bool()
    assert (place[done] > 0.95).all()
    assert (place[~done] < 0.8).all()
    assert place[~done].min() == 0
    assert 0.4 < float(pairs.done.mean()) < 0.6


def test_fit_repeats_itself_and_leaves_the_generator_alone(tmp_path):
    encoder, demos = TinyEncoder(), sweeps(3)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        first = ProgressCritic.fit(encoder, demos, seed=3, **SMALL)
    assert torch.equal(before, torch.random.get_rng_state())
    again = ProgressCritic.fit(encoder, demos, seed=3, **SMALL)
    clips = random_clips()
    assert torch.equal(first(clips), again(clips))
    first.save(tmp_path / "critic.safetensors")
    assert torch.equal(load_reward(tmp_path / "critic.safetensors", encoder)(clips), first(clips))
    assert not first.train().network.training


def test_what_cannot_be_fitted_or_composed_is_refused():
    encoder, demos = TinyEncoder(), sweeps(2)
    with pytest.raises(DemoError, match="at least 3 frames"):
        ProgressCritic.fit(encoder, [Demo(demos[0].frames[:2], "short")])
    with pytest.raises(ValueError, match="mismatch is a share"):
        ProgressCritic.fit(encoder, demos, mismatch=-1)
    with pytest.raises(ValueError, match="interval and width"):
        ProgressCritic(encoder, interval=0)
    with pytest.raises(ValueError, match="pay must be one of"):
        ProgressCritic(encoder, pay="all")
    with pytest.raises(ValueError, match="form must be one of"):
        compose_progress(torch.zeros(3), "sum")
    with pytest.raises(ValueError, match="Deltas must lie"):
        compose_progress(torch.tensor([20.0, 30.0]))
