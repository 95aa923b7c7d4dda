"""Rewards without text, on clips of which the truth is known: pans, jitter, flicker, stills, splices, real films."""

from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny import GOAL, TinyEncoder, random_clips
from torch.nn import functional

from vrm import load_encoder
from vrm.rewards import (
    CutDetection,
    Flicker,
    FrozenVideo,
    GoalReward,
    MotionSmoothness,
    SubjectConsistency,
    Sum,
)
from vrm.rewards.temporal import structural_similarity, thumbnails
from vrm.video import read_video, write_video

MEASURES = [MotionSmoothness, Flicker, FrozenVideo, CutDetection]
CONFIGS = Path(__file__).parents[2] / "configs" / "reward"


def texture(seed, side=96, width=288, grain=24):
    """A smooth random colour picture ``(3, side, width)`` in [0, 1]."""
    coarse = torch.rand(1, 3, side // grain, width // grain, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (side, width), mode="bicubic").clamp(0, 1)[0]


def seen_through(picture, offsets):
    """A camera of 96 pixels that looks at the picture at the given offsets: ``(1, T, 3, 96, 96)``."""
    return torch.stack([picture[:, :, offset : offset + 96] for offset in offsets])[None]


def pan(seed=1, frames=16, speed=2):
    return seen_through(texture(seed), range(0, frames * speed, speed))


def still(frames=16):
    return seen_through(texture(1), [20] * frames)


def jitter():
    return seen_through(texture(1), [20 + 6 * (i % 2) for i in range(16)])


def blinking(clip, low=0.8):
    return clip * torch.tensor([1.0, low] * 8).view(1, 16, 1, 1, 1)


def noisy(clip, std=0.02):
    return (clip + std * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def to_uint8(clip):
    return (clip * 255).round().to(torch.uint8)


def through_a_file(clip, folder):
    """What is left of the clip after H.264."""
    path = write_video(folder / "clip.mp4", to_uint8(clip)[0])
    return read_video(path)[None]


@pytest.fixture(scope="module")
def kneeling():
    path = Path(__file__).parents[2] / "videos" / "kneeling.mp4"
    return read_video(path)[None]


def score(measure, clip):
    return measure().score(clip).item()


def test_smooth_motion_and_jitter():
    assert score(MotionSmoothness, pan()) > 0.98
    assert score(MotionSmoothness, still()) == 1
    assert score(MotionSmoothness, jitter()) < 0.05
    assert score(MotionSmoothness, noisy(still())) > 0.8
    assert score(MotionSmoothness, random_clips(batch=1, frames=16)) == pytest.approx(0.25, abs=0.02)


def test_a_random_walk_is_half_smooth():
    """Where changes have nothing to do with those before them, the parallelogram law gives 1/2."""
    steps = 0.04 * torch.randn(8, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    start = 0.35 + 0.3 * torch.rand(8, 1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    walk = (start + steps.cumsum(dim=1)).clamp(0, 1).expand(-1, -1, 3, -1, -1)
    assert MotionSmoothness().score(walk).mean().item() == pytest.approx(0.5, abs=0.03)


def test_real_motion_is_smoother_than_the_same_frames_shuffled(kneeling):
    order = torch.tensor([3 * i + 6 * (i % 2) for i in range(16)]) + 20
    assert score(MotionSmoothness, kneeling[:, 20:68:3]) > score(MotionSmoothness, kneeling[:, order]) + 0.3


def test_flicker_is_brightness_that_comes_and_goes():
    clip = torch.full((1, 16, 3, 32, 32), 1.0)
    assert score(Flicker, blinking(clip)) == pytest.approx(0.8, abs=1e-5)
    assert score(Flicker, blinking(pan())) < 0.93
    assert score(MotionSmoothness, blinking(pan())) > 0.85  # which does not take flicker for shaking


def test_fades_pans_and_films_do_not_flicker(kneeling):
    fade = still() * torch.linspace(1, 0.2, 16).view(1, 16, 1, 1, 1)
    assert score(Flicker, fade) == 1
    assert score(Flicker, pan()) > 0.995
    assert score(Flicker, kneeling) > 0.995


def test_frozen_share_survives_compression(kneeling, tmp_path):
    half = torch.cat([kneeling[:, 20:40], kneeling[:, 40:41].expand(-1, 20, -1, -1, -1)], dim=1) / 255
    assert score(FrozenVideo, half) == pytest.approx(20 / 39)
    assert score(FrozenVideo, through_a_file(half, tmp_path)) == pytest.approx(20 / 39, abs=0.06)
    assert score(FrozenVideo, still()) == 0
    assert score(FrozenVideo, pan()) == 1
    assert score(FrozenVideo, kneeling) > 0.95


def test_frozen_notices_one_small_moving_thing():
    clip = torch.zeros(1, 8, 3, 256, 256)
    for t in range(8):
        clip[0, t, :, 100:106, 20 + 4 * t : 26 + 4 * t] = 1
    assert score(FrozenVideo, clip) == 1


def test_cuts_between_scenes_are_counted(kneeling, tmp_path):
    film = functional.interpolate(pan()[0], kneeling.shape[-2:])[None]
    spliced = torch.cat([kneeling[:, :20] / 255, film[:, :8], kneeling[:, 50:60] / 255], dim=1)
    for clip in (spliced, through_a_file(spliced, tmp_path)):
        assert (CutDetection()(clip)[0] == 0).nonzero().flatten().tolist() == [20, 28]
        assert score(CutDetection, clip) == pytest.approx(1 / 3)


def test_no_cut_where_there_is_none(kneeling):
    black = torch.zeros(1, 10, 3, 32, 32)
    for clip in (
        pan(),
        pan(speed=8),
        still(),
        jitter(),
        blinking(pan()),
        noisy(pan()),
        kneeling,
        kneeling[:, ::8],
        black,
    ):
        assert score(CutDetection, clip) == 1


def test_black_after_white_is_a_cut():
    clip = torch.cat([torch.ones(1, 4, 3, 32, 32), torch.zeros(1, 4, 3, 32, 32)], dim=1)
    assert CutDetection()(clip).tolist() == [[1, 1, 1, 1, 0, 1, 1, 1]]


def test_subject_consistency_against_its_formula(encoder):
    clips = random_clips(frames=5)
    f = encoder.encode_image(clips.flatten(0, 1)).unflatten(0, (4, 5))
    for b in range(4):
        pairs = [(max(0, f[b, t] @ f[b, t - 1]) + max(0, f[b, t] @ f[b, 0])) / 2 for t in range(1, 5)]
        assert SubjectConsistency(encoder).score(clips)[b].item() == pytest.approx(float(sum(pairs)) / 4, abs=1e-5)


def test_subject_consistency_tells_one_scene_from_two(kneeling):
    reward = SubjectConsistency(load_encoder("vrm-sim"))
    film = to_uint8(functional.interpolate(pan()[0], kneeling.shape[-2:])[None])
    repeated, spliced = kneeling[:, [50] * 8], torch.cat([kneeling[:, 48:52], film[:, :4]], dim=1)
    assert reward.score(repeated).item() == pytest.approx(1, abs=1e-5)
    assert reward.score(kneeling[:, 48:56]).item() > 0.9
    assert reward.score(spliced).item() < 0.85


@pytest.mark.parametrize("measure", MEASURES)
def test_frames_without_predecessors_are_neutral_and_do_not_count(measure):
    reward = measure()
    for frames in range(1, reward.window):
        assert reward(random_clips(frames=frames)).tolist() == [[1.0] * frames] * 4
        assert reward.score(random_clips(frames=frames)).tolist() == [1.0] * 4
    clips = random_clips(frames=6)
    rewards = reward(clips)
    assert (rewards[:, : reward.window - 1] == 1).all()
    if measure is not CutDetection:
        torch.testing.assert_close(reward.score(clips), rewards[:, reward.window - 1 :].mean(dim=1))
    assert reward.dimensions(clips).keys() == reward.terms(clips).keys()


def test_one_frame_has_a_consistent_subject(encoder):
    assert SubjectConsistency(encoder).score(random_clips(frames=1)).tolist() == [1.0] * 4


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("size", [(48, 48), (33, 70), (256, 144)])
def test_values_hardly_depend_on_the_size_of_the_video(measure, size):
    for clip in (pan(), jitter(), blinking(pan())):
        resized = functional.interpolate(clip[0], size, mode="bilinear", antialias=True)[None]
        assert score(measure, resized) == pytest.approx(score(measure, clip), abs=0.03)


@pytest.mark.parametrize("size", [16, 24, 300, 600])
def test_thumbnails_of_a_batch_equal_those_of_single_frames(size):
    clips = to_uint8(random_clips(batch=2, frames=3, size=size))
    singles = [thumbnails(frame[None, None])[0, 0] for frame in clips.flatten(0, 1)]
    torch.testing.assert_close(thumbnails(clips), torch.stack(singles).unflatten(0, (2, 3)))


def test_similarity_is_symmetric_and_bounded():
    one, other = torch.rand(2, 100, 16, 16, generator=torch.Generator().manual_seed(0))
    similarity = structural_similarity(one, other)
    torch.testing.assert_close(similarity, structural_similarity(other, one))
    assert similarity.abs().max() <= 1
    torch.testing.assert_close(structural_similarity(one, one), torch.ones(100))


def test_a_sum_scores_each_part_in_its_own_way(encoder):
    """Declared weights combine the dimensions exactly."""
    clips = torch.cat([pan(), blinking(pan())])
    reward = Sum(
        {"calm": Flicker(), "uncut": CutDetection(), "goal": GoalReward(encoder, GOAL)},
        weights={"calm": 0.5, "goal": 2},
    )
    dimensions = reward.dimensions(clips)
    assert list(dimensions) == ["calm", "uncut", "goal"]
    torch.testing.assert_close(dimensions["calm"], Flicker().score(clips))
    by_hand = 0.5 * dimensions["calm"] + dimensions["uncut"] + 2 * dimensions["goal"]
    torch.testing.assert_close(reward.score(clips), by_hand)
    nested = Sum({"inner": reward, "calm": Flicker()}).dimensions(clips)
    assert list(nested) == ["inner", "inner/calm", "inner/uncut", "inner/goal", "calm"]
    torch.testing.assert_close(nested["inner"], by_hand)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("motion_smoothness", MotionSmoothness),
        ("flicker", Flicker),
        ("frozen", FrozenVideo),
        ("cuts", CutDetection),
        ("subject_consistency", SubjectConsistency),
        ("temporal", Sum),
    ],
)
def test_configs_build_around_an_encoder(file, kind):
    encoder = TinyEncoder()
    config = OmegaConf.create(yaml.safe_load((CONFIGS / f"{file}.yaml").read_text()))
    reward = instantiate(config)(encoder)
    assert type(reward) is kind
    assert 0 <= reward.score(pan()).item() <= 1
    if file == "temporal":
        assert sum(reward.weights.values()) == pytest.approx(1)
        assert reward.range == pytest.approx((0, 1))


def test_refuses_impossible_thresholds():
    with pytest.raises(ValueError, match=r"tolerance must lie in \[0, 1\), got 1"):
        FrozenVideo(tolerance=1)
    with pytest.raises(ValueError, match=r"threshold must lie in \(-1, 1\), got 2"):
        CutDetection(threshold=2)
