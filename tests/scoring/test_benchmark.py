"""Benchmarks from local folders: with scores made elsewhere, and with a reward on real videos."""

import csv
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clips import write_clip
from PIL import Image
from rich.console import Console
from tables import write_csv
from tiny import TinyEncoder

import vrm
from vrm.data import BenchmarkError
from vrm.errors import UnknownNameError
from vrm.rewards import GoalReward
from vrm.scoring.benchmark import run_benchmark

WORDS = {1: "A", -1: "B", 0: "same"}
PROMPTS, VIDEOS = 12, 4


@pytest.fixture
def bench(tmp_path):
    """VideoGen-RewardBench in small: the worth of each video is known, no video is there."""
    rng = np.random.default_rng(0)
    worth, rows = {}, []
    for prompt in range(PROMPTS):
        worth |= {f"videos/{prompt}_{n}.mp4": rng.standard_normal(2) for n in range(VIDEOS)}
        for first in range(VIDEOS):
            for second in range(first):
                a, b = f"videos/{prompt}_{first}.mp4", f"videos/{prompt}_{second}.mp4"
                looks, motion = (WORDS[int(np.sign(d) * (abs(d) > 0.5))] for d in worth[a] - worth[b])
                total = (worth[a] - worth[b]).mean()
                row = {"path_A": a, "path_B": b, "prompt": f"prompt {prompt}", "VQ": looks, "MQ": motion, "TA": "same"}
                rows.append({**row, "Overall": WORDS[int(np.sign(total) * (abs(total) > 0.3))]})
    rows[0]["Overall"] = "invalid"
    write_csv(tmp_path / "bench" / "videogen-rewardbench.csv", rows)
    return tmp_path / "bench", worth


def by_name(result):
    return {dimension.dimension: dimension for dimension in result.dimensions}


def shown(result, width=140):
    console = Console(width=width)
    with console.capture() as capture:
        result.print(console)
    return capture.get()


def test_scores_that_people_would_give_agree_with_them(bench):
    root, worth = bench
    result = run_benchmark("auto", root, scores={path: float(value.mean()) for path, value in worth.items()})
    overall = by_name(result)["overall"]
    found = overall.agreement
    assert found.accuracy.strict == found.accuracy.tie_aware == found.accuracy.oracle == 1
    assert found.accuracy.heldout > 0.9
    assert 0.2 < found.epsilon <= 0.3
    assert found.dropped == {"no label": 1}
    assert found.pairs == PROMPTS * 6 - 1
    assert (overall.clustered_by, overall.clusters) == ("prompt", PROMPTS)
    assert overall.intervals["heldout"].low <= found.accuracy.heldout <= overall.intervals["heldout"].high
    assert overall.spearman_by_prompt.value > 0.9
    assert overall.best_of_n.top1 > overall.best_of_n.random_top1
    assert overall.best_of_n.regret < 0.1 < overall.best_of_n.random_regret
    assert result.items == PROMPTS * VIDEOS


def test_each_dimension_is_compared_with_the_reward_s_own_where_it_has_one(bench, tmp_path):
    root, worth = bench
    rows = [
        {"path": path, "score": value.mean(), "vq": value[0], "motion": value[1], "note": "x"}
        for path, value in worth.items()
    ]
    scores = write_csv(tmp_path / "scores.csv", rows)
    found = by_name(run_benchmark("videogen-rewardbench", root, scores=scores, dimensions={"MQ": "motion"}))
    assert {name: one.scored_by for name, one in found.items()} == {
        "overall": "score",
        "VQ": "vq",
        "MQ": "motion",
        "TA": "score",
    }
    assert all(found[name].agreement.accuracy.oracle == 1 for name in ("overall", "VQ", "MQ", "TA"))
    assert math.isnan(found["TA"].agreement.accuracy.strict)
    with pytest.raises(UnknownNameError, match=r"Unknown dimension of the reward 'moton'. Did you mean 'motion'"):
        run_benchmark("auto", root, scores=scores, dimensions={"MQ": "moton"})
    with pytest.raises(UnknownNameError, match="Unknown dimension of the benchmark 'VX'"):
        run_benchmark("auto", root, scores=scores, dimensions={"VX": "motion"})


def test_a_constant_scorer_gets_what_the_constant_baseline_gets(bench):
    result = run_benchmark("auto", bench[0], scores=lambda path, prompt: 1.0)
    for one in result.dimensions:
        for name in ("strict", "tie_aware", "heldout", "oracle"):
            expected = pytest.approx(getattr(one.agreement.baselines["constant"], name), nan_ok=True)
            assert getattr(one.agreement.accuracy, name) == expected
        assert math.isnan(one.spearman)
    assert "overall: with ties, the scorer is not surely better than the" in shown(result)


def test_given_paths_match_by_their_longest_tail_and_prompt(bench, tmp_path):
    root, worth = bench
    rows = [
        {"path": f"https://host/blob/main/{path}", "prompt": f"prompt {path[7:].split('_')[0]}", "score": value.mean()}
        for path, value in worth.items()
    ]
    rows += [
        {"path": "videos/0_0.mp4", "prompt": "another", "score": 3.0},
        {"path": "z.mp4", "prompt": "", "score": 1.0},
    ]
    pq.write_table(pa.Table.from_pylist(rows[2:]), tmp_path / "scores.parquet")
    result = run_benchmark("auto", root, scores=tmp_path / "scores.parquet")
    assert result.unmatched == 2
    assert result.unscored == {"no score given": 2}
    overall = by_name(result)["overall"].agreement
    assert overall.dropped == {"no label": 1, "no score": 4}
    text = shown(result)
    assert "Videos without a score: no score given 2." in text
    assert "Given scores that belong to no video of the benchmark: 2." in text


def test_scores_that_cannot_be_used_are_refused(bench, tmp_path):
    root = bench[0]
    with pytest.raises(BenchmarkError, match="None of the 1 scores in given scores belongs to a video"):
        run_benchmark("auto", root, scores={"elsewhere.mp4": 1.0})
    with pytest.raises(BenchmarkError, match=r"Two scores claim video .*0_0.mp4' under prompt 'prompt 0': 1 and 2"):
        run_benchmark("auto", root, scores={"videos/0_0.mp4": 1.0, "0_0.mp4": 2.0})
    with pytest.raises(BenchmarkError, match="needs columns path and score"):
        run_benchmark("auto", root, scores=write_csv(tmp_path / "scores.csv", [{"path": "a", "value": 1}]))
    with pytest.raises(ValueError, match="either a reward to score the videos with or scores made elsewhere"):
        run_benchmark("auto", root)
    with pytest.raises(ValueError, match=r"Settings \['workers'\] need a reward"):
        run_benchmark("auto", root, scores={}, workers=2)
    with pytest.raises(BenchmarkError, match="None of the 48 videos can be scored; the first should be at"):
        run_benchmark("auto", root, reward="goal")
    unlabelled = write_csv(tmp_path / "pairs.csv", [{"path_a": "a.mp4", "path_b": "b.mp4", "label": ""}])
    with pytest.raises(BenchmarkError, match="has a usable label or rating"):
        run_benchmark("auto", unlabelled, scores={})


def test_results_are_written_as_json_csv_and_picture(bench, tmp_path):
    root, worth = bench
    result = run_benchmark("auto", root, scores={p: float(v.mean()) for p, v in worth.items()}, out=tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        f"benchmark.{x}" for x in ("csv", "json", "png")
    ]
    written = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert [row["dimension"] for row in written["dimensions"]] == ["overall", "VQ", "MQ", "TA"]
    assert written["dimensions"][3]["strict"] is None
    assert written["dimensions"][0]["random_heldout"] > 0
    with (tmp_path / "out/benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["dimension"] for row in rows] == ["overall", "VQ", "MQ", "TA", "macro mean"]
    expected = np.mean([one.agreement.accuracy.heldout for one in result.dimensions[1:]])
    assert float(rows[-1]["heldout"]) == pytest.approx(expected) == pytest.approx(result.macro()["heldout"])
    assert rows[3]["strict"] == ""
    with Image.open(tmp_path / "out/benchmark.png") as picture:
        assert picture.width > picture.height > 200
    text = shown(result)
    for words in (
        "with ties,",
        "held out",
        "constant",
        "majority",
        "random",
        "Kendall",
        "best-of-N",
        "12 prompts",
    ):
        assert words in text
    assert "…" not in shown(result, width=80)


def test_ratings_are_ranked_and_paired_within_their_prompt(tmp_path):
    models = {"Gen2": [1, 2], "Pika_v1": [4, 4], "Floor33": [3, 3]}
    ratings = {str(i): {"prompt": f"prompt {i}", "models": models} for i in range(4)}
    (tmp_path / "genai_video.json").write_text(json.dumps(ratings))
    order = {"Gen2": 0.1, "Floor33": 0.3, "Pika_v1": 0.2}
    scores = {f"{model}/{i}.mp4": order[model] + i / 1000 for i in range(4) for model in models}
    result = run_benchmark("auto", tmp_path, scores=scores)
    overall = by_name(result)["overall"]
    assert (overall.target, overall.agreement.pairs, overall.videos) == ("rating", 12, 12)
    assert overall.agreement.accuracy.strict == pytest.approx(2 / 3)
    assert overall.spearman_by_prompt == pytest.approx((0.5, 4))
    assert overall.kendall_by_prompt == pytest.approx((1 / 3, 4))
    assert overall.best_of_n.regret == pytest.approx(1)
    assert overall.best_of_n.random_regret == pytest.approx(4 - (1.5 + 4 + 3) / 3)


def test_videos_rated_alone_have_correlations_but_no_pairs(tmp_path):
    rows = [{"path": f"{i}.mp4", "prompt": f"prompt {i}", "score": i % 5, "mos_motion": -i} for i in range(20)]
    file = write_csv(tmp_path / "mos.csv", rows)
    result = run_benchmark("table", file, scores=lambda path, prompt: float(prompt.split()[1]), out=tmp_path / "out")
    found = by_name(result)
    assert found["motion"].spearman == pytest.approx(-1)
    assert found["motion"].agreement.pairs == 0
    assert math.isnan(found["motion"].spearman_by_prompt.value)
    assert "n/a" in shown(result)


def test_pairs_without_prompts_are_clustered_by_pair(tmp_path):
    rows = [{"path_a": f"a{i}.mp4", "path_b": f"b{i}.mp4", "label": "a"} for i in range(6)]
    file = write_csv(tmp_path / "pairs.csv", rows)
    one = run_benchmark("auto", file, scores=lambda path, prompt: float("a" in path[-6:])).dimensions[0]
    assert (one.clustered_by, one.clusters) == ("pair", 6)
    assert one.agreement.accuracy.heldout == 1
    assert one.best_of_n.groups == 0


def test_votes_of_genai_bench_are_foretold_four_ways(tmp_path):
    marks = {"leftvote": (5, 1), "rightvote": (1, 5), "tievote": (5, 5), "bothbad_vote": (1, 1)}
    rows = [
        {
            "id": f"{i}{vote}",
            "prompt": f"p {i}",
            "video_left": f"{i}{vote}l",
            "video_right": f"{i}{vote}r",
            "vote_type": vote,
        }
        for i in range(6)
        for vote in marks
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    scores = {
        row[f"video_{side}"]: marks[row["vote_type"]][side == "right"] for row in rows for side in ("left", "right")
    }
    result = run_benchmark("auto", tmp_path, scores=scores)
    assert (result.dimensions[0].four_way, result.dimensions[0].four_way_majority) == (1, 0.25)
    assert "of four votes (A, B, both good, both bad) 100.0 % are foretold" in shown(result)


@pytest.fixture
def filmed(tmp_path):
    """Pairs of real clips: four of them, one missing, one broken."""
    for seed in range(4):
        write_clip(tmp_path / "set" / f"{seed}.mp4", seed, frames=6)
    (tmp_path / "set" / "broken.mp4").write_bytes(b"no video")
    names = [("0", "1"), ("1", "2"), ("2", "3"), ("3", "0"), ("0", "gone"), ("broken", "1")]
    rows = [
        {
            "path_a": f"{a}.mp4",
            "path_b": f"{b}.mp4",
            "prompt": "a robot kneels" if i % 2 else "a dog",
            "label": "aab"[i % 3],
        }
        for i, (a, b) in enumerate(names)
    ]
    return write_csv(tmp_path / "set" / "pairs.csv", rows)


def test_a_reward_scores_every_distinct_video_once_and_figures_follow(filmed, tmp_path):
    encoder = TinyEncoder()
    reward = GoalReward(encoder, "anything", "a video")
    result = run_benchmark("auto", filmed, reward=reward, frames="segments:4", out=tmp_path / "out")
    assert result.items == 10
    assert result.unscored == {"missing video": 1, "not_video": 1}
    table = vrm.scoring.read_scores(tmp_path / "out" / "scores")
    assert len(table) == 9
    scores = {(row["path"], row["prompt"]): row["score"] for row in table.to_pylist() if row["score"] is not None}
    again = run_benchmark("auto", filmed, scores=scores)
    written = run_benchmark("auto", filmed, scores=tmp_path / "out" / "scores")
    assert result.dimensions[0].agreement.pairs == 4
    assert result.dimensions[0].agreement.dropped == {"no score": 2}
    for other in (again, written):
        assert other.dimensions[0].figures() == pytest.approx(result.dimensions[0].figures(), nan_ok=True)
    calls = len(encoder.calls)
    run_benchmark("auto", filmed, reward=reward, frames="segments:4", out=tmp_path / "out")
    assert len(encoder.calls) == calls


def test_one_reward_at_a_time(filmed):
    with pytest.raises(BenchmarkError, match="judges one reward at a time, got"):
        run_benchmark(
            "auto",
            filmed,
            reward={"one": GoalReward(TinyEncoder(), "x", "y"), "two": GoalReward(TinyEncoder(), "x", "z")},
        )
