"""Metrics against golden values, brute force and their invariances."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrm.metrics import (
    epic_distance,
    pairwise_accuracy,
    pearson,
    preference_accuracy,
    roc_auc,
    roc_curve,
    spearman,
    value_order_correlation,
)

# Few distinct values, so that ties are common.
LABELLED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=25)
PAIRED = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=25)
TWO_SERIES = (pearson, spearman, epic_distance, roc_auc, pairwise_accuracy, preference_accuracy)


def brute_auc(score, label):
    wins = [(s > f) + (s == f) / 2 for s in score[label] for f in score[~label]]
    return np.mean(wins) if wins else math.nan


def brute_ranks(values):
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def unzip(rows):
    first, second = zip(*rows, strict=True)
    return np.array(first), np.array(second)


@given(LABELLED)
def test_roc_auc_is_the_share_of_pairs_won(rows):
    score, label = unzip(rows)
    assert roc_auc(score, label) == pytest.approx(brute_auc(score, label), nan_ok=True)


@given(LABELLED)
def test_roc_curve_encloses_the_auc(rows):
    score, label = unzip(rows)
    false_positive, true_positive = roc_curve(score, label)
    assert len(false_positive) == len(np.unique(score)) + 1
    assert np.trapezoid(true_positive, false_positive) == pytest.approx(roc_auc(score, label), nan_ok=True)


@given(LABELLED)
def test_roc_auc_mirrors_when_scores_change_sign(rows):
    score, label = unzip(rows)
    assert roc_auc(-score, label) == pytest.approx(1 - roc_auc(score, label), nan_ok=True)


@given(PAIRED)
def test_spearman_is_pearson_of_brute_force_ranks(rows):
    x, y = unzip(rows)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(spearman(x, y))
    else:
        expected = np.corrcoef(brute_ranks(x), brute_ranks(y))[0, 1]
        assert spearman(x, y) == pytest.approx(expected, abs=1e-9)


@given(PAIRED, st.floats(0.01, 100), st.floats(-100, 100))
def test_epic_ignores_scale_and_shift_and_flips_with_sign(rows, scale, shift):
    x, y = unzip(rows)
    distance = epic_distance(x, y)
    assert epic_distance(scale * x + shift, y) == pytest.approx(distance, abs=1e-5, nan_ok=True)
    assert epic_distance(-x, y) ** 2 == pytest.approx(1 - distance**2, abs=1e-9, nan_ok=True)


@given(PAIRED, st.sampled_from([None, 0.0, 1.0]))
def test_pairwise_accuracy_counts_every_pair(rows, tie):
    score, target = unzip(rows)
    credit = []
    for i in range(len(score)):
        for j in range(i):
            margin, wanted = score[i] - score[j], np.sign(target[i] - target[j])
            if tie is not None:
                credit.append((0 if abs(margin) <= tie else np.sign(margin)) == wanted)
            elif wanted:
                credit.append(0.5 if margin == 0 else np.sign(margin) == wanted)
    expected = np.mean(credit) if credit else math.nan
    assert pairwise_accuracy(score, target, tie) == pytest.approx(expected, nan_ok=True)


def test_golden_values():
    assert epic_distance([0.20, 0.25, 0.22, 0.30], [0, 1, 0, 1]) == pytest.approx(0.261878, abs=1e-6)
    assert value_order_correlation([0, 10, 30, 20, 50]) == pytest.approx(0.9)
    assert value_order_correlation([0, 5, 4, 3, 2]) == pytest.approx(0.0, abs=1e-12)
    assert epic_distance([1, 2, 3], [2, 4, 6]) == pytest.approx(0, abs=1e-7)
    assert epic_distance([1, 2, 3], [-1, -2, -3]) == pytest.approx(1)


def test_ties_between_a_constant_scorer_and_people():
    assert preference_accuracy([0, 0, 0], [1, -1, 1]) == 0.5
    assert preference_accuracy([0, 0, 0, 0], [1, 0, 0, -1], tie=0) == 0.5


def test_what_is_undefined_is_nan():
    assert math.isnan(roc_auc([1, 2], [1, 1]))
    assert math.isnan(epic_distance([1, 1, 1], [0, 1, 0]))
    assert math.isnan(value_order_correlation([2, 2, 2]))
    assert math.isnan(pairwise_accuracy([1, 2], [3, 3]))
    assert math.isnan(preference_accuracy([1, 2], [0, 0]))
    assert np.isnan(roc_curve([1, 2], [1, 1])[0]).all()


@pytest.mark.parametrize("metric", TWO_SERIES)
@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ([0.0, math.nan], [0, 1], r"must be finite, got nan at index 1"),
        ([0.0, math.inf], [0, 1], r"must be finite, got inf"),
        ([0.0, 1.0, 2.0], [0, 1], r"must have one length, got 3 and 2"),
        ([], [], r"at least . values, got shape \(0,\)"),
        ([[0.0, 1.0]], [0, 1], r"must be one-dimensional"),
    ],
)
def test_malformed_input_is_refused(metric, first, second, sentence):
    with pytest.raises(ValueError, match=sentence):
        metric(first, second)


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"label must hold only 0 and 1 .* got 2"):
        roc_auc([1, 2], [0, 2])
    with pytest.raises(ValueError, match=r"preference must hold only -1, 0 and 1, got 0.5"):
        preference_accuracy([1, 2], [0.5, 1])
    with pytest.raises(ValueError, match=r"tie must be at least 0, got -1"):
        preference_accuracy([1, 2], [0, 1], tie=-1)


def test_tiny_and_huge_values_keep_their_correlation():
    assert pearson([1e-200, 2e-200, 4e-200], [1, 2, 4]) == pytest.approx(1)
    assert pearson([1e200, 2e200, 4e200], [1, 2, 4]) == pytest.approx(1)
