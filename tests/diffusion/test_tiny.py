import json
from dataclasses import replace

import pytest
import torch

from vrm.diffusion import tiny
from vrm.diffusion.generator import BUNDLED
from vrm.diffusion.patch_codec import PatchAutoencoder
from vrm.diffusion.tiny import FOLDERS, WEIGHTS, SentenceText, TinySettings, assemble, build, load_tiny, save_tiny
from vrm.encoders import load_encoder
from vrm.errors import CheckpointError

CODEC = {"channels": 4, "widths": [8, 8, 8]}
NETWORKS = {
    "WanTransformer3DModel": {
        "patch_size": [1, 2, 2],
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 256,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 1,
        "rope_max_seq_len": 32,
    },
    "UNet3DConditionModel": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
        "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
        "norm_num_groups": 4,
        "cross_attention_dim": 256,
        "attention_head_dim": 4,
    },
}
PROMPTS = ["a humanoid robot kneeling down", "a pole falling to the left"]


@pytest.fixture(scope="module")
def sim():
    return load_encoder("vrm-sim")


def make(kind, sim, **changes):
    torch.manual_seed(0)
    settings = replace(TinySettings(kind, CODEC, "vrm-sim", sim.fingerprint), **changes)
    network, codec = build(kind, NETWORKS[kind]), PatchAutoencoder(**CODEC)
    for parameter in (*network.parameters(), *codec.parameters()):
        parameter.data = parameter.data.half().float()  # as they are kept
    return assemble("vrm-tiny", network, codec, sim, settings), settings


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_saved_generator_comes_back_with_the_same_videos(kind, sim, tmp_path):
    generator, settings = make(kind, sim, frames=4, size=32, steps=2)
    save_tiny(tmp_path, generator, settings)
    again = load_tiny("vrm-tiny", tmp_path)
    videos = generator.sample(PROMPTS, seed=1)
    assert videos.shape == (2, 4, 3, 32, 32)
    assert torch.equal(videos, again.sample(PROMPTS, seed=1))
    assert again.defaults == generator.defaults
    assert not again.denoiser.trainable()


def test_the_empty_prompt_is_blank_and_others_have_mean_square_1(sim):
    conditions = SentenceText(sim)([PROMPTS[0], "", " ", PROMPTS[1]])
    assert conditions.embeds.shape == (4, 2, sim.embed_dim)
    assert not conditions.embeds[1:3].any()
    assert not conditions.embeds[:, 1].any()
    assert conditions.embeds[[0, 3], 0].square().mean(1).sub(1).abs().max() < 1e-4
    assert not SentenceText(sim)([""]).embeds.any()


def test_another_version_of_the_text_encoder_is_refused(sim, tmp_path):
    generator, settings = make("WanTransformer3DModel", sim, fingerprint="0123456789abcdef")
    save_tiny(tmp_path, generator, settings)
    with pytest.raises(CheckpointError, match="reads prompts differently"):
        load_tiny("vrm-tiny", tmp_path)


def test_a_damaged_folder_is_named_in_one_sentence(sim, tmp_path):
    with pytest.raises(CheckpointError, match="holds no generator"):
        load_tiny("vrm-tiny", tmp_path)
    generator, settings = make("WanTransformer3DModel", sim)
    save_tiny(tmp_path, generator, settings)
    weights = tmp_path / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read or does not fit"):
        load_tiny("vrm-tiny", tmp_path)
    (tmp_path / "network.json").unlink()
    with pytest.raises(CheckpointError, match=r"network\.json cannot be read"):
        load_tiny("vrm-tiny", tmp_path)


def test_the_bundled_folders_are_small_and_carry_no_pickles():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") < 12e6
    assert {path.suffix for path in files} <= {".json", ".md", ".png", ".safetensors"}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_generator_shows_what_it_is_asked_for(name, sim):
    generator = load_tiny(name)
    prompts = [
        "a humanoid robot kneeling down",
        "a pole falling to the left",
        "a pole falling to the right",
        "a pendulum swinging up",
        "a cheetah robot lying on its back",
        "a car climbing the mountain",
    ]
    videos = generator.sample(prompts, seed=0)
    assert videos.shape == (6, 8, 3, 64, 64)
    end = torch.nn.functional.normalize(
        sim.encode_image(videos[:, -2:].flatten(0, 1)).unflatten(0, (6, 2)).mean(1), dim=-1
    )
    nearest = (end @ sim.encode_text(prompts).T).argmax(1)
    assert (nearest == torch.arange(6)).float().mean() >= 0.8
    settings = json.loads((WEIGHTS / FOLDERS[name] / tiny.SETTINGS).read_text())
    assert settings["fingerprint"] == sim.fingerprint
