"""An OpenCLIP encoder written to a folder is the encoder that is read from it."""

import pytest
import torch

from vrm import load_encoder
from vrm.encoders.openclip import OpenCLIPEncoder, save_folder
from vrm.errors import CheckpointError


@pytest.mark.parametrize("model", ["tiny_clip", "tiny_custom"])
def test_a_saved_encoder_is_read_back_with_the_same_fingerprint(model, request, tmp_path):
    encoder = load_encoder(str(request.getfixturevalue(model)))
    save_folder(encoder, tmp_path / "copy")
    copy = load_encoder(str(tmp_path / "copy"))
    frames = torch.randint(0, 256, (3, 3, 40, 48), dtype=torch.uint8)
    assert copy.fingerprint == encoder.fingerprint
    assert torch.equal(copy.encode_image(frames), encoder.encode_image(frames))
    assert torch.equal(copy.encode_text(["a cart"]), encoder.encode_text(["a cart"]))


def test_the_bundled_encoder_can_be_saved(tmp_path):
    encoder = load_encoder("vrm-sim")
    save_folder(encoder, tmp_path / "copy")
    assert load_encoder(str(tmp_path / "copy")).fingerprint == encoder.fingerprint


def test_an_architecture_keeps_the_activation_of_its_tag(tiny_clip, tmp_path):
    encoder = load_encoder(str(tiny_clip))
    encoder.config["quick_gelu"] = True
    save_folder(encoder, tmp_path / "quick")
    assert load_encoder(str(tmp_path / "quick")).config["quick_gelu"]


def test_an_encoder_without_its_config_cannot_be_saved(tiny_clip, tmp_path):
    known = load_encoder(str(tiny_clip))
    bare = OpenCLIPEncoder("bare", known.model, known.tokenizer, known.embed_dim, known.preprocess)
    with pytest.raises(CheckpointError, match="has no model_cfg"):
        save_folder(bare, tmp_path / "bare")
    with pytest.raises(CheckpointError, match="which a folder cannot hold"):
        save_folder(OpenCLIPEncoder("odd", known.model, len, 32, known.preprocess, config={}), tmp_path / "odd")
    assert not list(tmp_path.iterdir())
