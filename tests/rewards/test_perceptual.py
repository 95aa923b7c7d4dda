"""Perceptual rewards: steps found in videos, detectors that know them again, and the sheet that shows both."""

import numpy as np
import pytest
import torch
from contract import check_reward
from matplotlib.pyplot import imread
from tiny import TinyEncoder, random_clips

import vrm
from vrm.data.demos import Demo, DemoError
from vrm.envs import make_task
from vrm.envs.humanoid_poses import POSES, joint_vector, place
from vrm.errors import FrameError, UnknownNameError
from vrm.frames import from_hwc
from vrm.pictures.steps import DemoRow, demo_sheet
from vrm.rewards.perceptual import PerceptualReward, fit_logistic

STEPS = ("standing", "kneeling", "kneeling_arms_raised")


def painted(lasts, seed=0, size=24):
    """A square that jumps to another place and colour with each step, a little noisy."""
    rng = np.random.default_rng(seed)
    stages = np.repeat(np.arange(len(lasts)), lasts)
    frames = rng.integers(0, 30, (len(stages), 3, size, size))
    for frame, stage in zip(frames, stages, strict=True):
        frame[stage % 3, 6 * stage : 6 * stage + 8, 4:12] += 200
    return Demo(torch.from_numpy(frames).to(torch.uint8), f"square {seed}", stages=stages)


def some(count=3, lasts=(6, 8, 7)):
    return [painted([n + (i + k) % 3 for k, n in enumerate(lasts)], seed=i) for i in range(count)]


@pytest.fixture(scope="module")
def film():
    """Humanoids that stand, kneel and raise their arms, seven of them."""
    env, rng, demos = make_task("humanoid_kneeling").make(size=64), np.random.default_rng(0), []
    env.reset(seed=0)
    body = env.unwrapped
    angles = [joint_vector(body.model, POSES[pose].joints) for pose in STEPS]
    for number in range(7):
        stages, offset = np.repeat(np.arange(3), rng.integers(8, 16, 3)), rng.normal(0, 0.06, angles[0].shape)
        frames = []
        for stage in stages:
            posture = angles[stage] + offset + rng.normal(0, 0.03, offset.shape)
            place(body.model, body.data, posture, np.array([rng.normal(0, 0.02), 0.0, 0.0]))
            frames.append(body.render().copy())
        demos.append(Demo(from_hwc(np.stack(frames)), f"kneeling {number}", stages=stages))
    env.close()
    return demos


@pytest.fixture(scope="module")
def sim():
    return vrm.load_encoder("vrm-sim")


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"steps": 3, "layer": "patches"}, {"steps": 3, "joint": False}])
def test_contract(encoder, tmp_path, options):
    demos = some()
    check_reward(lambda e: PerceptualReward.fit(e, demos, **options), encoder, tmp_path)


@pytest.mark.parametrize("layer", ["global", "patches", "layer3"])
def test_held_out_video_is_told_apart_step_by_step(sim, film, layer):
    reward = PerceptualReward.fit(sim, film[:5], steps=3, layer=layer)
    assert reward.found.figures["overlap_true_stages"] > 0.95
    for demo in film[5:]:
        terms = reward.terms(demo.frames[None])
        for step, values in enumerate(terms.values()):
            seen = values[0].numpy() > 0.5
            assert (seen == (demo.stages == step)).mean() > 0.9
        paid = reward.combine(terms)[0].numpy()
        means = [paid[demo.stages == step].mean() for step in range(3)]
        assert means[0] < 0.15 < means[1] < 0.5 < means[2]


def test_number_of_steps_is_found_where_movements_are_quick(sim, film):
    reward = PerceptualReward.fit(sim, film)
    assert reward.found.figures["steps"] == 3
    assert reward.found.notes[-8].startswith("3 steps by BIC (2: ")
    assert list(reward.terms(random_clips())) == ["step_1", "step_2", "step_3"]


def test_found_says_where_steps_begin(encoder):
    demos = some()
    reward = PerceptualReward.fit(encoder, demos, steps=3)
    for demo, cuts in zip(demos, reward.found.steps, strict=True):
        np.testing.assert_array_equal(cuts, np.flatnonzero(np.diff(demo.stages)) + 1)
        assert f"{demo.name}: steps begin at frames 0, {cuts[0]}, {cuts[1]} of {len(demo)}." in reward.found.notes
    assert all(np.isfinite(value) for value in reward.found.figures.values())


def test_reward_is_the_weighted_mean_of_all_steps_but_the_first(encoder):
    reward = PerceptualReward.fit(encoder, some(lasts=(5, 5, 5, 5)), steps=4)
    terms = {f"step_{s}": torch.full((1, 2), value) for s, value in enumerate((0.9, 0.5, 0.1, 0.7), 1)}
    expected = (2 * 0.5 + 4 * 0.1 + 8 * 0.7) / 14
    torch.testing.assert_close(reward.combine(terms), torch.full((1, 2), expected))


def test_step_reward_is_the_published_quantity_under_a_logistic_curve(encoder):
    demos = some(lasts=(9, 9))
    reward = PerceptualReward.fit(encoder, demos, steps=2, n_features=4)
    frames = torch.cat([encoder.encode_image(demo.frames) for demo in demos]).double()
    standard = ((frames - frames.mean(dim=0)) / frames.std(dim=0, correction=0))[:, reward.indices[1]]
    inside = np.concatenate([demo.stages for demo in demos]) == 1
    own = standard[torch.from_numpy(inside)]
    quantity = -((standard - own.mean(dim=0)) ** 2 / own.std(dim=0, correction=0).clamp(min=0.1)).mean(dim=1)
    slope, intercept = fit_logistic(quantity.numpy(), inside)
    found = torch.cat([reward.terms(demo.frames[None])["step_2"][0] for demo in demos])
    torch.testing.assert_close(found.double(), torch.sigmoid(slope * quantity + intercept), rtol=1e-3, atol=1e-4)


def test_features_with_the_best_published_score_are_kept(encoder):
    demos = some(lasts=(9, 9))
    reward = PerceptualReward.fit(encoder, demos, steps=2, n_features=3, alpha=5.0)
    frames = torch.cat([encoder.encode_image(demo.frames) for demo in demos]).double().numpy()
    standard = (frames - frames.mean(axis=0)) / frames.std(axis=0)
    mask = np.concatenate([demo.stages for demo in demos]) == 1
    gap = np.abs(standard[mask].mean(axis=0) - standard[~mask].mean(axis=0))
    score = 5 * gap - standard[mask].std(axis=0) - standard[~mask].std(axis=0)
    assert set(reward.indices[1].tolist()) == set(np.argsort(-score)[:3].tolist())


def test_fitting_twice_gives_the_same_and_leaves_random_numbers_alone(encoder):
    state = torch.random.get_rng_state()
    first, second = (PerceptualReward.fit(encoder, some(), steps=3, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    clips = random_clips()
    assert torch.equal(first(clips), second(clips))


def test_features_of_a_layer_are_made_once_per_demonstration():
    encoder, demos = TinyEncoder(), some()
    seen = []
    encoder.tower.register_forward_hook(lambda *_: seen.append(1))
    PerceptualReward.fit(encoder, demos, steps=2, layer="patches")
    before = len(seen)
    PerceptualReward.fit(encoder, demos[1:], steps=3, layer="patches")
    assert len(seen) == before


def test_one_demonstration_and_steps_of_few_frames_are_enough(encoder):
    reward = PerceptualReward.fit(encoder, [painted([2, 1, 4])], steps=3, min_size=1)
    assert torch.isfinite(reward(random_clips())).all()
    assert reward.found.steps[0].tolist() == [2, 3]


def test_demonstrations_of_very_different_length_share_their_steps(encoder):
    demos = [painted([3, 3, 3], 0), painted([70, 20, 40], 1)]
    reward = PerceptualReward.fit(encoder, demos, steps=3)
    assert [cuts.tolist() for cuts in reward.found.steps] == [[3, 6], [70, 90]]


def test_features_that_never_vary_are_not_looked_at(encoder):
    class HalfDead(TinyEncoder):
        def image_features(self, pixels):
            features = super().image_features(pixels)
            return torch.cat([features[:, :5], torch.zeros_like(features[:, 5:])], dim=1)

    reward = PerceptualReward.fit(HalfDead(), some(), steps=2)
    assert sorted(reward.indices[0].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 1}, ValueError, "steps must be 'bic' or a number of at least 2, got 1"),
        ({"steps": "many"}, ValueError, "steps must be 'bic'"),
        ({"n_features": 0}, ValueError, "n_features must be at least 1"),
        ({"alpha": 0}, ValueError, "alpha must be positive"),
        ({"steps": 40}, DemoError, "Demonstration 'square 0' is too short: 40 steps of at least 2 frames need 80"),
        ({"min_size": 15}, DemoError, "Demonstration 'square 0' is too short: 2 steps of at least 15"),
        ({"layer": "nowhere"}, UnknownNameError, "Unknown layer of encoder 'tiny' 'nowhere'"),
    ],
)
def test_wrong_options_are_said(encoder, options, error, words):
    with pytest.raises(error, match=words):
        PerceptualReward.fit(encoder, some(), **options)


def test_demonstrations_from_which_nothing_can_be_learned_are_refused(encoder):
    with pytest.raises(DemoError, match="at least 1 demonstrations, got 0"):
        PerceptualReward.fit(encoder, [])
    with pytest.raises(DemoError, match="same picture in all 9 frames"):
        PerceptualReward.fit(encoder, [Demo(torch.zeros(9, 3, 8, 8, dtype=torch.uint8), "still")])
    with pytest.raises(DemoError, match="at least 4 frames, but 'square 0' has 3"):
        PerceptualReward.fit(encoder, [painted([1, 2])])


def test_logistic_curve_is_the_most_likely_one_and_never_falls():
    rng = np.random.default_rng(0)
    quantity = rng.normal(size=400)
    label = rng.random(400) < 1 / (1 + np.exp(-(2 * quantity - 1)))
    slope, intercept = fit_logistic(quantity, label)
    assert slope == pytest.approx(2, abs=0.5)
    probability = 1 / (1 + np.exp(-(slope * quantity + intercept)))
    target = np.where(label, (label.sum() + 1) / (label.sum() + 2), 1 / ((~label).sum() + 2))
    surplus = (probability - target) / np.where(label, label.sum(), (~label).sum())
    assert abs(surplus.sum()) < 1e-8
    assert abs((surplus * quantity).sum()) < 1e-8
    assert fit_logistic(-quantity, label)[0] == 0


def test_rare_label_that_is_hard_to_tell_still_passes_one_half():
    quantity = np.concatenate([np.linspace(-3, 0, 300), np.linspace(-1, 0, 10)])
    slope, intercept = fit_logistic(quantity, np.arange(310) >= 300)
    assert slope * -0.3 + intercept > 0 > slope * -2 + intercept


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_logistic_curve_stays_finite_where_a_threshold_separates(scale):
    quantity = scale * np.array([-9.0, -8.0, -7.0, -1.0, 0.0])
    slope, intercept = fit_logistic(quantity, quantity > -5 * scale)
    probability = 1 / (1 + np.exp(-(slope * quantity + intercept)))
    assert np.isfinite([slope, intercept]).all()
    assert ((probability > 0.5) == (quantity > -5 * scale)).all()


def test_demo_sheet_shows_rows_with_and_without_steps(tmp_path):
    demo = painted([6, 8, 7])
    cuts = np.array([6, 14])
    reward = np.linspace(0, 1, len(demo))
    rows = [
        DemoRow("with steps", demo.frames, reward, cuts, step_rewards=np.tile(reward, (3, 1))),
        DemoRow("held out", demo.frames[:5], [float("nan"), 0.0, 1.0, 2.0, 1.0], held_out=True),
    ]
    one, two = (demo_sheet(tmp_path / f"{n}.png", rows[:n], "two videos") for n in (1, 2))
    assert imread(one).shape[0] < imread(two).shape[0]
    assert {file.name for file in tmp_path.iterdir()} == {"1.png", "2.png"}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"reward": [0.0]}, ValueError, r"Reward of 'x' must be \(5,\)"),
        ({"reward": [0, 0, 0, 0, float("inf")]}, ValueError, "not infinite"),
        ({"steps": np.array([3, 2])}, ValueError, "must begin in order between frames 1 and 4"),
        ({"step_rewards": np.zeros((2, 5))}, ValueError, r"Step rewards of 'x' must be \(n, T\) = \(1, 5\)"),
        ({"frames": torch.zeros(5, 8, 8, 3)}, FrameError, "channels come last"),
    ],
)
def test_demo_sheet_refuses_what_does_not_fit(tmp_path, change, error, words):
    whole = {"label": "x", "frames": torch.zeros(5, 3, 8, 8), "reward": np.zeros(5)}
    with pytest.raises(error, match=words):
        demo_sheet(tmp_path / "sheet.png", [DemoRow(**whole | change)])
    with pytest.raises(ValueError, match="at least one row"):
        demo_sheet(tmp_path / "sheet.png", [])
