"""Matchers against independent solutions, and what they must say about order, speed, lengths and padding."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vrm.errors import UnknownNameError
from vrm.rewards.matchers import (
    MATCHERS,
    NearestFrame,
    OrderedCoverage,
    SegmentMatching,
    SinkhornOT,
    SoftDTW,
    TemporalOT,
    make_matcher,
    matcher_config,
)
from vrm.rewards.transport import diagonal_band

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "invalid escape sequence")  # in docstrings of POT
    import ot

ALL = [cls() for cls in MATCHERS.values()] + [SegmentMatching(horizon=6), OrderedCoverage(scaling="geometric")]
IDS = [str(m) for m in ALL]


def walk(frames, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(frames, size, generator=generator).cumsum(0)
    return torch.nn.functional.normalize(steps, dim=-1)


def cosine(episode, demo):
    return (1 - episode @ demo.T).clamp(0, 2)


def random_cost(*shape, seed=0, high=0.5):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * high


def by_pot(cost, **options):
    rows, columns = (np.ones(n) / n for n in cost.shape)
    options = {"numItermax": 5000, "stopThr": 1e-12, **options}
    return ot.sinkhorn(rows, columns, cost.double().numpy(), 0.01, warn=False, **options)


def orca_by_loops(cost, tau):
    p = np.exp(-cost.numpy() / tau)
    a = np.zeros_like(p)
    for i, j in itertools.product(*map(range, p.shape)):
        before = a[i, j - 1] if j else 1.0
        earlier = a[i - 1, j] if i and j < p.shape[1] - 1 else 0.0
        a[i, j] = max(earlier, before * p[i, j])
    return a[:, -1]


def alignments(rows, columns):
    """Every monotone path from the first cell to the last."""
    if (rows, columns) == (1, 1):
        return [[(0, 0)]]
    before = [(rows - 1, columns - 1), (rows - 1, columns), (rows, columns - 1)]
    paths = [path for i, j in before if i and j for path in alignments(i, j)]
    return [[*path, (rows - 1, columns - 1)] for path in paths]


@pytest.mark.parametrize(("frames", "demo_frames"), [(6, 9), (30, 30), (40, 7)])
def test_transport_has_the_marginals_plan_and_cost_of_pot(frames, demo_frames):
    cost = cosine(walk(frames, 1), walk(demo_frames, 2))
    expected = by_pot(cost)
    match = SinkhornOT(iterations=5000, tolerance=0, scaling="mass")(cost)
    np.testing.assert_allclose(match.plan.sum(1), np.full(frames, 1 / frames), atol=1e-6)
    np.testing.assert_allclose(match.plan.sum(0), np.full(demo_frames, 1 / demo_frames), atol=1e-4)
    np.testing.assert_allclose(match.plan, expected, atol=1e-4)
    assert float(-match.reward.sum()) == pytest.approx(float((expected * cost.numpy()).sum()), abs=1e-4)


def test_transport_agrees_with_pot_after_the_same_iterations():
    cost = cosine(walk(50, 1), walk(60, 2))
    expected = by_pot(cost, numItermax=101, stopThr=0)  # one is what POT calls iteration 0
    np.testing.assert_allclose(SinkhornOT(iterations=101, tolerance=0)(cost).plan, expected, atol=1e-5)


def test_transport_holds_where_the_plain_kernel_underflows():
    cost = random_cost(3, 20, 30, high=2.0) + torch.linspace(0, 1.5, 20)[:, None]
    plan = SinkhornOT(eps=1e-3, iterations=200)(cost).plan
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(2), torch.full((3, 20), 1 / 20), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("matcher", ALL, ids=IDS)
def test_a_padded_batch_gives_what_each_pair_gives_alone(matcher):
    cost = random_cost(4, 9, 12)
    lengths, demo_lengths = torch.tensor([9, 6, 3, 1]), torch.tensor([12, 9, 1, 5])
    inside = (torch.arange(9) < lengths[:, None])[:, :, None] & (torch.arange(12) < demo_lengths[:, None])[:, None]
    together = matcher(cost.masked_fill(~inside, float("nan")), lengths, demo_lengths)
    for b, (rows, columns) in enumerate(zip(lengths.tolist(), demo_lengths.tolist(), strict=True)):
        alone = matcher(cost[b, :rows, :columns])
        torch.testing.assert_close(together.reward[b, :rows], alone.reward, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.plan[b, :rows, :columns], alone.plan, rtol=1e-4, atol=1e-6)
        assert not together.reward[b, rows:].any()
    assert not together.plan[~inside].any()


@pytest.mark.parametrize("matcher", ALL, ids=IDS)
@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 9), demo_frames=st.integers(1, 9), seed=st.integers(0, 99))
def test_rewards_lie_in_their_range_and_plans_are_weights(matcher, frames, demo_frames, seed):
    match = matcher(random_cost(2, frames, demo_frames, seed=seed, high=2.0))
    low, high = matcher.range
    assert match.reward.shape == (2, frames)
    assert match.plan.shape == (2, frames, demo_frames)
    assert torch.isfinite(match.reward).all()
    assert low - 1e-5 <= float(match.reward.min()) <= float(match.reward.max()) <= high + 1e-5
    assert float(match.plan.min()) >= 0
    assert not match.plan.requires_grad


@pytest.mark.parametrize("matcher", [m for m in ALL if m.causal], ids=str)
def test_causal_matchers_do_not_see_the_future(matcher):
    cost = random_cost(2, 8, 5)
    whole = matcher(cost).reward
    for end in range(1, 9):
        torch.testing.assert_close(matcher(cost[:, :end]).reward, whole[:, :end])


@pytest.mark.parametrize("matcher", ALL, ids=IDS)
def test_a_constant_cost_pays_every_frame_alike_and_gradients_reach_the_cost(matcher):
    cost = torch.full((5, 5), 0.25, requires_grad=True)
    match = matcher(cost)
    if not isinstance(matcher, OrderedCoverage):
        torch.testing.assert_close(match.reward, torch.full((5,), -0.25))
    match.reward.sum().backward()
    assert float(cost.grad.abs().sum()) > 0


def test_transport_does_not_see_order_and_the_others_do():
    demo = walk(12, 3)
    forwards, backwards = cosine(demo, demo), cosine(demo.flip(0), demo)
    for matcher in (SinkhornOT(), NearestFrame()):
        assert float(matcher(forwards).reward.sum()) == pytest.approx(float(matcher(backwards).reward.sum()), abs=1e-5)
    for matcher in (SegmentMatching(), TemporalOT(band=2), OrderedCoverage(), SoftDTW()):
        assert float(matcher(forwards).reward.sum()) > float(matcher(backwards).reward.sum()) + 0.05


def test_ordered_coverage_is_one_at_any_speed_and_nothing_backwards_or_at_a_jump():
    demo = torch.eye(8)
    matcher = OrderedCoverage(tau=0.1)
    orders = {
        "forward": range(8),
        "half speed": [j for j in range(8) for _ in range(2)],
        "reversed": range(7, -1, -1),
        "jump": [0, 7, 7, 7, 7, 7, 7, 7],
    }
    last = {name: float(matcher(cosine(demo[list(order)], demo)).reward[-1]) for name, order in orders.items()}
    assert last == pytest.approx({"forward": 1.0, "half speed": 1.0, "reversed": 0.0, "jump": 0.0}, abs=1e-3)


@pytest.mark.parametrize("tau", [0.2, 1.0])
@pytest.mark.parametrize(("frames", "demo_frames"), [(7, 5), (1, 4), (6, 1), (12, 20)])
def test_ordered_coverage_equals_two_loops(frames, demo_frames, tau):
    cost = random_cost(frames, demo_frames, seed=frames)
    found = OrderedCoverage(tau)(cost).reward
    np.testing.assert_allclose(found, orca_by_loops(cost, tau), rtol=1e-4, atol=1e-7)


def test_the_plan_of_ordered_coverage_explains_its_last_reward():
    cost = random_cost(9, 5)
    match = OrderedCoverage()(cost)
    frames = match.plan.argmax(0)
    assert match.plan.sum(0).tolist() == [1.0] * 5
    assert frames.tolist() == sorted(frames.tolist())
    assert float(match.reward[-1]) == pytest.approx(math.exp(-float((match.plan * cost).sum())), rel=1e-4)


def test_geometric_coverage_is_the_root_of_the_product():
    cost = random_cost(9, 5)
    product, root = (OrderedCoverage(scaling=s)(cost).reward for s in ("product", "geometric"))
    torch.testing.assert_close(root**5, product)


@pytest.mark.parametrize(("frames", "demo_frames"), [(4, 5), (5, 3), (1, 4), (4, 1)])
def test_soft_dtw_equals_all_alignments_weighed(frames, demo_frames):
    cost = random_cost(frames, demo_frames, seed=2).double()
    paths = alignments(frames, demo_frames)
    totals = torch.tensor([float(sum(cost[cell] for cell in path)) for path in paths])
    for gamma in (0.1, 1e-4):
        expected = torch.zeros_like(cost)
        for weight, path in zip(torch.softmax(-totals / gamma, 0), paths, strict=True):
            for cell in path:
                expected[cell] += weight
        torch.testing.assert_close(SoftDTW(gamma)(cost).plan, expected, rtol=1e-4, atol=1e-5)
    hard = SoftDTW(1e-4, scaling="mass")(cost).reward.sum()
    assert float(-hard) == pytest.approx(float(totals.min()), abs=1e-4)


def test_the_band_is_the_usual_one_for_equal_lengths_and_follows_the_diagonal_for_others():
    i = torch.arange(7)
    assert torch.equal(diagonal_band(torch.tensor([7]), torch.tensor([7]), (7, 7), 2)[0], (i[:, None] - i).abs() <= 2)
    long, short = torch.tensor([30]), torch.tensor([4])
    near = diagonal_band(long, short, (30, 4), 0)[0]
    assert [row.nonzero().ravel().tolist() for row in near[[0, 7, 29]]] == [[0], [0, 1], [3]]
    plan = TemporalOT(band=0, iterations=500)(random_cost(30, 4)).plan
    torch.testing.assert_close(plan.sum(0), torch.full((4,), 0.25), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plan.sum(1), torch.full((30,), 1 / 30), rtol=1e-3, atol=1e-6)


def test_the_context_cost_is_the_mean_of_the_next_pairs_held_at_the_ends():
    cost = random_cost(4, 4)
    match = TemporalOT(context=2, band=0, scaling="row")(cost)
    ahead = [min(t + 1, 3) for t in range(4)]
    torch.testing.assert_close(-match.reward, (cost.diag() + cost[ahead, ahead]) / 2)


def test_segments_follow_time_and_a_late_frame_meets_the_last_one():
    plan = SegmentMatching()(torch.zeros(3, 6) + torch.arange(6.0)).plan
    assert plan.argmax(1).tolist() == [0, 2, 4]
    late = SegmentMatching(horizon=2)(torch.arange(6.0).expand(4, 6))
    assert (-late.reward).tolist() == [0, 3, 3, 3]


def test_mass_scaling_weighs_by_the_mass_of_a_frame():
    cost = random_cost(8, 6)
    row, mass = (SinkhornOT(scaling=s)(cost).reward for s in ("row", "mass"))
    torch.testing.assert_close(mass * 8, row, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("matcher", ALL, ids=IDS)
def test_matchers_survive_json(matcher):
    assert make_matcher(json.loads(json.dumps(matcher_config(matcher)))) == matcher


def test_wrong_calls_get_one_clear_sentence():
    matcher = NearestFrame()
    with pytest.raises(ValueError, match=r"cost must be float \(B, T, T'\)"):
        matcher(torch.zeros(3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        matcher(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match="demo_lengths must lie between 1 and 3"):
        matcher(torch.zeros(1, 2, 3), demo_lengths=torch.tensor([4]))
    with pytest.raises(ValueError, match=r"lengths must be \(B,\) = \(1,\)"):
        matcher(torch.zeros(1, 2, 3), torch.tensor([1, 2]))
    with pytest.raises(UnknownNameError, match="Did you mean 'sinkhorn'"):
        make_matcher("sinkhorm")
    with pytest.raises(UnknownNameError, match="option of matcher 'orca'"):
        make_matcher({"name": "orca", "tua": 1})
    for cls, options in (
        (SinkhornOT, {"eps": 0}),
        (TemporalOT, {"context": 0}),
        (OrderedCoverage, {"tau": 0}),
        (SoftDTW, {"gamma": 0}),
        (SegmentMatching, {"horizon": 0}),
    ):
        with pytest.raises(ValueError, match="must be"):
            cls(**options)
    with pytest.raises(UnknownNameError, match="scaling"):
        SinkhornOT(scaling="rows")
