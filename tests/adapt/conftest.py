import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 32}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def write_model(folder, seed=0, custom=False):
    """A random OpenCLIP model of 1.8 million numbers, as a folder."""
    config = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
    config |= {"custom_text": True} if custom else {}
    folder.mkdir()
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def tiny_custom(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "custom", custom=True)
