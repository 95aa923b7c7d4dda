"""EPIC, DARD and STARC: what they must ignore, what they must see, and the sampled forms against the exact ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrm.metrics import (
    canonical_dard,
    canonical_epic,
    canonical_epic_sampled,
    canonical_starc,
    dard,
    dard_sampled,
    epic,
    epic_distance,
    epic_sampled,
    policy_value,
    starc,
    starc_from_canonical,
    value_canonical,
)

S, A, GAMMA = 7, 3, 0.95
SEEDS = st.integers(0, 2**31)
GOLDEN = [
    0.716095,
    0.713236,
    0.705636,
    0.565339,
]  # EPIC, DARD, STARC of two random rewards, and EPIC of clipped progress


def world(seed):
    """A reward, an unrelated one, a potential and dynamics."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(S, A, S)), rng.normal(size=(S, A, S)), rng.normal(size=S), rng.dirichlet(np.ones(S), (S, A))


def shaped(reward, potential, gamma=GAMMA, scale=3.7, constant=1.3):
    return scale * reward + gamma * potential[None, None, :] - potential[:, None, None] + constant


def distances(transition):
    return (
        lambda x, y: epic(x, y, GAMMA),
        lambda x, y: dard(x, y, transition, GAMMA),
        lambda x, y: starc(x, y, transition, GAMMA),
    )


@settings(deadline=None)
@given(SEEDS)
def test_shaping_scale_and_constants_change_nothing_and_the_negative_is_opposite(seed):
    reward, other, potential, transition = world(seed)
    for distance in distances(transition):
        same = shaped(reward, potential)
        assert distance(reward, same) < 1e-12
        assert distance(reward, -same) == pytest.approx(1)
        assert distance(other, same) == pytest.approx(distance(other, reward), abs=1e-9)
        assert distance(reward, other) == pytest.approx(distance(other, reward))
        assert 0.01 < distance(reward, other) < 0.99


def test_golden_distances():
    reward, other, _, transition = world(0)
    value = np.random.default_rng(0).normal(size=S)
    clipped = np.maximum(np.broadcast_to(value[None, None, :] - value[:, None, None], (S, A, S)), 0)
    found = [distance(reward, other) for distance in distances(transition)]
    found += [epic(clipped, np.broadcast_to(value, (S, A, S)), GAMMA)]
    assert found == pytest.approx(GOLDEN, abs=1e-6)


@settings(deadline=None)
@given(SEEDS)
def test_canonical_rewards_are_themselves_free_of_shaping(seed):
    reward, _, potential, transition = world(seed)
    same = shaped(reward, potential, scale=1, constant=0)
    for canonical in (
        lambda r: canonical_epic(r, GAMMA),
        lambda r: canonical_dard(r, transition, GAMMA),
        lambda r: canonical_starc(r, transition, GAMMA),
    ):
        np.testing.assert_allclose(canonical(reward), canonical(same), atol=1e-12)


@settings(deadline=None)
@given(SEEDS)
def test_canonical_tables_follow_their_definitions_transition_by_transition(seed):
    reward, _, _, transition = world(seed)
    s, a, t = 2, 1, 5
    mean = reward.mean(axis=(1, 2))
    expected = reward[s, a, t] + GAMMA * mean[t] - mean[s] - GAMMA * reward.mean()
    assert canonical_epic(reward, GAMMA)[s, a, t] == pytest.approx(expected)
    extra = 0.0
    for u in range(A):
        for x in range(S):
            extra += GAMMA * transition[t, u, x] * reward[t, u, x] - transition[s, u, x] * reward[s, u, x]
            for y in range(S):
                extra -= GAMMA * transition[s, u, x] * transition[t, u, y] * reward[x, u, y]
    assert canonical_dard(reward, transition, GAMMA)[s, a, t] == pytest.approx(reward[s, a, t] + extra / A)


@settings(deadline=None)
@given(SEEDS)
def test_for_rewards_of_the_arrived_state_epic_is_the_pearson_distance(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, S))
    tables = [np.broadcast_to(values, (S, A, S)) for values in (first, second)]
    assert epic(*tables, GAMMA) == pytest.approx(epic_distance(first, second), abs=1e-7)


@settings(deadline=None)
@given(SEEDS)
def test_progress_and_discounted_value_are_one_reward_and_clipped_progress_is_another(seed):
    value = np.random.default_rng(seed).normal(size=S)
    progress = np.broadcast_to(value[None, None, :] - value[:, None, None], (S, A, S))
    state = np.broadcast_to((1 - GAMMA) * value, (S, A, S))
    assert epic(progress, state, GAMMA) < 1e-7
    assert epic(np.maximum(progress, 0), state, GAMMA) > 0.01


@settings(deadline=None)
@given(SEEDS)
def test_starc_sees_only_what_the_dynamics_allow(seed):
    reward, noise, _, transition = world(seed)
    allowed = transition > np.median(transition)
    chance = transition * allowed
    chance /= chance.sum(-1, keepdims=True)
    elsewhere = np.where(allowed, reward, reward + noise)
    assert starc(reward, elsewhere, chance, GAMMA) < 1e-12
    assert epic(reward, elsewhere, GAMMA) > 0.01


@settings(deadline=None)
@given(SEEDS)
def test_starc_ignores_how_an_expected_reward_is_spread_over_next_states(seed):
    reward, _, _, transition = world(seed)
    spread = np.einsum("sat,sat->sa", reward, transition)[:, :, None].repeat(S, axis=2)
    assert starc(reward, spread, transition, GAMMA) < 1e-12


def test_a_reward_that_leaves_all_policies_equal_is_half_way_from_any_other_for_starc_and_undefined_for_epic():
    reward, _, potential, transition = world(0)
    trivial = shaped(np.zeros_like(reward), potential)
    assert starc(reward, trivial, transition, GAMMA) == pytest.approx(0.5)
    assert starc(trivial, np.zeros_like(reward), transition, GAMMA) == 0
    assert np.isnan(epic(reward, trivial, GAMMA))


def test_values_of_a_policy_solve_its_bellman_equation():
    reward, _, _, transition = world(1)
    policy = np.random.default_rng(1).dirichlet(np.ones(A), S)
    value = policy_value(reward, transition, GAMMA, policy=policy)
    backed_up = np.einsum("sa,sat,sat->s", policy, transition, reward + GAMMA * value)
    np.testing.assert_allclose(value, backed_up)


def test_given_values_stand_in_for_solved_ones_where_moves_are_certain():
    reward, other, _, _ = world(2)
    follows = np.random.default_rng(2).integers(S, size=(S, A))
    transition = np.eye(S)[follows]
    state, action = (grid.ravel() for grid in np.meshgrid(np.arange(S), np.arange(A), indexing="ij"))
    arrived = follows[state, action]
    canonical = []
    for table in (reward, other):
        value = policy_value(table, transition, GAMMA)
        canonical.append(value_canonical(table[state, action, arrived], value[state], value[arrived], GAMMA))
    assert starc_from_canonical(*canonical) == pytest.approx(starc(reward, other, transition, GAMMA))


@settings(deadline=None)
@given(SEEDS, st.integers(1, 4))
def test_shared_samples_make_sampled_epic_and_dard_exactly_blind_to_shaping(seed, samples):
    rng = np.random.default_rng(seed)
    reward, _, potential, _ = world(seed)
    same = shaped(reward, potential)
    functions = [lambda s, a, t, table=table: table[s, a, t] for table in (reward, same)]
    batch = rng.integers(S, size=20), rng.integers(A, size=20), rng.integers(S, size=20)
    states, actions = rng.integers(S, size=samples), rng.integers(A, size=samples)
    assert epic_sampled(*functions, batch, states, actions, GAMMA) < 1e-12
    assert dard_sampled(*functions, batch, actions, lambda s, a: rng.integers(S, size=len(s)), GAMMA) < 1e-12
    canonical = [canonical_epic_sampled(f, batch, states, actions, GAMMA) for f in functions]
    np.testing.assert_allclose(canonical[1], 3.7 * canonical[0], atol=1e-10)


def test_sampling_everything_gives_the_exact_distance():
    reward, other, _, _ = world(3)
    functions = [lambda s, a, t, table=table: table[s, a, t] for table in (reward, other)]
    batch = tuple(grid.ravel() for grid in np.meshgrid(np.arange(S), np.arange(A), np.arange(S), indexing="ij"))
    states, actions = (grid.ravel() for grid in np.meshgrid(np.arange(S), np.arange(A), indexing="ij"))
    assert epic_sampled(*functions, batch, states, actions, GAMMA) == pytest.approx(epic(reward, other, GAMMA))


def test_sampled_dard_with_certain_moves_gives_the_exact_distance():
    reward, other, _, _ = world(4)
    follows = np.random.default_rng(4).integers(S, size=(S, A))
    functions = [lambda s, a, t, table=table: table[s, a, t] for table in (reward, other)]
    state, action = (grid.ravel() for grid in np.meshgrid(np.arange(S), np.arange(A), indexing="ij"))
    batch = (state, action, follows[state, action])
    sampled = dard_sampled(*functions, batch, np.arange(A), lambda s, a: follows[s, a], GAMMA)
    assert sampled == pytest.approx(dard(reward, other, np.eye(S)[follows], GAMMA))


def test_coverage_chooses_the_transitions_that_count():
    reward, _, _, _ = world(5)
    changed = reward.copy()
    changed[0, 0, 1] += 50
    only_later = np.arange(S) > 0
    product = np.broadcast_to(only_later[:, None, None] & only_later, reward.shape)
    assert epic(reward, changed, GAMMA) > 0.1
    assert epic(reward, changed, GAMMA, states=only_later) < 1e-12
    assert epic(reward, changed, GAMMA, states=only_later, coverage=product) < 1e-12
    assert epic(reward, changed, GAMMA, coverage=~product) > 0.1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda r, t: epic(r, r[:, :1], 0.9), r"must be \(S, A, S\) of one size"),
        (lambda r, t: epic(r, r * np.nan, 0.9), "must be finite"),
        (lambda r, t: epic(r, r, 1.5), r"gamma must lie in \[0, 1\], got 1.5"),
        (lambda r, t: epic(r, r, 0.9, states=-np.ones(S)), "at least 0 and not all 0"),
        (lambda r, t: dard(r, r, 2 * t, 0.9), "transition must be .* sum to 1"),
        (lambda r, t: starc(r, r, t, 1.0), r"gamma must lie in \[0, 1\), .* got 1.0"),
        (lambda r, t: starc(r, r, t, 0.9, policy=np.ones((S, A))), "policy must be .* sum to 1"),
        (lambda r, t: value_canonical([1.0], [1.0, 2.0], [1.0], 0.9), r"must be \(N,\)"),
        (lambda r, t: epic_sampled(len, len, ([1], [1], [1]), [1], [1], 0.9), "N >= 2 states"),
        (lambda r, t: epic_sampled(lambda *_: [1.0], None, ([1, 2],) * 3, [1], [1], 0.9), r"must return \(2,\)"),
        (lambda r, t: epic_sampled(None, None, ([1, 2],) * 3, [], [], 0.9), "M >= 1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    reward, _, _, transition = world(0)
    with pytest.raises(ValueError, match=sentence):
        call(reward, transition)
