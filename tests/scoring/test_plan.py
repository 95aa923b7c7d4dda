"""Inputs and prompts to an ordered list of items."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vrm.errors import UnknownNameError
from vrm.scoring.inputs import InputError
from vrm.scoring.plan import make_plan, parse_shard, read_prompts

PROMPT = "a robot kneels"


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.webm", "deep/er/c.GIF", "notes.txt", "deep/picture.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(plan, folder):
    return [item.path.removeprefix(f"{folder}/") for item in plan.items()]


def test_a_folder_is_searched_through_and_sorted(folder):
    assert names(make_plan(folder, PROMPT), folder) == ["a.webm", "b.mp4", "deep/er/c.GIF"]


def test_a_glob_reaches_into_folders(folder):
    assert names(make_plan(f"{folder}/**/*.GIF", PROMPT), folder) == ["deep/er/c.GIF"]


def test_inputs_keep_their_order_and_a_video_named_twice_counts_once(folder):
    given = [folder / "b.mp4", folder / "a.webm", folder / "b.mp4"]
    assert names(make_plan(given, PROMPT), folder) == ["b.mp4", "a.webm"]


def test_a_missing_video_is_planned_so_that_it_becomes_a_row(folder):
    assert names(make_plan([folder / "gone.mp4"], PROMPT), folder) == ["gone.mp4"]


def test_a_list_of_paths_comes_from_stdin(folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder}/b.mp4\n\n{folder}/a.webm\n"))
    assert names(make_plan("-", PROMPT), folder) == ["b.mp4", "a.webm"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [([], "nothing to score"), ("no/*.mp4", "No file matches"), ("nowhere", "no file or folder 'nowhere'")],
)
def test_inputs_that_name_nothing_are_refused(inputs, words):
    with pytest.raises(InputError, match=words):
        make_plan(inputs, PROMPT)


def test_a_name_that_no_table_can_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match="not UTF-8"):
        make_plan(f"{tmp_path}/\udcff.mp4", PROMPT)


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no video"):
        make_plan(tmp_path, PROMPT)


ROWS = [
    {"path": "b.mp4", "prompt": "one, two", "id": "first", "seed": 3},
    {"path": "deep/er/c.GIF", "prompt": "three", "id": "second", "seed": None},
]


def write_manifest(path):
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text(f'\ufeffpath{mark}prompt{mark}id{mark}seed\nb.mp4{mark}"one, two"{mark}first{mark}3\n')
        with path.open("a") as file:
            file.write(f"deep/er/c.GIF{mark}three{mark}second{mark}\n")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_manifest_format_says_the_same(folder, suffix):
    plan = make_plan(write_manifest(folder / f"m.{suffix}"))
    assert [(i.index, i.id, i.prompt, dict(i.meta)) for i in plan.items()] == [
        (0, "first", "one, two", {"seed": "3"}),
        (1, "second", "three", {}),
    ]
    assert names(plan, folder) == ["b.mp4", "deep/er/c.GIF"]
    assert plan.has_prompts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,prompt\na.mp4,x\n", "its columns are video, prompt"),
        ("path,prompt\n,x\n", "row 1 has no path"),
        ("path\n", "holds no row"),
        ("path,prompt\na.mp4,x\nb.mp4,\n", "1 of 2 videos have no prompt"),
    ],
)
def test_a_manifest_that_lacks_something_says_what(tmp_path, text, words):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        make_plan(tmp_path / "m.csv")


@pytest.mark.parametrize("name", ["m.json", "m.jsonl", "m.parquet"])
def test_a_damaged_manifest_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_text("{nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        make_plan(tmp_path / name)


def test_prompts_pair_with_videos(folder):
    plan = make_plan(folder, ["one", "two", "three"])
    assert [item.prompt for item in plan.items()] == ["one", "two", "three"]


def test_pairs_of_unequal_length_are_refused(folder):
    with pytest.raises(InputError, match="3 videos and 2 prompts"):
        make_plan(folder, ["one", "two"])


def test_a_matrix_is_every_video_under_every_prompt(folder):
    plan = make_plan(folder, ["one", "two"], matrix=True)
    assert len(plan) == 6
    assert [item.index for item in plan.items()] == list(range(6))
    assert [(n, item.prompt) for n, item in zip(names(plan, folder), plan.items(), strict=True)][:3] == [
        ("a.webm", "one"), ("a.webm", "two"), ("b.mp4", "one"),
    ]  # fmt: skip


def test_without_prompts_no_item_has_one(folder):
    plan = make_plan(folder)
    assert not plan.has_prompts
    assert {item.prompt for item in plan.items()} == {None}


def test_prompts_come_from_side_cars_and_names(tmp_path):
    video = tmp_path / "a_robot_kneels-12.mp4"
    video.write_bytes(b"x")
    video.with_suffix(".txt").write_text("a robot\non its knees\n")
    assert next(make_plan(tmp_path, prompt_from="filename").items()).prompt == "a robot kneels"
    assert next(make_plan(tmp_path, prompt_from="sidecar").items()).prompt == "a robot on its knees"
    video.with_suffix(".txt").unlink()
    with pytest.raises(InputError, match="cannot be read from"):
        make_plan(tmp_path, prompt_from="sidecar")
    with pytest.raises(UnknownNameError, match="filename"):
        make_plan(tmp_path, prompt_from="file name")


def test_prompts_file_is_one_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("one\n two \n\n")
    assert read_prompts(tmp_path / "p.txt") == ["one", "two"]
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    with pytest.raises(InputError, match="Line 2"):
        read_prompts(tmp_path / "p.txt")


def test_one_video_under_two_prompts_is_one_video_with_two_items(tmp_path):
    (tmp_path / "m.csv").write_text("path,prompt\na.mp4,x\nb.mp4,y\na.mp4,z\n")
    found = [(path[-5:], [item.prompt for item in items]) for path, items in make_plan(tmp_path / "m.csv").videos()]
    assert found == [("a.mp4", ["x", "z"]), ("b.mp4", ["y"])]


def test_shards_divide_the_videos_whatever_the_plan(tmp_path):
    paths = [tmp_path / f"{n}.mp4" for n in range(40)]
    whole = make_plan(paths, PROMPT)
    shares = [{path for path, _ in whole.videos((i, 3))} for i in (1, 2, 3)]
    assert set.union(*shares) == {str(path) for path in paths}
    assert sum(map(len, shares)) == 40
    assert all(len(share) > 5 for share in shares)
    assert {path for path, _ in make_plan(paths[:10], PROMPT).videos((2, 3))} <= shares[1]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_bad_shard_is_refused(text):
    with pytest.raises(InputError, match="1 <= i <= n"):
        parse_shard(text)
