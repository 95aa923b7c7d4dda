"""Pictures that exist, have the right size and show what they should."""

import math
import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from vrm.errors import FrameError
from vrm.pictures import film_strip, learning_curve, probe_sheet, reward_curve_video
from vrm.pictures.style import INK, NEUTRAL, REWARD, SUCCESS
from vrm.video import read_video, write_video


def clip(count, height=48, width=64):
    ramp = torch.linspace(0, 255, count).round().to(torch.uint8)
    return ramp[:, None, None, None].expand(count, 3, height, width).contiguous()


def pixels(picture, colour):
    """How many pixels of a picture (a file or a frame (3, H, W)) are of one colour."""
    if isinstance(picture, torch.Tensor):
        array = picture.permute(1, 2, 0).numpy()
    else:
        array = np.array(Image.open(picture).convert("RGB"))
    return int((array == ImageColor.getrgb(colour)).all(-1).sum())


def log(steps, offset=0.0):
    steps = np.asarray(steps)
    rate = np.clip(steps / 1000 + offset, 0, 1)
    return {"step": steps, "reward_return": 10 * rate, "true_return": -rate, "success_rate": rate}


def test_learning_curve_draws_each_quantity_in_its_colour(tmp_path):
    path = learning_curve(tmp_path / "new" / "curve.png", [log(range(0, 1000, 90)), log(range(0, 900, 70), 0.2)], "a $")
    assert all(pixels(path, colour) > 200 for colour in (REWARD, SUCCESS, NEUTRAL))
    assert os.listdir(path.parent) == ["curve.png"]


def test_learning_curve_reads_csv_rows_and_skips_empty_cells(tmp_path):
    rows = [
        {"step": "0", "success_rate": "0.1", "reward_return": "", "note": "start"},
        {"step": "50", "success_rate": "", "reward_return": "", "note": ""},
        {"step": "100", "success_rate": "0.9", "reward_return": "", "note": ""},
    ]
    path = learning_curve(tmp_path / "curve.png", [rows])
    assert pixels(path, SUCCESS) > 200
    assert pixels(path, REWARD) == 0


def test_learning_curve_draws_zeros(tmp_path):
    zero = {"step": 0.0, "reward_return": 0.0, "success_rate": 0.0}
    first, second = (learning_curve(tmp_path / f"{n}.png", [[zero] * n]) for n in (1, 2))
    assert first.is_file()
    assert second.is_file()


@pytest.mark.parametrize("runs", [[], [{"step": [1, 2]}], [{"success_rate": [0.1]}], [[]]])
def test_learning_curve_needs_something_to_draw(tmp_path, runs):
    with pytest.raises(ValueError, match="needs runs with a column step and at least one of reward_return"):
        learning_curve(tmp_path / "curve.png", runs)
    assert os.listdir(tmp_path) == []


def test_probe_sheet(tmp_path):
    success = np.arange(60) % 3 == 0
    path = probe_sheet(tmp_path / "probe.png", clip(60), success + np.arange(60) / 50, success, "kneel $x^2$")
    with Image.open(path) as image:
        assert image.size == (1210, 770)
    assert pixels(path, SUCCESS) > 1000
    assert pixels(path, NEUTRAL) > 1000
    assert pixels(path, REWARD) > 300


@pytest.mark.parametrize("success", [np.zeros(3, bool), np.ones(3, bool)])
def test_probe_sheet_of_few_states_of_one_class(tmp_path, success):
    path = probe_sheet(tmp_path / "probe.png", clip(3).float() / 255, np.ones(3), success, "kneel")
    assert pixels(path, REWARD) == 0


def test_probe_sheet_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="frames and reward must have one length, got 4 and 3"):
        probe_sheet(tmp_path / "probe.png", clip(4), [1, 2, 3], [0, 1, 0], "kneel")
    with pytest.raises(ValueError, match="must be finite"):
        probe_sheet(tmp_path / "probe.png", clip(3), [1, 2, math.nan], [0, 1, 0], "kneel")
    with pytest.raises(FrameError, match="channels come last"):
        probe_sheet(tmp_path / "probe.png", torch.zeros(3, 8, 8, 3, dtype=torch.uint8), [1, 2, 3], [0, 1, 0], "kneel")


def test_film_strip_lays_out_rows_and_columns(tmp_path):
    path = film_strip(tmp_path / "strip.png", [("before", clip(30)), ("after", clip(5))], columns=4, height=96)
    with Image.open(path) as image:
        assert image.size == (4 * (128 + 4) + 4, 2 * (96 + 34))
        shown = [image.getpixel((4 + 132 * column + 64, 60)) for column in range(4)]
    assert [value[0] for value in shown] == [int(clip(30)[frame, 0, 0, 0]) for frame in (0, 10, 19, 29)]
    assert pixels(path, INK) > 100
    assert pixels(path, REWARD) == 0


def test_film_strip_writes_values(tmp_path):
    path = film_strip(tmp_path / "strip.png", [("after", clip(5))], [np.arange(5)])
    assert pixels(path, REWARD) > 500
    with pytest.raises(ValueError, match=r"values .* one per frame of each row"):
        film_strip(tmp_path / "strip.png", [("after", clip(5))], [np.arange(4)])
    with pytest.raises(ValueError, match="at least one row"):
        film_strip(tmp_path / "strip.png", [])
    with pytest.raises(ValueError, match=r"must end in \.png"):
        film_strip(tmp_path / "strip.jpg", [("after", clip(5))])


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (480, 480)])
def test_reward_video_grows_its_curve(tmp_path, size):
    frames = clip(20, *size)
    success = np.arange(20) >= 10
    video = reward_curve_video(frames, np.r_[math.nan, np.sin(np.arange(19))], success, "a robot kneeling")
    assert video.dtype == torch.uint8
    assert video.shape[0] == 20
    assert video.shape[2] % 2 == video.shape[3] % 2 == 0
    assert video.shape[3] >= 320
    assert torch.equal(video[7, :, 8, 8], frames[7, :, 0, 0])
    blue, green = ([pixels(frame, colour) for frame in video] for colour in (REWARD, SUCCESS))
    assert blue[19] > 2 * blue[1] > 0
    assert green[9] == 0
    assert green[19] > green[12] > 0
    assert read_video(write_video(tmp_path / "reward.mp4", video)).shape == video.shape


def test_reward_video_of_float_frames_of_one_constant_reward():
    video = reward_curve_video(clip(1).float() / 255, [0.5])
    assert pixels(video[0], REWARD) > 20
    assert pixels(video[0], SUCCESS) == 0


def test_a_long_caption_is_cut():
    long, short = (reward_curve_video(clip(1), [0.5], caption=caption) for caption in ("word " * 60, "word"))
    assert long.shape == short.shape


def test_reward_video_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"must be \(4,\) like the frames, got \(3,\)"):
        reward_curve_video(clip(4), [1, 2, 3])
    with pytest.raises(ValueError, match="got infinity"):
        reward_curve_video(clip(2), [1, math.inf])
    with pytest.raises(FrameError):
        reward_curve_video(clip(2)[None], [1, 2])
