"""Every reward of the library under the one contract."""

import pytest
import torch
from contract import check_reward, state_for
from tiny import BASELINE, GOAL, RisingReward, TinyEncoder, random_clips

from vrm.rewards import (
    AestheticReward,
    ContrastiveGoalReward,
    CutDetection,
    Flicker,
    FrozenVideo,
    Gate,
    GoalReward,
    HPSv2,
    MotionSmoothness,
    PickScore,
    Product,
    SegmentalReward,
    StateFalloff,
    StateSteadiness,
    StateValue,
    SubjectConsistency,
    Sum,
    TargetSpeed,
)


def contrast(encoder):
    return ContrastiveGoalReward(encoder, GOAL, BASELINE, low=-1.0, high=1.0)


def calibrated(encoder):
    return contrast(encoder).calibrate(random_clips(seed=3), 0, 100)


def driving(encoder):
    return Product(
        {
            "speed": TargetSpeed(contrast(encoder), key="speed", target=25),
            "centre": StateFalloff("distance", maximum=3),
            "steady": StateSteadiness("distance", maximum=2, window=3),
        }
    )


def timeless(encoder):
    """What needs no text, beside a goal."""
    parts = {
        "smooth": MotionSmoothness(),
        "calm": Flicker(),
        "goal": GoalReward(encoder, GOAL),
        "uncut": CutDetection(),
    }
    return Sum(parts, weights={"goal": 2})


REWARDS = {
    "cosine": lambda e: GoalReward(e, GOAL),
    "goal-baseline": lambda e: GoalReward(e, [GOAL, "an upright pole"], BASELINE, alpha=0.5),
    "contrastive": contrast,
    "calibrated-contrastive": calibrated,
    "looks-back": lambda e: RisingReward(GoalReward(e, GOAL)),
    "value": lambda e: StateValue("speed", scale=-2, shift=1),
    "falloff": lambda e: StateFalloff("distance", maximum=0.5),
    "steadiness": lambda e: StateSteadiness("distance", maximum=0.4, window=3),
    "sum": lambda e: Sum({"goal": GoalReward(e, GOAL), "effort": StateFalloff("torque", 1)}, weights={"effort": -0.5}),
    "product": driving,
    "gate": lambda e: Gate(driving(e), StateValue("env_reward"), 0.5, otherwise=StateValue("env_reward", 2.0)),
    "gate-constant": lambda e: Gate(GoalReward(e, GOAL), calibrated(e), 0.5, otherwise=-3.0),
    "hpsv2": lambda e: HPSv2(e, GOAL),
    "pickscore": lambda e: PickScore(e, GOAL, scale=100),
    "aesthetic": lambda e: AestheticReward(e, torch.linspace(-1, 1, 16), 5.0),
    "segmental": lambda e: SegmentalReward(calibrated(e), segments=3),
    "segmental-sum": lambda e: SegmentalReward(
        Sum({"goal": GoalReward(e, GOAL), "effort": StateFalloff("torque", 1)}), segments=7, aggregate="softmin"
    ),
    "segmental-beside": lambda e: Sum({"goal": SegmentalReward(GoalReward(e, GOAL)), "calm": Flicker()}),
    "smoothness": lambda e: MotionSmoothness(),
    "flicker": lambda e: Flicker(),
    "frozen": lambda e: FrozenVideo(),
    "cuts": lambda e: CutDetection(),
    "subject": SubjectConsistency,
    "timeless": timeless,
    "nested": lambda e: Sum({"drive": driving(e), "rise": RisingReward(GoalReward(e, GOAL))}, weights={"rise": 2}),
}


@pytest.mark.parametrize("name", REWARDS)
def test_contract(name, encoder, tmp_path):
    check_reward(REWARDS[name], encoder, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", REWARDS)
def test_rewards_come_back_on_the_device_of_the_clips(name):
    model = REWARDS[name](TinyEncoder())
    clips, state = random_clips(), state_for(model, 4, 5)
    here = model(clips, state=state)
    model = model.cuda()
    torch.testing.assert_close(model(clips, state=state), here, rtol=1e-4, atol=1e-4)
    assert model(clips.cuda(), state=state).is_cuda
