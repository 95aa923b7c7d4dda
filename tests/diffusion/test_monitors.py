"""Monitors on videos whose answer is known, and the pictures that show them."""

import pytest
import torch
from PIL import Image

from vrm.diffusion.finetune.monitors import diversity, motion, pooled_features, saturation, sharpness
from vrm.diffusion.finetune.pictures import guard_picture, tradeoff_picture
from vrm.diffusion.finetune.sheets import sample_film, sample_sheet
from vrm.video import read_video

torch.set_num_threads(1)


@pytest.fixture
def videos():
    return torch.rand(3, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_motion_is_the_mean_change_and_zero_for_a_still():
    still = torch.full((1, 4, 3, 8, 8), 0.5)
    steps = torch.arange(4)[None, :, None, None, None].expand(1, 4, 3, 8, 8) * 0.1
    assert motion(torch.cat([still, steps])).tolist() == pytest.approx([0.0, 0.1])
    assert motion(still[:, :1]).tolist() == [0.0]


def test_sharpness_of_a_checkerboard_is_known_and_blur_lowers_it(videos):
    board = (torch.arange(8)[:, None] + torch.arange(8)[None]).remainder(2).float().expand(1, 2, 3, 8, 8)
    assert sharpness(board).item() == pytest.approx(16.0)  # the Laplacian is +4 and -4 by turns
    blurred = torch.nn.functional.avg_pool2d(videos.flatten(0, 1), 3, 1, 1).reshape(videos.shape)
    assert (sharpness(blurred) < sharpness(videos)).all()
    assert sharpness(torch.ones(1, 2, 3, 8, 8)).item() == pytest.approx(0, abs=1e-9)


def test_saturation_counts_black_and_white_alike_for_bytes_and_floats():
    frames = torch.full((1, 2, 3, 4, 4), 0.5)
    frames[:, :, 0], frames[:, 0, 1] = 0.0, 1.0
    assert saturation(frames).item() == pytest.approx(0.5)
    assert saturation((frames * 255).round().byte()).item() == pytest.approx(0.5)


def test_diversity_compares_only_samples_of_one_prompt():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0], [100.0, 0.0], [7.0, 7.0]])
    assert diversity(features, ["a", "a", "b", "b", "alone"]) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="at least two"):
        diversity(features[:2], ["a", "b"])
    with pytest.raises(ValueError, match="each of the 5 samples"):
        diversity(features, ["a"])


def test_features_of_a_video_are_the_mean_over_its_frames(encoder, videos):
    features = pooled_features(encoder, videos)
    assert features[1] == pytest.approx(encoder.encode_image(videos[1]).mean(0), abs=1e-6)


def test_sheet_and_film_show_every_prompt(tmp_path, videos):
    rows = [("a robot kneels", "before", videos[0]), ("a robot kneels", "after", videos[1]), ("a pole", "", videos[2])]
    with Image.open(sample_sheet(tmp_path / "sheet.png", rows, height=64)) as sheet:
        assert sheet.width > 5 * 64
        assert sheet.height > 3 * 64
    film = read_video(sample_film(tmp_path / "film.mp4", ["one", "two"], videos[:2, None], height=32))
    assert len(film) == 5
    with pytest.raises(ValueError, match="one row for each prompt"):
        sample_film(tmp_path / "film.mp4", ["one"], videos[:2, None])


def test_the_guards_page_and_the_trade_off_are_drawn(tmp_path, videos):
    names = ("trained", "held_out", "diversity", "motion", "velocity_distance")
    rows = [{"step": 10 * k, **dict.fromkeys(names, 0.1 * k)} for k in range(4)]
    clips = [("before", videos[0]), ("after", videos[1])]
    assert guard_picture(tmp_path / "guard.png", rows, 10, 30, "Stopped.", clips).stat().st_size > 10_000
    scaled = [{"scale": s, **dict.fromkeys(names, s), "trained_std": 1.0, "held_out_std": 1.0} for s in (0, 0.5, 1)]
    assert tradeoff_picture(tmp_path / "tradeoff.png", scaled).stat().st_size > 10_000
    with pytest.raises(ValueError, match="scale 0"):
        tradeoff_picture(tmp_path / "tradeoff.png", scaled[1:])
