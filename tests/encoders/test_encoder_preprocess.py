"""The tensor op against the reference transforms, on pictures with the spectrum of natural ones."""

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.nn import functional
from transformers import CLIPImageProcessor, SiglipImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vrm.encoders import Preprocess
from vrm.encoders.hf import preprocess_from
from vrm.errors import CheckpointError

ZERO, ONE = (0.0,) * 3, (1.0,) * 3
SIZES = [(40, 61), (61, 40), (300, 220), (97, 341), (20, 24), (64, 64), (129, 64)]


def natural(height, width, seed=0):
    """Noise summed over octaves, amplitude falling with frequency as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    layers = [(4, 1.0), (8, 0.5), (16, 0.25), (32, 0.12), (64, 0.06)]
    image = sum(
        a * functional.interpolate(torch.rand(1, 3, n, n, generator=generator), (height, width), mode="bicubic")
        for n, a in layers
    )
    image = (image - image.min()) / (image.max() - image.min())
    return (image[0] * 255).round().to(torch.uint8)


def to_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_equals_open_clip_transform(size, interpolation, mode):
    image = natural(*size)
    cfg = PreprocessCfg(size=64, mean=ZERO, std=ONE, interpolation=interpolation, resize_mode=mode, fill_color=51)
    expected = image_transform_v2(cfg, is_train=False)(to_pil(image))
    actual = Preprocess((64, 64), ZERO, ONE, interpolation, mode, fill=0.2)(image[None])[0]
    assert (actual - expected).abs().mean() <= 1 / 255
    assert (actual - expected).abs().max() <= 6 / 255


@pytest.mark.parametrize("mode", ["shortest", "longest"])
def test_equals_open_clip_transform_for_oblong_towers(mode):
    image = natural(97, 341)
    cfg = PreprocessCfg(size=(48, 80), mean=ZERO, std=ONE, interpolation="bicubic", resize_mode=mode)
    expected = image_transform_v2(cfg, is_train=False)(to_pil(image))
    assert (Preprocess((48, 80), ZERO, ONE, "bicubic", mode)(image[None])[0] - expected).abs().mean() <= 1 / 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("processor", [CLIPImageProcessor, CLIPImageProcessorPil, SiglipImageProcessor])
def test_equals_hf_processor(size, processor):
    shape = {"height": 64, "width": 64}
    resize = shape if processor is SiglipImageProcessor else {"shortest_edge": 64}
    reference = processor(size=resize, crop_size=shape, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    image = natural(*size)
    expected = torch.as_tensor(np.asarray(reference(to_pil(image))["pixel_values"][0]))
    actual = preprocess_from("x", reference.to_dict())(image[None])[0]
    assert (actual - expected).abs().mean() <= 2 / 255


def test_normalises_with_its_own_numbers():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    pixels = Preprocess((8, 8), mean, std)(torch.full((1, 3, 8, 8), 0.5))
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([0.8, 1.2, 1.6]))


def test_statistics_keep_their_precision_in_a_half_precision_encoder():
    preprocess = Preprocess((8, 8), (0.48145466,) * 3, (0.26862954,) * 3)
    frames = torch.rand(2, 3, 8, 8)
    expected = preprocess(frames)
    assert torch.equal(preprocess.to(torch.bfloat16)(frames), expected)


def test_is_differentiable():
    frames = torch.rand(2, 3, 40, 61, requires_grad=True)
    Preprocess((32, 32), ZERO, ONE)(frames).sum().backward()
    assert (frames.grad[..., 20:40] != 0).any()


@pytest.mark.parametrize(("option", "value"), [("interpolation", "lanczos"), ("resize_mode", "crop")])
def test_refuses_unknown_options(option, value):
    with pytest.raises(ValueError, match=rf"{option} must be one of .* got '{value}'"):
        Preprocess((8, 8), ZERO, ONE, **{option: value})


@pytest.mark.parametrize(
    "change",
    [
        {"crop_size": {"height": 32, "width": 32}},
        {"do_center_crop": False},
        {"resample": 1},
        {"do_normalize": False},
        {"size": {"height": 64, "width": 64}},
    ],
)
def test_refuses_image_processors_it_cannot_follow(change):
    shape = {"height": 64, "width": 64}
    numbers = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=shape).to_dict()
    preprocess_from("x", numbers)
    with pytest.raises(CheckpointError, match="image processor of 'x' asks for"):
        preprocess_from("x", numbers | change)
