"""HERON's comparator: levels, margins, circles, bins that rule them out, and the report that counts both."""

from __future__ import annotations

import json
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from tiny import GOAL, random_clips

from vrm.data.comparisons import ComparisonError, Segments
from vrm.errors import UnknownNameError
from vrm.rewards import GoalReward, StateValue
from vrm.rewards.heron import Factor, HeronLabeller
from vrm.rewards.heron_report import report_heron
from vrm.rewards.labellers import Labeller

CONFIG = Path(__file__).parents[2] / "configs" / "labeller" / "heron.yaml"


def two(first, second):
    """Segments of one frame with two factors."""
    return Segments(state={"a": torch.tensor(first)[:, None], "b": torch.tensor(second)[:, None]})


def pairs(labeller, segments):
    rows = list(combinations(range(len(segments)), 2))
    first, second = (torch.tensor(side) for side in zip(*rows, strict=True))
    return dict(zip(rows, labeller.compare(segments[first], segments[second]).tolist(), strict=True))


def test_the_first_factor_that_differs_enough_decides():
    labeller = HeronLabeller([Factor("a", margin=1.0), Factor("b", margin=0.0)])
    assert isinstance(labeller, Labeller)
    assert labeller.state_keys == ("a", "b")
    assert not labeller.sees_frames
    calm = two([0.0, 2.0], [0.0, 0.0])  # a spreads by 1, b not at all
    labeller.calibrate(calm)
    labels = labeller.compare(
        two([0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 9.0, 3.0]), two([1.0, 1.0, 1.5, 1.0], [0.0, 0.0, 0.0, 3.0])
    )
    assert labels.isnan().tolist() == [True, False, False, True]
    assert labels[1:3].tolist() == [1.0, 0.0]


def test_less_can_be_better_and_a_segment_can_be_judged_by_its_end():
    rising = Segments(state={"cost": torch.tensor([[0.0, 3.0], [2.0, 2.0]])})
    by_mean = HeronLabeller([{"name": "cost", "higher": False, "margin": 0.0}]).calibrate(rising)
    by_end = HeronLabeller([{"name": "cost", "higher": False, "margin": 0.0, "summary": "last"}]).calibrate(rising)
    assert by_mean.compare(rising[:1], rising[1:]).item() == 1
    assert by_end.compare(rising[:1], rising[1:]).item() == 0


def test_margins_can_go_round_in_a_circle_and_the_report_says_so(tmp_path):
    labeller = HeronLabeller([Factor("a", margin=1.0), Factor("b", margin=0.0)])
    ring = two([0.0, 0.75, 1.5], [2.0, 1.0, 0.0])  # a spreads by 0.61: only the ends differ in it by more
    labeller.calibrate(two([0.0, 2.0], [0.0, 2.0]))
    assert pairs(labeller, ring) == {(0, 1): 1.0, (1, 2): 1.0, (0, 2): 0.0}
    report = report_heron(labeller, ring)
    assert (report.triples, report.cycles, report.cycle_rate) == (1, 1, 1.0)
    assert report.usage == pytest.approx((1 / 3, 2 / 3))
    assert report.decided == 1
    for i in range(3):
        one, other = report.example[i], report.example[(i + 1) % 3]
        assert labeller.decide(one, other)[0] == 1
    assert "intransitive triples" in report.table()
    assert "100.00%  (1 of 1)" in report.table()
    data, picture = report.save(tmp_path / "heron.json")
    assert json.loads(data.read_text())["cycles"] == 1
    with Image.open(picture) as drawn:
        assert drawn.width > 500


def test_cycles_are_counted_exactly():
    generator = torch.Generator().manual_seed(0)
    segments = Segments(state={name: torch.randn(25, 3, generator=generator) for name in "abc"})
    labeller = HeronLabeller(["a", "b", "c"])
    report = report_heron(labeller, segments)
    answers = pairs(labeller, segments)
    triples = [(answers[i, j], answers[j, k], answers[i, k]) for i, j, k in combinations(range(25), 3)]
    decided = [t for t in triples if not any(x != x for x in t)]
    assert report.triples == len(decided)
    assert report.cycles == sum(t in ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)) for t in decided)
    assert 0 < report.cycle_rate < 0.25
    assert report.decided == pytest.approx(sum(x == x for x in answers.values()) / len(answers))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_bins_are_transitive_and_turn_round_with_the_question(seed, bins):
    generator = torch.Generator().manual_seed(seed)
    segments = Segments(state={name: torch.randn(20, 2, generator=generator) for name in "ab"})
    labeller = HeronLabeller(["a", "b"], bins=bins).calibrate(segments)
    report = report_heron(labeller, segments)
    assert report.cycles == 0
    assert 0 < report.decided <= 1
    there = labeller.compare(segments, segments[torch.arange(19, -1, -1)])
    back = labeller.compare(segments[torch.arange(19, -1, -1)], segments)
    assert torch.equal(there.nan_to_num(0.5), 1 - back.nan_to_num(0.5))


def test_bins_of_three_hold_a_third_each():
    values = two(list(map(float, range(30))), [0.0] * 30)
    labeller = HeronLabeller(["a"], bins=3).calibrate(values)
    report = report_heron(labeller, values)
    assert report.decided == pytest.approx(2 * 300 / 870)


def test_without_calibration_the_first_call_sets_the_margins():
    labeller = HeronLabeller(["a"])
    segments = two([0.0, 10.0, 1.0], [0.0] * 3)
    first = labeller.compare(segments[:2], segments[1:])
    spread = labeller.spread.clone()
    labeller.compare(segments[:1], segments[:1])
    assert first.tolist() == [0.0, 1.0]
    assert torch.equal(labeller.spread, spread)


def test_rewards_on_frames_are_factors(encoder):
    clips = (random_clips(batch=6) * 255).to(torch.uint8)
    goal = GoalReward(encoder, GOAL)
    labeller = HeronLabeller(["similar", "a"], {"similar": goal})
    assert labeller.sees_frames
    assert labeller.state_keys == ("a",)
    segments = Segments(clips, {"a": torch.zeros(6, 5)})
    torch.testing.assert_close(labeller.measure(segments)[:, 0], goal.score(clips))
    with pytest.raises(ComparisonError, match="'similar' is scored on frames, but the segments have none"):
        labeller.measure(Segments(state={"a": torch.zeros(6, 5)}))


def test_rewards_that_see_nothing_need_no_frames():
    labeller = HeronLabeller(["speed"], {"speed": StateValue("a", scale=-1)})
    assert not labeller.sees_frames
    assert labeller.measure(two([1.0, 2.0], [0.0, 0.0]))[:, 0].tolist() == [-1.0, -2.0]


def test_the_config_brings_back_the_labeller_with_its_calibration(encoder):
    clips = (random_clips(batch=6) * 255).to(torch.uint8)
    labeller = HeronLabeller([Factor("similar", margin=0.3)], {"similar": GoalReward(encoder, GOAL)})
    labeller.calibrate(Segments(clips))
    again = HeronLabeller.from_config(json.loads(json.dumps(labeller.config())), encoder)
    again.load_state_dict(labeller.state_dict())
    assert again.config() == labeller.config()
    one, other = Segments(clips[:3]), Segments(clips[3:])
    torch.testing.assert_close(again.compare(one, other), labeller.compare(one, other), equal_nan=True)


def test_the_config_file_builds_a_labeller_around_an_encoder(encoder):
    config = OmegaConf.merge({"task": {"goal": GOAL}}, {"labeller": OmegaConf.load(CONFIG)})
    made = instantiate(config.labeller)
    assert isinstance(made, partial)
    labeller = made(encoder)
    assert labeller.sees_frames
    assert labeller.state_keys == ("env_reward",)
    assert [factor.margin for factor in labeller.factors] == [None, 0.5]


@pytest.mark.parametrize(
    ("arguments", "error", "part"),
    [
        ({"factors": []}, ComparisonError, "needs factors of different names"),
        ({"factors": ["a", "a"]}, ComparisonError, "different names"),
        ({"factors": ["a"], "rewards": {"b": StateValue("b")}}, UnknownNameError, "Unknown factor 'b'"),
        ({"factors": ["a"], "bins": 1}, ComparisonError, "at least 2"),
        ({"factors": [{"name": "a", "margin": 1.0}], "bins": 3}, ComparisonError, "not both"),
        ({"factors": [{"name": "a", "margin": -1}]}, ComparisonError, "at least 0"),
        ({"factors": [{"name": "a", "sign": -1}]}, ComparisonError, "is described by"),
        ({"factors": [{"name": "a", "summary": "total"}]}, UnknownNameError, "Unknown summary"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, error, part):
    with pytest.raises(error, match=part):
        HeronLabeller(**arguments)


def test_missing_and_broken_values_are_named():
    labeller = HeronLabeller(["speed"])
    with pytest.raises(ComparisonError, match=r"'speed' is not among the state values of the segments, \['a', 'b'\]"):
        labeller.measure(two([1.0], [1.0]))
    with pytest.raises(ComparisonError, match="NaN or infinite"):
        HeronLabeller(["a"]).measure(two([float("nan")], [1.0]))
    with pytest.raises(ComparisonError, match="at least 2 segments"):
        report_heron(HeronLabeller(["a"]), two([1.0], [1.0]))
