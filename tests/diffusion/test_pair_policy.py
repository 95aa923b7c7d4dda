"""D3PO, PRDP and REBEL on a tiny generator."""

import math

import pytest
import torch
from tiny_generator import PROMPTS
from toy_reward import FAST, check_resume, gain, redness, small_wan

from vrm.diffusion.aligners import D3PO, PRDP, REBEL, Batch, PairPolicy, Sampling
from vrm.diffusion.aligners.pair_policy import make_pairs
from vrm.errors import UnknownNameError

ONE = Batch(PROMPTS[:1])
METHODS = {
    "d3po": {"loss": D3PO(), "sampling": Sampling(group=8, shared_noise=True)},
    "prdp": {"loss": PRDP(beta=0.1, clip=1e-3), "pairing": "all"},
    "rebel": {"loss": REBEL(), "pairing": "all"},
}


def make(generator, **changes):
    return PairPolicy(generator, redness(), FAST, **{"sampling": Sampling(group=8), **changes})


@pytest.mark.parametrize("method", METHODS)
def test_every_pair_loss_raises_a_held_out_reward(method):
    risen, error = gain(make(small_wan(), **METHODS[method]), steps=6)
    assert risen > max(0.001, 3 * error)


@pytest.mark.parametrize("method", METHODS)
def test_the_ratio_is_exactly_one_before_the_first_update(method):
    metrics = make(small_wan(), **METHODS[method]).step(ONE)
    assert metrics["ratio_max"] == 1.0
    assert metrics["margin"] == 0.0
    if method == "d3po":
        assert metrics["loss"] == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", [D3PO(beta=5.0), PRDP(beta=0.5), REBEL()])
def test_leading_step_by_step_gives_the_gradient_of_the_whole_graph(loss):
    aligner = make(small_wan(), loss=loss, pairing="all", sampling=Sampling(group=3))
    aligner.step(ONE)  # away from the reference
    drawn = aligner.draw(ONE.prompts, aligner.kernel, aligner.plan.at(3, 0, aligner.rng))
    rewards, _ = aligner.score(drawn, ONE.prompts)
    pairs = make_pairs(rewards, rewards["red"], "all")
    values = rewards["red"].flatten()[pairs]
    part = drawn[0]
    anchor = part.log_probs if loss.anchor == "old" else aligner._reference(drawn)
    before = (part.log_probs - anchor)[pairs]
    columns = [part.log_prob(part.transition(aligner.denoiser, step), step) for step in part.steps]
    loss((torch.stack(columns, dim=1) - anchor)[pairs], before, values, values).mean().backward()
    wanted = [parameter.grad.clone() for parameter in aligner.parameters]
    aligner._drop()
    aligner.descend = lambda: None
    aligner._learn(drawn, pairs, values, values)
    for parameter, gradient in zip(aligner.parameters, wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-7, rtol=1e-4)


def test_pairs_are_ordered_and_equals_make_none():
    total = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    assert make_pairs({"a": total}, total, "extremes").tolist() == [[1, 0]]
    assert make_pairs({"a": total}, total, "all").tolist() == [[1, 0], [2, 0], [1, 2]]
    against = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert make_pairs({"a": total, "b": against}, total, "dominance").tolist() == []
    assert make_pairs({"a": total, "b": total}, total, "dominance").tolist() == [[1, 0]]


@pytest.mark.parametrize("method", METHODS)
def test_resuming_equals_going_on(method):
    check_resume(lambda generator: make(generator, **METHODS[method], epochs=2), ONE)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="group of at least 2"):
        make(small_wan(), sampling=Sampling(group=1))
    with pytest.raises(UnknownNameError, match="pairing"):
        make(small_wan(), pairing="extreme")
