"""Best-of-N selection, rank correlations by prompt, and judges that mind the order."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrm.metrics import best_of_n, grouped_mean, kendall, position_bias, probe_position, spearman

ITEMS = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3), st.sampled_from("abc")), min_size=1, max_size=25)


def brute_kendall(first, second):
    items = list(zip(first, second, strict=True))
    pairs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(items, 2)]
    score = sum(a * b for a, b in pairs)
    scale = math.sqrt(sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs))
    return score / scale if scale else math.nan


@settings(deadline=None)  # the first call imports scipy
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_kendall_counts_every_pair(rows):
    first, second = (list(column) for column in zip(*rows, strict=True))
    assert kendall(first, second) == pytest.approx(brute_kendall(first, second), nan_ok=True)


@given(ITEMS)
def test_best_of_n_is_the_mean_over_groups_of_what_the_kept_item_lacks(rows):
    score, target, groups = (list(column) for column in zip(*rows, strict=True))
    regrets = []
    for name in set(groups):
        members = [(s, t) for s, t, g in rows if g == name]
        worths = [t for _, t in members]
        if len(set(worths)) > 1:
            highest = max(s for s, _ in members)
            regrets.append(max(worths) - np.mean([t for s, t in members if s == highest]))
    found = best_of_n(score, target, groups)
    assert found.groups == len(regrets)
    assert found.regret == pytest.approx(np.mean(regrets) if regrets else math.nan, nan_ok=True)
    if regrets:
        assert 0 <= found.top1 <= 1
        assert found.random_regret > 0


def test_scores_equal_to_the_target_choose_best_and_a_constant_score_chooses_blindly():
    target, groups = [1, 2, 3, 5, 4], ["x", "x", "x", "y", "y"]
    perfect, blind = best_of_n(target, target, groups), best_of_n([0] * 5, target, groups)
    assert (perfect.top1, perfect.regret, perfect.groups) == (1, 0, 2)
    assert blind.top1 == pytest.approx(blind.random_top1) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert blind.regret == pytest.approx(blind.random_regret) == pytest.approx((1 + 0.5) / 2)


def test_grouped_and_ungrouped_correlations_can_disagree():
    score, target, groups = [1, 2, 11, 12], [4, 3, 9, 8], ["a", "a", "b", "b"]
    assert grouped_mean(spearman, score, target, groups) == pytest.approx((-1, 2))
    assert spearman(score, target) > 0.5


def test_groups_without_a_ranking_are_left_out():
    found = grouped_mean(kendall, [1, 2, 3, 4, 5], [1, 2, 7, 7, 0], ["a", "a", "b", "b", "c"])
    assert found == (1, 1)
    assert math.isnan(grouped_mean(kendall, [], [], []).value)


def test_a_judge_that_always_prefers_the_first_is_found_out():
    def swayed(first, second):
        return 1.0 if first != "good" or second != "bad" else 2.0

    found = probe_position(swayed, [("good", "bad"), ("bad", "good")])
    assert (found.consistency, found.first, found.second) == (0, 1, 0)


def test_a_fair_judge_is_consistent():
    found = probe_position(lambda a, b: float(a - b), [(1, 2), (3, 1), (2, 2)])
    assert (found.consistency, found.pairs) == (1, 3)
    assert found.first == found.second == pytest.approx(1 / 3)
    assert math.isnan(position_bias([], []).consistency)


def test_every_item_needs_a_group():
    with pytest.raises(ValueError, match="one name per item, got 1 for 2 items"):
        best_of_n([1, 2], [1, 2], ["a"])
