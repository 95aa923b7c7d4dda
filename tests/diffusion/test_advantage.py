"""Rewards of groups become advantages."""

import pytest
import torch

from vrm.data.comparisons import Segments
from vrm.diffusion.advantage import (
    AdaptiveKL,
    Credit,
    PairwiseJudge,
    PromptStatistics,
    best_and_worst,
    decisive,
    group_advantages,
)
from vrm.errors import UnknownNameError

VALUES = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.5, 0.5, 0.5, 0.5]])


@pytest.mark.parametrize("std", ["group", "batch"])
def test_advantages_are_centred_and_a_constant_group_is_zero(std):
    found = group_advantages(VALUES, std)
    assert torch.allclose(found.mean(dim=1), torch.zeros(2), atol=1e-6)
    assert torch.equal(found[1], torch.zeros(4))
    assert bool((found[0].diff() > 0).all())


def test_the_deviation_of_the_batch_does_not_blow_up_nearly_equal_groups():
    values = torch.tensor([[0.0, 1.0], [0.0, 0.01]])
    assert float(group_advantages(values)[1, 1]) > 0.9
    assert float(group_advantages(values, "batch")[1, 1]) < 0.02


def test_statistics_of_a_prompt_take_over_once_there_are_enough():
    statistics = PromptStatistics(size=4, least=3)
    first = statistics.advantages(["kneel", "run"], torch.tensor([1.0, 3.0]))
    assert first.tolist() == pytest.approx([-1, 1], abs=1e-3)
    statistics.advantages(["kneel", "run"], torch.tensor([2.0, 3.0]))
    found = statistics.advantages(["kneel", "run"], torch.tensor([3.0, 3.0]))
    assert found.tolist() == pytest.approx([1 / (2 / 3) ** 0.5, 0.0], abs=1e-3)
    statistics.advantages(["kneel"] * 3, torch.tensor([4.0, 5.0, 6.0]))
    assert list(statistics.seen["kneel"]) == [3.0, 4.0, 5.0, 6.0]
    again = PromptStatistics(size=4, least=3)
    again.load_state_dict(statistics.state_dict())
    assert again.state_dict() == statistics.state_dict()


def test_credit_clips_and_weighs():
    rewards = {"a": torch.tensor([[0.0] * 63 + [1.0]]), "b": torch.zeros(1, 64)}
    assert float(Credit(clip=5.0)(rewards, ["p"]).max()) == 5.0
    opposite = {"a": VALUES[:1], "b": -VALUES[:1]}
    assert torch.equal(Credit()(opposite, ["p"], {"a": 1.0, "b": 1.0}), torch.zeros(1, 4))
    assert torch.equal(Credit("advantages")(opposite, ["p"], {"b": 0.0}), group_advantages(VALUES[:1]))


def test_best_and_worst_are_kept():
    assert best_and_worst(VALUES[:1], 1, 2).tolist() == [[0, 1, 3]]
    kept = Credit(best=1, worst=1).kept(VALUES)
    assert kept.sum(dim=1).tolist() == [2, 2]
    assert kept[0].tolist() == [True, False, False, True]
    assert bool(Credit().kept(VALUES).all())


def test_only_decisive_members_of_a_branch_are_kept():
    branches = torch.tensor([[0.6, -0.6, 0.1], [0.4, -0.4, 0.0], [2.0, 1.0, 0.5], [-1.0, -2.0, -3.0]])
    wanted = [[True, True, False], [False] * 3, [True, False, False], [False, False, True]]
    assert decisive(branches).tolist() == wanted
    assert Credit(decisive=True).kept(branches.reshape(2, 6), branch=3).reshape(4, 3).tolist() == wanted


def test_the_adaptive_penalty_rises_above_its_target_and_stays_in_its_bounds():
    penalty = AdaptiveKL(target=0.01, horizon=2, low=0.01, high=0.02)
    penalty.observe(1.0)
    assert penalty.value == pytest.approx(0.011)
    for _ in range(50):
        penalty.observe(1.0)
    assert penalty.value == 0.02
    for _ in range(50):
        penalty.observe(0.0)
    assert penalty.value == 0.01


class Redder:
    """Prefers the redder one; does not answer about pairs that hold a black one."""

    sees_frames = True
    state_keys = ()

    def __init__(self, goal: str) -> None:
        self.goal = goal

    def compare(self, first: Segments, second: Segments) -> torch.Tensor:
        one, other = (segments.frames[:, :, 0].float().mean(dim=(1, 2, 3)) for segments in (first, second))
        wins = torch.where(one == other, 0.5, (one > other).float())
        return torch.where((one == 0) | (other == 0), torch.nan, wins)


def test_a_pairwise_judge_gives_win_rates_and_counts_what_it_cannot_say():
    judge = PairwiseJudge(Redder)
    videos = torch.zeros(2, 3, 2, 3, 4, 4)
    videos[0, :, :, 0] = torch.tensor([0.2, 0.9, 0.5]).reshape(3, 1, 1, 1)
    videos[1, 0, :, 0] = 0.5
    rates = judge.win_rates(videos, ["a", "b"])
    assert rates.tolist() == [[0.0, 1.0, 0.5], [0.5, 0.5, 0.5]]
    assert torch.equal(rates.sum(dim=1), torch.full((2,), 1.5))
    assert (judge.comparisons, judge.unanswered) == (6, 3)
    assert sorted(judge.labellers) == ["a", "b"]


def test_bad_options_are_refused():
    with pytest.raises(UnknownNameError, match="rule"):
        Credit("weighted")
    with pytest.raises(UnknownNameError, match="baseline"):
        Credit(baseline="groups")
    with pytest.raises(ValueError, match="centred on the group"):
        Credit("gdpo", baseline="prompt")
    with pytest.raises(ValueError, match="either the decisive"):
        Credit(decisive=True, best=2)
    with pytest.raises(ValueError, match="ask for fewer"):
        best_and_worst(VALUES, 3, 2)
