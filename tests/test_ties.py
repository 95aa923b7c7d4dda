"""Accuracies with and without ties: published counts, brute force over all thresholds, and what must not matter."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrm.metrics import best_tie_threshold, four_way_accuracy, measure_agreement, preference_accuracy
from vrm.metrics.ties import assign_folds

# Few distinct values, so that equal and zero margins are common.
PAIRS = st.lists(st.tuples(st.integers(-2, 2), st.sampled_from([-1, 0, 1])), min_size=1, max_size=20)
REAL_PAIRS = st.lists(st.tuples(st.floats(-2, 2), st.sampled_from([-1, 0, 1])), min_size=1, max_size=20)
GROUPED = st.lists(
    st.tuples(st.integers(-2, 2), st.sampled_from([-1, 0, 1]), st.sampled_from("abcdefg")), min_size=1, max_size=30
)
MJ_LABELS = np.repeat([1, -1, 0], [72, 46, 959])  # MJ-Bench-Video, overall preference of 1077 pairs


def brute_force(margin, preference):
    """Best accuracy with ties over every threshold, and the smallest threshold that reaches it."""
    accuracy = {eps: preference_accuracy(margin, preference, tie=eps) for eps in {0.0, *np.abs(margin).tolist()}}
    best = max(accuracy.values())
    return best, min(eps for eps, value in accuracy.items() if value == best)


def unzip(rows):
    return [np.array(column) for column in zip(*rows, strict=True)]


@given(st.one_of(PAIRS, REAL_PAIRS))
def test_the_best_threshold_is_that_of_brute_force(rows):
    margin, preference = unzip(rows)
    assert best_tie_threshold(margin, preference) == pytest.approx(brute_force(margin, preference))


@given(PAIRS)
def test_strict_and_tie_aware_differ_by_how_a_zero_margin_counts(rows):
    margin, preference = unzip(rows)
    found = measure_agreement(margin, preference)
    decided = preference != 0
    if not decided.any():
        assert math.isnan(found.accuracy.strict)
        assert math.isnan(found.accuracy.tie_aware)
        return
    right = np.sign(margin[decided]) == preference[decided]
    zero = margin[decided] == 0
    assert found.accuracy.strict == pytest.approx(right.mean())
    assert found.accuracy.tie_aware == pytest.approx((right + zero / 2).mean())
    assert found.accuracy.tie_aware == pytest.approx(preference_accuracy(margin, preference))
    assert found.model_ties == (margin == 0).sum()


@given(GROUPED, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = (measure_agreement(*unzip(order)[:2], [row[2] for row in order]) for order in (rows, shuffled))
    for name in ("strict", "tie_aware", "heldout", "oracle"):
        expected = pytest.approx(getattr(first.accuracy, name), nan_ok=True)
        assert getattr(second.accuracy, name) == expected
        for baseline in ("constant", "majority", "random"):
            expected = pytest.approx(getattr(first.baselines[baseline], name), nan_ok=True)
            assert getattr(second.baselines[baseline], name) == expected
    assert first.epsilon == second.epsilon


@given(GROUPED, st.integers(2, 6))
def test_heldout_thresholds_come_from_the_other_folds_only(rows, folds):
    margin, preference, groups = unzip(rows)
    fold = assign_folds(list(groups), folds)
    credit = []
    for margin_here, preference_here, here in zip(margin, preference, fold, strict=True):
        others = fold != here
        if not others.any():
            assert math.isnan(measure_agreement(margin, preference, list(groups), folds).accuracy.heldout)
            return
        epsilon = brute_force(margin[others], preference[others])[1]
        predicted = 0 if abs(margin_here) <= epsilon else np.sign(margin_here)
        credit.append(predicted == preference_here)
    assert measure_agreement(margin, preference, list(groups), folds).accuracy.heldout == pytest.approx(np.mean(credit))


@given(GROUPED)
def test_the_oracle_is_never_worse_than_the_heldout_threshold_or_the_constant(rows):
    margin, preference, groups = unzip(rows)
    found = measure_agreement(margin, preference, list(groups))
    assert not found.accuracy.heldout > found.accuracy.oracle + 1e-12
    assert found.accuracy.oracle >= found.baselines["constant"].oracle - 1e-12
    assert found.baselines["constant"].oracle == found.tie_share


@given(GROUPED, st.integers(2, 9))
def test_a_group_is_never_split_between_folds(rows, folds):
    groups = [row[2] for row in rows]
    fold = assign_folds(groups, folds)
    assert all(len(set(fold[np.array(groups) == name])) == 1 for name in groups)
    assert len(set(fold)) == min(folds, len(set(groups)))


@pytest.mark.parametrize(
    ("margin", "preference", "accuracy", "epsilon"),
    [
        ([0.3], [1], 1.0, 0.0),
        ([0.3, -0.1], [1, -1], 1.0, 0.0),
        ([1e-9] * 10, [0] * 2 + [1] * 6 + [-1] * 2, 0.6, 0.0),
        ([1, 1, 1, 1], [0, 0, 0, 1], 0.75, 1.0),
        ([0, 0], [1, 0], 0.5, 0.0),
    ],
)
def test_thresholds_that_the_published_implementation_gets_wrong(margin, preference, accuracy, epsilon):
    assert best_tie_threshold(margin, preference) == pytest.approx((accuracy, epsilon))


def test_a_constant_scorer_on_mj_bench_video():
    found = measure_agreement(np.zeros(len(MJ_LABELS)), MJ_LABELS)
    assert found.accuracy.strict == 0
    assert found.accuracy.tie_aware == 0.5
    assert found.accuracy.oracle == pytest.approx(0.890, abs=5e-4)
    assert found.accuracy.heldout == pytest.approx(0.890, abs=5e-4)
    assert found.accuracy == found.baselines["constant"]
    assert found.baselines["majority"].strict == pytest.approx(72 / 118)
    assert found.tie_share == pytest.approx(959 / 1077)
    assert (found.pairs, found.model_ties) == (1077, 1077)


def test_noise_and_a_noisy_oracle_hardly_differ_on_mj_bench_video_once_ties_count():
    noise = np.random.default_rng(0).standard_normal(len(MJ_LABELS))
    blind = measure_agreement(noise, MJ_LABELS).accuracy
    good = measure_agreement(MJ_LABELS + noise, MJ_LABELS).accuracy
    assert blind.strict == blind.tie_aware == pytest.approx(0.534, abs=0.05)  # 118 pairs: one standard error is 0.046
    assert good.strict == good.tie_aware == pytest.approx(0.822, abs=0.05)
    assert blind.oracle == pytest.approx(0.890, abs=1e-3)
    assert good.oracle == pytest.approx(0.893, abs=4e-3)


def test_random_margins_get_half_of_the_decided_pairs():
    random = measure_agreement(np.zeros(400), [1, -1] * 200).baselines["random"]
    assert random.strict == random.tie_aware == pytest.approx(0.5, abs=0.03)
    assert random.oracle >= random.heldout


def test_pairs_without_a_label_or_a_score_are_dropped_and_counted():
    margin = [0.5, math.nan, math.inf, -0.5, math.nan, 0.1]
    preference = [1, 1, -1, -1, math.nan, math.nan]
    found = measure_agreement(margin, preference)
    assert found.dropped == {"no label": 2, "no score": 2}
    assert found.kept.tolist() == [True, False, False, True, False, False]
    assert found.accuracy == measure_agreement([0.5, -0.5], [1, -1]).accuracy


def test_no_pairs_at_all_leave_everything_undefined():
    for found in (measure_agreement([], []), measure_agreement([math.nan], [1])):
        assert found.pairs == 0
        assert math.isnan(found.tie_share)
        for accuracies in (found.accuracy, *found.baselines.values()):
            assert all(math.isnan(value) for value in vars(accuracies).values())


@pytest.mark.parametrize("label", [1, 0, -1])
def test_labels_of_one_kind_are_fitted_perfectly_or_by_a_coin(label):
    rng = np.random.default_rng(1)
    found = measure_agreement(rng.standard_normal(50), np.full(50, label))
    assert found.baselines["majority"].oracle == 1
    if label == 0:
        assert found.accuracy.oracle == 1
        assert math.isnan(found.accuracy.strict)
    else:
        assert found.accuracy.oracle == found.accuracy.strict == found.accuracy.heldout


def test_one_group_has_no_other_to_take_a_threshold_from():
    found = measure_agreement([1, -1, 0.5], [1, -1, 0], ["a cat"] * 3)
    assert math.isnan(found.accuracy.heldout)
    assert found.accuracy.strict == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([1, 2], [1]), r"must have one length, got 2, 1 and 2"),
        (([1, 2], [1, -1], ["a"]), r"must have one length, got 2, 2 and 1"),
        (([1], [2]), r"preference must hold only -1, 0 and 1, got 2"),
        (([[1, 2]], [1, 1]), r"must be one-dimensional, got \(1, 2\) and \(2,\)"),
        (([1], [1], ["a"], 1), r"folds must be at least 2, got 1"),
    ],
)
def test_malformed_input_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure_agreement(*arguments)


def test_twenty_five_thousand_pairs_take_a_moment():
    rng = np.random.default_rng(0)
    preference = rng.integers(-1, 2, 25_000)
    margin = preference + rng.standard_normal(25_000)
    found = measure_agreement(margin, preference, [f"prompt {index % 400}" for index in range(25_000)])
    assert abs(found.accuracy.heldout - found.accuracy.oracle) < 0.01
    assert found.accuracy.oracle > found.baselines["random"].oracle + 0.1


VOTED = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 3), st.sampled_from(["a", "b", "good", "bad"]), st.sampled_from("abcde")
    ),
    min_size=1,
    max_size=25,
)  # fmt: skip


@given(VOTED)
def test_telling_ties_apart_is_never_easier(rows):
    first, second, votes, groups = (list(column) for column in zip(*rows, strict=True))
    preference = [{"a": 1, "b": -1}.get(vote, 0) for vote in votes]
    found = measure_agreement(np.array(first) - np.array(second), preference, groups)
    four = four_way_accuracy(first, second, votes, groups)
    assert math.isnan(four) == math.isnan(found.accuracy.heldout)
    assert not four > found.accuracy.heldout + 1e-12
    one_kind = ["good" if vote == "bad" else vote for vote in votes]
    unparted = four_way_accuracy(first, second, one_kind, groups)
    trained_everywhere = all(
        any(v == "good" and g != h for v, g in zip(one_kind, groups, strict=True)) for h in set(groups)
    )
    if trained_everywhere and len(set(groups)) <= 5:
        assert unparted == pytest.approx(found.accuracy.heldout, nan_ok=True)


def test_votes_must_be_known_words():
    with pytest.raises(ValueError, match="votes must be a, b, good or bad, got 'tie'"):
        four_way_accuracy([1], [2], ["tie"], ["x"])
    with pytest.raises(ValueError, match="must have one length, got 1, 2, 1"):
        four_way_accuracy([1], [2], ["a", "b"], ["x"])
