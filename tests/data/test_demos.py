"""Demonstrations read back from real videos and pictures, and what is said about those that cannot be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ramps import numbers, ramp

from vrm.data import Demo, DemoError, demo_frames, load_demos
from vrm.data.demo_frames import Reading, natural
from vrm.errors import DecodeError, FrameError
from vrm.video import read_video, write_video


def write_pictures(folder, numbers, size=(48, 32), suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", size, (number * 10,) * 3).save(folder / f"frame_{number}.{suffix}")


def test_a_video_is_read_whole_at_its_own_rate(tmp_path):
    demo = load_demos([write_video(tmp_path / "push.mp4", ramp(), fps=12)])[0]
    assert (demo.name, demo.fps, demo.text, demo.success) == ("push", pytest.approx(12), None, None)
    assert demo.frames.shape == (12, 3, 32, 48)
    assert numbers(demo) == list(range(12))


@pytest.mark.parametrize(("fps", "expected"), [(4, [0, 3, 6, 9]), (5, [0, 2, 4, 7, 9]), (12, list(range(12)))])
def test_a_video_is_sampled_by_time(tmp_path, fps, expected):
    demo = load_demos([write_video(tmp_path / "push.mp4", ramp(), fps=12)], fps=fps)[0]
    assert numbers(demo) == expected
    assert demo.fps == fps


def test_a_rate_above_the_files_own_is_refused(tmp_path):
    with pytest.raises(DemoError, match=r"push\.mp4 has 12 frames per second, fewer than fps=24"):
        load_demos([write_video(tmp_path / "push.mp4", ramp(), fps=12)], fps=24)


@pytest.mark.parametrize("fps", [0, -3, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(DemoError, match="fps must be a positive number"):
        load_demos(["push.mp4"], fps=fps)


def test_large_frames_are_shrunk_with_their_aspect_kept(tmp_path):
    path = write_video(tmp_path / "push.mp4", ramp(3, 60, 120), fps=10)
    assert load_demos([path], max_side=40)[0].frames.shape == (3, 3, 20, 40)
    assert load_demos([path], max_side=500)[0].frames.shape == (3, 3, 60, 120)


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 200
    middle = Reading(max_side=16).shrink(stripes)[..., 2:-2]
    assert (middle.float() - 100).abs().max() <= 2


def test_a_long_clip_read_in_pieces_equals_one_read_at_once(tmp_path, monkeypatch):
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (20, 3, 48, 64), dtype=torch.uint8)
    path = write_video(tmp_path / "noise.mp4", noise, fps=10)
    whole = load_demos([path], max_side=32)[0].frames
    monkeypatch.setattr(demo_frames, "BATCH_BYTES", 3 * 48 * 64 * 3)
    assert torch.equal(load_demos([path], max_side=32)[0].frames, whole)
    assert torch.equal(load_demos([path])[0].frames, read_video(path))


def test_a_clip_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_frames, "MAX_BYTES", 10_000)
    with pytest.raises(DemoError, match="sample them with fps or lower max_side"):
        load_demos([write_video(tmp_path / "push.mp4", ramp(), fps=12)])


def test_text_beside_a_video_belongs_to_it_unless_another_is_given(tmp_path):
    path = write_video(tmp_path / "push.mp4", ramp(3), fps=12)
    (tmp_path / "push.txt").write_text("push the block\n")
    assert load_demos([path])[0].text == "push the block"
    assert load_demos([path], text="pull it")[0].text == "pull it"


def test_demos_of_one_name_are_told_apart(tmp_path):
    paths = [write_video(tmp_path / folder / "push.mp4", ramp(3), fps=12) for folder in "ab"]
    assert [demo.name for demo in load_demos(paths)] == ["push #1", "push #2"]


def test_one_path_needs_no_list(tmp_path):
    assert len(load_demos(str(write_video(tmp_path / "push.mp4", ramp(3), fps=12)))) == 1


def test_a_truncated_video_is_refused(tmp_path):
    path = write_video(tmp_path / "push.mp4", torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8), fps=12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DecodeError, match=r"push\.mp4"):
        load_demos([path])


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(DecodeError, match=r"notes\.mp4"):
        load_demos([tmp_path / "notes.mp4"])


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DemoError, match="no file, folder or local Minari dataset 'nowhere/at-all'"):
        load_demos(["nowhere/at-all"])


def test_no_sources_are_refused():
    with pytest.raises(DemoError, match="name at least one"):
        load_demos([])


def test_a_folder_of_videos_gives_each_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        write_video(tmp_path / f"take_{number}.mp4", ramp(3), fps=12)
    (tmp_path / "manifest.csv").write_text("not a demonstration")
    assert [demo.name for demo in load_demos([tmp_path])] == ["take_1", "take_2", "take_10"]
    assert [demo.name for demo in load_demos([tmp_path], limit=2)] == ["take_1", "take_2"]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_folder_of_pictures_is_one_demo_in_natural_order(tmp_path, suffix):
    write_pictures(tmp_path / "pour", [2, 10, 1], suffix=suffix)
    (tmp_path / "pour.txt").write_text("pour tea")
    (demo,) = load_demos([tmp_path / "pour"])
    assert (demo.name, demo.text, demo.fps) == ("pour", "pour tea", None)
    assert numbers(demo) == [1, 2, 10]
    assert demo.frames.shape == (3, 3, 32, 48)


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    Image.new("L", (48, 32), 70).save(tmp_path / "a.png")
    Image.new("RGBA", (48, 32), (70, 70, 70, 255)).save(tmp_path / "b.png")
    assert numbers(load_demos([tmp_path])[0]) == [7, 7]


def test_folders_of_pictures_are_one_demo_each(tmp_path):
    write_pictures(tmp_path / "try_10", [0, 1])
    write_pictures(tmp_path / "try_9", [2, 3, 4])
    demos = load_demos([tmp_path], max_side=24)
    assert [(demo.name, numbers(demo)) for demo in demos] == [("try_9", [2, 3, 4]), ("try_10", [0, 1])]
    assert demos[0].frames.shape == (3, 3, 16, 24)


def test_pictures_have_no_rate_to_sample_by(tmp_path):
    write_pictures(tmp_path, [0, 1])
    with pytest.raises(DemoError, match="does not say its frame rate"):
        load_demos([tmp_path], fps=5)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "readme.md").write_text("nothing here")
    with pytest.raises(DemoError, match="holds no videos, frame stacks, pictures"):
        load_demos([tmp_path])


def test_a_mixed_folder_is_refused(tmp_path):
    write_pictures(tmp_path, [0, 1])
    write_video(tmp_path / "push.mp4", ramp(3), fps=12)
    with pytest.raises(DemoError, match="mixes 1 videos or frame stacks and 2 pictures"):
        load_demos([tmp_path])


def test_a_folder_of_folders_without_pictures_is_refused(tmp_path):
    write_video(tmp_path / "inner" / "push.mp4", ramp(3), fps=12)
    with pytest.raises(DemoError, match="inner must hold the pictures of one demonstration"):
        load_demos([tmp_path])


def test_pictures_of_two_sizes_are_refused(tmp_path):
    write_pictures(tmp_path, [0, 1])
    write_pictures(tmp_path, [2], size=(40, 32))
    with pytest.raises(DemoError, match=r"frame_2\.png has 40x32 pixels, but frame_0\.png has 48x32"):
        load_demos([tmp_path])


def test_a_damaged_picture_is_named(tmp_path):
    write_pictures(tmp_path, [0, 1])
    (tmp_path / "frame_1.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DecodeError, match=r"frame_1\.png"):
        load_demos([tmp_path])


@given(st.lists(st.integers(0, 5000), unique=True, min_size=1))
def test_natural_order_is_that_of_the_numbers(values):
    names = sorted((f"frame{value}.png" for value in values), key=natural)
    assert names == [f"frame{value}.png" for value in sorted(values)]


def test_a_demo_refuses_labels_of_another_length():
    with pytest.raises(DemoError, match="stages must have 3 rows"):
        Demo(ramp(3), "push", stages=np.zeros(2, np.int64))
    with pytest.raises(FrameError, match="must be uint8"):
        Demo(ramp(3).float() / 255, "push")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_side": 0}, "max_side"), ({"text": " "}, "text"), ({"limit": 0}, "limit must be at least 1")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(DemoError, match=message):
        load_demos(["push.mp4"], **settings)
