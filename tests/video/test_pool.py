"""A pool of decoding processes survives what its files do to it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import strange
import torch

from vrm.errors import DecodeError, VrmError
from vrm.video import DecodePool, file_hash, sample_video, write_video
from vrm.video.read import as_frames

GOOD = [0, 20, 230, 250]


def children():
    """Processes of this one that decode."""
    mine = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                mine.append(status.parent)
    return {folder.name for folder in mine if b"vrm.video.jobs" in (folder / "cmdline").read_bytes()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Clips of one brightness each."""
    folder = tmp_path_factory.mktemp("plain")
    for level in (*GOOD, strange.HANGS, strange.ABORTS, strange.FAILS):
        write_video(folder / f"{level}.mp4", torch.full((20, 3, 64, 64), level, dtype=torch.uint8), 10)
    return folder


@pytest.fixture(scope="module")
def pool():
    with DecodePool(2, timeout=2.0, transform=strange.judge, large=0) as pool:
        yield pool
    assert not children()


def jobs(folder, levels):
    return [(level, folder / f"{level}.mp4", "segments:4") for level in levels]


@pytest.mark.parametrize("in_process", [True, False])
def test_results_are_those_of_a_single_reader(clips, pool, in_process):
    names = ["short_gop.mp4", "cut.mp4", "animation.gif", "variable_rate.mp4", "odd_444.mp4"]
    decoder = DecodePool(0) if in_process else pool
    results = dict(decoder.map_unordered((name, clips / name, "segments:5") for name in names))
    assert set(results) == set(names)
    for name, sample in results.items():
        alone = sample_video(clips / name, "segments:5")
        frames = sample.frames if in_process else as_frames(sample.frames)
        assert torch.equal(frames, alone.frames)
        assert (sample.indices, sample.times, sample.info) == (alone.indices, alone.times, alone.info)
        assert (sample.backend, sample.warning) == (alone.backend, alone.warning)
        assert sample.video_hash == file_hash(clips / name)


def test_files_that_hang_or_crash_are_recorded_and_the_others_go_on(plain, pool):
    order = [GOOD[0], strange.HANGS, GOOD[1], strange.ABORTS, strange.FAILS, GOOD[2], GOOD[3]]
    requests = [*jobs(plain, order), ("missing", plain / "missing.mp4", "all")]
    results = dict(pool.map_unordered(requests))
    assert set(results) == {*order, "missing"}
    for level in GOOD:
        assert abs(results[level].frames.mean() - level) < 9
    kinds = {key: result.kind for key, result in results.items() if isinstance(result, DecodeError)}
    assert kinds == {
        strange.HANGS: "timeout",
        strange.ABORTS: "crash",
        strange.FAILS: "crash",
        "missing": "missing",
    }
    assert "took more than 2 seconds, twice" in str(results[strange.HANGS])
    assert f"crashed the decoder twice (exit code {-signal.SIGABRT})" in str(results[strange.ABORTS])
    assert "RuntimeError: no such picture" in str(results[strange.FAILS])


def test_submitted_files_come_back_once(plain, pool):
    for level in GOOD:
        pool.submit(level, plain / f"{level}.mp4", "uniform:2", backend="av")
    assert sorted(key for key, _ in pool.results()) == GOOD
    assert list(pool.results()) == []


def test_a_consumer_that_stops_early_leaves_nothing_behind(plain, pool):
    first = pool.map_unordered(jobs(plain, GOOD * 5))
    next(first)
    first.close()
    results = list(pool.map_unordered([("only", plain / "0.mp4", "all")]))
    assert [key for key, _ in results] == ["only"]


def test_requests_are_drawn_only_as_results_are_taken(plain, pool):
    drawn = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield drawn[-1], plain / "0.mp4", "segments:2"

    results = pool.map_unordered(endless())
    for taken in range(1, 30):
        next(results)
        assert len(drawn) <= taken + 4 * pool.workers
    results.close()


def test_finished_results_do_not_pile_up(plain, pool):
    for number in range(40):
        pool.submit(number, plain / "0.mp4", "segments:2")
    time.sleep(0.5)
    assert len(pool._shared.finished) <= 3 * pool.workers
    assert sorted(key for key, _ in pool.results()) == list(range(40))


def test_an_interrupt_kills_a_job_that_hangs(plain):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = children()
    with DecodePool(1, timeout=100, transform=strange.judge, large=0) as pool:
        results = pool.map_unordered(jobs(plain, [0, strange.HANGS]))
        next(results)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(results)
    assert children() == before
    pool.close()
    with pytest.raises(VrmError, match="closed"):
        pool.submit("more", plain / "0.mp4", "all")
    with pytest.raises(VrmError, match="closed"):
        next(pool.results())


SCRIPT = """
import sys, strange
from vrm.video import DecodePool
with DecodePool(1, timeout=100, transform=strange.judge, large=0) as pool:
    pool.submit("good", sys.argv[1], "all")
    pool.submit("hangs", sys.argv[2], "all")
    for key, _ in pool.results():
        print(pool._crew[0].process.pid, flush=True)
"""


def test_a_worker_that_hangs_ends_when_its_parent_is_killed(plain, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    command = [sys.executable, tmp_path / "script.py", plain / "0.mp4", plain / f"{strange.HANGS}.mp4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        worker = int(process.stdout.readline())
        time.sleep(0.3)  # it hangs by now
        process.kill()
        process.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_that_cannot_start_are_reported(monkeypatch, plain):
    monkeypatch.setattr("vrm.video.workers.BOOT", "raise SystemExit(3)")
    with DecodePool(1) as pool, pytest.raises(VrmError, match=r"could not start \(exit code 3\)"):
        list(pool.map_unordered(jobs(plain, GOOD)))


def test_bad_arguments(plain):
    with pytest.raises(ValueError, match=re.escape("needs 0 or more workers, got -1")):
        DecodePool(-1)
    with pytest.raises(ValueError, match="timeout must be above 0 seconds, got 0"):
        DecodePool(0, timeout=0)
    with pytest.raises(ValueError, match="transform must be a function or object of a module, got <function"):
        DecodePool(1, transform=lambda frames: frames)
    with DecodePool(0) as pool:
        with pytest.raises(ValueError, match="Unknown frame sampler"):
            pool.submit("a", plain / "0.mp4", "some")
        with pytest.raises(ValueError, match="Unknown video backend"):
            pool.submit("a", plain / "0.mp4", "all", backend="ffmpeg")


def test_the_hash_is_of_the_bytes(tmp_path):
    for name, content in {"a": b"same", "b": b"same", "c": b"other"}.items():
        (tmp_path / name).write_bytes(content)
    first, second, third = (file_hash(tmp_path / name) for name in "abc")
    assert first == second != third
    assert re.fullmatch("[0-9a-f]{32}", first)
    with pytest.raises(DecodeError, match="no video file"):
        file_hash(tmp_path / "d")
