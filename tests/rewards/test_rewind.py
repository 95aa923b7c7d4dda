import numpy as np
import pytest
import torch
from contract import check_reward
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyEncoder, random_clips

from vrm import load_reward
from vrm.data.demos import Demo, DemoError
from vrm.errors import PromptError
from vrm.rewards.holdout import hold_out
from vrm.rewards.rewind import ProgressTransformer, RewindReward
from vrm.rewards.rewind_data import ClipSampler, history_places, sample_spans, spread_places
from vrm.rewards.told import UNRELATED, mismatch_texts, wrong_texts

SMALL = {"width": 16, "layers": 1, "heads": 2, "steps": 4}


def sweeps(count=5, frames=24, text="a bar at the right", flip=False):
    """A white bar that crosses a dark picture from left to right, at slightly different brightness each time."""
    demos = []
    for k in range(count):
        clip = torch.zeros(frames, 3, 24, 24, dtype=torch.uint8)
        for t in range(frames):
            at = round(t * 20 / (frames - 1))
            clip[t, :, :, at : at + 4] = 200 + 10 * k
        demos.append(Demo(clip.flip(0) if flip else clip, f"{'left' if flip else 'right'}{k}", text))
    return demos


@pytest.fixture(scope="module")
def learned():
    encoder = TinyEncoder()
    demos = sweeps(4) + sweeps(4, text="a bar at the left", flip=True)
    return demos, RewindReward.fit(encoder, demos, width=32, layers=1, heads=2, steps=250, frames=8, window=8)


@pytest.mark.parametrize(("frames", "window"), [(16, 16), (3, 4), (1, 1)])
def test_contract(frames, window, tmp_path):
    def factory(encoder):
        return RewindReward(encoder, "up", frames=frames, window=window, width=16, layers=1, heads=2)

    torch.manual_seed(0)
    check_reward(factory, TinyEncoder(), tmp_path)


def test_a_fitted_reward_keeps_the_contract(tmp_path):
    encoder = TinyEncoder()
    fitted = RewindReward.fit(encoder, sweeps(2), **SMALL)
    check_reward(lambda _: fitted, encoder, tmp_path)


def test_progress_rises_on_what_was_held_out_and_falls_when_it_is_reversed(learned):
    _, reward = learned
    found = reward.found.figures
    assert found["voc"] > 0.9
    assert found["voc_reversed"] < -0.9
    assert found["mismatch_gap"] > 0.5
    assert 1 <= found["best_step"] <= 250


def test_the_goal_of_the_call_decides(learned):
    demos, reward = learned
    clips = torch.stack([demos[0].frames, demos[0].frames])
    own, other = reward.score(clips, goals=["a bar at the right", "a bar at the left"])
    assert own > other + 0.5
    with pytest.raises(PromptError, match="several texts"):
        reward(clips)


def test_attention_sees_no_future_frame():
    torch.manual_seed(0)
    network = ProgressTransformer(16, 16, 2, 2).eval()
    frames, text = torch.randn(3, 6, 16, requires_grad=True), torch.randn(3, 16)
    network(frames, text)[:, 2].sum().backward()
    assert frames.grad[:, :3].abs().amax(dim=(0, 2)).min() > 0
    assert frames.grad[:, 3:].abs().max() == 0


def test_only_the_first_frame_is_marked():
    """In one layer, a frame does not know in which order those before it came, save for the first of all."""
    torch.manual_seed(0)
    network, text = ProgressTransformer(16, 16, 1, 2).eval(), torch.zeros(1, 16)
    frames = torch.randn(1, 5, 16)
    later, first = frames[:, [0, 2, 1, 3, 4]], frames[:, [1, 0, 2, 3, 4]]
    torch.testing.assert_close(network(later, text)[:, 3:], network(frames, text)[:, 3:])
    assert (network(first, text) - network(frames, text))[:, 3:].abs().max() > 1e-4


def test_a_long_window_is_spread_over_the_whole_past():
    places, last = history_places(40, frames=16, window=100)
    assert places[39].tolist()[0] == 0
    assert places[39].tolist()[-1] == 39
    assert np.ptp(np.diff(places[39])) <= 1
    assert places[5].tolist() == [0, 1, 2, 3, 4, 5] + [5] * 10
    assert last[5] == 5


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20))
def test_spread_places_rise_and_keep_both_ends(total, frames):
    places, count = (found[0] for found in spread_places(torch.tensor([total]), frames))
    assert int(count) == min(total, frames)
    kept = places[: int(count)].tolist()
    assert kept == sorted(set(kept))
    assert kept[-1] == total - 1
    assert frames == 1 or kept[0] == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.integers(2, 20), st.sampled_from(["demo", "clip"]))
def test_training_clips_run_forward_then_back_with_their_targets(seed, total, window, origin):
    lengths = torch.full((32,), total)
    spans = sample_spans(lengths, window, window, torch.Generator().manual_seed(seed), 0.8, origin)
    assert spans.indices.min() >= 0
    assert spans.indices.max() <= total - 1
    for indices, targets, valid in zip(spans.indices, spans.targets, spans.valid, strict=True):
        kept = indices[valid]
        turns = torch.diff(kept)
        assert (turns.abs() == 1).all()
        assert (torch.diff((turns < 0).int()) >= 0).all()  # once back, always back
        first = kept[0] if origin == "clip" else 0
        expected = (kept - first).clamp(min=0) / max(total - 1 - int(first), 1)
        torch.testing.assert_close(targets[valid], expected.float())
        assert (indices[~valid] == kept[-1]).all()


def test_the_share_of_rewound_clips_is_as_asked():
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.8, 1.0):
        spans = sample_spans(torch.full((2000,), 100), 40, 80, generator, share)
        kept = spans.indices[:, -1] < spans.indices.amax(dim=1)
        assert abs(float(kept.float().mean()) - share) < 0.04


def test_a_wrong_text_makes_every_target_zero():
    own, wrong = torch.tensor([0, 1]), [torch.tensor([1, 2]), torch.tensor([0, 2])]
    features = [torch.randn(20, 4), torch.randn(30, 4)]
    told = torch.eye(3, 4)
    sampler = ClipSampler(features, told, own, wrong, 8, 8, 0.8, 1.0, "demo")
    _, texts, spans = sampler.sample([0], 50, torch.Generator().manual_seed(0))
    assert (spans.targets == 0).all()
    assert not (texts == told[0]).all(dim=1).any()
    chosen = mismatch_texts(torch.zeros(2000, dtype=torch.long), wrong, torch.Generator().manual_seed(0), 0.2)
    assert abs(float((chosen != 0).float().mean()) - 0.2) < 0.03
    assert set(chosen.tolist()) == {0, 1, 2}


def test_one_text_is_told_from_unrelated_ones():
    known, wrong = wrong_texts(["kneel", "kneel"])
    assert known == ["kneel", *UNRELATED]
    assert wrong[0].tolist() == list(range(1, len(known)))
    assert wrong_texts(["kneel"], ["Kneel ", "stand"])[0] == ["kneel", "stand"]
    with pytest.raises(ValueError, match="negatives"):
        wrong_texts(["kneel"], [])


def test_demonstrations_of_a_task_shown_once_are_held_out_last():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        trained, watched = hold_out(["a", "a", "a", "b", "b", "c"], generator, 0.34)
        assert sorted(trained + watched) == list(range(6))
        assert 5 in trained
        assert len(watched) == 2
    assert hold_out(["a"], generator) == ([0], [0])


def test_fit_repeats_itself_and_leaves_the_generator_alone():
    encoder, demos = TinyEncoder(), sweeps(3)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        first = RewindReward.fit(encoder, demos, seed=3, **SMALL)
    assert torch.equal(before, torch.random.get_rng_state())
    again, other = (RewindReward.fit(encoder, demos, seed=s, **SMALL) for s in (3, 4))
    clips = random_clips()
    assert torch.equal(first(clips), again(clips))
    assert not torch.equal(first(clips), other(clips))
    assert not any(p.requires_grad for p in first.parameters())


def test_a_fitted_reward_is_the_same_from_its_file(learned, tmp_path):
    demos, reward = learned
    reward.save(tmp_path / "rewind.safetensors")
    again = load_reward(tmp_path / "rewind.safetensors", reward.encoder)
    clips, goals = demos[0].frames[None], ["a bar at the right"]
    assert torch.equal(again(clips, goals), reward(clips, goals))


def test_training_mode_changes_nothing():
    reward = RewindReward.fit(TinyEncoder(), sweeps(2), **SMALL)
    assert not reward.train().network.training


def test_one_demonstration_without_a_text_is_enough():
    (demo,) = sweeps(1, text=None)
    reward = RewindReward.fit(TinyEncoder(), [demo], **SMALL, origin="clip")
    assert "one demonstration only" in reward.found.notes[1]
    assert reward(demo.frames[None]).shape == (1, 24)
    assert RewindReward.fit(TinyEncoder(), [demo], text="sweep", **SMALL).text == "sweep"


def test_what_cannot_be_fitted_is_refused():
    encoder, demos = TinyEncoder(), sweeps(2)
    with pytest.raises(DemoError, match="at least 3 frames"):
        RewindReward.fit(encoder, [Demo(demos[0].frames[:2], "short")])
    with pytest.raises(ValueError, match="origin must be"):
        RewindReward.fit(encoder, demos, origin="start")
    with pytest.raises(ValueError, match="frames must be >= 2"):
        RewindReward.fit(encoder, demos, origin="clip", frames=1)
    with pytest.raises(ValueError, match="shares in"):
        RewindReward.fit(encoder, demos, rewind=2)
    with pytest.raises(ValueError, match="heads must divide"):
        RewindReward(encoder, width=10, heads=4)
    with pytest.raises(ValueError, match="window at least frames"):
        RewindReward(encoder, frames=8, window=4)
    with pytest.raises(ValueError, match="at least one step"):
        RewindReward.fit(encoder, demos, steps=0)
    with pytest.raises(ValueError, match="share held out"):
        RewindReward.fit(encoder, demos, held_out=1.0)
