"""Rows in parts, merged once, never mixed."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vrm.scoring import dataset
from vrm.scoring.dataset import PARTS_FOLDER, SCORES_FILE, StoreError, choose_folder, merge, read_scores
from vrm.scoring.plan import Plan, make_plan
from vrm.scoring.schema import ROW
from vrm.scoring.store import ScoreStore

IDENTITY = {"rewards": {"goal": "abc"}, "sampler": "segments:8"}


def plan_of(count) -> Plan:
    return make_plan([f"/videos/{n}.mp4" for n in range(count)], "a prompt")


def row(item, score=0.5, error=None):
    return {
        "index": item.index, "id": item.id, "path": item.path, "prompt": item.prompt, "reward": "goal",
        "score": None if error else score, "error_kind": error, "meta": list(item.meta),
    }  # fmt: skip


def fill(folder, plan, skip=(), **options):
    with ScoreStore(folder, IDENTITY, rows_per_part=3, **options) as store:
        for item in plan.items():
            if item.index not in skip and item.key("goal") not in store.done():
                store.add([row(item, item.index)])
        return store.finish(plan.items(), ["goal"])


def test_rows_are_readable_before_and_after_the_merge(tmp_path):
    plan = plan_of(8)
    with ScoreStore(tmp_path / "s", IDENTITY, rows_per_part=3) as store:
        for item in reversed(list(plan.items())):
            store.add([row(item, item.index)])
        assert read_scores(tmp_path / "s")["index"].to_pylist() == [2, 3, 4, 5, 6, 7]
        assert store.finish(plan.items(), ["goal"])
    table = read_scores(tmp_path / "s")
    assert table.schema.equals(ROW)
    assert table["score"].to_pylist() == list(range(8))
    assert not list((tmp_path / "s" / PARTS_FOLDER).glob("part*"))


def test_the_same_rows_in_any_order_and_parts_give_the_same_bytes(tmp_path):
    plan = plan_of(10)
    fill(tmp_path / "a", plan)
    with ScoreStore(tmp_path / "b", IDENTITY, rows_per_part=1) as store:
        for item in sorted(plan.items(), key=lambda item: -item.index):
            store.add([row(item, item.index)])
        store.finish(plan.items(), ["goal"])
    assert (tmp_path / "a" / SCORES_FILE).read_bytes() == (tmp_path / "b" / SCORES_FILE).read_bytes()


def test_a_merge_in_groups_keeps_every_row_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "GROUP", 4)
    plan, order = plan_of(23), np.random.default_rng(0).permutation(23)
    for half in (order[:11], order):  # the second merge reads rows of a file of several groups, and of parts
        with ScoreStore(tmp_path / "s", IDENTITY, rows_per_part=3) as store:
            items = list(plan.items())
            store.add(row(items[n], float(n)) for n in half if items[n].key("goal") not in store.done())
            store.finish(plan.items(), ["goal"])
    file = pq.ParquetFile(tmp_path / "s" / SCORES_FILE)
    assert file.num_row_groups == 6
    assert file.read()["score"].to_pylist() == file.read()["index"].to_pylist() == list(range(23))


def test_parts_that_were_merged_but_not_removed_do_no_harm(tmp_path):
    plan = plan_of(7)
    with ScoreStore(tmp_path / "s", IDENTITY, rows_per_part=2) as store:
        store.add(row(item, item.index) for item in plan.items())
    parts = {path: path.read_bytes() for path in (tmp_path / "s" / PARTS_FOLDER).glob("part*")}
    merge(tmp_path / "s", plan.items(), ["goal"])
    before = (tmp_path / "s" / SCORES_FILE).read_bytes()
    for path, data in parts.items():  # as a process leaves it that is killed between the two steps
        path.write_bytes(data)
    assert len(read_scores(tmp_path / "s")) == 7
    fill(tmp_path / "s", plan)
    assert (tmp_path / "s" / SCORES_FILE).read_bytes() == before


def test_a_longer_plan_keeps_what_is_there_and_renumbers(tmp_path):
    fill(tmp_path / "s", plan_of(3))
    longer = make_plan(["/videos/new.mp4", *(f"/videos/{n}.mp4" for n in range(3))], "a prompt")
    fill(tmp_path / "s", longer)
    table = read_scores(tmp_path / "s")
    assert table["id"].to_pylist() == [item.id for item in longer.items()]
    assert table["index"].to_pylist() == [0, 1, 2, 3]


def test_rows_of_another_plan_follow_those_of_this(tmp_path):
    fill(tmp_path / "s", plan_of(3))
    fill(tmp_path / "s", make_plan(["/videos/2.mp4", "/videos/9.mp4"], "a prompt"))
    table = read_scores(tmp_path / "s")
    assert [name[-5:] for name in table["id"].to_pylist()] == ["2.mp4", "9.mp4", "0.mp4", "1.mp4"]
    assert table["index"].to_pylist() == [0, 1, 2, 3]


def test_errors_are_done_unless_they_are_to_be_retried(tmp_path):
    item, good = plan_of(2).items()
    with ScoreStore(tmp_path / "s", IDENTITY) as store:
        store.add([row(item, error="damaged"), row(good)])
    with ScoreStore(tmp_path / "s", IDENTITY) as store:
        assert store.done() == {item.key("goal"), good.key("goal")}
        assert store.done(retry_errors=True) == {good.key("goal")}
        store.add([row(item, 0.25)])
        store.finish([item, good], ["goal"])
    assert read_scores(tmp_path / "s")["score"].to_pylist() == [0.25, 0.5]


def test_two_processes_cannot_write_one_dataset(tmp_path):
    with ScoreStore(tmp_path / "s", IDENTITY):
        with pytest.raises(StoreError, match="Another process"):
            ScoreStore(tmp_path / "s", IDENTITY)
        with pytest.raises(StoreError, match="Another process"):
            ScoreStore(tmp_path / "s", IDENTITY, shard=(1, 2))
    ScoreStore(tmp_path / "s", IDENTITY).__exit__()


def test_shards_write_side_by_side_and_the_last_one_merges(tmp_path):
    plan = plan_of(6)
    with ScoreStore(tmp_path / "s", IDENTITY, shard=(1, 2)), pytest.raises(StoreError):
        ScoreStore(tmp_path / "s", IDENTITY, shard=(1, 2))
    odd, even = {1, 3, 5}, {0, 2, 4}
    assert not fill(tmp_path / "s", plan, skip=odd, shard=(2, 2))
    assert read_scores(tmp_path / "s")["index"].to_pylist() == [0, 2, 4]
    assert fill(tmp_path / "s", plan, skip=even, shard=(1, 2))
    fill(tmp_path / "one", plan)
    assert (tmp_path / "s" / SCORES_FILE).read_bytes() == (tmp_path / "one" / SCORES_FILE).read_bytes()


def test_another_identity_goes_to_a_sibling(tmp_path):
    fill(tmp_path / "s", plan_of(1))
    assert choose_folder(tmp_path / "s", IDENTITY) == tmp_path / "s"
    other = choose_folder(tmp_path / "s", {**IDENTITY, "sampler": "all"})
    assert other.parent == tmp_path
    assert other.name.startswith("s-")
    assert other == choose_folder(tmp_path / "s", {"sampler": "all", **{"rewards": IDENTITY["rewards"]}})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(StoreError, match="holds no scores"):
        choose_folder(tmp_path, IDENTITY)
    with pytest.raises(StoreError, match="no score folder"):
        read_scores(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    store = ScoreStore(tmp_path / "s", IDENTITY)
    monkeypatch.setattr(os, "replace", full)
    store.add([row(item) for item in plan_of(2).items()])
    with pytest.raises(OSError, match="disk full"):
        store.commit()
    assert not [path for path in (tmp_path / "s" / PARTS_FOLDER).iterdir() if path.name.endswith("partial")]
    monkeypatch.undo()
    store.__exit__()
    assert len(read_scores(tmp_path / "s")) == 2


def test_an_empty_dataset_is_an_empty_table(tmp_path):
    with ScoreStore(tmp_path / "s", IDENTITY):
        assert read_scores(tmp_path / "s").equals(pa.Table.from_pylist([], ROW))
