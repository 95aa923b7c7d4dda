"""Weighted matching: RWR, RAFT, RVM, NFT."""

from dataclasses import replace

import pytest
import torch
from tiny_generator import PROMPTS
from toy_reward import FAST, check_resume, gain, redness, small_wan

from vrm.diffusion.aligners import NFT, RAFT, RWR, Batch, Matching, Repeats, Sampling, Signed
from vrm.errors import CheckpointError

ONE = Batch(PROMPTS[:1])
WEIGHTS = {"rwr": RWR(0.5), "raft": RAFT(1), "rvm": Signed()}


def make(generator, method, training=FAST, **changes):
    options = {"sampling": Sampling(group=8), "repeats": Repeats(draws=2), **changes}
    if method == "nft":
        return NFT(generator, redness(), training, **{"strength": 0.1, "clip": 1.0, **options})
    return Matching(generator, redness(), training, weigh=WEIGHTS[method], **options)


@pytest.mark.parametrize("method", [*WEIGHTS, "nft"])
def test_every_rule_raises_a_held_out_reward(method):
    risen, error = gain(make(small_wan(), method), steps=6)
    assert risen > max(0.001, 3 * error)


@pytest.mark.parametrize("method", [*WEIGHTS, "nft"])
def test_resuming_equals_going_on(method):
    check_resume(lambda generator: make(generator, method, replace(FAST, ema=0.9, accumulate=2)), ONE, steps=3)


def test_weights_of_a_group():
    rewards = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    assert torch.allclose(RWR(0.5)(rewards).mean(dim=1), torch.ones(2))
    assert RWR(0.5)(rewards).argmax(dim=1)[0] == 2
    assert torch.equal(RWR(0.5)(rewards)[1], torch.ones(3))
    assert torch.allclose(RWR(0.5)(rewards * 0.01)[0], RWR(0.5)(rewards)[0], atol=0.1)
    assert not torch.allclose(RWR(0.5, standardise=False)(rewards * 0.01)[0], RWR(0.5)(rewards)[0], atol=0.1)
    assert RAFT(2)(rewards)[0].tolist() == [0.0, 1.5, 1.5]
    signed = Signed(scale=0.1, clip=1.0)(rewards)
    assert signed[0].tolist() == pytest.approx([-0.0622, 0.0, 0.0622], abs=1e-3)
    assert torch.equal(signed[1], torch.zeros(3))


def test_the_old_policy_draws_and_follows_by_its_decay():
    aligner = make(small_wan(), "nft", decay=0.75)
    before = {name: value.clone() for name, value in aligner.old.items()}
    aligner.step(ONE)
    now = aligner.denoiser.lora_state()
    for name, value in aligner.old.items():
        assert torch.allclose(value, 0.75 * before[name] + 0.25 * now[name], atol=1e-7)
    assert not torch.equal(aligner.old[name], now[name])


def test_videos_drawn_in_chunks_are_those_drawn_at_once():
    whole, parts = (make(small_wan(), "rvm", sampling=Sampling(8, chunk=chunk)).draw(PROMPTS[:1]) for chunk in (8, 3))
    assert [len(some) for some in parts] == [3, 3, 2]
    assert torch.allclose(torch.cat([some.trajectory.x0 for some in parts]), whole[0].trajectory.x0, atol=1e-5)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="weighed against each other"):
        make(small_wan(), "rwr", sampling=Sampling(group=1))
    with pytest.raises(ValueError, match="top must be"):
        RAFT(4)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="decay < 1"):
        make(small_wan(), "nft", decay=1.0)
    with pytest.raises(CheckpointError, match="with ema"):
        make(small_wan(), "rwr", replace(FAST, ema=0.9)).load_state_dict(make(small_wan(), "rwr").state_dict())
