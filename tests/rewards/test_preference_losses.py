"""Preference likelihoods against golden values, brute force and laws."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from vrm.rewards.preference_losses import (
    LINKS,
    answer_loss,
    bradley_terry,
    bradley_terry_loss,
    davidson,
    ideal_point_loss,
    margin_loss,
    plackett_luce_loss,
    preference_loss,
    preference_probability,
    ranklist_loss,
    rao_kupper,
    regret,
    three_answers,
)

D = torch.linspace(-6, 6, 13, dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)


def test_bradley_terry_has_its_golden_value():
    assert bradley_terry_loss(torch.tensor(0.5), torch.tensor(1.0)).item() == pytest.approx(0.474077, abs=1e-6)


def test_the_best_difference_for_a_smoothed_label_is_its_log_odds():
    grid = torch.linspace(-5, 5, 10001, dtype=torch.float64)
    best = grid[bradley_terry_loss(grid, torch.tensor(0.9)).argmin()]
    assert best.item() == pytest.approx(2.197, abs=1e-3)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_loss_is_minus_the_log_of_the_probability(noise):
    labels = torch.rand(13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = (1 - noise) / (1 + (-D).exp()) + noise / 2
    torch.testing.assert_close(bradley_terry(D, noise), p)
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log())
    torch.testing.assert_close(bradley_terry_loss(D, labels, noise), expected)


def test_noise_bounds_the_loss_of_a_wrong_answer():
    d = torch.tensor([200.0, 0.0], requires_grad=True)
    loss = bradley_terry_loss(d, torch.zeros(2), noise=0.1)
    loss.sum().backward()
    assert loss[0].item() == pytest.approx(-math.log(0.05), abs=1e-5)
    assert torch.isfinite(d.grad).all()


@pytest.mark.parametrize("model", [rao_kupper, davidson])
@pytest.mark.parametrize("width", [0.0, 0.3, 1.0, 4.0])
def test_three_answers_sum_to_one_and_mirror(model, width):
    found = model(D, width).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones_like(D))
    torch.testing.assert_close(found.flip(-1), model(-D, width).exp())
    if width == 0:
        torch.testing.assert_close(found[:, 0], torch.sigmoid(D))
        assert (found[:, 1] == 0).all()


def test_rao_kupper_and_davidson_are_what_their_formulas_say():
    theta, nu = 0.7, 1.3
    first, second = torch.sigmoid(D - theta), torch.sigmoid(-D - theta)
    torch.testing.assert_close(rao_kupper(D, theta).exp(), torch.stack([first, 1 - first - second, second], -1))
    z = (D / 2).exp() + (-D / 2).exp() + nu
    expected = torch.stack([(D / 2).exp() / z, nu / z, (-D / 2).exp() / z], -1)
    torch.testing.assert_close(davidson(D, nu).exp(), expected)


def test_a_label_is_the_expected_answer_of_its_weights():
    labels = torch.linspace(0, 1, 11)
    weights = three_answers(labels)
    torch.testing.assert_close(weights.sum(-1), torch.ones(11))
    torch.testing.assert_close(weights[:, 0] + weights[:, 1] / 2, labels)


def test_an_impossible_tie_that_nobody_gave_costs_nothing():
    d = torch.tensor([1.0], requires_grad=True)
    loss = answer_loss(davidson(d, 0.0), torch.tensor([1.0]))
    loss.sum().backward()
    torch.testing.assert_close(loss, bradley_terry_loss(d, torch.tensor([1.0])))
    assert torch.isfinite(d.grad).all()


@pytest.mark.parametrize("link", LINKS)
def test_swapping_sides_and_label_changes_nothing(link):
    labels, tie = torch.linspace(0, 1, 13, dtype=torch.float64), ZERO + 0.5
    there, back = (preference_loss(s * D, s * (labels - 0.5) + 0.5, link, tie, 0.1) for s in (1, -1))
    torch.testing.assert_close(there, back)
    torch.testing.assert_close(
        preference_probability(D, link, tie, 0.1) + preference_probability(-D, link, tie, 0.1), torch.ones_like(D)
    )


def test_an_adaptive_margin_asks_for_a_lead():
    labels = (D > 0).double()
    torch.testing.assert_close(margin_loss(D, labels, 0.0), bradley_terry_loss(D, labels))
    torch.testing.assert_close(margin_loss(D, torch.ones(13), 2.0), -functional.logsigmoid(D - 2.0))
    torch.testing.assert_close(margin_loss(D, torch.zeros(13), 2.0), -functional.logsigmoid(-D - 2.0))


def test_plackett_luce_over_all_orders_sums_to_one():
    scores = torch.tensor([0.3, -1.2, 2.0, 0.5], dtype=torch.float64)
    orders = [list(order) for order in itertools.permutations(range(4))]
    chances = torch.stack([(-plackett_luce_loss(scores[order])).exp() for order in orders])
    torch.testing.assert_close(chances.sum(), torch.ones((), dtype=torch.float64))
    best = orders[int(chances.argmax())]
    assert best == scores.argsort(descending=True).tolist()
    brute, left = 1.0, scores[[1, 0, 3, 2]].exp().tolist()
    while left:
        brute *= left[0] / sum(left)
        left = left[1:]
    assert (-plackett_luce_loss(scores[[1, 0, 3, 2]])).exp().item() == pytest.approx(brute)


def test_plackett_luce_of_two_is_bradley_terry_and_of_many_is_a_log_sum_exp_per_item():
    s = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plackett_luce_loss(s[:, :2]), functional.softplus(s[:, 1] - s[:, 0]))
    skipwise = sum((1 + sum((s[:, j] - s[:, i]).exp() for j in range(i + 1, 4))).log() for i in range(3))
    torch.testing.assert_close(plackett_luce_loss(s), skipwise)
    torch.testing.assert_close(plackett_luce_loss(s + 7), plackett_luce_loss(s))


def test_ranklist_sums_over_skips():
    s = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = sum(
        w * functional.softplus(s[i + k] - s[i]) for k, w in ((1, 1.0), (2, 0.5), (3, 0.25)) for i in range(4 - k)
    )
    torch.testing.assert_close(ranklist_loss(s, (1.0, 0.5, 0.25, 9.0)), expected)
    assert ranklist_loss(s[:1]).item() == 0


def test_regret_is_the_same_for_rewards_that_differ_by_a_potential():
    """Partial return is not: there lies what the regret model identifies better."""
    generator = torch.Generator().manual_seed(0)
    rewards, values, potential = torch.randn(3, 6, 5, generator=generator)
    shaped = rewards.clone()
    shaped[:, 1:] += potential[:, 1:] - potential[:, :-1]
    torch.testing.assert_close(regret(shaped, values - potential), regret(rewards, values))
    assert not torch.allclose(shaped[:, 1:].sum(1), rewards[:, 1:].sum(1))
    brute = [float(v[0] - (sum(r[1:]) + v[-1])) for r, v in zip(rewards, values, strict=True)]
    torch.testing.assert_close(regret(rewards, values), torch.tensor(brute))


def test_the_ideal_point_loss_approaches_a_hinge():
    labels = torch.ones(13)
    torch.testing.assert_close(ideal_point_loss(D, labels, 500.0), (1 - D).relu(), atol=2e-3, rtol=0)
    torch.testing.assert_close(ideal_point_loss(D, 0 * labels), ideal_point_loss(-D, labels))
