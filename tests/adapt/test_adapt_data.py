"""Frames, captions and labels: what is read, drawn, asked and refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vrm.adapt.data import AdaptError, CaptionedFiles, Labelled, RenderedFrames
from vrm.adapt.files import read_captions, read_labels
from vrm.adapt.loss import contrastive_loss, drift, label_loss
from vrm.encoders import Preprocess
from vrm.envs import FAMILIES
from vrm.envs.captions import Captioner, Fact

FIT = Preprocess((16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear", "squash")
COLOURS = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220)}


def write_pictures(folder, count=12):
    names = []
    for i in range(count):
        name = f"frame_{i:02d}.png"
        Image.new("RGB", (20, 14), COLOURS[list(COLOURS)[i % 3]]).save(folder / name)
        names.append(name)
    return names


def write_lines(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_captions_may_be_rows_of_a_csv_or_lists_in_jsonl(tmp_path):
    names = write_pictures(tmp_path, 3)
    rows = [f"{name},a {colour} wall" for name, colour in zip(names, COLOURS, strict=True)]
    table = write_lines(tmp_path / "captions.csv", "file,caption", *rows, f"{names[0]},a warm colour")
    lists = [{"image": n, "captions": [f"a {c} wall"]} for n, c in zip(names, COLOURS, strict=True)]
    lists[0]["captions"].append("a warm colour")
    lines = write_lines(tmp_path / "other.jsonl", *map(json.dumps, lists))
    for path in (table, tmp_path, lines):
        source = read_captions(path, FIT)
        assert source.captions == [("a red wall", "a warm colour"), ("a green wall",), ("a blue wall",)]
        assert source.frames.shape == (3, 3, 16, 16)
        assert source.frames[1, :, 8, 8].tolist() == list(COLOURS["green"])


def test_frames_of_one_episode_stay_on_one_side(tmp_path):
    rows = [f"{name},a wall,{i // 2}" for i, name in enumerate(write_pictures(tmp_path))]
    source = read_captions(write_lines(tmp_path / "captions.csv", "file,caption,episode", *rows), FIT)
    for seed in range(5):
        split = source.split(0.3, seed)
        sides = [set(source.groups[rows]) for rows in (split.train, split.choose, split.test)]
        assert [len(side) for side in sides] == [3, 1, 2]
        assert len(set.union(*sides)) == 6


def test_captions_that_coincide_are_true_of_all_their_frames():
    source = CaptionedFiles("some", torch.zeros(3, 3, 8, 8, dtype=torch.uint8), range(3), [["a"], ["b"], ["a"]])
    texts, truth = source.draw(np.arange(3), np.random.default_rng(0))
    assert texts == ["a", "b"]
    assert truth.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_the_last_phrase_of_a_fact_is_never_trained_on():
    fact = Fact("up", lambda s: float(s), ("standing", "upright"), ("standing", "all upright"))
    captioner = Captioner(("a pole",), (fact, Fact("lit", lambda s: 1.0, ("lit",))))
    truths = np.float32([[1, 1], [0, 1]] * 3)
    source = RenderedFrames("poles", torch.zeros(6, 3, 8, 8), range(6), truths, captioner, [("up", "the pole is up")])
    rng = np.random.default_rng(0)
    assert not any("upright" in text for _ in range(100) for text in source.draw(np.arange(6), rng)[0])
    asked = source.questions(np.arange(6), held_out=True)
    assert [question.text for question in asked] == ["a pole upright", "the pole is up"]  # "lit" is always true
    assert asked[0].label.tolist() == [1, 0] * 3
    assert [q.text for q in source.questions(np.arange(6), held_out=False)] == ["a pole standing"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_still_says_all_its_facts_without_the_held_out_phrases(family):
    captioner = FAMILIES[family].captioner
    truths = np.zeros((1, len(captioner.facts)), np.float32)
    source = RenderedFrames(family, torch.zeros(1, 3, 8, 8), [0], truths, captioner)
    assert all(fact.phrases for fact in source.captioner.facts)


def test_labels_draw_good_and_bad_frames_of_every_goal_alike():
    label = np.float32([1] + [0] * 19)
    source = Labelled("some", torch.zeros(20, 3, 8, 8), range(20), {"a": label, "b": 1 - label})
    rows, drawn = source.draw(np.arange(20), 40, np.random.default_rng(0))
    assert 0 in rows
    assert drawn.shape == (len(rows), 2)
    assert torch.equal(drawn[:, 0], 1 - drawn[:, 1])


def test_labels_are_read_for_one_goal_or_several(tmp_path):
    names = write_pictures(tmp_path, 4)
    words = ("good", "0", "True", "no")
    one = write_lines(tmp_path / "one.csv", "file,label", *(f"{n},{w}" for n, w in zip(names, words, strict=True)))
    assert read_labels(one, "red", FIT).labels["red"].tolist() == [1, 0, 1, 0]
    rows = [f"{names[0]},1,red", f"{names[1]},0,red", f"{names[1]},1,green", f"{names[2]},0,green"]
    several = read_labels(write_lines(tmp_path / "several.csv", "file,label,goal", *rows), None, FIT)
    assert np.array_equal(several.labels["green"], [np.nan, 1, 0], equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "goal", "message"),
    [
        (["file,label", "frame_00.png,good"], None, "no column 'goal'"),
        (["file,label", "frame_00.png,maybe"], "red", "label 'maybe', which is neither"),
        (["file,label", "frame_00.png,good"], "red", "no frame that is bad for 'red'"),
        (["file,label", "frame_00.png,good", "frame_00.png,bad"], "red", "both good and bad"),
        (["file,word", "frame_00.png,good"], "red", "no column 'label'"),
        (["file,label", ",good"], "red", "names no file"),
        (["file,label", "lost.png,good"], "red", "lost.png' does not exist"),
        (["file,label"], "red", "has no rows"),
        (["file,label", "labels.csv,good"], "red", "cannot be read"),
    ],
)
def test_a_bad_table_of_labels_is_told_off_in_one_sentence(tmp_path, rows, goal, message):
    write_pictures(tmp_path, 1)
    with pytest.raises(AdaptError, match=message):
        read_labels(write_lines(tmp_path / "labels.csv", *rows), goal, FIT)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(AdaptError, match=r"holds no captions.csv"):
        read_captions(tmp_path, FIT)
    with pytest.raises(AdaptError, match="is no table of captions"):
        read_captions(tmp_path / "captions.csv", FIT)


def test_too_few_files_cannot_be_split():
    source = CaptionedFiles("some", torch.zeros(2, 3, 8, 8), range(2), [["a"], ["b"]])
    with pytest.raises(AdaptError, match="give at least three"):
        source.split(0.2, 0)


def test_a_split_shows_good_and_bad_frames_on_every_side_or_is_refused():
    frames = torch.zeros(12, 3, 8, 8)
    label = np.float32([1, 0] * 6)
    source = Labelled("some", frames, range(12), {"a": label})
    for seed in range(5):
        split = source.split(0.3, seed)
        assert all(set(label[rows]) == {0, 1} for rows in (split.train, split.choose, split.test))
    with pytest.raises(AdaptError, match="label more of them"):
        Labelled("some", frames, range(12), {"a": np.float32([1] + [0] * 11)}).split(0.3, 0)


def test_contrastive_loss_is_lowest_at_the_truth_and_ignores_what_is_never_true():
    truth = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    right, wrong = contrastive_loss(20 * truth, truth), contrastive_loss(20 * (1 - truth), truth)
    assert right < 0.7 < wrong
    assert contrastive_loss(torch.randn(2, 3), torch.zeros(2, 3)) == 0


def test_label_loss_asks_for_order_not_for_height():
    cosines = torch.tensor([[0.30], [0.28], [0.10]])
    labels = torch.tensor([[1.0], [1.0], [0.0]])
    loss = label_loss(cosines, labels, torch.tensor(20.0))
    assert torch.allclose(loss, label_loss(cosines + 0.4, labels, torch.tensor(20.0)), atol=1e-5)
    assert loss < label_loss(cosines, 1 - labels, torch.tensor(20.0))
    assert label_loss(cosines, labels * torch.nan, torch.tensor(20.0)) == 0


def test_drift_is_nought_for_the_same_vectors_and_one_for_orthogonal_ones():
    assert drift(torch.eye(3), torch.eye(3)) == 0
    assert drift(torch.eye(3), torch.eye(3).roll(1, 0)) == 1
