"""Tiny random models of every kind, written once per session; the tests load them like any user."""

import json
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

ARCH = "tiny-test-vit"
MEAN, STD = [0.4, 0.45, 0.5], [0.2, 0.25, 0.3]
WORDS = ["a", "robot", "standing", "lying", "on", "the", "ground", "red", "ball"]
OPEN_CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class Models:
    folder: Path
    state: dict[str, torch.Tensor]
    arch: str = ARCH

    @property
    def names(self) -> dict[str, str]:
        return {
            "open_clip folder": str(self.folder / "open_clip"),
            "bare pt": f"{ARCH}:{self.folder / 'weights.pt'}",
            "bare safetensors": f"{ARCH}:{self.folder / 'weights.safetensors'}",
            "hf clip": f"hf:{self.folder / 'hf_clip'}",
            "hf siglip": f"hf:{self.folder / 'hf_siglip'}",
        }

    def write_open_clip(self, folder, **config):
        write_open_clip(folder, self.state, **config)


@pytest.fixture(scope="session")
def models_on_disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    (folder / f"{ARCH}.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    open_clip.add_model_config(folder / f"{ARCH}.json")
    torch.manual_seed(0)
    state = open_clip.CLIP(**OPEN_CLIP_CONFIG).state_dict()
    save_file(state, folder / "weights.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "weights.pt")
    write_open_clip(folder / "open_clip", state)
    write_hf_clip(folder / "hf_clip")
    write_hf_siglip(folder / "hf_siglip")
    return Models(folder, state)


def write_open_clip(folder, state, **config):
    folder.mkdir()
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    config = {"model_cfg": OPEN_CLIP_CONFIG, "preprocess_cfg": preprocess} | config
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.half() for k, v in state.items()}, folder / "open_clip_model.safetensors")


def write_hf_clip(folder):
    towers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=towers | {"vocab_size": 32, "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 2},
        vision_config=towers | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)
    write_tokenizer(folder, "<s> $A </s>", lower=False)


def write_hf_siglip(folder):
    towers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config=towers | {"vocab_size": 32, "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 2},
        vision_config=towers | {"image_size": 32, "patch_size": 8},
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    write_tokenizer(folder, "$A </s>", lower=True)


def write_tokenizer(folder, template, lower):
    vocab = {w: i for i, w in enumerate(["<pad>", "</s>", "<s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 2), ("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    ).save_pretrained(folder)
