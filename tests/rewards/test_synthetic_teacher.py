"""B-Pref's simulated teachers: each error as described, each answer a function of its question."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vrm.data.comparisons import ComparisonError, Segments
from vrm.rewards.labellers import Labeller
from vrm.rewards.synthetic_teacher import SyntheticTeacher

CONFIG = Path(__file__).parents[2] / "configs" / "labeller" / "synthetic.yaml"


def segments(rewards, **more):
    return Segments(state={"env_reward": torch.as_tensor(rewards, dtype=torch.float32), **more})


def drawn(count, seed, length=5):
    return segments(torch.rand(count, length, generator=torch.Generator().manual_seed(seed)))


def test_an_oracle_prefers_the_higher_return_and_calls_equal_ones_a_tie():
    teacher = SyntheticTeacher()
    assert isinstance(teacher, Labeller)
    labels = teacher.compare(segments([[1, 1], [0, 1], [0, 1]]), segments([[0, 1], [1, 1], [1, 0]]))
    assert labels.tolist() == [1.0, 0.0, 0.5]


def test_a_myopic_teacher_weighs_the_end_of_a_segment_most():
    early, late = segments([[1.0, 0.0, 0.0]]), segments([[0.0, 0.0, 0.9]])
    assert SyntheticTeacher().compare(early, late).item() == 1
    assert SyntheticTeacher(gamma=0.9).compare(early, late).item() == 0  # 0.81 against 0.9


def test_rationality_is_the_slope_of_a_logistic():
    first, second = drawn(4000, 1), drawn(4000, 2)
    gap = (first.state["env_reward"] - second.state["env_reward"]).sum(dim=1)
    labels = SyntheticTeacher(beta=2.0).compare(first, second)
    for low, high in ((-1.5, -0.5), (-0.5, 0.5), (0.5, 1.5)):
        here = (gap > low) & (gap < high)
        expected = torch.sigmoid(2 * gap[here])
        error = (labels[here] - expected).mean() / (expected * (1 - expected)).sum().sqrt() * here.sum()
        assert abs(float(error)) < 4
    assert (SyntheticTeacher(beta=1e6).compare(first, second) == SyntheticTeacher().compare(first, second)).all()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 1.0])
def test_mistakes_turn_that_share_of_answers_round(rate):
    first, second = drawn(4000, 1), drawn(4000, 2)
    wrong = SyntheticTeacher(mistake=rate, seed=3).compare(first, second) != SyntheticTeacher().compare(first, second)
    assert float(wrong.float().mean()) == pytest.approx(rate, abs=4 * math.sqrt(0.25 * max(rate, 0) / 4000) + 1e-9)


def test_thresholds_are_shares_of_what_an_average_segment_earns_and_no_more():
    teacher = SyntheticTeacher(skip=0.1, equal=0.1).adapt(mean_return=400, steps=200)  # 2 a step, so 4 in 20 steps
    flat = segments(torch.zeros(5, 20))
    last = torch.zeros(5, 20)
    last[:, -1] = torch.tensor([3.9, 4.1, 50.0, 50.0, 50.0])
    other = flat.state["env_reward"].clone()
    other[:, 0] = torch.tensor([0.0, 0.0, 46.1, 45.9, 54.1])
    labels = teacher.compare(segments(last), segments(other))
    assert labels.isnan().tolist() == [True, False, False, False, False]
    assert labels[1:].tolist() == [1.0, 0.5, 1.0, 0.0]


def test_the_published_code_multiplies_thresholds_twice_and_this_does_not():
    teacher = SyntheticTeacher(equal=0.1, per_step=1.0)
    close = teacher.compare(segments([[1.0] * 10]), segments([[0.95] * 10]))  # 0.5 apart: below 1, above 0.1
    assert close.item() == 0.5


def test_nothing_is_skipped_while_the_agent_earns_nothing():
    teacher = SyntheticTeacher(skip=0.1).adapt(-500.0, 200)
    assert teacher.compare(segments([[-9.0, -9.0]]), segments([[-1.0, -1.0]])).item() == 0


def test_a_label_margin_softens_all_but_ties():
    teacher = SyntheticTeacher(label_margin=0.1)
    labels = teacher.compare(segments([[1], [0], [1]]), segments([[0], [1], [1]]))
    torch.testing.assert_close(labels, torch.tensor([0.9, 0.1, 0.5]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 0.5, 3.0]), st.floats(0, 1))
def test_answers_depend_on_the_question_alone_and_turn_round_with_it(seed, beta, mistake):
    teacher = SyntheticTeacher(beta=beta, mistake=mistake, seed=seed)
    first, second = drawn(12, seed), drawn(12, seed + 1)
    labels = teacher.compare(first, second)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(teacher.compare(first[order], second[order]), labels[order])
    assert torch.equal(teacher.compare(first[3:4], second[3:4]), labels[3:4])
    assert torch.equal(teacher.compare(second, first), 1 - labels)


def test_chance_tells_questions_of_equal_rewards_apart_by_whatever_else_is_known():
    rewards = torch.tensor([[0.0, 1.0]]).repeat(400, 1)
    alike = SyntheticTeacher(mistake=0.3).compare(segments(rewards), segments(rewards * 0))
    assert len(alike.unique()) == 1
    place = torch.arange(800.0).reshape(400, 2)
    told = SyntheticTeacher(mistake=0.3).compare(segments(rewards, place=place), segments(rewards * 0, place=place))
    assert 0.2 < 1 - float(told.mean()) < 0.4


def test_another_seed_errs_elsewhere():
    first, second = drawn(200, 1), drawn(200, 2)
    one, other = (SyntheticTeacher(mistake=0.3, seed=seed).compare(first, second) for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"beta": -1}, "beta"),
        ({"gamma": 0}, "gamma"),
        ({"mistake": 1.5}, "mistake"),
        ({"label_margin": 0.5}, "label_margin"),
        ({"skip": -0.1}, "skip"),
    ],
)
def test_numbers_out_of_range_are_named(settings, part):
    with pytest.raises(ComparisonError, match=f"^{part} of a simulated teacher must be"):
        SyntheticTeacher(**settings)


def test_a_missing_or_broken_reward_is_a_sentence():
    with pytest.raises(ComparisonError, match=r"answers from state 'success', but the segments have \['env_reward'\]"):
        SyntheticTeacher("success").compare(drawn(1, 0), drawn(1, 1))
    with pytest.raises(ComparisonError, match="NaN or infinity"):
        SyntheticTeacher().compare(segments([[math.nan]]), segments([[1.0]]))


def test_the_config_file_and_the_config_build_the_same_teacher():
    config = OmegaConf.merge({"seed": 7}, {"labeller": OmegaConf.load(CONFIG)})
    teacher = instantiate(config.labeller)
    assert teacher.config() == SyntheticTeacher(seed=7).config()
    assert SyntheticTeacher.from_config(teacher.config()).config() == teacher.config()
