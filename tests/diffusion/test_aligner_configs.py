"""Every aligner's configuration file builds it and takes a step."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_generator import PROMPTS
from toy_reward import redness, small_wan

import vrm.configs
from vrm.diffusion.aligners import Batch

FOLDER = Path(vrm.configs.__file__).parent / "aligner"
NAMES = [
    "ddpo",
    "b2_diffurl",
    "flow_grpo",
    "dance_grpo",
    "mix_grpo",
    "pref_grpo",
    "d3po",
    "prdp",
    "rebel",
    "diffusion_dpo",
    "flow_dpo",
    "seppo",
    "rwr",
    "raft",
    "rvm",
    "nft",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_builds_its_aligner(name):
    config = OmegaConf.load(FOLDER / f"{name}.yaml")
    OmegaConf.update(config, "sampling.steps", 3)
    OmegaConf.update(config, "sampling.group", min(config.sampling.group, 8))
    config = OmegaConf.create({"seed": 5, "aligner": config})
    aligner = instantiate(config.aligner)(small_wan(), redness(), accelerator=None)
    assert aligner.training.seed == 5
    metrics = aligner.step(Batch(PROMPTS[:1]))
    assert {"loss", "grad_norm", "nfe", "reward_calls", "decodes", "reward/red", "reward/red_std"} <= set(metrics)
    assert "kl" in metrics or "velocity_distance" in metrics
