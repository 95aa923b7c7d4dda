import math

import pytest
import torch

from vrm.diffusion.frames import (
    TAR,
    AllFrames,
    AlternateFrames,
    EvenFrames,
    FirstMiddleLast,
    RandomFrames,
    Segments,
    Uniform,
)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "selection", [AllFrames(), RandomFrames(3), EvenFrames(4), FirstMiddleLast(), AlternateFrames(), Segments(4)]
)
def test_chosen_frames_are_different_ascending_and_in_the_video(selection):
    for seed in range(20):
        indices = selection.indices(16, source(seed))
        assert indices.dtype == torch.int64
        assert bool((indices.diff() > 0).all())
        assert int(indices.min()) >= 0
        assert int(indices.max()) < 16
        assert torch.equal(indices, selection.indices(16, source(seed)))
        assert float(selection.weights(indices, 16).sum()) == pytest.approx(1.0)


def test_every_frame_comes_up_and_fixed_ones_stay():
    assert {int(RandomFrames().indices(5, source(s))) for s in range(60)} == set(range(5))
    assert set(torch.cat([EvenFrames(2).indices(5, source(s)) for s in range(60)]).tolist()) == set(range(5))
    assert set(torch.cat([Segments(3).indices(7, source(s)) for s in range(99)]).tolist()) == set(range(7))
    assert FirstMiddleLast().indices(16).tolist() == [0, 8, 15]
    assert FirstMiddleLast().indices(1).tolist() == [0]
    assert AlternateFrames(2).indices(5).tolist() == [0, 2, 4]


def test_each_segment_gives_one_frame():
    for seed in range(20):
        assert (Segments(4).indices(16, source(seed)) // 4).tolist() == [0, 1, 2, 3]


def test_attenuation_has_the_published_weights():
    segments = torch.arange(16).reshape(4, 4)
    weights = TAR()(segments.flatten(), 16) * 16  # undo the mean over the 16 indices given
    expected = weights.reshape(4, 4).mean(dim=1)
    torch.testing.assert_close(expected, torch.tensor([0.0026, 0.143, 0.388, 0.0071]), atol=6e-4, rtol=0)
    assert float(expected.sum()) == pytest.approx(0.54, abs=0.005)
    assert float(expected[2] / expected.sum()) == pytest.approx(0.72, abs=0.01)
    one = Segments(4, weighting=TAR()).weights(torch.tensor([3, 7, 8, 12]), 16)
    torch.testing.assert_close(one, torch.tensor([math.exp(-n) for n in (5, 1, 0, 4)]) / 4)


def test_attenuation_without_decay_is_a_mean_and_normalised_it_sums_to_one():
    indices = torch.tensor([1, 5, 9, 13])
    torch.testing.assert_close(TAR(decay=0.0)(indices, 16), Uniform()(indices, 16))
    weights = TAR(decay=0.5, normalise=True)(indices, 16)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert int(TAR(centre=0.0)(indices, 16).argmax()) == 0
    assert int(TAR(centre=1.0)(indices, 16).argmax()) == 3


@pytest.mark.parametrize(
    "call",
    [lambda: Segments(5).indices(4), lambda: RandomFrames(0).indices(4), lambda: EvenFrames(9).indices(8),
     lambda: AlternateFrames(0).indices(4), lambda: TAR(decay=-1.0), lambda: TAR(centre=2.0)],
)  # fmt: skip
def test_impossible_choices_are_refused(call):
    with pytest.raises(ValueError, match=r"choose|must be|needs"):
        call()
