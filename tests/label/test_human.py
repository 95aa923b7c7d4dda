"""People as a labeller: what is written, what is waited for, and what comes late."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vrm.data.comparisons import Answer, AnswerFile, ComparisonError, Segments
from vrm.label.human import HumanLabeller
from vrm.label.questions import open_source
from vrm.rewards.labellers import Labeller
from vrm.video import read_video, video_info

CONFIG = Path(__file__).parents[2] / "configs" / "labeller" / "human.yaml"


def segments(*levels):
    frames = torch.stack([torch.full((6, 3, 16, 16), level, dtype=torch.uint8) for level in levels])
    return Segments(frames, {"env_reward": torch.rand(len(levels), 6)})


def answer_all(folder, label, annotator="ann"):
    """Answer every open question as a page would."""
    file = AnswerFile(folder / "answers.jsonl")
    for asked in open_source(folder).questions():
        file.append(Answer(*asked.names, label, annotator))


def test_a_question_becomes_two_clips_and_a_file_that_names_them(tmp_path):
    labeller = HumanLabeller(tmp_path / "queries", goal="brighter", fps=10, wait=False)
    assert isinstance(labeller, Labeller)
    assert labeller.compare(segments(20, 60), segments(200, 100)).isnan().all()
    assert labeller.open_questions == 2
    files = sorted((tmp_path / "queries").glob("*.json"))
    assert len(files) == 2
    row = json.loads(files[0].read_text())
    assert row["goal"] == "brighter"
    assert abs(row["time"] - time.time()) < 60
    info = video_info(tmp_path / "queries" / row["first"])
    assert (info.frames, info.fps, info.codec) == (6, 10, "h264")
    shown = {round(float(read_video(q.first).float().mean())) for q in open_source(tmp_path / "queries").questions()}
    assert all(min(abs(level - s) for s in shown) <= 3 for level in (20, 60))


def test_late_answers_are_delivered_once_with_their_segments(tmp_path):
    labeller = HumanLabeller(tmp_path / "queries", wait=False)
    first, second = segments(20, 60), segments(200, 100)
    labeller.compare(first, second)
    assert labeller.collect() == []
    answer_all(tmp_path / "queries", 0.0)
    late = labeller.collect()
    assert [answer.label for answer in late] == [0.0, 0.0]
    assert torch.equal(torch.cat([answer.first.frames for answer in late]), first.frames)
    assert torch.equal(torch.cat([answer.second.state["env_reward"] for answer in late]), second.state["env_reward"])
    assert labeller.collect() == []
    assert labeller.open_questions == 0


def test_a_question_that_was_answered_is_not_asked_again(tmp_path):
    HumanLabeller(tmp_path / "queries", wait=False).compare(segments(20), segments(200))
    answer_all(tmp_path / "queries", 0.0)
    again = HumanLabeller(tmp_path / "queries", timeout=0.1)
    assert again.compare(segments(20), segments(200)).tolist() == [0.0]
    assert len(list((tmp_path / "queries").glob("*.json"))) == 1
    assert again.compare(segments(20), segments(201)).isnan().all()


def test_several_peoples_answers_are_averaged_and_skipped_ones_are_nan(tmp_path):
    labeller = HumanLabeller(tmp_path / "queries", wait=False)
    labeller.compare(segments(20), segments(200))
    answer_all(tmp_path / "queries", None, "ann")
    assert labeller.compare(segments(20), segments(200)).isnan().all()
    assert labeller.open_questions == 0
    answer_all(tmp_path / "queries", 1.0, "ben")
    answer_all(tmp_path / "queries", 0.5, "cid")
    assert labeller.compare(segments(20), segments(200)).tolist() == [0.75]


def test_it_waits_until_all_is_answered(tmp_path, capsys):
    labeller = HumanLabeller(tmp_path / "queries", poll=0.05, timeout=20)

    def person():
        while len(list((tmp_path / "queries").glob("*.json"))) < 2:
            time.sleep(0.02)
        time.sleep(0.1)
        answer_all(tmp_path / "queries", 1.0)

    thread = threading.Thread(target=person)
    thread.start()
    assert labeller.compare(segments(20, 60), segments(200, 100)).tolist() == [1.0, 1.0]
    thread.join()
    assert (
        f"2 questions wait for a person; answer them with: vrm label {tmp_path / 'queries'}" in capsys.readouterr().err
    )


def test_after_the_timeout_what_is_open_stays_open(tmp_path):
    labeller = HumanLabeller(tmp_path / "queries", poll=0.05, timeout=0.15)
    start = time.monotonic()
    assert labeller.compare(segments(20), segments(200)).isnan().all()
    assert 0.1 < time.monotonic() - start < 5
    answer_all(tmp_path / "queries", 0.5)
    assert [answer.label for answer in labeller.collect()] == [0.5]


def test_it_comes_back_from_its_config(tmp_path):
    labeller = HumanLabeller(tmp_path / "queries", goal="a cup", wait=False, timeout=3)
    assert HumanLabeller.from_config(json.loads(json.dumps(labeller.config()))).config() == labeller.config()
    config = OmegaConf.load(CONFIG)
    assert set(config) - {"_target_"} <= set(labeller.config())


@pytest.mark.parametrize("settings", [{"fps": 0}, {"poll": -1}, {"timeout": math.nan}])
def test_numbers_out_of_range_are_refused(tmp_path, settings):
    with pytest.raises(ComparisonError, match=f"{next(iter(settings))} must be a number above 0"):
        HumanLabeller(tmp_path, **settings)


def test_segments_without_frames_cannot_be_shown(tmp_path):
    blind = Segments(state={"env_reward": torch.zeros(1, 3)})
    with pytest.raises(ComparisonError, match="have no frames"):
        HumanLabeller(tmp_path).compare(blind, blind)
