"""Losses of heads trained by time, against their papers' formulas worked out directly."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from vrm.rewards.time_objectives import (
    OBJECTIVES,
    Clips,
    expected_time,
    rank_loss,
    tcc_loss,
    time_loss,
    vip_loss,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gamma", [0.98, 0.5])
def test_vip_loss_is_the_published_formula(gamma):
    initial, current, following = -random(3, 7).abs() * 5
    reward = torch.tensor([-1.0, -1, 0, -1, -1, 0, -1])
    inside = np.exp(-(reward + gamma * following - current).double().numpy())
    expected = (1 - gamma) * -initial.double().numpy().mean() + math.log(1e-8 + inside.mean())
    assert float(vip_loss(initial, current, following, reward, gamma)) == pytest.approx(expected, rel=1e-5)


def test_vip_loss_stays_finite_where_the_exponential_does_not():
    huge = torch.tensor([500.0, 1.0])
    assert torch.isfinite(vip_loss(-huge, huge, -huge, -torch.ones(2)))


def test_vip_loss_is_least_at_the_discounted_time_to_the_goal():
    """Where V(o_t) = -(1 - gamma^(T - t)) / (1 - gamma), every Bellman error is zero and so is the log-mean-exp."""
    gamma, horizon = 0.98, 50
    steps = torch.arange(horizon, -1, -1, dtype=torch.float64)
    values = -(1 - gamma**steps) / (1 - gamma)
    terms = vip_loss(values[:1], values[:-1], values[1:], -torch.ones(horizon, dtype=torch.float64), gamma)
    assert float(terms - (1 - gamma) * -values[0]) == pytest.approx(0, abs=1e-6)


def tcc_by_loops(first, second, times, temperature, loss, label_smoothing=0.1, variance_weight=0.001):
    first, second, times = first.double().numpy(), second.double().numpy(), times.double().numpy()
    scale, found = first.shape[1] * temperature, []
    for i in range(len(first)):
        alpha = np.array([math.exp(-((first[i] - v) ** 2).sum() / scale) for v in second])
        neighbour = sum(a * v for a, v in zip(alpha / alpha.sum(), second, strict=True))
        beta = np.array([math.exp(-((neighbour - u) ** 2).sum() / scale) for u in first])
        beta /= beta.sum()
        mean = sum(b * t for b, t in zip(beta, times, strict=True))
        variance = sum(b * (t - mean) ** 2 for b, t in zip(beta, times, strict=True))
        smooth = np.full(len(first), label_smoothing / len(first))
        smooth[i] += 1 - label_smoothing
        found.append(
            {
                "regression_mse": (mean - times[i]) ** 2,
                "regression_mse_var": (mean - times[i]) ** 2 / variance + variance_weight * math.log(variance),
                "classification": -(smooth * np.log(beta)).sum(),
            }[loss]
        )
    return np.mean(found)


@pytest.mark.parametrize("loss", ["regression_mse", "regression_mse_var", "classification"])
def test_tcc_loss_equals_explicit_loops_also_for_many_pairs_at_once(loss):
    first, second, times = random(3, 5, 4), random(3, 8, 4, seed=1), torch.linspace(0, 1, 5).expand(3, 5)
    expected = [tcc_by_loops(*rows, 0.3, loss) for rows in zip(first, second, times, strict=True)]
    assert float(tcc_loss(first[1], second[1], times[1], 0.3, loss)) == pytest.approx(expected[1], rel=1e-4)
    assert float(tcc_loss(first, second, times, 0.3, loss)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_video_cycles_with_its_slower_copy_and_not_with_its_shuffled_one():
    line = torch.linspace(0, 1, 20)[:, None] * random(1, 8) * 10
    times = torch.linspace(0, 1, 20)
    slow = line.repeat_interleave(2, dim=0)
    assert float(tcc_loss(line, slow, times, 0.01)) < 1e-4
    assert float(tcc_loss(line, random(20, 8), times, 0.01)) > 0.01


def minimise(loss, size):
    values = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(values)
        value.backward()
        return value

    optimizer.step(closure)
    return values.detach()


def test_time_loss_over_all_frames_is_the_mean_over_all_pairs_with_each_logit_by_itself():
    """Later frame to 1 and earlier to 0, as Rank2Reward's code has it: its optimum is t / (T - 1)."""
    length = 6
    times = torch.arange(length, dtype=torch.float64) / (length - 1)
    pairs = [(i, j) for i in range(length) for j in range(i + 1, length)]
    logits = random(length).double()

    def by_pairs(values):
        earlier, later = (values[list(rows)] for rows in zip(*pairs, strict=True))
        both = nn.functional.softplus(earlier) + nn.functional.softplus(-later)
        return both.mean() / 2

    assert float(by_pairs(logits)) == pytest.approx(float(time_loss(logits[:, None], times)), rel=1e-9)
    found = torch.sigmoid(minimise(by_pairs, length))
    torch.testing.assert_close(found[1:-1], times[1:-1], atol=1e-3, rtol=0)
    assert found[0] < 0.02
    assert found[-1] > 0.98


@pytest.mark.parametrize("bins", [2, 5, 11])
def test_the_best_bins_stand_for_the_time_itself(bins):
    times = torch.tensor([0.0, 0.13, 0.5, 0.99, 1.0], dtype=torch.float64)
    best = minimise(lambda v: time_loss(v.reshape(5, bins), times), 5 * bins).reshape(5, bins)
    torch.testing.assert_close(expected_time(best.float()), times.float(), atol=0.02, rtol=0)


def test_rank_loss_has_a_finite_optimum_only_with_its_penalty():
    start = torch.zeros(1, dtype=torch.float64)
    best = float(minimise(lambda u: rank_loss(start, u, 0.1), 1))
    assert 1 / (1 + math.exp(best)) == pytest.approx(0.1 * best, abs=1e-4), "where the derivative is zero"
    free = [float(rank_loss(start, start + u, 0.0)) for u in (1, 10, 20, 30)]
    assert free == sorted(free, reverse=True)


def test_rank_loss_orders_many_frames():
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    earlier, later = (list(rows) for rows in zip(*pairs, strict=True))
    best = minimise(lambda u: rank_loss(u[earlier] - u[0], u[later] - u[0]), 5)
    assert (best.diff() > 0.1).all()


class Reader(nn.Module):
    """Passes on what it is given, and remembers it."""

    def forward(self, features):
        self.read = features
        return features


@pytest.mark.parametrize("name", OBJECTIVES)
def test_draws_come_from_one_clip_in_order_whatever_its_length(name):
    lengths = (2, 3, 50)
    clips = Clips.of(
        [torch.stack([torch.full((n,), float(k)), torch.arange(float(n))], 1) for k, n in enumerate(lengths)]
    )
    reader, generator = Reader(), torch.Generator().manual_seed(0)
    for _ in range(20):
        assert torch.isfinite(OBJECTIVES[name](reader, clips, 64, generator))
        clip, frame = reader.read.unbind(-1)
        assert (frame < torch.tensor(lengths)[clip.long()]).all()
        if name == "vip":
            first, now, after, last = frame
            assert (clip == clip[0]).all()
            assert (first <= now).all()
            assert (after == now + 1).all()
            assert (after <= last).all()
        if name == "rank":
            assert (clip[0] == clip[1]).all()
            assert (frame[0] < frame[1]).all()
        if name == "tcc":
            assert (clip == clip[:, :1]).all()
            assert (frame.diff(dim=1) >= 0).all()


def test_every_pair_of_frames_is_drawn_as_often():
    clips, reader = Clips.of([torch.arange(4.0)[:, None]]), Reader()
    OBJECTIVES["rank"](reader, clips, 60_000, torch.Generator().manual_seed(0))
    counts = torch.bincount((reader.read[0, :, 0] * 4 + reader.read[1, :, 0]).long(), minlength=16).reshape(4, 4)
    assert (counts.tril() == 0).all()
    assert (counts.triu(1)[counts > 0] - 10_000).abs().max() < 400
