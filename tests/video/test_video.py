"""Videos written, read back and damaged on purpose."""

import os
import re
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vrm.errors import DecodeError, FrameError
from vrm.video import read_video, sample_indices, video_info, write_gif, write_video
from vrm.video.decoding import read_frames
from vrm.video.indexed import scan
from vrm.video.read import as_frames

BITS = 6


def coded_frames(count, height=64, width=96):
    """Frames that carry their own number as black and white stripes, which survive lossy coding."""
    frames = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    for number in range(count):
        for bit in range(BITS):
            stripe = slice(bit * width // BITS, (bit + 1) * width // BITS)
            frames[number, :, :, stripe] = 255 * (number >> bit & 1)
    return frames


def numbers(frames):
    width = frames.shape[-1]
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    bits = frames[:, 0, frames.shape[-2] // 2, centres] > 127
    return [int(sum(2**b for b in range(BITS) if row[b])) for row in bits]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", coded_frames(40), fps=10)


def test_every_frame_comes_back_in_order(clip):
    frames = read_video(clip)
    assert frames.shape == (40, 3, 64, 96)
    assert frames.dtype == torch.uint8
    assert frames.is_contiguous()
    assert numbers(frames) == list(range(40))


@pytest.mark.parametrize("sampling", ["uniform", "middle"])
@pytest.mark.parametrize("count", [1, 2, 7, 40, 55])
def test_samples_are_the_frames_asked_for(clip, count, sampling):
    assert numbers(read_video(clip, count, sampling)) == sample_indices(40, count, sampling)


def test_colours_survive(tmp_path):
    colours = torch.tensor([[220, 30, 40], [20, 200, 60], [30, 60, 230]], dtype=torch.uint8)
    frames = colours[:, :, None, None].expand(3, 3, 64, 64)
    back = read_video(write_video(tmp_path / "colours.mp4", frames))
    assert (back.float() - frames.float()).abs().max() < 6


def test_info(clip):
    info = video_info(clip)
    assert (info.frames, info.height, info.width, info.codec) == (40, 64, 96, "h264")
    assert info.fps == pytest.approx(10)
    assert info.duration == pytest.approx(4)


@pytest.mark.parametrize("fps", [24, 29.97, 12.5])
def test_frame_rates(tmp_path, fps):
    assert video_info(write_video(tmp_path / "rate.mp4", coded_frames(12), fps)).fps == pytest.approx(fps, rel=1e-3)


def test_odd_sizes_grow_by_one_pixel(tmp_path):
    frames = coded_frames(3, height=63, width=97)
    back = read_video(write_video(tmp_path / "odd.mp4", frames))
    assert back.shape == (3, 3, 64, 98)
    assert numbers(back) == [0, 1, 2]


def test_frames_may_come_one_at_a_time(tmp_path):
    path = write_video(tmp_path / "new" / "stream.mp4", (frame for frame in coded_frames(5)))
    assert numbers(read_video(path)) == [0, 1, 2, 3, 4]


def test_a_relative_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("cat: says hi %03d.mp4", coded_frames(2))
    assert numbers(read_video("cat: says hi %03d.mp4")) == [0, 1]


def test_a_rotated_video_is_turned_upright(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 44  # the display matrix of a version 0 track header: here a quarter turn clockwise
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], dtype=">i4")
    data[matrix : matrix + 36] = quarter.tobytes()
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    assert (video_info(turned).height, video_info(turned).width) == (96, 64)
    assert torch.equal(read_video(turned), read_video(clip).rot90(-1, (2, 3)))


def test_a_file_that_holds_fewer_frames_than_its_index_says(clip):
    index = scan(clip)
    pts = np.arange(60) * (index.pts[1] - index.pts[0])
    wrong = replace(index, pts=pts, times=pts / pts[1] / 10)
    frames, _, right = read_frames(clip, wrong, lambda times: sample_indices(len(times), 5))
    assert numbers(as_frames(frames)) == sample_indices(40, 5)
    assert len(right) == 40


@given(st.integers(1, 300), st.integers(1, 60), st.sampled_from(["uniform", "middle"]))
def test_sample_indices_rise_within_the_clip_and_mirror(total, count, sampling):
    indices = sample_indices(total, count, sampling)
    assert len(indices) == count
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < total
    if count <= total:
        assert len(set(indices)) == count


def garbage(clip, tmp_path, kind):
    path = tmp_path / "bad.mp4"
    data = clip.read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind == "audio":
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux([*stream.encode(frame), *stream.encode(None)])
    elif kind != "missing":
        hole = len(data) * 2 // 3
        contents = {
            "empty": b"",
            "text": b"not a video\n" * 50,
            "header": data[:32],
            "cut": data[: len(data) // 2],
            "hole": data[:hole] + bytes(200) + data[hole + 200 :],
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "There is no video file"),
        ("folder", "There is no video file"),
        ("empty", r"is empty \(0 bytes\)"),
        ("audio", "holds no video stream"),
        ("text", "is damaged or not a video"),
        ("header", "is damaged or not a video"),
        ("cut", "is cut off: it holds [0-9]+ of the 40 frames it claims"),
        ("hole", "is damaged"),
    ],
)
@pytest.mark.parametrize("count", [None, 4])
def test_bad_files_give_one_sentence(clip, tmp_path, kind, sentence, count, capfd):
    path = garbage(clip, tmp_path, kind)
    with pytest.raises(DecodeError, match=sentence) as error:
        read_video(path, count)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""
    if kind == "hole":  # its packets and its first frame are all right
        assert video_info(path).height == 64
        return
    with pytest.raises(DecodeError, match=sentence):
        video_info(path)


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (torch.zeros(2, 3, 8, 8), "uint8 RGB tensors .* got torch.float32"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"uint8 RGB tensors .* got torch.uint8 \(8, 8, 3\) at frame 0"),
        ([np.zeros((3, 8, 8), np.uint8)], "uint8 RGB tensors .* got ndarray"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 9, dtype=torch.uint8)], "one size"),
        ([], "at least one frame"),
    ],
)
@pytest.mark.parametrize("write", [write_video, write_gif])
def test_bad_frames_leave_an_older_file_alone(tmp_path, write, frames, sentence):
    path = tmp_path / ("old.mp4" if write is write_video else "old.gif")
    path.write_bytes(b"old")
    with pytest.raises(FrameError, match=sentence):
        write(path, frames)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_bad_rates(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be a positive number"):
        write_video(tmp_path / "a.mp4", coded_frames(1), fps)
    with pytest.raises(ValueError, match="fps must be a positive number"):
        write_gif(tmp_path / "a.gif", coded_frames(1), fps)


def test_bad_arguments(tmp_path, clip):
    with pytest.raises(ValueError, match=re.escape("must end in .mp4, got 'a.avi'")):
        write_video(tmp_path / "a.avi", coded_frames(1))
    with pytest.raises(ValueError, match="at most 50 for a GIF, got 60"):
        write_gif(tmp_path / "a.gif", coded_frames(1), 60)
    with pytest.raises(ValueError, match="at least one frame, got 0 of 40"):
        read_video(clip, 0)
    with pytest.raises(ValueError, match="Did you mean 'uniform'"):
        read_video(clip, 4, "unifrom")


def test_gif_keeps_frames_time_and_colours(tmp_path):
    frames = coded_frames(12)
    frames[:, 0, :8] = torch.arange(96, dtype=torch.uint8) * 2
    path = write_gif(tmp_path / "clip.gif", frames, fps=15)
    with Image.open(path) as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (12, (96, 64), 0)
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
            shown = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            assert (shown.float() - frames[index].float()).abs().mean() < 8
    assert sum(durations) == 800
    assert numbers(read_video(path)) == list(range(12))
