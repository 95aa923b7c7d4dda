"""Any frame of any file is the frame ffmpeg shows there."""

import os
import random
import resource

import numpy as np
import pytest
import torch
from codes import encode, ffmpeg, numbers, truth
from kinds import GOOD, H264

from vrm.video import FrameSampler, read_video, sample_video, video_info, write_video
from vrm.video.decoding import read_frames
from vrm.video.indexed import frames_at, scan
from vrm.video.opening import open_stream
from vrm.video.read import as_frames


@pytest.fixture(scope="module")
def shown(clips):
    """What ffmpeg shows, read once per file."""
    cache = {}

    def frames(name):
        if name not in cache:
            info = video_info(clips / name)
            cache[name] = truth(clips / name, info.height, info.width)
        return cache[name]

    return frames


def assert_same_pictures(frames, expected):
    assert frames.shape == expected.shape
    differences = np.abs(frames.numpy().astype(int) - expected).mean(axis=(1, 2, 3))
    assert differences.max(initial=0) < 3  # 10 bits and odd chroma are rounded differently; another frame is 30 away


@pytest.mark.parametrize("name", GOOD)
def test_all_frames_are_those_of_ffmpeg(clips, shown, name):
    frames = read_video(clips / name)
    assert video_info(clips / name).frames == len(shown(name))
    assert_same_pictures(frames, shown(name))


@pytest.mark.parametrize("name", GOOD)
def test_sparse_frames_are_those_of_ffmpeg(clips, shown, name):
    index, draw, all_frames = scan(clips / name), random.Random(name), read_video(clips / name)
    for count in (1, 1, 1, 2, 2, 3, 5, 8):
        wanted = sorted(draw.choices(range(len(index)), k=count))
        pictures, _, _ = read_frames(clips / name, index, lambda times, wanted=wanted: wanted)
        assert_same_pictures(as_frames(pictures), shown(name)[wanted])
        assert torch.equal(as_frames(pictures), all_frames[wanted])


def test_pictures_that_nothing_refers_to_are_left_out(clips, monkeypatch):
    path, decoded = clips / "long_gop.mp4", []
    monkeypatch.setattr("vrm.video.indexed._intact", lambda frame, *rest: decoded.append(1) or frame)
    assert numbers(sample_video(path, "uniform:4", "av").frames) == [0, 33, 66, 99]
    assert len(decoded) < 75


@pytest.mark.parametrize("name", GOOD)
def test_the_automatic_backend_gives_the_frames_of_ffmpeg(clips, shown, name):
    for spec in ("uniform:3", "segments:8", "fps:7", "stride:9", "all,max=5", "seconds:0.4"):
        sample = sample_video(clips / name, spec)
        assert_same_pictures(sample.frames, shown(name)[list(sample.indices)])
        assert len(sample.frames) == len(sample.indices) == len(sample.times)
        assert sample.warning is None


def test_numbers_survive_the_round_trip(clips):
    sample = sample_video(clips / "open_gop.mp4", "uniform:9")
    assert numbers(sample.frames) == list(sample.indices) == FrameSampler.parse("uniform:9").indices(np.arange(100))


def test_a_far_frame_is_reached_by_seeking(clips, monkeypatch):
    index = scan(clips / "short_gop.mp4")
    with open_stream(clips / "short_gop.mp4") as (container, stream):
        decoded = []
        original = index.position
        monkeypatch.setattr(
            type(index), "position", lambda self, pts, astray=False: decoded.append(pts) or original(pts, astray)
        )
        assert len(list(frames_at(container, stream, index, [3, 90]))) == 2
    assert len(decoded) < 16


def test_time_stamps_of_a_variable_rate(clips):
    sample = sample_video(clips / "variable_rate.mp4", "all")
    expected = [n / 30 for n in range(100) if n < 30 or (n < 60 and n % 5 == 0) or (n >= 60 and n % 2 == 0)]
    assert sample.times == pytest.approx(expected, abs=1e-3)
    by_time = sample_video(clips / "variable_rate.mp4", "fps:2")
    assert by_time.times == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3], abs=0.17)


def test_a_rotated_file_is_upright(clips):
    turned, straight = (sample_video(clips / name, "uniform:4") for name in ("rotated.mp4", "long_gop.mp4"))
    assert torch.equal(turned.frames, straight.frames.rot90(1, (2, 3)))
    assert turned.backend.startswith("av ")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_still_picture_is_a_clip_of_one_frame_whatever_its_name(tmp_path, suffix):
    picture = encode(tmp_path / f"picture.{suffix}", "-frames:v", "1", "-update", "1", count=1)
    named = picture.rename(tmp_path / "a cat: says hi %03d.mp4")
    sample = sample_video(named, "segments:4")
    assert sample.info.frames == 1
    assert sample.indices == (0, 0, 0, 0)
    assert sample.warning is None
    assert numbers(sample.frames) == [0] * 4


def test_a_broadcast_that_starts_in_the_middle(clips, tmp_path, shown):
    data = (clips / "open_gop.ts").read_bytes()
    late = tmp_path / "late.ts"
    late.write_bytes(data[len(data) // 3 // 188 * 188 :])
    frames = truth(late, 64, 64)
    sample = sample_video(late, "all")
    assert_same_pictures(sample.frames, frames)


def test_a_second_stream_and_sound_do_not_matter(clips, tmp_path):
    path = tmp_path / "sound.mp4"
    sound = ("-f", "lavfi", "-i", "sine=duration=6")
    ffmpeg("-i", clips / "short_gop.mp4", *sound, "-map", "1", "-map", "0", "-c:v", "copy", path)
    assert numbers(sample_video(path, "uniform:5").frames) == [0, 25, 50, 74, 99]


def test_a_frozen_clip_is_reported(tmp_path):
    write_video(tmp_path / "frozen.mp4", torch.full((12, 3, 32, 32), 90, dtype=torch.uint8))
    assert sample_video(tmp_path / "frozen.mp4", "segments:4").warning == "static"
    assert sample_video(tmp_path / "frozen.mp4", "segments:1").warning is None


def test_a_very_long_clip_costs_only_the_frames_sampled(tmp_path, monkeypatch):
    part = encode(tmp_path / "part.mp4", *H264, "-g", "30", count=240)
    ffmpeg("-stream_loop", "200", "-i", part, "-c", "copy", tmp_path / "long.mp4")
    decoded = []
    monkeypatch.setattr("vrm.video.indexed._intact", lambda frame, *rest: decoded.append(1) or frame)
    sample = sample_video(tmp_path / "long.mp4", "segments:8", "av")
    assert sample.info.frames == 201 * 240
    assert numbers(sample.frames) == [index % 240 for index in sample.indices]
    assert len(decoded) < 8 * 30


def test_memory_stays_flat(clips):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    names = ["short_gop.mp4", "open_gop.mp4", "vp9.webm", "animation.gif", "cut.mp4"]
    for turn in range(60):
        if turn == 10:
            before, files = resident(), len(os.listdir("/proc/self/fd"))
        sample_video(clips / names[turn % len(names)], "segments:8")
    assert resident() - before < 16 << 20
    assert len(os.listdir("/proc/self/fd")) == files
