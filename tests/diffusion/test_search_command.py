"""``vrm search``: what it writes, that it goes on where it was, and what it refuses."""

import csv
import json

import pytest
import torch
from tiny_generator import PROMPTS
from tiny_pipelines import modelscope

from vrm.diffusion.generator import load_generator
from vrm.diffusion.search import METHODS
from vrm.diffusion.search.pictures import Comparison, comparison_film, comparison_sheet
from vrm.diffusion.search_command import method_settings, search_command
from vrm.errors import CheckpointError, UnknownNameError, VrmError
from vrm.video import read_video

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = modelscope()
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return str(folder)


def search(pipeline, out, *arguments, prompts=PROMPTS[:1], budget=12):
    given = [part for prompt in prompts for part in ("--prompt", prompt)]
    sampling = ["--frames", "3", "--size", "16x16", "--steps", "2", "--guidance", "1"]
    return search_command(
        ["--generator", pipeline, *given, "--budget", str(budget), "--out", str(out), *sampling, *arguments]
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_videos_pictures_and_tables_tell_what_was_found_and_what_it_cost(pipeline, tmp_path, capsys):
    assert search(pipeline, tmp_path, "--method", "best_of_n", "--reward", "goal=2,flicker", "--seed", "5") == 0
    said = capsys.readouterr().out
    assert "best_of_n: 6 videos, 12 model calls and 12 reward calls a prompt" in said
    (row,) = rows(tmp_path / "results.csv")
    assert (row["prompt"], row["seed"], row["nfe"], row["reward_calls"]) == (PROMPTS[0], "5", "12", "12")
    assert float(row["score"]) == pytest.approx(2 * float(row["goal"]) + float(row["flicker"]), abs=1e-5)
    judged = rows(tmp_path / "candidates.csv")
    assert len(judged) == 6
    assert max(float(j["score"]) for j in judged) == pytest.approx(float(row["score"]))
    assert float(judged[0]["score"]) == pytest.approx(float(row["plain_score"]), abs=1e-4)
    result = json.loads((tmp_path / "000" / "result.json").read_text())
    assert len(result["candidates"]) == 6
    plain = load_generator(pipeline, frames=3, size=(16, 16), steps=2, guidance=1).sample(PROMPTS[:1], seed=5)[0]
    shown = read_video(tmp_path / "000" / "plain.mp4") / 255
    assert (shown - plain).abs().mean() < 0.1  # the file format loses a little
    for name in ("best.mp4", "comparison.mp4"):
        assert len(read_video(tmp_path / "000" / name)) == 3
    for name in ("000/comparison.png", "comparison.png", "comparison.mp4"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_same_command_again_searches_only_for_new_prompts(pipeline, tmp_path):
    arguments = ("--method", "best_of_n")
    search(pipeline, tmp_path, *arguments)
    first = (tmp_path / "000" / "result.json").read_bytes()
    before = (tmp_path / "000" / "result.json").stat().st_mtime_ns
    search(pipeline, tmp_path, *arguments, prompts=PROMPTS[:2])
    assert (tmp_path / "000" / "result.json").stat().st_mtime_ns == before
    (tmp_path / "000" / "result.json").unlink()
    search(pipeline, tmp_path, *arguments, prompts=PROMPTS[:2])
    assert (tmp_path / "000" / "result.json").read_bytes() == first
    assert [row["prompt"] for row in rows(tmp_path / "results.csv")] == PROMPTS[:2]
    assert [row["seed"] for row in rows(tmp_path / "results.csv")] == ["0", "1"]
    with pytest.raises(CheckpointError, match="holds a result for"):
        search(pipeline, tmp_path, *arguments, prompts=PROMPTS[1:2])
    with pytest.raises(CheckpointError, match=r"holds a search with budget=.*another --out"):
        search(pipeline, tmp_path, *arguments, budget=14)


def test_prompts_come_from_a_file_and_settings_from_the_command_line(pipeline, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]) + "\n")
    arguments = ["--prompts", str(tmp_path / "prompts.txt"), "--method", "dlbs"]
    settings = ["method.candidates=3", "method.size=2", "goal.alpha=0.5", "task.baseline=a picture"]
    search(pipeline, tmp_path / "out", *arguments, *settings, prompts=(), budget=14)
    assert "dlbs: 2 beams, 8 model calls and 8 reward calls a prompt" in capsys.readouterr().out
    assert [row["prompt"] for row in rows(tmp_path / "out" / "results.csv")] == PROMPTS[:2]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_the_command_line(method, pipeline, tmp_path):
    settings = ["method.explore=2"] if method == "reno" else []
    search(pipeline, tmp_path, "--method", method, "--batch", "2", *settings)
    (row,) = rows(tmp_path / "results.csv")
    assert int(row["nfe"]) <= 12


def test_settings_are_read_as_what_they_are():
    assert method_settings("prune", ["cuts=[0.5]", "keep=[0.25]", "rule=weighted_sum", "size=3"]) == {
        "cuts": (0.5,), "keep": (0.25,), "rule": "weighted_sum", "size": 3,
    }  # fmt: skip
    assert method_settings("nrg", ["weight=1", "normalise=false"]) == {"weight": 1.0, "normalise": False}
    with pytest.raises(UnknownNameError, match=r"setting of --method nrg 'wieght'.*'weight'"):
        method_settings("nrg", ["wieght=1"])
    with pytest.raises(UnknownNameError, match="kernel"):
        method_settings("dlbs", ["kernel=ode"])
    for text in ("candidates=two", "candidates=1.5", "first=[1]"):
        with pytest.raises(VrmError, match=rf"method.{text.partition('=')[0]} must be"):
            method_settings("dlbs", [text])


def test_mistakes_are_said_in_one_sentence(pipeline, tmp_path):
    for arguments, message in (
        ((), "needs a prompt"),
        (("--prompt", "a", "--reward", "goal=much"), "NAME=WEIGHT"),
        (("--prompt", "a", "--reward", "gaol"), "Did you mean 'goal'"),
        (("--prompt", "a", "--reward", "goal,goal"), "Two rewards are named 'goal'"),
        (("--prompt", "a", "method.candidates=0"), "candidates must be at least 1"),
        (("--prompt", "a", "--method", "reno"), "needs 12 model calls"),
        (("--prompt", "a", "--reward-budget", "1"), "1 reward calls"),
        (("--prompt", "a", "--batch", "0"), "batch must be at least 1"),
        (("--prompt", "a", "--size", "15x15"), "size must be divisible by"),
        (("--prompt", "a", "--device", "toaster"), "--device toaster cannot be used"),
    ):
        with pytest.raises(VrmError, match=message):
            search(pipeline, tmp_path / "out", *arguments, prompts=(), budget=8)
    for arguments in (("--size", "16"), ("--fps", "0"), ("--steps", "0"), ("goal",)):
        with pytest.raises(SystemExit):
            search(pipeline, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_sheet_takes_negative_scores_and_videos_of_different_lengths(tmp_path):
    video = torch.rand(5, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    compared = [
        Comparison("a humanoid kneels " * 9, video, video[:3], (-0.5, 0.25)),
        Comparison("b", video, video, (0, 0)),
    ]
    comparison_sheet(tmp_path / "a.png", compared, "dlbs")
    comparison_film(tmp_path / "a.mp4", compared, "dlbs")
    assert len(read_video(tmp_path / "a.mp4")) == 5
    with pytest.raises(ValueError, match="at least one prompt"):
        comparison_sheet(tmp_path / "b.png", [], "dlbs")
