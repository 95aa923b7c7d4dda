"""Where questions come from, which clips are shown, and how answers are counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from served import write_clip, write_clips

from vrm.data.comparisons import Answer, AnswerFile, ComparisonError
from vrm.data.demos import DemoError
from vrm.errors import DecodeError
from vrm.label.book import AnswerBook
from vrm.label.clips import ClipShelf
from vrm.label.questions import Queue, answer_path, open_source, question
from vrm.video import read_video, video_info, write_gif


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name in "abcd":
        write_clip(folder / f"{name}.mp4", frames=4)
    return folder


def names(source):
    return [q.names for q in source.questions()]


def test_pairs_of_a_folder_are_drawn_by_the_seed_without_repeats(folder):
    every = names(open_source(folder))
    assert len(every) == len({frozenset(pair) for pair in every}) == 6
    assert every == names(open_source(folder))
    assert every != names(open_source(folder, seed=1))
    some = names(open_source(folder, pairs=3, seed=2))
    assert len({frozenset(pair) for pair in some}) == 3
    assert all(first != second for first, second in every)


def test_names_are_relative_to_the_answer_file(folder, tmp_path):
    assert answer_path(folder) == folder / "answers.jsonl"
    assert {name for pair in names(open_source(folder)) for name in pair} == {"a.mp4", "b.mp4", "c.mp4", "d.mp4"}
    elsewhere = open_source(folder, tmp_path / "mine.jsonl").questions()[0]
    assert (tmp_path / elsewhere.names[0]).resolve() == elsewhere.first


def test_hidden_files_links_to_elsewhere_and_other_files_are_no_clips(tmp_path):
    write_clips(tmp_path / "all" / "deeper", 2)
    write_clip(tmp_path / "outside.mp4", frames=2)
    (tmp_path / "all" / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (tmp_path / "all" / "notes.txt").write_text("no clip")
    write_clip(tmp_path / "all" / ".label" / "converted.mp4", frames=2)
    assert len(names(open_source(tmp_path / "all"))) == 1


def test_a_run_shows_its_videos_with_its_goal_or_the_questions_it_asks(tmp_path):
    run = tmp_path / "run"
    write_clips(run / "videos", 2)
    write_clip(run / "checkpoints" / "other.mp4", frames=2)
    (run / "config.yaml").write_text(yaml.safe_dump({"task": {"goal": "a robot on its knees"}}))
    source = open_source(run)
    assert [q.goal for q in source.questions()] == ["a robot on its knees"]
    assert not source.live
    assert answer_path(run) == run / "answers.jsonl"
    (run / "queries").mkdir()
    source = open_source(run)
    assert source.live
    assert list(source.questions()) == []
    assert answer_path(run) == run / "queries" / "answers.jsonl"


def test_a_table_lists_pairs_inside_its_folder(folder, tmp_path):
    table = folder / "pairs.csv"
    table.write_text("video_a,video_b,prompt\na.mp4,b.mp4,a cup\nc.mp4,d.mp4,\na.mp4,b.mp4,again\n")
    asked = open_source(table, goal="the default").questions()
    assert [(q.names, q.goal) for q in asked] == [(("a.mp4", "b.mp4"), "a cup"), (("c.mp4", "d.mp4"), "the default")]
    lines = folder / "pairs.jsonl"
    lines.write_text(json.dumps({"first": "a.mp4", "second": "d.mp4", "goal": "told"}) + "\n")
    assert [(q.names, q.goal) for q in open_source(lines).questions()] == [(("a.mp4", "d.mp4"), "told")]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("first,second\n{outside},a.mp4\n", "lies outside"),
        ("first,second\n../outside.mp4,a.mp4\n", "lies outside"),
        ("first,second\na.mp4,none.mp4\n", "There is no clip"),
        ("left,right\na.mp4,b.mp4\n", "needs two columns of clips"),
        ("first,second\n", "needs two columns|lists no pairs"),
    ],
)
def test_a_table_of_other_things_is_refused(tmp_path, text, part):
    write_clip(tmp_path / "in" / "a.mp4", frames=2)
    outside = write_clip(tmp_path / "outside.mp4", frames=2)
    table = tmp_path / "in" / "pairs.csv"
    table.write_text(text.format(outside=outside))
    with pytest.raises(ComparisonError, match=part):
        open_source(table)


def test_a_source_with_nothing_to_compare_is_refused(tmp_path, folder):
    with pytest.raises(ComparisonError, match="holds 0 clips, but comparing needs two"):
        open_source(tmp_path)
    with pytest.raises(ComparisonError, match="There is no folder"):
        open_source(tmp_path / "none")
    with pytest.raises(ComparisonError, match="no folder and no table"):
        open_source(folder / "a.mp4")
    with pytest.raises(ComparisonError, match="At least 1 pair"):
        open_source(folder, pairs=0)


def test_a_queue_shows_complete_questions_oldest_first_and_passes_over_the_rest(tmp_path):
    root = tmp_path / "queries"
    write_clips(root, 2)
    clips = sorted(file.name for file in root.glob("*.mp4"))
    write_clip(tmp_path / "outside.mp4", frames=2)

    def ask(name, first, second, time):
        (root / f"{name}.json").write_text(json.dumps({"first": first, "second": second, "time": time, "goal": name}))

    queue = Queue(root, root / "answers.jsonl")
    assert list(queue.questions()) == []
    ask("later", clips[0], clips[1], 2.0)
    ask("outside", "../outside.mp4", clips[1], 0.0)
    ask("missing", "none.mp4", clips[1], 0.0)
    (root / "broken.json").write_text("{")
    assert [q.goal for q in queue.questions()] == ["later"]
    ask("earlier", clips[1], clips[0], 1.0)
    assert [q.goal for q in queue.questions()] == ["earlier", "later"]
    (root / "later.json").unlink()
    assert [q.goal for q in queue.questions()] == ["earlier"]


def test_rollouts_and_unplayable_clips_are_converted_once(tmp_path):
    frames = np.zeros((6, 20, 30, 3), np.uint8)
    frames[:, :, :, 0] = 200
    np.savez(tmp_path / "rollout.npz", frames=frames, fps=12)
    write_gif(tmp_path / "moving.gif", read_video(write_clip(tmp_path / "moving.mp4", frames=5)), fps=10)
    shelf = ClipShelf(tmp_path / "made")
    assert shelf.playable(tmp_path / "moving.mp4") == tmp_path / "moving.mp4"
    rollout, gif = (shelf.playable(tmp_path / name) for name in ("rollout.npz", "moving.gif"))
    assert (video_info(rollout).frames, video_info(rollout).fps) == (6, pytest.approx(12))
    assert read_video(rollout)[0, 0].float().mean() == pytest.approx(200, abs=4)
    assert (video_info(gif).codec, video_info(gif).frames) == ("h264", 5)
    stamp = rollout.stat().st_mtime_ns
    assert ClipShelf(tmp_path / "made").playable(tmp_path / "rollout.npz").stat().st_mtime_ns == stamp
    np.savez(tmp_path / "rollout.npz", frames=frames[:3])
    assert video_info(shelf.playable(tmp_path / "rollout.npz")).frames == 3


def test_rollouts_that_cannot_be_shown_say_why(tmp_path):
    shelf = ClipShelf(tmp_path)
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3))
    np.savez(tmp_path / "floats.npz", frames=np.zeros((2, 8, 8, 3)))
    np.savez(tmp_path / "many.npz", frames=np.zeros((2, 3, 8, 8, 3), np.uint8))
    for name, part in (("other", "no .npz file with 'frames'"), ("floats", "uint8"), ("many", "one rollout")):
        with pytest.raises(DemoError, match=part):
            shelf.playable(tmp_path / f"{name}.npz")
    with pytest.raises(DecodeError, match="There is no clip"):
        shelf.playable(tmp_path / "gone.mp4")


def test_a_retraction_takes_back_the_newest_answer_to_that_pair_by_that_annotator(tmp_path):
    file = AnswerFile(tmp_path / "answers.jsonl")
    first = Answer("a", "b", 1.0, "ann")
    file.append([first, Answer("a", "b", 0.0, "ben"), Answer("c", "d", 0.5, "ann"), Answer("a", "b", 0.0, "ann")])
    file.retract(first)
    assert [(a.first, a.label, a.annotator) for a in file.read()] == [
        ("a", 1.0, "ann"), ("a", 0.0, "ben"), ("c", 0.5, "ann")
    ]  # fmt: skip
    file.retract(Answer("c", "d", None, "ben"))
    assert len(file.read()) == 3
    with (tmp_path / "answers.jsonl").open("a") as opened:
        opened.write('{"first": "a", "second": "b", "label": 1.0, "annotator": "ben", "retracts": true')
    assert len(file.read()) == 3  # a retraction that a kill cut short is none
    file.append(Answer("e", "f", 1.0))
    assert len(file.read()) == 4


def test_a_book_reads_what_others_append_and_undoes_only_its_own_questions(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    book = AnswerBook(tmp_path / "answers.jsonl")
    asked = [question(tmp_path / "a", tmp_path / other, tmp_path / "answers.jsonl") for other in "bc"]
    assert book.answers() == []
    book.give(asked[0], "ann", 1.0)
    AnswerFile(tmp_path / "answers.jsonl").append(Answer("x", "y", 1.0, "ann"))
    assert len(book.answers()) == 2
    book.undo(asked, "ben")
    book.undo(asked, "ann")
    book.undo(asked, "ann")
    assert [(a.first, a.second) for a in book.answers()] == [("x", "y")]
    assert book.agreements(asked) == []
