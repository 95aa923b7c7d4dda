"""Killed at any moment, a run goes on with nothing lost and nothing twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips import write_clips
from tiny import TinyEncoder

from vrm.rewards import GoalReward
from vrm.scoring import read_scores
from vrm.scoring.pipeline import Settings
from vrm.scoring.plan import make_plan
from vrm.scoring.run import score_plan

PROMPTS = ["a robot kneels", "a pole stands"]
SCRIPT = """
import sys
from pathlib import Path
from test_resume import kill_often, score_slowly

print("ready", flush=True)
"""


class SlowEncoder(TinyEncoder):
    """An encoder that takes its time, so that there is a middle to be killed in."""

    def image_features(self, pixels):
        time.sleep(0.03)
        return super().image_features(pixels)


def score_slowly(videos, out, **options):
    plan = make_plan(videos, PROMPTS, matrix=True)
    rewards = {"goal": GoalReward(SlowEncoder(), "x")}
    return score_plan(plan, rewards, Settings(batch_size=32), out, rows_per_part=2, **options)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_clips(folder, 12, size=32)
    (folder / "bad.mp4").write_text("no video" * 99)
    return folder


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    outcome = score_slowly(videos, tmp_path_factory.mktemp("whole") / "scores")
    return outcome.folder / "scores.parquet"


def start(videos, out, call="score_slowly(Path(sys.argv[1]), Path(sys.argv[2]))"):
    """Run ``call`` in a process of its own, with one thread so that it can fork."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + call, str(videos), str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def fork_and_kill(videos, out, delay):
    """Score in a forked process, which shares the imports, and kill it after a while; says whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            score_slowly(videos, out)
        finally:
            os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def kill_often(videos, out, seed):
    """Start and kill the same run at eight moments; says how often it was still running."""
    draw = random.Random(seed)
    killed = seen = 0
    for _ in range(8):
        killed += fork_and_kill(videos, out, draw.uniform(0.01, 0.35))
        if (out / "run.json").is_file():
            rows = len(read_scores(out))
            assert rows >= seen  # what was committed stays
            seen = rows
    return killed


@pytest.mark.parametrize("seed", [0, 1])
def test_kill_at_random_points_and_resume(videos, whole, tmp_path, seed):
    out = tmp_path / "scores"
    with start(videos, out, f"print(kill_often(Path(sys.argv[1]), Path(sys.argv[2]), {seed}))") as clean:
        killed = int(clean.stdout.read())
    score_slowly(videos, out)
    assert killed >= 2
    assert (out / "scores.parquet").read_bytes() == whole.read_bytes()
    assert not list(out.rglob("*.partial"))
    assert not list(out.glob("parts/part*"))


def test_a_killed_command_gives_its_lock_back(videos, whole, tmp_path):
    out = tmp_path / "scores"
    with start(videos, out) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob("parts/part*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
    assert 0 < len(read_scores(out)) < 26
    outcome = score_slowly(videos, out)
    assert (outcome.rows, outcome.errors, outcome.complete) == (26, 2, True)
    assert (out / "scores.parquet").read_bytes() == whole.read_bytes()


def test_nothing_is_scored_twice(videos, tmp_path):
    encoder = TinyEncoder()
    plan, rewards = make_plan(videos, PROMPTS[0]), {"goal": GoalReward(encoder, "x")}
    score_plan(plan, rewards, Settings(), tmp_path / "s")
    encoder.calls.clear()
    score_plan(plan, rewards, Settings(), tmp_path / "s", retry_errors=True)
    assert encoder.calls == []
    more = make_plan(videos, PROMPTS, matrix=True)
    outcome = score_plan(more, rewards, Settings(batch_size=32), tmp_path / "s")
    assert len(encoder.calls) == 3
    assert outcome.rows == 26


def test_errors_are_retried_on_demand(videos, tmp_path):
    video = tmp_path / "late.mp4"
    plan, rewards = make_plan(video, PROMPTS[0]), {"goal": GoalReward(TinyEncoder(), "x")}
    assert score_plan(plan, rewards, Settings(), tmp_path / "s").errors == 1
    video.write_bytes((videos / "clip_0.mp4").read_bytes())
    assert score_plan(plan, rewards, Settings(), tmp_path / "s").errors == 1
    assert score_plan(plan, rewards, Settings(), tmp_path / "s", retry_errors=True).errors == 0
    assert read_scores(tmp_path / "s")["score"].null_count == 0


def test_shards_give_the_table_of_one_run(videos, whole, tmp_path):
    outcomes = [score_slowly(videos, tmp_path / "s", shard=(i, 3)) for i in (3, 1, 2)]
    assert [outcome.complete for outcome in outcomes] == [False, False, True]
    assert (tmp_path / "s" / "scores.parquet").read_bytes() == whole.read_bytes()


def test_another_reward_does_not_mix(videos, tmp_path):
    plan = make_plan(videos, PROMPTS[0])
    folders = [
        score_plan(plan, {"goal": GoalReward(TinyEncoder(), "x", "y", alpha)}, Settings(), tmp_path / "s").folder
        for alpha in (0.0, 0.5, 0.0, 0.5)
    ]
    assert folders[0] == folders[2] == tmp_path / "s"
    assert folders[1] == folders[3] != folders[0]
    assert not read_scores(folders[0])["reward_hash"][0].equals(read_scores(folders[1])["reward_hash"][0])


def test_a_video_that_was_replaced_is_scored_again_and_no_other(tmp_path):
    videos = tmp_path / "videos"
    write_clips(videos, 3, size=32)
    names = sorted(videos.iterdir())
    rewards = {"goal": GoalReward(TinyEncoder(), "x")}

    def scores():
        outcome = score_plan(make_plan(videos, PROMPTS[0]), rewards, Settings(), tmp_path / "scores")
        return read_scores(outcome.folder).to_pylist()

    before = scores()
    calls = rewards["goal"].encoder.calls
    calls.clear()
    assert scores() == before
    assert not calls
    names[1].write_bytes(names[2].read_bytes())
    after = scores()
    assert calls == [32]  # one batch
    assert [row["path"] for row in after] == [row["path"] for row in before]
    assert after[0] == before[0]
    assert after[2] == before[2]
    assert after[1]["score"] == before[2]["score"] != before[1]["score"]
    assert after[1]["video_hash"] == before[2]["video_hash"]
