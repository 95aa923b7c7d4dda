"""Losses at points where their value and their gradient are known."""

import math

import pytest
import torch

from vrm.diffusion.losses import d3po, dpo, guarded_log_ratio, nft, ppo_clip, prdp, raft_weights, rebel, rwr_weights


def leaf(*shape, seed=0, scale=1.0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return values.requires_grad_()


def test_the_policy_loss_at_ratio_one_is_reinforce():
    log_ratio, advantages = torch.zeros(3, requires_grad=True), torch.tensor([1.0, -2.0, 0.0])
    loss = ppo_clip(log_ratio, advantages, 1e-4)
    assert torch.equal(loss.detach(), -advantages)
    loss.sum().backward()
    assert torch.equal(log_ratio.grad, -advantages)


def test_the_policy_loss_stops_beyond_the_clip_range_where_it_has_gained_enough():
    log_ratio = torch.tensor([0.2, 0.2, -0.2, -0.2]).requires_grad_()
    ppo_clip(log_ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.1).sum().backward()
    assert (log_ratio.grad == 0).tolist() == [True, False, False, True]


def test_the_guarded_ratio_has_mean_zero_where_the_plain_one_is_below():
    """For x of the old policy, E log rho = -|dm|^2 / (2 std^2); the guard adds exactly that."""
    noise = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    std, moved = 0.5, 0.3
    log_ratio = (-(noise * std - moved).square().mean(1) + (noise * std).square().mean(1)) / (2 * std**2)
    shift = torch.full((4000,), moved**2 / (2 * std**2))
    assert float(log_ratio.mean()) == pytest.approx(-float(shift[0]), rel=0.1)
    assert abs(float(guarded_log_ratio(log_ratio, shift, torch.tensor(std)).mean())) < 0.01


def test_dpo_is_log_two_at_the_reference_and_swapping_the_pair_flips_the_gradient():
    winner, loser = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    loss = dpo(winner, loser, 100.0)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)
    loss.sum().backward()
    assert torch.equal(winner.grad, -loser.grad)
    assert bool((winner.grad > 0).all())  # descent lowers the winner's error


def test_a_flipped_loser_is_pulled_too():
    winner, loser = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    dpo(winner, loser, 100.0, -1.0).sum().backward()
    assert torch.equal(winner.grad, loser.grad)


def test_d3po_is_log_two_at_the_reference_and_flat_where_ratios_are_clipped():
    ratios = torch.zeros(2, 2, 3, requires_grad=True)
    loss = d3po(ratios)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)
    loss.sum().backward()
    assert torch.equal(ratios.grad[:, 0], -ratios.grad[:, 1])
    far = torch.full((1, 2, 3), 1.0, requires_grad=True)
    d3po(far).sum().backward()
    assert torch.equal(far.grad, torch.zeros(1, 2, 3))


def test_prdp_is_zero_where_it_predicts_the_difference_of_rewards():
    rewards = torch.tensor([[1.0, 0.4]])
    ratios = torch.zeros(1, 2, 3)
    ratios[0, 0] = 0.02
    assert float(prdp(ratios, ratios, rewards, beta=10.0)) == pytest.approx(0.0, abs=1e-9)
    assert float(prdp(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), rewards)) == pytest.approx(0.36)


def test_prdp_does_not_follow_steps_that_moved_enough_already():
    old = torch.zeros(1, 2, 2)
    ratios = torch.tensor([[[0.5, 0.0], [0.0, 0.0]]], requires_grad=True)
    prdp(ratios, old, torch.tensor([[50.0, 0.0]]), beta=10.0, clip=0.1).sum().backward()
    assert ratios.grad[0, 0].tolist()[0] == 0.0
    assert ratios.grad[0, 0].tolist()[1] < 0


def test_rebel_regresses_relative_advantages():
    ratios = torch.zeros(1, 2, 3, requires_grad=True)
    loss = rebel(ratios, torch.tensor([[1.0, -1.0]]))
    assert float(loss.detach()) == 4.0
    loss.sum().backward()
    assert bool((ratios.grad[:, 0] < 0).all())
    assert bool((ratios.grad[:, 1] > 0).all())


def test_weights_have_mean_one():
    rewards = torch.tensor([[0.1, 0.9, 0.5], [1.0, 1.0, 1.0]])
    for weights in (rwr_weights(rewards, 0.2), raft_weights(rewards, 2)):
        assert torch.allclose(weights.mean(dim=1), torch.ones(2))
    assert rwr_weights(rewards, 0.2)[0].argmax() == 1
    assert raft_weights(rewards, 1)[0].tolist() == [0.0, 3.0, 0.0]


@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_the_gradient_of_nft_at_the_old_policy_is_advantage_weighted_matching(strength):
    """(1 - 2 p) times the direction that makes the video less likely, whatever b."""
    video = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    old = video + torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    optimality = torch.tensor([1.0, 0.5, 0.25])
    new = old.clone().requires_grad_()
    step = strength * (new - old)
    nft(old + step, old - step, video, optimality, strength).sum().backward()
    matching = old.clone().requires_grad_()
    scale = (old - video).abs().mean(dim=1)
    ((matching - video).square().mean(dim=1) / scale).sum().backward()
    assert torch.allclose(new.grad, (2 * optimality - 1)[:, None] * matching.grad, atol=1e-6)
