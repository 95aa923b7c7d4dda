"""Every published layout, written small, with each variant of its labels."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import write_csv

from vrm.data import BenchmarkError, PreferenceSet, RatingSet, load_preferences, read_label
from vrm.errors import UnknownNameError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a video")


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


WRITERS = {".csv": write_csv, ".parquet": write_parquet, ".json": write_json, ".jsonl": write_jsonl}


def labels(found, dimension="overall"):
    return [pair.judgement(dimension) for pair in found.pairs]


def rewardbench_rows():
    marks = [
        ("A", "same", "B", "A"),
        (" same ", "B", "A", " same "),
        ("invalid", "A", "A", ""),
        ("b", "A", "Same", "B"),
    ]
    return [
        {
            "path_A": f"./videos/{index}a.mp4", "path_B": f"./videos/{index}b.mp4", "A_model": "gen2",
            "B_model": "sora", "prompt": "a cat", "fps_A": 24.0, "num_frames_A": 48.0, "VQ": vq, "MQ": mq, "TA": ta,
            "Overall": overall,
        }
        for index, (vq, mq, ta, overall) in enumerate(marks)
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["videogen-rewardbench.csv", "eval/videogen-rewardbench.csv"])
def test_videogen_rewardbench(tmp_path, place):
    write_csv(tmp_path / place, rewardbench_rows())
    touch((tmp_path / place).parent, "videos/0a.mp4", "videos/0b.mp4")
    found = load_preferences(tmp_path)
    assert found.format == "videogen-rewardbench"
    assert found.dimensions == ("overall", "VQ", "MQ", "TA")
    assert labels(found) == ["a", "tie", None, "b"]
    assert labels(found, "VQ") == ["a", "tie", None, "b"]
    assert labels(found, "TA") == ["b", "a", "a", "tie"]
    first = found.pairs[0]
    assert (first.prompt, first.generator_a, first.generator_b) == ("a cat", "gen2", "sora")
    assert first.video_a == str((tmp_path / place).parent / "videos/0a.mp4")
    assert first.meta == {"fps_A": "24.0", "num_frames_A": "48.0"}
    assert len(found.missing) == 6
    assert not found.unknown_labels
    assert len({pair.id for pair in found.pairs}) == 4


VOTES = ["leftvote", "rightvote", "tievote", "bothbad_vote"]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet", ".jsonl"])
def test_genai_bench_votes_name_videos_by_web_address(tmp_path, suffix):
    base = "https://huggingface.co/datasets/TIGER-Lab/GenAI-Bench/blob/main/videos%20of/"
    rows = [
        {
            "prompt": "a dog", "left_video": f"{base}{i}_left.mp4", "right_video": f"{base}{i}_right.mp4",
            "left_model": "pika", "right_model": "gen2", "vote_type": vote,
        }
        for i, vote in enumerate(VOTES)
    ]  # fmt: skip
    touch(tmp_path, "videos/0_left.mp4", "videos of/0_right.mp4")
    WRITERS[suffix](tmp_path / f"votes{suffix}", rows)
    found = load_preferences(tmp_path)
    assert found.format == "genai-bench"
    assert labels(found) == ["a", "b", "tie", "tie"]
    assert [pair.label_raw for pair in found.pairs] == VOTES
    assert found.pairs[0].videos == (str(tmp_path / "videos/0_left.mp4"), str(tmp_path / "videos of/0_right.mp4"))
    assert found.pairs[1].video_a == str(tmp_path / "videos/1_left.mp4")
    assert found.pairs[0].generator_a == "pika"
    assert len(found.missing) == 6


def test_genai_bench_in_parquet_shards(tmp_path):
    for shard in range(2):
        row = {"prompt": "p", "left_video": f"{shard}l.mp4", "right_video": f"{shard}r.mp4", "vote_type": "leftvote"}
        write_parquet(tmp_path / "video_generation" / f"test_v1-0000{shard}-of-00002.parquet", [row])
    touch(tmp_path, "videos/0l.mp4")
    found = load_preferences(tmp_path, "genai-bench")
    assert len(found.pairs) == 2
    assert found.pairs[0].video_a == str(tmp_path / "videos/0l.mp4")


def test_genai_bench_as_unified_reward_ships_it(tmp_path):
    rows = [
        {"id": i, "prompt": "p", "video_left": f"{i}l.mp4", "video_right": f"{i}r.mp4", "vote_type": vote}
        for i, vote in enumerate(VOTES)
    ]
    write_json(tmp_path / "data.json", rows)
    touch(tmp_path, "videos/3l.mp4")
    found = load_preferences(tmp_path)
    assert found.format == "genai-bench"
    assert [pair.id for pair in found.pairs] == ["0", "1", "2", "3"]
    assert [pair.vote for pair in found.pairs] == ["a", "b", "good", "bad"]
    assert labels(found) == ["a", "b", "tie", "tie"]
    assert found.pairs[3].video_a == str(tmp_path / "videos/3l.mp4")


def mj_row(index, overall, alignment):
    return {
        "caption": "a bird", "video_0_path": f"test/{index}_0.mp4", "video_1_path": f"test/{index}_1.mp4",
        "video_0_label": {"criterion": 1}, "video_0_overall_score": {"Alignment": 1, "Consistency": 2},
        "category_preference": {"Alignment": alignment, "Coherence & Consistency": "Same", "Bias": "Same"},
        "overall_preference": overall, "discard": False, "video_0_total_score": 3,
    }  # fmt: skip


@pytest.mark.parametrize("named", ["", "datas", "datas/test.json"])
def test_mj_bench_video(tmp_path, named):
    said = ["Video 1 better", "Video 2 better", "Same", "Hard to judge", "Video 1 Better"]
    write_json(tmp_path / "datas/test.json", [mj_row(i, text, text) for i, text in enumerate(said)])
    write_json(tmp_path / "datas/train.json", [mj_row(9, "Same", "Same")])
    touch(tmp_path, "datas/videos/test/0_0.mp4")
    found = load_preferences(tmp_path / named)
    assert found.format == "mj-bench-video"
    assert labels(found) == labels(found, "Alignment") == ["a", "b", "tie", None, "a"]
    assert found.dimensions == ("overall", "Alignment", "Coherence & Consistency", "Bias")
    assert found.pairs[0].video_a == str(tmp_path / "datas/videos/test/0_0.mp4")
    assert found.pairs[0].prompt == "a bird"
    assert len(load_preferences(tmp_path / "datas/train.json").pairs) == 1


def test_genai_bench_ratings(tmp_path):
    models = {"Pika_v1": [5, 4, 3], "Gen2": [1, 2, 2], "Modelscope": []}
    write_json(tmp_path / "genai_video.json", {"0": {"prompt": "a cup", "models": models}})
    touch(tmp_path, "Pika_v1/0.mp4")
    found = load_preferences(tmp_path)
    assert isinstance(found, RatingSet)
    assert found.format == "genai-bench-ratings"
    assert [(v.id, v.generator, v.ratings["overall"]) for v in found.videos] == [
        ("0/Pika_v1", "Pika_v1", 4.0),
        ("0/Gen2", "Gen2", pytest.approx(5 / 3)),
    ]
    assert found.videos[0].video == str(tmp_path / "Pika_v1/0.mp4")
    assert found.missing == (str(tmp_path / "Gen2/0.mp4"),)
    assert found.dropped == {"no rating": 1}


FEEDBACK = {
    "visual quality": 3, "temporal consistency": 2, "dynamic degree": 4, "text-to-video alignment": 1,
    "factual consistency": 2,
}  # fmt: skip


def test_videofeedback_with_a_column_for_each_rating(tmp_path):
    rows = [
        {"id": "000", "images": ["0.jpg"], "text prompt": "a fox", "video link": "https://host/x/000.mp4", **FEEDBACK},
        {"id": "001", "images": ["0.jpg"], "text prompt": "a fox", "video link": None, **dict.fromkeys(FEEDBACK)},
    ]
    write_parquet(tmp_path / "annotated" / "test-00000-of-00001.parquet", rows)
    touch(tmp_path, "videos/000.mp4")
    found = load_preferences(tmp_path)
    assert found.format == "videofeedback"
    assert set(found.dimensions) == set(FEEDBACK)
    assert found.videos[0].ratings == FEEDBACK
    assert found.videos[0].prompt == "a fox"
    assert found.videos[0].video == str(tmp_path / "videos/000.mp4")
    assert found.dropped == {"no rating": 1}


def test_videoscore_bench_keeps_ratings_inside_conversations(tmp_path):
    question = 'For this video, the text prompt is "a red "fast" car",\nall the frames of video are as follows: <image>'
    answer = "".join(f"{name}: {value}\n" for name, value in FEEDBACK.items())
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    write_json(tmp_path / "test.json", [{"id": "p000", "images": ["0.jpg"], "conversations": turns}])
    found = load_preferences(tmp_path)
    assert found.format == "videofeedback"
    assert found.videos[0].ratings == FEEDBACK
    assert found.videos[0].prompt == 'a red "fast" car'
    assert found.videos[0].video == str(tmp_path / "p000.mp4")


NAMES = [
    ("path_a", "path_b", "label"),
    ("video_a", "video_b", "preference"),
    ("video1", "video2", "preference"),
    ("left_video", "right_video", "label"),
    ("video1_path", "video2_path", "standard_answer"),
    ("video_0_path", "video_1_path", "label"),
    ("Path_A", "Path_B", "Winner"),
    ("path_a", "path_b", "Overall"),
]


@pytest.mark.parametrize(("first", "second", "label"), NAMES)
@pytest.mark.parametrize("suffix", list(WRITERS))
def test_plain_tables_with_any_usual_column_names(tmp_path, first, second, label, suffix):
    said = ["A", "b", "tie", "video1", "same"]
    rows = [{first: f"{i}.mp4", second: f"x/{i}.mp4", "prompt": "p", label: text} for i, text in enumerate(said)]
    touch(tmp_path, "0.mp4", "x/0.mp4")
    found = load_preferences(WRITERS[suffix](tmp_path / f"pairs{suffix}", rows))
    assert found.format == "table"
    assert labels(found) == ["a", "b", "tie", "a", "tie"]
    assert found.pairs[0].videos == (str(tmp_path / "0.mp4"), str(tmp_path / "x/0.mp4"))


@pytest.mark.parametrize(("first", "second"), [("chosen", "rejected"), ("winner", "loser")])
def test_a_chosen_video_is_preferred_without_a_label_column(tmp_path, first, second):
    found = load_preferences(write_csv(tmp_path / "pairs.csv", [{first: "a.mp4", second: "b.mp4", "prompt": "p"}]))
    assert labels(found) == ["a"]


def test_weights_and_scores_of_two_videos_are_compared(tmp_path):
    rapidata = {"prompt": "p", "file_name1": "a.mp4", "file_name2": "b.mp4"}
    weights = {"weighted_results1_Preference": 0.7, "weighted_results2_Preference": 0.3}
    aligned = {"weighted_results1_Alignment": 0.5, "weighted_results2_Alignment": 0.5}
    found = load_preferences(write_parquet(tmp_path / "r.parquet", [{**rapidata, **weights, **aligned}]))
    assert labels(found) == ["a"]
    assert labels(found, "alignment") == ["tie"]
    world = {"task_id": "t", "model_1_video": "a.mp4", "score_1": 1, "model_2_video": "b.mp4", "score_2": 4}
    found = load_preferences(write_json(tmp_path / "w.json", [world]))
    assert (labels(found), found.pairs[0].id) == (["b"], "t")


def test_numbers_count_videos_unless_they_could_mean_either(tmp_path):
    rows = [{"video1": "a.mp4", "video2": "b.mp4", "preference": text} for text in ("1", "2", "same")]
    assert labels(load_preferences(write_csv(tmp_path / "one.csv", rows))) == ["a", "b", "tie"]
    rows = [{"path_a": "a.mp4", "path_b": "b.mp4", "label": value} for value in (1.0, -1.0, 0.0, None)]
    assert labels(load_preferences(write_parquet(tmp_path / "two.parquet", rows))) == ["a", "b", "tie", None]
    rows = [{"path_a": "a.mp4", "path_b": "b.mp4", "label": value} for value in (0, 1)]
    with pytest.raises(BenchmarkError, match=r"Labels 0 and 1 in column 'label' .* write a, b and tie"):
        load_preferences(write_csv(tmp_path / "three.csv", rows))


def test_labels_of_several_dimensions_in_columns(tmp_path):
    row = {"path_a": "a.mp4", "path_b": "b.mp4", "label_motion": "a", "preference_looks": "tie"}
    found = load_preferences(write_csv(tmp_path / "pairs.csv", [row]))
    assert found.dimensions == ("motion", "looks")
    assert (labels(found), labels(found, "looks")) == ([None], ["tie"])


def test_rows_without_videos_are_dropped_and_unknown_labels_counted(tmp_path):
    rows = [
        {"path_a": "a.mp4", "path_b": "", "label": "a"},
        {"path_a": "a.mp4", "path_b": "b.mp4", "label": "maybe"},
        {"path_a": "a.mp4", "path_b": "b.mp4", "label": "nan"},
        {"path_a": "a.mp4", "path_b": "b.mp4", "label": "B"},
    ]
    found = load_preferences(write_csv(tmp_path / "pairs.csv", rows))
    assert found.dropped == {"no video named": 1}
    assert found.unknown_labels == {"maybe": 1}
    assert labels(found) == [None, None, "b"]


def test_rating_tables(tmp_path):
    rows = [
        {"path": "a.mp4", "prompt": "p", "score": "4.5", "score_motion": "2", "model": "pika"},
        {"path": "b.mp4", "prompt": "p", "score": "", "score_motion": "bad", "model": ""},
    ]
    found = load_preferences(write_csv(tmp_path / "mos.csv", rows))
    assert isinstance(found, RatingSet)
    assert found.dimensions == ("overall", "motion")
    assert (found.videos[0].ratings, found.videos[0].generator) == ({"overall": 4.5, "motion": 2}, "pika")
    assert found.dropped == {"no rating": 1}


def test_two_folders_with_labels_beside_them(tmp_path):
    touch(tmp_path, "A/x.mp4", "A/y.mp4", "A/alone.mp4", "B/x.mp4", "B/y.webm", "B/notes.md")
    (tmp_path / "A/y.txt").write_text("a boat\n")
    write_csv(tmp_path / "labels.csv", [{"id": "x.mp4", "label": "B", "prompt": "a car"}])
    found = load_preferences(tmp_path)
    assert found.format == "folders"
    assert [(pair.id, pair.label, pair.prompt) for pair in found.pairs] == [("x", "b", "a car"), ("y", None, "a boat")]
    assert found.pairs[1].video_b == str(tmp_path / "B/y.webm")
    assert found.dropped == {"no partner": 1}
    assert found.missing == ()


def test_a_folder_of_chosen_videos_needs_no_labels(tmp_path):
    touch(tmp_path, "chosen/x.mp4", "rejected/x.mp4")
    found = load_preferences(tmp_path, "folders")
    assert isinstance(found, PreferenceSet)
    assert labels(found) == ["a"]


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("LEFT", "a"), ("Video 1  better ", "a"), ("video2", "b"), ("A=B=Bad", "tie"), ("both_bad", "tie"), (2, "b"),
        (None, None), (float("nan"), None), ("Invalid", None), ("1.0", "a"),
    ],
)  # fmt: skip
def test_labels_in_any_spelling(raw, label):
    assert read_label(raw) == label


def test_a_label_without_meaning_is_refused():
    with pytest.raises(ValueError, match="Unknown preference label 'perhaps'; write a, b or tie"):
        read_label("perhaps")


def test_what_cannot_be_read_says_why(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Unknown benchmark format 'mj-bench'. Did you mean 'mj-bench-video'"):
        load_preferences(tmp_path, "mj-bench")
    with pytest.raises(BenchmarkError, match="There is no folder or file"):
        load_preferences(tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match="looks like a preference benchmark; name its format"):
        load_preferences(tmp_path)
    with pytest.raises(
        BenchmarkError, match=r"holds no table of genai-bench-ratings: there should be genai_video.json"
    ):
        load_preferences(tmp_path, "genai-bench-ratings")
    with pytest.raises(BenchmarkError, match="needs two folders of videos"):
        load_preferences(tmp_path, "folders")
    file = write_csv(tmp_path / "x.csv", [{"path_a": "a.mp4", "other": 1}])
    with pytest.raises(BenchmarkError, match="does not have the layout of genai-bench; its columns are path_a, other"):
        load_preferences(file, "genai-bench")
    with pytest.raises(BenchmarkError, match="is a file, but format 'folders' needs the folder"):
        load_preferences(file, "folders")


@pytest.mark.parametrize("name", ["broken.json", "broken.parquet", "broken.jsonl"])
def test_a_broken_table_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_text("{")
    with pytest.raises(BenchmarkError, match=rf"{name}' cannot be read as {name.split('.')[1]}"):
        load_preferences(tmp_path / name)


def test_json_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="must hold one object per row, got 1"):
        load_preferences(write_json(tmp_path / "x.json", [1, 2]))
    with pytest.raises(BenchmarkError, match="must map each prompt's number to an object"):
        load_preferences(write_json(tmp_path / "genai_video.json", {"0": [1]}))
