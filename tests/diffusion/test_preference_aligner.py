"""Diffusion-DPO, Flow-DPO and SePPO on tiny generators."""

import math

import pytest
import torch
from tiny_generator import PROMPTS, tiny_unet
from toy_reward import FAST, check_resume, gain, redness, small_wan

from vrm.diffusion.aligners import Batch, Preference, PreferenceLoss, PreviousPolicies, Sampling, Training
from vrm.errors import UnknownNameError

ONE = Batch(PROMPTS[:1])
SHARP = PreferenceLoss(beta=200.0, draws=4)


def tinted(channel: int, seed: int = 0) -> torch.Tensor:
    videos = torch.rand(4, 2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.3
    videos[:, :, channel] += 0.6
    return videos


GIVEN = Batch(PROMPTS, tinted(0), tinted(2))
METHODS = {
    "online": ({"pairs": "online"}, ONE),
    "given": ({"pairs": "given"}, GIVEN),
    "renewed_reference": ({"pairs": "online", "previous": PreviousPolicies(1, 2)}, ONE),
    "seppo": (
        {
            "pairs": "previous",
            "previous": PreviousPolicies(4, 5),
            "loss": PreferenceLoss(beta=200.0, draws=4, flip=True),
        },
        ONE,
    ),
}


def make(generator, **changes):
    previous = changes.get("previous")
    own = {**changes, **({"previous": PreviousPolicies(previous.size, previous.every)} if previous else {})}
    return Preference(generator, redness(), FAST, Sampling(group=8), **{"loss": SHARP, **own})


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_pair_raises_a_held_out_reward(method):
    options, batch = METHODS[method]
    risen, error = gain(make(small_wan(), **options), steps=6, batch=batch)
    assert risen > max(0.001, 3 * error)


@pytest.mark.parametrize("weighting", ["constant", "quadratic"])
@pytest.mark.parametrize("tiny", [small_wan, tiny_unet])
def test_the_loss_is_log_two_at_the_reference(weighting, tiny):
    generator = tiny().with_defaults(steps=2, guidance=1.0, frames=2)
    loss = PreferenceLoss(beta=2000.0, weighting=weighting)
    aligner = Preference(generator, redness(), Training(lr=1e-3), Sampling(group=2), loss=loss, pairs="given")
    assert aligner.step(GIVEN)["loss"] == pytest.approx(math.log(2))
    assert aligner.step(GIVEN)["loss"] != pytest.approx(math.log(2), abs=1e-6)


def test_swapping_the_pairs_flips_the_gradient():
    gradients = []
    for batch in (GIVEN, Batch(PROMPTS, GIVEN.losers, GIVEN.videos)):
        aligner = make(small_wan(), pairs="given")
        aligner.descend = lambda: None
        # The two members of a pair share time and noise, so that the first loss differs by its sign alone.
        aligner.step(batch)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in aligner.parameters]))
    assert torch.allclose(gradients[0], -gradients[1], atol=1e-5)
    assert float(gradients[0].abs().max()) > 1e-3


def test_quadratic_weights_equal_the_constant_one_where_nothing_is_noise():
    aligner = make(small_wan(), loss=PreferenceLoss(beta=7.0, weighting="quadratic"))
    assert aligner._beta(torch.tensor([0.0, 0.5, 1.0])).tolist() == [7.0, 1.75, 0.0]
    assert make(small_wan(), loss=PreferenceLoss(beta=7.0))._beta(torch.tensor([0.5])) == 7.0


def test_previous_policies_are_kept_in_turn_and_the_first_one_drops_out():
    pool = PreviousPolicies(size=2, every=3)
    for update in range(8):
        pool.note({"w": torch.tensor(float(update))}, update)
    assert [float(state["w"]) for state in pool.kept] == [3.0, 6.0]
    random = torch.Generator().manual_seed(0)
    assert {float(pool.choose(random)["w"]) for _ in range(20)} == {3.0, 6.0}


def test_losers_of_seppo_are_drawn_by_the_chosen_policy():
    aligner = make(small_wan(), pairs="previous", previous=PreviousPolicies(2, 1))
    for _ in range(3):
        aligner.step(GIVEN)
    old = aligner.previous.kept[0]
    state = aligner.rng.get_state()
    pairs, _ = aligner._make(GIVEN, old)
    aligner.rng.set_state(state)
    with aligner.denoiser.lora_weights(old):
        wanted = torch.cat([some.trajectory.x0 for some in aligner.draw(PROMPTS, group=1)])
    assert torch.equal(pairs.losers, wanted)
    aligner.rng.set_state(state)
    assert not torch.equal(torch.cat([some.trajectory.x0 for some in aligner.draw(PROMPTS, group=1)]), wanted)


@pytest.mark.parametrize("method", METHODS)
def test_resuming_equals_going_on(method):
    options, batch = METHODS[method]
    check_resume(lambda generator: make(generator, **options), batch, steps=3)


def test_what_cannot_work_is_refused():
    with pytest.raises(UnknownNameError, match="making pairs"):
        make(small_wan(), pairs="offline")
    with pytest.raises(ValueError, match="earlier policies"):
        make(small_wan(), pairs="previous")
    with pytest.raises(ValueError, match="learns from videos"):
        make(small_wan(), pairs="given").step(ONE)
    with pytest.raises(ValueError, match="videos and losers"):
        make(small_wan(), pairs="given").step(Batch(PROMPTS, GIVEN.videos))
    with pytest.raises(ValueError, match="losers needs the preferred"):
        Batch(PROMPTS, losers=GIVEN.losers)
    with pytest.raises(ValueError, match="one of its videos per prompt"):
        Batch(PROMPTS[:2], GIVEN.videos)
