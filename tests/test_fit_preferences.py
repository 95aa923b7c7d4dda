"""``vrm fit preference`` on real videos and answer files."""

import itertools
import json
from pathlib import Path

import pytest
import torch

import vrm
from vrm.data.comparisons import Answer, AnswerFile, ComparisonError
from vrm.fit.preferences import load_answers, preference_command
from vrm.video import read_video, write_video

COLOURS = {"black": 0, "dark": 60, "grey": 120, "light": 180, "white": 250}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    for name, level in COLOURS.items():
        frames = torch.full((6, 3, 64, 64), level, dtype=torch.uint8)
        frames[:, :, 20:40, 20:40] = torch.arange(6, dtype=torch.uint8)[:, None, None, None] * 10
        write_video(folder / f"{name}.mp4", frames, fps=6)
    return folder


def written(folder, name, answers):
    path = folder / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    AnswerFile(path).append(answers)
    return str(path)


def brighter(annotator="a", turned=False):
    return [
        Answer(f"{a}.mp4", f"{b}.mp4", float((COLOURS[a] > COLOURS[b]) != turned), annotator)
        for a, b in itertools.permutations(COLOURS, 2)
    ]


def test_a_reward_is_fitted_reported_and_scores_videos(folder, capsys):
    answers = [*brighter(), Answer("black.mp4", "white.mp4", None), Answer("grey.mp4", "grey.mp4", 0.5)]
    out = folder / "taste.safetensors"
    assert preference_command([written(folder, "good", answers), "--out", str(out), "--frames", "4"]) == 0
    said = capsys.readouterr().out
    assert "1 of 22 questions have no answer" in said
    assert "1 of 22 answers compare a video with itself" in said
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["figures"]["training_accuracy"] > 0.9
    assert report["annotators"] == ["a"]
    reward = vrm.load_reward(out)
    scores = [float(reward.score(read_video(folder / f"{name}.mp4", 4)[None])) for name in ("black", "white")]
    assert scores[0] < scores[1]


def test_pixels_need_no_encoder(folder):
    out = folder / "pixels.safetensors"
    arguments = [written(folder, "pixels", brighter()), "--out", str(out), "--frames", "2", "--input", "pixels"]
    assert preference_command([*arguments, "--members", "1", "--epochs", "3"]) == 0
    assert vrm.load_reward(out).encoder is None


def test_each_annotator_may_have_a_taste(folder, capsys):
    out = folder / "tastes.safetensors"
    files = [written(folder, "a", brighter("ann")), written(folder, "b", brighter("bob", turned=True))]
    arguments = [*files, "--out", str(out), "--frames", "2", "--held-out", "0"]
    assert preference_command([*arguments, "--users", "ideal_point"]) == 0
    assert "User 1 is 'bob'." in capsys.readouterr().out
    reward = vrm.load_reward(out)
    clips = torch.stack([read_video(folder / f"{name}.mp4", 2) for name in ("black", "white")])
    ann, bob = (reward.for_user(user).score(clips) for user in (0, 1))
    assert ann[0] < ann[1]
    assert bob[0] > bob[1]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "no answer in"),
        ([Answer("black.mp4", "white.mp4", None)], "no answer in"),
        ([Answer("black.mp4", "white.mp4", 0.5)] * 3, "All 3 answers are ties"),
        ([Answer("black.mp4", "gone.mp4", 1.0)], "1 of 2 videos do not exist"),
    ],
)
def test_files_that_teach_nothing_are_refused_and_nothing_is_written(answers, message, folder):
    out = folder / "nothing.safetensors"
    with pytest.raises(ComparisonError, match=message):
        preference_command([written(folder, "bad", answers), "--out", str(out), "--frames", "2"])
    assert not out.exists()


def test_a_missing_file_is_named(folder):
    with pytest.raises(ComparisonError, match=r"no answer file .*absent\.jsonl"):
        load_answers([Path(folder) / "absent.jsonl"], lambda frames: frames, 2)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--users", "variational", "--link", "davidson"], "--link: these are for one taste"),
        (["--frames", "0"], "at least 1"),
        (["--link", "thurstone"], "invalid choice"),
    ],
)
def test_wrong_options_are_refused(extra, message, folder, capsys):
    with pytest.raises(SystemExit):
        preference_command([str(folder / "good.jsonl"), "--out", str(folder / "x.safetensors"), *extra])
    assert message in capsys.readouterr().err
