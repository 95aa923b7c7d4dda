"""A judge as the source of preference labels."""

from importlib.resources import files

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pictures import quick
from real_frames import BASELINE, GOAL, frames_of

from vrm.data.comparisons import ComparisonError, Segments
from vrm.judges import JudgeLabeller, SimJudge
from vrm.rewards.labellers import Labeller


@pytest.fixture
def pair():
    down, up = frames_of("kneeling", 5)[None], frames_of("standing", 5)[None]
    return Segments(torch.cat([down, up, up])), Segments(torch.cat([up, down, up]))


@pytest.mark.parametrize("frames", [1, 3])
def test_segments_are_compared_by_the_frames_shown(sim_encoder, pair, frames):
    labeller = JudgeLabeller(quick(SimJudge(sim_encoder, BASELINE)), GOAL, frames=frames)
    assert isinstance(labeller, Labeller)
    labels = labeller.compare(*pair)
    assert labels[0] > 0.9
    assert labels[1] < 0.1
    assert labels[2] == 0.5
    assert labeller.last.agreement == 1
    assert labeller.runner.counts.asked == 8  # two pairs, two orders, two questions; the same picture twice costs none


def test_hard_labels_are_one_zero_or_a_tie(sim_encoder, pair):
    labeller = JudgeLabeller(quick(SimJudge(sim_encoder, BASELINE)), GOAL, soft=False, form="one")
    assert labeller.compare(*pair).tolist() == [1, 0, 0.5]
    biased = JudgeLabeller(quick(SimJudge(sim_encoder, temperature=1e9, position_bias=3)), GOAL, soft=False)
    assert biased.compare(*pair).tolist() == [0.5, 0.5, 0.5]


def test_it_is_built_from_the_configuration(sim_encoder, pair, tmp_path):
    config = OmegaConf.create({"task": {"goal": GOAL, "baseline": BASELINE}})
    config.labeller = OmegaConf.load(files("vrm.configs") / "labeller" / "judge.yaml")
    config.labeller.runner.cache, config.labeller.judge.sim.noise = str(tmp_path), 1.0
    labeller = instantiate(config.labeller)(sim_encoder)
    assert labeller.compare(*pair)[0] < 0.1
    assert any(tmp_path.rglob("*.json"))


def test_segments_without_frames_are_refused(sim_encoder, pair):
    labeller = JudgeLabeller(quick(SimJudge(sim_encoder)), GOAL)
    blind = Segments(state={"env_reward": torch.zeros(3, 5)})
    with pytest.raises(ComparisonError, match="segments have none"):
        labeller.compare(blind, pair[0])
    with pytest.raises(ComparisonError, match="one shape"):
        labeller.compare(pair[0], Segments(pair[1].frames[:, :3]))
