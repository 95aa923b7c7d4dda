"""Order in time with its controls, agreement with comparisons of trajectories, and best-of-n curves."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from vrm.metrics import (
    best_of_n_curve,
    best_of_n_kl,
    discounted_return,
    final_reward,
    trajectory_alignment,
    value_order,
)

ITEMS = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3)), min_size=1, max_size=7)


def test_a_clock_has_a_perfect_order_and_is_given_away_by_every_control():
    clock = np.arange(10)
    found = value_order([clock] * 2, failed=[clock] * 3, reversed=[clock] * 2, wrong_goal=[clock])
    assert (found.success, found.kendall) == pytest.approx((1, 1))
    assert (found.gap, found.reversed, found.wrong_goal) == pytest.approx((0, 1, 1))
    assert found.auc_final == found.auc_mean == 0.5


def test_progress_that_is_seen_turns_round_and_stays_away_on_failure():
    progress = np.linspace(0, 1, 10)
    found = value_order([progress], failed=[-progress], reversed=[progress[::-1]], wrong_goal=[np.zeros(10)])
    assert (found.success, found.reversed, found.wrong_goal, found.gap) == pytest.approx((1, -1, 0, 2))
    assert found.auc_final == found.auc_mean == 1


def test_a_constant_shows_no_order_and_what_was_not_given_is_nan():
    found = value_order([np.ones(5), np.arange(5)])
    assert found.success == pytest.approx(0.5)
    assert all(math.isnan(v) for v in (found.failed, found.reversed, found.wrong_goal, found.gap, found.auc_final))


def test_the_final_reward_is_the_last_or_the_mean_of_the_end():
    assert final_reward([0, 0, 0, 0, 8]) == 8
    assert final_reward([0, 0, 2, 4, 8], share=0.4) == 6


def test_value_order_refuses_nothing_to_look_at():
    with pytest.raises(ValueError, match="at least one successful episode"):
        value_order([])
    with pytest.raises(ValueError, match="at least 2 values"):
        value_order([[1.0]])
    with pytest.raises(ValueError, match=r"final must lie in \[0, 1\]"):
        value_order([[1.0, 2.0]], final=2)


@settings(deadline=None)
@given(ITEMS)
def test_best_of_n_is_the_mean_over_every_draw_with_equal_proxies_sharing_the_choice(rows):
    proxy, gold = (np.array(column, float) for column in zip(*rows, strict=True))
    ns = range(1, len(rows) + 1)
    curve = best_of_n_curve(proxy, gold, ns)
    for n, worth, score in zip(ns, curve.gold, curve.proxy, strict=True):
        draws = [np.array(drawn) for drawn in itertools.combinations(range(len(rows)), n)]
        kept = [gold[drawn[proxy[drawn] == proxy[drawn].max()]].mean() for drawn in draws]
        assert worth == pytest.approx(np.mean(kept))
        assert score == pytest.approx(np.mean([proxy[drawn].max() for drawn in draws]))


def test_a_proxy_that_is_right_gains_and_one_that_is_hacked_falls_after_a_peak():
    skill = np.linspace(0, 1, 400)
    right = best_of_n_curve(skill, skill)
    assert right.gain > 1
    assert right.drop == 0
    hacked = best_of_n_curve(skill, np.where(skill < 0.95, skill, -1))
    assert hacked.gold[1] > hacked.gold[0]
    assert hacked.drop > 1
    assert np.argmax(hacked.gold) == 1
    assert (np.diff(hacked.proxy) > 0).all()


def test_thousands_of_items_are_no_trouble_and_a_gold_that_never_varies_stays():
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=5000)
    curve = best_of_n_curve(proxy, proxy, (1, 4, 1000, 5000))
    assert curve.gold[0] == pytest.approx(proxy.mean())
    assert curve.gold[1] == pytest.approx(1.03, abs=0.05)  # the expected largest of four normal numbers
    assert curve.gold[-1] == proxy.max()
    flat = best_of_n_curve(proxy, np.full(5000, 0.1))
    assert (flat.gold == 0.1).all()
    assert math.isnan(flat.gain)


def test_divergence_of_best_of_n():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(16) == pytest.approx(1.835, abs=1e-3)
    assert best_of_n_curve([1, 2], [1, 2], (1, 2)).kl == pytest.approx([0, math.log(2) - 0.5])


@pytest.mark.parametrize("ns", [[], [0], [3]])
def test_best_of_n_refuses_impossible_numbers(ns):
    with pytest.raises(ValueError, match=r"ns must be numbers in \[1, 2\]"):
        best_of_n_curve([1, 2], [1, 2], ns)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=2, max_size=12))
def test_alignment_over_all_pairs_is_kendalls_tau_b(rows):
    people, returns = (np.array(column) for column in zip(*rows, strict=True))
    first, second = np.triu_indices(len(rows), k=1)
    episodes = [[0, value] for value in returns]
    wanted = np.sign(people[first] - people[second])
    found = trajectory_alignment([episodes[i] for i in first], [episodes[i] for i in second], wanted)
    if np.ptp(people) == 0 or np.ptp(returns) == 0:
        assert math.isnan(found.tau)
    else:
        assert found.tau == pytest.approx(kendalltau(people, returns).statistic)
    assert sum(found[1:]) == len(first)


def test_the_discount_decides_between_soon_and_much():
    soon, much = [0, 1, 0, 0], [0, 0, 0, 2]
    assert trajectory_alignment([soon], [much], [1], gamma=0.5).tau == 1
    assert trajectory_alignment([soon], [much], [1], gamma=1.0).tau == -1


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.9, 1.0]))
def test_shaping_between_fixed_ends_changes_no_alignment(seed, gamma):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(2, 6, 9))
    potential = rng.normal(size=(2, 6, 9))
    potential[..., 0], potential[..., -1] = 0.7, -0.4
    shaping = gamma * potential[..., 1:] - potential[..., :-1]
    shaped = rewards + np.concatenate([np.zeros((2, 6, 1)), shaping], axis=-1)
    wanted = rng.integers(-1, 2, size=6)
    assert trajectory_alignment(*rewards, wanted, gamma)[1:] == trajectory_alignment(*shaped, wanted, gamma)[1:]


def test_the_first_frame_is_never_paid():
    assert discounted_return([100, 1, 2], gamma=0.5) == 2
    assert discounted_return([100]) == 0


def test_alignment_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="one length, got 1 and 0"):
        trajectory_alignment([[0, 1]], [], [])
    with pytest.raises(ValueError, match="preference must hold only"):
        trajectory_alignment([[0, 1]], [[0, 2]], [2])
    with pytest.raises(ValueError, match="tie must be at least 0"):
        trajectory_alignment([[0, 1]], [[0, 2]], [1], tie=-1)
    with pytest.raises(ValueError, match="gamma must lie"):
        discounted_return([0, 1], gamma=2)
