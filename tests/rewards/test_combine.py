"""Reward arithmetic: VLM-RL's golden row, facts that follow from parts, one encoder call, nested files."""

import math

import pytest
import torch
from tiny import BASELINE, GOAL, RisingReward, TinyEncoder, random_clips

import vrm
import vrm.rewards.base
from vrm.errors import CheckpointError, UnknownNameError
from vrm.rewards import (
    ContrastiveGoalReward,
    Gate,
    GoalReward,
    Product,
    RewardModel,
    StateFalloff,
    StateSteadiness,
    StateValue,
    Sum,
    TargetSpeed,
    contrast_probability,
)


class GivenContrast(RewardModel):
    """Reads the contrast ``z`` from the state instead of from pixels; the probability is the real one."""

    range = (0.0, 1.0)
    differentiable = False
    state_keys = ("z",)

    def terms(self, clips, goals=None, state=None):
        return {"contrast": state["z"]}

    def combine(self, terms):
        return contrast_probability(terms["contrast"], 0.0, 0.03)

    def config(self):
        return {}

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls()


def driving():
    return Product(
        {
            "speed": TargetSpeed(GivenContrast(), key="speed", target=25),
            "centre": StateFalloff("distance", maximum=3),
            "angle": StateFalloff("angle", maximum=90),
            "steady": StateSteadiness("offset", maximum=0.4, window=2),
        }
    )


def golden_state():
    """Two frames; over them the offsets 0 and 0.2 have standard deviation 0.1."""
    values = {"z": 0.015, "speed": 20.0, "distance": 0.6, "angle": -9.0, "env_reward": 1.0}
    state = {key: torch.full((1, 2), value) for key, value in values.items()}
    return {**state, "offset": torch.tensor([[0.0, 0.2]])}


def test_driving_golden():
    """Golden row "VLM-RL r": speed factor 0.7, reward 0.378 = 0.7 * 0.8 * 0.9 * 0.75."""
    reward, state, clips = driving(), golden_state(), random_clips(batch=1, frames=2)
    terms = reward.terms(clips, state=state)
    assert sorted(terms) == ["angle/angle", "centre/distance", "speed/semantic/contrast", "speed/speed", "steady/std"]
    assert TargetSpeed(GivenContrast(), "speed", 25)(clips, state=state)[0, 1].item() == pytest.approx(0.7)
    assert terms["steady/std"][0, 1].item() == pytest.approx(0.1)
    assert reward(clips, state=state)[0, 1].item() == pytest.approx(0.378, abs=1e-6)


def test_gate_keeps_the_penalty_of_the_environment():
    reward = Gate(driving(), StateValue("env_reward"), threshold=0, otherwise=StateValue("env_reward"))
    state, clips = golden_state(), random_clips(batch=1, frames=2)
    assert reward(clips, state=state)[0, 1].item() == pytest.approx(0.378, abs=1e-6)
    state["env_reward"] = torch.tensor([[1.0, -10.0]])
    assert reward(clips, state=state)[0, 1].item() == -10.0


def test_facts_follow_from_the_parts(encoder):
    reward = driving()
    assert reward.window == 2
    assert reward.state_keys == ("z", "speed", "distance", "angle", "offset")
    assert not reward.differentiable
    assert reward.range == (-math.inf, 1.0)
    goal = GoalReward(encoder, GOAL)
    total = Sum({"goal": goal, "centre": StateFalloff("x", 1)}, weights={"centre": -0.5})
    assert total.range == (-1.5, 1.0)
    assert total.differentiable
    assert Product({"a": goal, "b": goal}).range == (-1.0, 1.0)
    assert Gate(goal, StateValue("x"), 0, otherwise=-5).range == (-5.0, 1.0)
    assert not Gate(StateValue("x"), goal, 0).differentiable
    blind = GoalReward(encoder, GOAL)
    blind.causal = False
    assert not Sum({"a": goal, "b": blind}).causal


def test_one_encoder_call_however_many_parts():
    encoder = TinyEncoder()
    rise = RisingReward(GoalReward(encoder, GOAL))
    parts = {"goal": GoalReward(encoder, GOAL), "clear": ContrastiveGoalReward(encoder, GOAL, BASELINE), "rise": rise}
    reward = Sum({"all": Product(parts), "again": GoalReward(encoder, BASELINE)})
    reward(random_clips(batch=2, frames=4))
    assert encoder.calls == [8]
    assert encoder._memo is None


def test_online_use_embeds_every_frame_once_however_far_a_part_looks_back():
    encoder = TinyEncoder()
    reward = Product({"goal": GoalReward(encoder, GOAL), "steady": StateSteadiness("x", 1, window=10)})
    stream = vrm.RewardStream(reward, num_envs=2)
    state = [{"x": 0.0}, {"x": 1.0}]
    stream.begin(random_clips(frames=1)[:2, 0], state)
    for _ in range(12):
        stream.push(random_clips(frames=1)[:2, 0], torch.zeros(2, dtype=torch.bool), state)
    assert encoder.calls == [4] + [2] * 11  # the frames of the reset with the first step's


def test_parts_share_the_encoder_and_keep_their_calibration(encoder, tmp_path, monkeypatch):
    clips, path = random_clips(), tmp_path / "sum.safetensors"
    parts = {
        "goal": GoalReward(encoder, GOAL).calibrate(clips),
        "clear": ContrastiveGoalReward(encoder, GOAL, BASELINE),
    }
    reward = Sum({"inner": Product(parts), "base": GoalReward(encoder, BASELINE)}, weights={"inner": 2.0})
    reward.save(path)
    assert path.stat().st_size < 4000
    loaded = []

    def load(name):
        loaded.append(name)
        return TinyEncoder()

    monkeypatch.setattr(vrm.rewards.base, "load_encoder", load)
    again = vrm.load_reward(path)
    assert loaded == ["tiny"]
    assert len({id(m) for m in again.modules() if isinstance(m, TinyEncoder)}) == 1
    assert torch.equal(again(clips), reward(clips))


def test_two_encoders_keep_their_places(encoder, tmp_path, monkeypatch):
    clips, other = random_clips(), TinyEncoder(seed=5, name="other")
    reward = Sum({"a": GoalReward(encoder, GOAL), "b": GoalReward(other, GOAL)})
    reward.save(tmp_path / "two.safetensors")
    monkeypatch.setattr(vrm.rewards.base, "load_encoder", {"tiny": encoder, "other": other}.__getitem__)
    assert torch.equal(vrm.load_reward(tmp_path / "two.safetensors", encoder)(clips), reward(clips))
    twin = Sum({"a": GoalReward(encoder, GOAL), "b": GoalReward(TinyEncoder(seed=5), GOAL)})
    with pytest.raises(CheckpointError, match="different weights"):
        twin.save(tmp_path / "twin.safetensors")


def test_refusals(encoder):
    goal = GoalReward(encoder, GOAL)
    with pytest.raises(ValueError, match="at least one part"):
        Product({})
    with pytest.raises(ValueError, match="without '/'"):
        Sum({"a/b": goal})
    with pytest.raises(TypeError, match="must be a RewardModel"):
        Sum({"a": 1.0})
    with pytest.raises(UnknownNameError, match="Did you mean 'goal'"):
        Sum({"goal": goal}, weights={"gaol": 1})
    with pytest.raises(ValueError, match="must be finite"):
        Sum({"goal": goal}, weights={"goal": math.inf})
    for build in (
        lambda: StateFalloff("x", 0),
        lambda: TargetSpeed(goal, "v", -1),
        lambda: StateSteadiness("x", 1, window=1),
        lambda: StateValue(""),
    ):
        with pytest.raises(ValueError, match="must be"):
            build()
