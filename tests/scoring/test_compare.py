"""Paired comparison of runs: what is paired, and what the intervals promise."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scored import row

from vrm.scoring.compare import Pairs, clustered_mean, compare_pairs, compare_runs, pair_rows
from vrm.scoring.schema import ROW

NUMBERS = st.lists(st.tuples(st.integers(-50, 50), st.sampled_from("abcd")), min_size=1, max_size=30)


def table(*rows):
    return pa.Table.from_pylist(list(rows), ROW)


def pairs(first, second, prompts):
    rows = np.zeros((len(first), 2), dtype=np.int64)
    return Pairs("goal", "score", rows, prompts, np.asarray(first, dtype=float), np.asarray(second, dtype=float))


def test_rows_are_paired_by_id_prompt_and_reward_in_any_order():
    first = table(row(0, "a.mp4", 0.25), row(1, "b.mp4", 0.5), row(2, "c.mp4", 0.75, reward="other"))
    second = table(row(1, "B.mp4", 1.0), row(0, "A.mp4", 0.5), row(2, "C.mp4", 0.75))
    found = {(entry.reward, entry.dimension): entry for entry in pair_rows(first, second)}
    assert list(found) == [("goal", "score"), ("goal", "smoothness"), ("goal", "subject")]
    assert found["goal", "score"].rows.tolist() == [[0, 1], [1, 0]]
    assert found["goal", "score"].first.tolist() == [0.25, 0.5]
    assert found["goal", "score"].second.tolist() == [0.5, 1.0]


def test_rows_without_a_number_on_both_sides_are_left_out():
    first = table(row(0, "a.mp4", None), row(1, "b.mp4", 0.5), row(2, "c.mp4", math.nan), row(3, "d.mp4", 0.5))
    second = table(row(0, "a.mp4", 0.5), row(1, "b.mp4", None), row(2, "c.mp4", 0.5), row(3, "d.mp4", 0.25))
    scores = pair_rows(first, second)[0]
    assert scores.rows.tolist() == [[3, 3]]


def test_a_dimension_that_one_run_lacks_is_left_out_alone():
    first, second = table(row(0, "a.mp4", 0.5)), table(row(0, "a.mp4", 0.5, dimensions=[("subject", 0.5)]))
    assert [entry.dimension for entry in pair_rows(first, second)] == ["score", "subject"]


def test_rows_of_one_item_are_averaged_before_pairing():
    first = table(row(0, "a.mp4", 0.0), row(0, "b.mp4", 1.0), row(0, "c.mp4", None))
    second = table(row(0, "a.mp4", 0.75))
    scores = pair_rows(first, second)[0]
    assert (scores.first.tolist(), scores.second.tolist(), scores.rows.tolist()) == ([0.5], [0.75], [[0, 0]])


def test_runs_with_nothing_in_common_give_no_comparison():
    assert compare_runs(table(row(0, "a.mp4", 0.5)), table(row(0, "a.mp4", 0.5, id="another"))) == []


def test_ties_count_one_half_and_are_equal_up_to_rounding():
    result = compare_pairs(pairs([0.5, 0.5, 0.5, 0.5], [0.6, 0.5, 0.5 + 1e-7, 0.4], list("aabb")))
    assert (result.wins, result.ties, result.losses) == (1, 2, 1)
    assert result.win_rate.value == 0.5


def test_a_single_pair_has_no_interval():
    result = compare_pairs(pairs([0.0], [1.0], ["a"]))
    assert result.difference.value == 1
    assert math.isnan(result.difference.low)
    assert math.isnan(result.difference.high)


def test_pairs_of_one_prompt_are_drawn_one_by_one():
    result = compare_pairs(pairs([0, 0, 0], [1, 2, 3], ["a"] * 3))
    assert (result.clustered_by, result.clusters) == ("pair", 3)
    assert result.difference.low < 2 < result.difference.high


@settings(max_examples=25, deadline=None)
@given(NUMBERS)
def test_swapping_the_runs_turns_everything_around(entries):
    numbers, prompts = [number for number, _ in entries], [prompt for _, prompt in entries]
    there = compare_pairs(pairs(np.zeros(len(numbers)), numbers, prompts))
    back = compare_pairs(pairs(numbers, np.zeros(len(numbers)), prompts))
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    for one, other, total in [(there.difference, back.difference, 0), (there.win_rate, back.win_rate, 1)]:
        assert one.value == pytest.approx(total - other.value, abs=1e-9)
        assert one.low == pytest.approx(total - other.high, abs=1e-9, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_interval_does_not_depend_on_the_order_of_values(entries, random):
    shuffled = list(entries)
    random.shuffle(shuffled)
    one, other = (clustered_mean(*zip(*some, strict=True)) for some in (entries, shuffled))
    assert (one.low, one.value, one.high) == pytest.approx((other.low, other.value, other.high), abs=1e-9, nan_ok=True)


def test_copies_within_a_prompt_do_not_narrow_the_interval():
    values, prompts = [0.1, 0.4, 0.5, 0.9], list("abcd")
    once, often = clustered_mean(values, prompts), clustered_mean(values * 50, prompts * 50)
    assert (once.low, once.high) == pytest.approx((often.low, often.high))


def test_single_values_give_the_percentile_bootstrap_of_scipy():
    values = np.random.default_rng(0).normal(size=200)
    ours = clustered_mean(values, [str(i) for i in range(200)], resamples=5000)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        effects = rng.normal(size=40)
        values = np.repeat(effects, 5) + 0.3 * rng.normal(size=200)
        interval = clustered_mean(values, np.repeat(np.arange(40), 5).astype(str).tolist(), resamples=400)
        hits += interval.low <= 0 <= interval.high
    assert 0.89 <= hits / 300 <= 0.98


@pytest.mark.parametrize(
    ("values", "clusters", "options", "message"),
    [
        ([], [], {}, "at least 1 values"),
        ([1.0], ["a", "b"], {}, "one length, got 1 and 2"),
        ([math.nan], ["a"], {}, "must be finite"),
        ([1.0], ["a"], {"confidence": 95}, "between 0 and 1, got 95"),
    ],
)
def test_bad_input_is_told_off(values, clusters, options, message):
    with pytest.raises(ValueError, match=message):
        clustered_mean(values, clusters, **options)
