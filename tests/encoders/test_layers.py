"""Features from inside every kind of encoder."""

import open_clip
import pytest
import torch
from tiny import TinyEncoder

from vrm import load_encoder
from vrm.encoders import Preprocess
from vrm.encoders.layers import encode_layer, layer_names, resolve_layer
from vrm.encoders.openclip import OpenCLIPEncoder
from vrm.errors import FrameError, NonFiniteError, UnknownNameError

RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
SIZES = {
    "tiny": 8 * 16,
    "vrm-sim": 512 * 4,
    "resnet": 512 * 4,
    "open_clip folder": 32 * 16,
    "hf clip": 32 * 16,
    "hf siglip": 32 * 16,
}


def make(kind, models_on_disk):
    if kind == "tiny":
        return TinyEncoder()
    if kind == "vrm-sim":
        return load_encoder("vrm-sim")
    if kind == "resnet":
        torch.manual_seed(0)
        return OpenCLIPEncoder(
            kind, open_clip.CLIP(**RESNET), lambda texts: torch.ones(len(texts), 12, dtype=torch.int64), 16,
            Preprocess((64, 64), (0.5,) * 3, (0.25,) * 3, "bilinear", "squash"),
        )  # fmt: skip
    return load_encoder(models_on_disk.names[kind])


@pytest.fixture(scope="module", params=SIZES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(kind, models_on_disk):
    return make(kind, models_on_disk)


@pytest.fixture
def frames():
    return torch.rand(5, 3, 40, 61, generator=torch.Generator().manual_seed(1))


def test_global_is_the_embedding(encoder, frames):
    assert torch.equal(encode_layer(encoder, frames, "global"), encoder.encode_image(frames))


def test_patches_know_places(encoder, kind, frames):
    features = encode_layer(encoder, frames)
    assert features.shape == (5, SIZES[kind])
    assert features.dtype == torch.float32
    assert torch.pdist(features).min() > 1e-4
    one_place = encode_layer(encoder, frames, grid=1)
    places = features.reshape(5, one_place.shape[1], -1)
    torch.testing.assert_close(places.mean(dim=-1), one_place, rtol=1e-4, atol=1e-5)


def test_every_layer_named_can_be_read(encoder, frames):
    names = layer_names(encoder)
    assert resolve_layer(encoder, "patches") in names
    for name in names[:: max(len(names) // 8, 1)]:
        features = encode_layer(encoder, frames, name)
        assert features.ndim == 2
        assert len(features) == 5


def test_chunks_equal_one_batch(encoder, frames):
    whole = encode_layer(encoder, frames)
    singles = torch.cat([encode_layer(encoder, frame[None]) for frame in frames])
    torch.testing.assert_close(singles, whole, rtol=1e-4, atol=1e-5)
    most, encoder.max_batch = encoder.max_batch, 2
    try:
        torch.testing.assert_close(encode_layer(encoder, frames), whole, rtol=1e-4, atol=1e-5)
    finally:
        encoder.max_batch = most


def test_reading_leaves_nothing_behind(encoder, frames):
    before = encoder.encode_image(frames)
    encode_layer(encoder, frames)
    assert not any(module._forward_hooks for module in encoder.modules())
    assert torch.equal(encoder.encode_image(frames), before)


def test_gradient_reaches_float_frames(encoder, frames):
    frames.requires_grad_()
    encode_layer(encoder, frames).sum().backward()
    assert torch.isfinite(frames.grad).all()
    assert (frames.grad != 0).any()


def test_unknown_layer_is_named_with_its_neighbours(encoder):
    with pytest.raises(UnknownNameError, match=r"Unknown layer of encoder .* 'layr3'.*Known: .*global.*layer_names"):
        encode_layer(encoder, torch.rand(2, 3, 32, 32), "layr3")


def test_tokens_in_front_of_the_patches_are_left_out(models_on_disk, frames):
    """Class tokens see the whole picture; what is read changes only where the picture does."""
    encoder = load_encoder(models_on_disk.names["open_clip folder"])
    square = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = square.clone()
    other[..., 24:, 24:] = 1 - other[..., 24:, 24:]
    before, after = (encode_layer(encoder, f, "transformer.resblocks.0.ln_1").reshape(32, 16) for f in (square, other))
    changed = (before - after).abs().amax(dim=0) > 1e-5
    assert changed.tolist() == [False] * 15 + [True]


def test_a_compiled_tower_is_read_too(frames):
    encoder, plain = load_encoder("vrm-sim"), load_encoder("vrm-sim")
    encoder.image_tower.compile(backend="eager")
    encoder.encode_image(frames)
    torch.testing.assert_close(encode_layer(encoder, frames), encode_layer(plain, frames))


def test_broken_frames_and_weights_are_said(frames):
    encoder = TinyEncoder()
    with pytest.raises(FrameError, match="Frames must be"):
        encode_layer(encoder, frames[0])
    encoder.tower[0].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="Layer 'patches' of encoder 'tiny' produced NaN"):
        encode_layer(encoder, frames)
