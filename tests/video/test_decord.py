"""decord is used where it is exact, and never asked where it hangs or errs."""

import pytest
import torch
from kinds import GOOD

from vrm.errors import DecodeError, VrmError
from vrm.video import sample_video
from vrm.video.decord_backend import decord_module

decord = pytest.importorskip("decord")

SAFE = {
    "long_gop.mp4", "short_gop.mp4", "tiny_gop.mp4", "all_intra.mp4", "h265.mp4", "vp9.webm", "vp9.mp4", "mjpeg.mov",
    "h264.mkv", "fragments.mp4", "variable_rate.mp4", "alpha.webm", "one_frame.mp4",
    "two_frames.mp4",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SAFE))
def test_decord_and_libav_agree_to_the_bit(clips, name):
    for spec in [f"{rule}:{count}" for rule in ("uniform", "middle") for count in (1, 2, 3, 5, 8, 13, 21)]:
        ours, theirs = (sample_video(clips / name, spec, backend) for backend in ("av", "decord"))
        assert theirs.backend == f"decord {decord.__version__}"
        assert ours.indices == theirs.indices
        assert torch.equal(ours.frames, theirs.frames), spec


@pytest.mark.parametrize("name", sorted(set(GOOD) - SAFE))
def test_other_files_go_to_libav(clips, name, monkeypatch):
    def never(*args):
        raise AssertionError("decord was asked for frames")

    monkeypatch.setattr(decord.VideoReader, "get_batch", never)
    assert sample_video(clips / name, "uniform:3").backend.startswith("av ")
    with pytest.raises(DecodeError, match=r"decord is not safe for .*; use backend 'auto'"):
        sample_video(clips / name, "uniform:3", "decord")


def test_the_time_stamps_betray_the_cut_that_hangs(clips, monkeypatch):
    monkeypatch.setattr(decord.VideoReader, "get_batch", lambda *args: pytest.fail("decord would hang here"))
    reader = decord.VideoReader(str(clips / "cut.mp4"))
    assert (reader.get_frame_timestamp(range(len(reader))) < 0).any()
    monkeypatch.setattr("vrm.video.decord_backend.check_request", lambda *args: None)
    monkeypatch.setattr(decord.VideoReader, "__len__", lambda self: 90)  # even if the counts agreed
    with pytest.raises(DecodeError, match="decord is not safe"):
        sample_video(clips / "cut.mp4", "uniform:8", "decord")


def test_whole_clips_and_large_samples_go_to_libav(clips, monkeypatch):
    assert sample_video(clips / "vp9.webm", "all").backend.startswith("av ")
    assert sample_video(clips / "vp9.webm", "uniform:8").backend.startswith("decord ")
    monkeypatch.setattr("vrm.video.decord_backend.MAX_SPARSE", 7)
    assert sample_video(clips / "vp9.webm", "uniform:8").backend.startswith("av ")


def test_libav_is_quicker_for_h264(clips):
    assert sample_video(clips / "short_gop.mp4", "uniform:8").backend.startswith("av ")


def test_a_bridge_set_by_other_code_does_no_harm(clips):
    decord.bridge.set_bridge("torch")
    try:
        assert sample_video(clips / "vp9.webm", "uniform:8").backend.startswith("decord ")
    finally:
        decord.bridge.set_bridge("native")


def test_without_decord_libav_does_everything(clips, monkeypatch):
    decord_module.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    try:
        assert sample_video(clips / "vp9.webm", "uniform:8").backend.startswith("av ")
        with pytest.raises(VrmError, match="needs the package decord, which is not installed"):
            sample_video(clips / "short_gop.mp4", "uniform:8", "decord")
    finally:
        decord_module.cache_clear()


def test_an_unknown_backend(clips):
    with pytest.raises(ValueError, match=r"Unknown video backend 'decrod'. Did you mean 'decord'"):
        sample_video(clips / "short_gop.mp4", "uniform:8", "decrod")
