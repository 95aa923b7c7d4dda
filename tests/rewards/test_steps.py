"""Step discovery: exact, never worse with every round, and right about the number of steps."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vrm.rewards.steps import (
    FLOOR,
    bic_scores,
    choose_steps,
    discover_steps,
    jaccard,
    random_cuts,
    segment_costs,
    segment_jointly,
    step_masks,
)

FEATURES = arrays(np.float64, st.tuples(st.integers(6, 11), st.integers(1, 3)), elements=st.floats(-9, 9, width=16))


def cost(features, bounds):
    return sum(features[a:b].std(axis=0).mean() for a, b in pairwise(bounds))


def all_cuts(total, steps, least):
    for cuts in combinations(range(1, total), steps - 1):
        if all(b - a >= least for a, b in pairwise([0, *cuts, total])):
            yield cuts


def staged(steps, seed, demos=6, size=24, correlation=0.7):
    """Demonstrations with shared steps of differing length, whose noise is correlated in time and over features."""
    rng = np.random.default_rng(seed)
    means, mixing = rng.normal(0, 1.5, (steps, 6)), rng.normal(size=(6, size))
    found = []
    for _ in range(demos):
        lasts = rng.integers(12, 22, steps)
        noise = np.zeros((lasts.sum(), 6))
        for t in range(1, len(noise)):
            noise[t] = correlation * noise[t - 1] + rng.normal(0, 0.5 * (1 - correlation**2) ** 0.5, 6)
        values = (np.repeat(means, lasts, axis=0) + noise) @ mixing + rng.normal(0, 0.2, (len(noise), size))
        found.append((values, np.cumsum(lasts)[:-1]))
    frames = np.concatenate([values for values, _ in found])
    return [(v - frames.mean(axis=0)) / frames.std(axis=0) for v, _ in found], [cuts for _, cuts in found]


@settings(max_examples=60, deadline=None)
@given(FEATURES, st.integers(1, 4), st.integers(1, 2), st.floats(-1e4, 1e4))
def test_dynamic_programming_equals_brute_force(features, steps, least, shift):
    if len(features) < steps * least:
        return
    cuts = discover_steps(features + shift, steps, least)
    assert len(cuts) == steps - 1
    assert all(b - a >= least for a, b in pairwise([0, *cuts, len(features)]))
    best = min(cost(features, [0, *c, len(features)]) for c in all_cuts(len(features), steps, least))
    assert cost(features, [0, *cuts, len(features)]) == pytest.approx(best, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(FEATURES)
def test_costs_are_mean_deviations(features):
    costs = segment_costs(features)
    for a, b in combinations(range(len(features) + 1), 2):
        assert costs[a, b] == pytest.approx(features[a:b].std(axis=0).mean(), abs=1e-6)
    assert np.isinf(costs[np.tril_indices(len(costs))]).all()


def test_costs_do_not_depend_on_how_features_are_split_into_blocks(monkeypatch):
    features = np.random.default_rng(0).normal(size=(20, 7))
    whole = segment_costs(features)
    monkeypatch.setattr("vrm.rewards.steps.BLOCK", 40)
    np.testing.assert_allclose(segment_costs(features), whole)


def test_equal_costs_are_cut_early():
    assert discover_steps(np.zeros((8, 2)), 3, 2).tolist() == [2, 4]


def test_one_step_has_no_cut():
    assert discover_steps(np.eye(4), 1).shape == (0,)


@pytest.mark.parametrize("seed", range(4))
def test_joint_objective_never_rises_and_cuts_are_best_for_its_statistics(seed):
    rng = np.random.default_rng(seed)
    demos = [rng.normal(size=(n, 3)) for n in (9, 12, 7)]
    end = segment_jointly(demos, 3, 2)
    assert (np.diff(end.history) <= 1e-9).all()
    assert end.objective == end.history[-1]
    assert (end.deviations >= FLOOR).all()

    def misfit(demo, cuts):
        bounds = enumerate(pairwise([0, *cuts, len(demo)]))
        return sum(
            (0.5 * ((demo[a:b] - end.means[s]) / end.deviations[s]) ** 2 + np.log(end.deviations[s])).sum()
            for s, (a, b) in bounds
        )

    for demo, cuts in zip(demos, end.cuts, strict=True):
        best = min(misfit(demo, other) for other in all_cuts(len(demo), 3, 2))
        assert misfit(demo, cuts) == pytest.approx(best)
    assert end.objective == pytest.approx(sum(misfit(d, c) for d, c in zip(demos, end.cuts, strict=True)))


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_joint_segmentation_finds_true_cuts(steps):
    demos, true = staged(steps, seed=steps)
    for found, cuts in zip(segment_jointly(demos, steps).cuts, true, strict=True):
        assert np.abs(found - cuts).max() <= 1


def test_one_odd_demonstration_is_set_right_by_the_others():
    """A passing disturbance is cheapest as a step of its own, unless the other demonstrations say otherwise."""
    demos, true = staged(2, seed=5)
    odd = demos[0].copy()
    odd[3:5] += 6 * np.random.default_rng(0).normal(size=odd.shape[1])
    alone = discover_steps(odd, 2)
    together = segment_jointly([odd, *demos[1:]], 2).cuts[0]
    assert abs(alone[0] - true[0][0]) > 3
    assert abs(together[0] - true[0][0]) <= 1


@pytest.mark.parametrize("steps", [2, 3, 4, 5])
@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.9])
def test_bic_finds_the_number_of_steps(steps, correlation):
    demos, _ = staged(steps, seed=10 * steps, correlation=correlation)
    assert choose_steps(demos) == steps


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_bic_finds_the_number_of_steps_of_one_demonstration(steps):
    demos, _ = staged(steps, seed=20 * steps, demos=1)
    assert choose_steps(demos) == steps


def test_repeating_features_changes_no_choice():
    demos, _ = staged(3, seed=1)
    scores, repeated = bic_scores(demos), bic_scores([np.tile(demo, 5) for demo in demos])
    assert scores.keys() == repeated.keys()
    np.testing.assert_allclose(list(scores.values()), list(repeated.values()))


def test_bic_tries_no_more_steps_than_the_shortest_demonstration_has_room_for():
    demos, _ = staged(2, seed=0, demos=2)
    assert list(bic_scores([demos[0], demos[1][:7]])) == [2, 3]
    assert list(bic_scores(demos, max_steps=4)) == [2, 3, 4]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: discover_steps(np.zeros((5, 2)), 3), "3 steps of at least 2 frames need 6 frames, got 5"),
        (lambda: discover_steps(np.zeros((5, 2)), 0), "must be at least 1"),
        (lambda: discover_steps(np.zeros(5), 2), r"must be \(T, D\)"),
        (lambda: discover_steps([[0.0], [np.nan], [0.0], [1.0]], 2), "NaN or infinity"),
        (lambda: segment_jointly([np.zeros((5, 2)), np.zeros((5, 3))], 2), r"share their features.*\[2, 3\]"),
        (lambda: choose_steps([np.zeros((9, 2))], max_steps=1), "max_steps must be at least 2"),
        (lambda: jaccard(np.ones((2, 3), bool), np.ones((2, 4), bool)), "of one shape"),
        (lambda: random_cuts(3, 4, np.random.default_rng(0)), "4 steps of at least 1 frames need 4"),
    ],
)
def test_what_does_not_fit_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 20), st.integers(0, 9))
def test_random_cuts_are_legal(steps, least, spare, seed):
    total = steps * least + spare
    cuts = random_cuts(total, steps, np.random.default_rng(seed), least)
    assert all(b - a >= least for a, b in pairwise([0, *cuts, total]))


def test_random_cuts_are_all_equally_likely():
    rng = np.random.default_rng(0)
    draws = [tuple(random_cuts(8, 3, rng, 2)) for _ in range(3000)]
    counts = [draws.count(cuts) for cuts in all_cuts(8, 3, 2)]
    assert sum(counts) == len(draws)
    assert min(counts) > 0.8 * len(draws) / len(counts)


@given(st.integers(1, 5), st.integers(0, 9))
def test_masks_share_out_all_frames(steps, seed):
    masks = step_masks(random_cuts(12, steps, np.random.default_rng(seed)), 12)
    assert masks.shape == (steps, 12)
    assert (masks.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(jaccard(masks, masks), 1.0)


def test_jaccard_of_nothing_is_undefined():
    found = jaccard([[False, False], [True, True]], [[False, False], [False, True]])
    assert np.isnan(found[0])
    assert found[1] == 0.5
