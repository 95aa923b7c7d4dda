"""Several rewards become one number."""

import pytest
import torch

from vrm.errors import UnknownNameError
from vrm.rewards.aggregate import (
    RULES,
    aggregate,
    dominates,
    log_tamed,
    pareto,
    pareto_mask,
    standardised,
    uncertainty_weighted,
    win_rate,
)

SHARP = torch.tensor([1.0, 2.0, 3.0, 4.0])
CALM = torch.tensor([4.0, 3.0, 5.0, 1.0])


def draw(groups=3, members=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(groups, members, generator=generator) + 0.1 for name in ("sharp", "calm")}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_keeps_the_shape_and_treats_groups_and_orders_alike(rule):
    rewards = draw()
    found = aggregate(rewards, rule, {"calm": 0.5})
    assert found.shape == (3, 6)
    assert found.dtype == torch.float32
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = aggregate({name: value[:, order] for name, value in rewards.items()}, rule, {"calm": 0.5})
    assert torch.allclose(shuffled, found[:, order], atol=1e-5)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_member_that_is_best_at_everything_is_best(rule):
    rewards = {name: value.index_fill(1, torch.tensor([2]), 2.0) for name, value in draw().items()}
    assert aggregate(rewards, rule).argmax(dim=1).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("weighted_sum", [9.0, 8.0, 13.0, 6.0]),
        ("rank_sum", [4.0, 3.0, 8.0, 3.0]),
        ("win_rate", [4 / 9, 3 / 9, 8 / 9, 3 / 9]),
        ("geometric_mean", [16 ** (1 / 3), 18 ** (1 / 3), 75 ** (1 / 3), 4 ** (1 / 3)]),
        ("harmonic_mean", [3 / (1 + 0.5), 3 / (0.5 + 2 / 3), 3 / (1 / 3 + 0.4), 3 / (0.25 + 2)]),
        ("dominance", [-1 / 3, -1 / 3, 2 / 3, 0.0]),
    ],
)
def test_values_by_hand(rule, wanted):
    found = aggregate({"sharp": SHARP, "calm": CALM}, rule, {"calm": 2.0})
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_win_rates_of_a_group_sum_to_half_its_size():
    assert torch.allclose(win_rate(draw(members=7)).sum(dim=1), torch.full((3,), 3.5))
    assert win_rate({"same": torch.ones(4)}).tolist() == [0.5] * 4


def test_the_pareto_front_is_never_empty_and_nobody_on_it_is_dominated():
    rewards = draw(groups=50, members=5)
    front = pareto_mask(rewards)
    assert bool(front.any(dim=1).all())
    assert not bool((dominates(rewards) & front.unsqueeze(1)).any())
    assert pareto_mask({"same": torch.ones(3)}).tolist() == [True] * 3
    assert pareto_mask({"sharp": SHARP, "calm": CALM}).tolist() == [False, False, True, True]
    assert pareto({"sharp": SHARP, "calm": CALM})[:2].tolist() == [0.0, 0.0]


def test_log_taming_changes_only_the_reward_that_spreads_widely():
    calm, wild = torch.tensor([1.0, 1.01, 0.99, 1.0]), torch.tensor([0.0, 0.1, 20.0, 0.2])
    assert torch.equal(log_tamed({"calm": calm}), calm)
    assert torch.allclose(log_tamed({"calm": calm, "wild": wild}), calm + wild.log1p())
    assert torch.equal(log_tamed({"calm": calm, "wild": wild}, threshold=1e9), calm + wild)
    with pytest.raises(ValueError, match="above -1"):
        log_tamed({"calm": calm, "wild": wild - 2})


def test_a_constant_group_is_exactly_zero():
    for value in (0.1, 1e6, -3.3333333):
        assert torch.equal(standardised(torch.full((2, 7), value)), torch.zeros(2, 7))
    for rule in ("advantages", "gdpo", "pareto"):
        assert torch.equal(aggregate({"a": torch.full((2, 3), 0.1)}, rule), torch.zeros(2, 3))


def test_gdpo_has_unit_deviation_whatever_the_weights():
    rewards = draw(groups=20)
    assert float(aggregate(rewards, "gdpo", {"sharp": 30.0}).std(correction=0)) == pytest.approx(1.0, abs=1e-3)
    assert float(aggregate(rewards, "advantages", {"sharp": 30.0}).std(correction=0)) > 20


def test_uncertainty_lowers_a_reward_and_costs():
    reward, unsure = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0], requires_grad=True)
    found = uncertainty_weighted(reward, unsure)
    assert found.tolist() == pytest.approx([1.0, 0.367879 - 1])
    found.sum().backward()
    assert unsure.grad is not None


def test_bad_input_is_refused_with_one_sentence():
    with pytest.raises(UnknownNameError, match="Did you mean 'rank_sum'"):
        aggregate({"a": SHARP}, "ranksum")
    with pytest.raises(ValueError, match="at least one reward"):
        aggregate({})
    with pytest.raises(ValueError, match="one shape"):
        aggregate({"a": SHARP, "b": SHARP[:2]})
    with pytest.raises(UnknownNameError, match="sharpe"):
        aggregate({"sharp": SHARP}, weights={"sharpe": 1.0})
    with pytest.raises(ValueError, match="positive rewards"):
        aggregate({"a": SHARP - 1}, "harmonic_mean")
