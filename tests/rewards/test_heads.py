"""Preference models from files in the layout of the published ones, against what their own libraries compute."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tiny import GOAL, TinyEncoder, random_clips
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from vrm import load_encoder, load_reward
from vrm.errors import CheckpointError, PromptError
from vrm.rewards import AestheticReward, HPSv2, PickScore, SegmentalReward

CONFIGS = Path(__file__).parents[2] / "configs" / "reward"
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
TEXTS = ["a dog runs", "a red ball", "a dog", "the red dog runs"]
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def clips():
    """Frames of the size the towers take, so that nothing is resized."""
    return (random_clips(size=32) * 255).round().to(torch.uint8)


def pixels():
    return (clips().flatten(0, 1) / 255 - MEAN) / STD


@pytest.fixture(scope="module")
def hps(tmp_path_factory):
    """A tiny CLIP of OpenCLIP and its checkpoint as HPSv2's training script writes one."""
    folder = tmp_path_factory.mktemp("hps")
    (folder / "tiny-hps.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(folder / "tiny-hps.json")
    torch.manual_seed(0)
    model = open_clip.CLIP(**OPEN_CLIP).eval()
    facts = {"epoch": 1, "name": "hps", "optimizer": {"state": {}, "param_groups": [{"lr": 3e-6}]}}
    torch.save({**facts, "state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    return model, f"tiny-hps:{folder / 'HPS_v2.1_compressed.pt'}"


@pytest.fixture(scope="module")
def pick(tmp_path_factory):
    """A tiny CLIPModel of transformers with another scale than the usual one, and its folder."""
    folder = tmp_path_factory.mktemp("pickscore")
    towers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=towers | {"vocab_size": 32, "max_position_embeddings": 77, "eos_token_id": 1, "bos_token_id": 2},
        vision_config=towers | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
        logit_scale_init_value=3.0,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**sizes).save_pretrained(folder)
    words = ["<pad>", "</s>", "<s>", "<unk>", "a", "the", "dog", "red", "ball", "runs"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return model, fast, f"hf:{folder}"


class Predictor(nn.Module):
    """Version 2 of the aesthetic predictor, in small: linear layers with dropout between."""

    def __init__(self, sizes=(16, 32, 8, 6, 4)):
        super().__init__()
        first, second, third, fourth, fifth = (nn.Linear(a, b) for a, b in zip(sizes, (*sizes[1:], 1), strict=True))
        self.layers = nn.Sequential(
            first, nn.Dropout(0.2), second, nn.Dropout(0.2), third, nn.Dropout(0.1), fourth, fifth
        )


def written(state, folder, name="head.pth"):
    torch.save(state, folder / name)
    return folder / name


def test_hpsv2_is_the_cosine_of_the_tuned_model(hps):
    model, name = hps
    reward = HPSv2(load_encoder(name), TEXTS[0])
    tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS)
    with torch.no_grad():
        cosines = model.encode_image(pixels(), normalize=True) @ model.encode_text(tokens, normalize=True).T
    expected = cosines.unflatten(0, (4, 5))
    torch.testing.assert_close(reward(clips()), expected[..., 0], rtol=1e-4, atol=1e-5)
    per_clip = reward(clips(), goals=TEXTS)
    torch.testing.assert_close(per_clip, torch.stack([expected[i, :, i] for i in range(4)]), rtol=1e-4, atol=1e-5)


def test_pickscore_is_the_logit_of_the_tuned_model(pick):
    model, tokenizer, name = pick
    reward = PickScore(load_encoder(name), TEXTS[0])
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels()
        ).logits_per_image
    expected = logits.unflatten(0, (4, 5))
    assert reward.scale == pytest.approx(torch.tensor(3.0).exp().item())
    assert reward.range == (-reward.scale, reward.scale)
    torch.testing.assert_close(reward(clips()), expected[..., 0], rtol=1e-4, atol=1e-3)
    per_clip = reward(clips(), goals=TEXTS)
    torch.testing.assert_close(per_clip, torch.stack([expected[i, :, i] for i in range(4)]), rtol=1e-4, atol=1e-3)


def test_pickscore_takes_the_scale_of_an_open_clip_model_too(hps):
    model, name = hps
    assert PickScore(load_encoder(name), "a dog").scale == pytest.approx(model.logit_scale.exp().item())


@pytest.mark.parametrize("kind", ["version 2", "linear"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_aesthetic_heads_against_their_modules(encoder, tmp_path, kind, suffix):
    torch.manual_seed(1)
    head = Predictor().eval() if kind == "version 2" else nn.Linear(16, 1)
    call = head.layers if kind == "version 2" else head
    path = tmp_path / f"head.{suffix}"
    (torch.save if suffix == "pth" else save_file)(head.state_dict(), path)
    if kind == "version 2":
        assert {f"layers.{i}.weight" for i in (0, 2, 4, 6, 7)} < set(head.state_dict())
    reward = AestheticReward.from_checkpoint(encoder, path)
    with torch.no_grad():
        expected = call(encoder.encode_image(clips().flatten(0, 1))).reshape(4, 5)
    torch.testing.assert_close(reward(clips()), expected, rtol=1e-4, atol=1e-5)


def test_aesthetic_head_is_saved_with_the_reward(encoder, tmp_path):
    reward = AestheticReward.from_checkpoint(encoder, written(Predictor().state_dict(), tmp_path))
    SegmentalReward(reward).save(tmp_path / "reward.safetensors")
    (tmp_path / "head.pth").unlink()
    again = load_reward(tmp_path / "reward.safetensors", encoder)
    assert torch.equal(again.score(clips()), SegmentalReward(reward).score(clips()))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: s.pop("layers.4.bias"), ["'layers.4.bias' does not fit"]),
        (lambda s: s.update({"scale": torch.ones(1)}), ["'scale' does not fit"]),
        (lambda s: s.clear(), ["must hold weight and bias"]),
        (lambda s: s.update({"layers.0.weight": torch.zeros(32, 768)}), ["layers.0.weight (32, 768)", "any x 16"]),
        (lambda s: s.update({"layers.4.weight": torch.zeros(6, 9)}), ["layers.4.weight (6, 9)", "any x 8"]),
        (lambda s: s.update({"layers.2.bias": torch.zeros(7)}), ["layers.2.weight (8, 32) with bias (7,)"]),
        (lambda s: s.update({"layers.7.weight": torch.zeros(2, 4)}), ["layers.7.weight (2, 4)", "1 x 4"]),
        (lambda s: s.update({"layers.7.bias": torch.tensor([torch.nan])}), ["NaN or infinity"]),
        (lambda s: s.update(step=3), ["mapping of names to tensors"]),
    ],
)
def test_heads_of_another_layout(encoder, tmp_path, change, parts):
    state = dict(Predictor().state_dict())
    change(state)
    path = written(state, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        AestheticReward.from_checkpoint(encoder, path)
    assert all(part in str(caught.value) for part in (*parts, str(path)))
    assert "\n" not in str(caught.value)


def test_heads_that_cannot_be_read(encoder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(CheckpointError, match="does not exist"):
        AestheticReward.from_checkpoint(encoder, tmp_path / "absent.pth")
    path = written({"weight": Evil()}, tmp_path, "evil.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        AestheticReward.from_checkpoint(encoder, path)
    assert not (tmp_path / "ran").exists()
    path = written(Predictor().state_dict(), tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="cannot be read"):
        AestheticReward.from_checkpoint(encoder, path)


def test_refuses_what_cannot_work(encoder):
    with pytest.raises(CheckpointError, match="'tiny' has no logit_scale"):
        PickScore(encoder, "a dog")
    with pytest.raises(PromptError, match="The goal must be a sentence"):
        HPSv2(encoder, " ")
    with pytest.raises(ValueError, match=r"weight must be \(16,\) for encoder 'tiny', got \(768,\)"):
        AestheticReward(encoder, torch.zeros(768), 0.0)


def test_the_configs_build_around_an_encoder(hps, pick, tmp_path):
    head = written(Predictor().state_dict(), tmp_path)
    for file, kind, encoder in (
        ("hpsv2", HPSv2, load_encoder(hps[1])),
        ("pickscore", PickScore, load_encoder(pick[2])),
        ("aesthetic", AestheticReward, TinyEncoder()),
    ):
        config = OmegaConf.create({"reward": OmegaConf.load(CONFIGS / f"{file}.yaml"), "task": {"goal": GOAL}})
        if file == "aesthetic":
            config.reward.head = str(head)
        reward = instantiate(config["reward"])(encoder)
        assert type(reward) is kind
        assert reward.score(clips()).shape == (4,)
