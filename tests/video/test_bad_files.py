"""Every kind of bad file gives one sentence and one kind, or what is left of it with a warning."""

import random
import re
from contextlib import suppress

import pytest
from codes import encode, ffmpeg, numbers
from kinds import H264

from vrm.errors import DecodeError
from vrm.video import read_video, sample_video, video_info


def mp3_with_cover(clips, path):
    cover = encode(path.with_name("cover.png"), "-frames:v", "1", "-update", "1", count=1)
    sound = ("-f", "lavfi", "-i", "sine=duration=1", "-i", cover)
    ffmpeg(*sound, "-map", "0", "-map", "1", "-disposition:v", "attached_pic", "-f", "mp3", path)


def faststart(clips, path, keep):
    whole = path.with_name("whole.mp4")
    encode(whole, *H264, "-g", "20", "-movflags", "faststart", count=100)
    data = whole.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[: start + int((len(data) - start) * keep)])


def hole(clips, path):
    data = bytearray((clips / "short_gop.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)


def flipped_header(clips, path):
    data = bytearray((clips / "long_gop.mp4").read_bytes())
    place = data.index(b"avc1") + 28  # width and height of the sample entry, 16 bits each
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


def written(content):
    return lambda clips, path: path.write_bytes(content)


BAD = {
    "missing": (lambda clips, path: None, "missing", "There is no video file"),
    "dangling link": (lambda clips, path: path.symlink_to("nowhere.mp4"), "missing", "There is no video file"),
    "folder": (lambda clips, path: path.mkdir(), "missing", "There is no video file"),
    "empty": (written(b""), "empty", r"is empty \(0 bytes\)"),
    "text": (written(b"not a video\n" * 50), "not_video", "is damaged or not a video"),
    "noise": (written(bytes(range(7, 250)) * 40), "not_video", "is damaged or not a video"),
    "header only": (
        lambda clips, path: path.write_bytes((clips / "h264.mkv").read_bytes()[:32]),
        "not_video",
        "is damaged or not a video",
    ),
    "table of contents cut off": (
        lambda clips, path: path.write_bytes((clips / "short_gop.mp4").read_bytes()[:-2000]),
        "not_video",
        "is damaged or not a video",
    ),
    "sound only": (
        lambda clips, path: ffmpeg("-f", "lavfi", "-i", "sine=duration=1", path),
        "no_video_stream",
        "no video stream",
    ),
    "music with a cover": (mp3_with_cover, "no_video_stream", "no video stream"),
    "cut before the first frame": (lambda clips, path: faststart(clips, path, 0.01), "truncated", "holds 0 of the 100"),
    "hole": (hole, "damaged", "is damaged"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("spec", ["segments:4", "all"])
def test_a_bad_file_gives_one_sentence_and_its_kind(clips, tmp_path, case, spec, capfd):
    make, kind, sentence = BAD[case]
    path = tmp_path / "bad.mp4"
    make(clips, path)
    with pytest.raises(DecodeError, match=sentence) as error:
        sample_video(path, spec)
    assert error.value.kind == kind
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_text_that_libav_would_draw_is_no_video(tmp_path):
    (tmp_path / "prompt.txt").write_text("a cat\n" * 20)
    with pytest.raises(DecodeError) as error:
        sample_video(tmp_path / "prompt.txt", "all")
    assert error.value.kind == "not_video"


def test_a_playlist_does_not_reach_the_network(tmp_path):
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DecodeError):
        sample_video(tmp_path / "list.m3u8", "all")


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm"])
def test_what_is_left_of_a_truncated_recording_comes_with_a_warning(clips, tmp_path, name):
    path = tmp_path / name
    data = (clips / name).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    whole = video_info(clips / name).frames
    sample = sample_video(path, "all")
    held = sample.info.frames
    assert 5 < held < whole
    assert numbers(sample.frames) == list(range(held))
    assert re.fullmatch(rf"truncated: {held} frames decode, the container claims {whole} frames", sample.warning)
    sparse = sample_video(path, "uniform:3")
    assert numbers(sparse.frames) == list(sparse.indices)
    assert sparse.warning == sample.warning
    with pytest.raises(DecodeError, match="is cut off") as error:
        read_video(path)
    assert error.value.kind == "truncated"


@pytest.mark.parametrize("keep", [0.6, 0.95])
def test_what_is_left_of_a_truncated_mp4_comes_with_a_warning(clips, tmp_path, keep):
    path = tmp_path / "cut.mp4"
    faststart(clips, path, keep)
    sample = sample_video(path, "all")
    shown = [round(time * 30) for time in sample.times]
    assert numbers(sample.frames) == shown
    assert sample.warning == f"truncated: {len(shown)} frames decode, the container claims 100 frames"


def test_the_sound_at_the_end_of_a_recording_is_no_truncation(clips, tmp_path):
    path = tmp_path / "sound.mkv"
    sound = ("-f", "lavfi", "-i", "sine=duration=9")
    ffmpeg("-i", clips / "h264.mkv", *sound, "-map", "0", "-map", "1", "-c:v", "copy", path)
    assert sample_video(path, "uniform:3").warning is None


def test_half_a_gif_gives_its_frames(clips, tmp_path):
    data = (clips / "animation.gif").read_bytes()
    (tmp_path / "half.gif").write_bytes(data[: len(data) // 2])
    sample = sample_video(tmp_path / "half.gif", "all")
    held = sample.info.frames
    assert numbers(sample.frames)[:-1] == list(range(held - 1))  # the last picture ends in the middle
    assert 10 < held < 30


def test_absurd_sizes_are_refused_before_anything_is_allocated(clips, tmp_path):
    flipped_header(clips, tmp_path / "flipped.mp4")
    true = sample_video(tmp_path / "flipped.mp4", "uniform:2")  # the coded stream itself knows better
    assert true.frames.shape == (2, 3, 64, 64)
    with pytest.raises(DecodeError, match="64x64 pixels, more than 4000") as error:
        sample_video(clips / "short_gop.mp4", "uniform:2", max_pixels=4000)
    assert error.value.kind == "too_large"


def test_too_many_frames_are_refused_before_anything_is_decoded(clips, monkeypatch):
    with pytest.raises(DecodeError, match=r"all takes 100 frames of .*; add ',max=64' to the sampler") as error:
        sample_video(clips / "short_gop.mp4", "all", max_frames=64)
    assert error.value.kind == "too_large"
    assert len(sample_video(clips / "short_gop.mp4", "all,max=64", max_frames=64).frames) == 64
    monkeypatch.setattr("vrm.video.decoding.MAX_BYTES", 100_000)
    with pytest.raises(DecodeError, match="100 frames of 64x64 pixels"):
        sample_video(clips / "short_gop.mp4", "all")


def test_a_size_that_changes_midway_is_refused(clips, tmp_path):
    first, second = tmp_path / "a.ts", tmp_path / "b.ts"
    encode(first, *H264, count=20)
    encode(second, *H264, count=20, size=(96, 96))
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(DecodeError, match=r"changes its frame size midway|is damaged"):
        sample_video(both, "all")


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_ends_in_frames_or_one_sentence(clips, tmp_path, seed):
    draw = random.Random(seed)
    name = draw.choice(["short_gop.mp4", "h264.mkv", "vp9.webm", "animation.gif", "h264.ts", "open_gop.mp4"])
    data = bytearray((clips / name).read_bytes())
    for _ in range(draw.choice([1, 5, 40])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    if seed % 3 == 0:
        del data[draw.randrange(len(data)) :]
    path = tmp_path / name
    path.write_bytes(data)
    with suppress(DecodeError):
        assert len(sample_video(path, "segments:4", max_pixels=1 << 20).frames) == 4
