from copy import deepcopy
from dataclasses import replace

import diffusers  # noqa: F401  # triton must be loaded before Mesa renders, both bring LLVM
import pytest
import torch

from vrm.diffusion.patch_codec import PatchAutoencoder
from vrm.diffusion.tiny import TinySettings, assemble, build
from vrm.pretrain_generator.codec import (
    backgrounds,
    codec_loss,
    draw_frames,
    encode_clips,
    psnr,
    train_codec,
    weighed_patches,
)
from vrm.pretrain_generator.recipe import Recipe, generator_at, pace, spread_gradients, workers
from vrm.pretrain_generator.train import Lesson, draw_examples, matching_loss, train_denoiser

NARROW = Recipe(
    size=16,
    codec_steps=12,
    codec_batch=8,
    codec={"channels": 4, "widths": [8, 8, 8]},
    flow={
        "patch_size": [1, 2, 2],
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 1,
        "rope_max_seq_len": 32,
    },
)


@pytest.fixture
def clips():
    """A white square somewhere on black."""
    places = torch.randint(0, 11, (2, 24, 2), generator=torch.Generator().manual_seed(0))
    lines = torch.arange(16)
    inside = (lines >= places[..., None]) & (lines < places[..., None] + 5)
    frames = 255 * (inside[:, :, 0, :, None] & inside[:, :, 1, None, :]).to(torch.uint8)
    whole = frames[:, :, None].expand(-1, -1, 3, -1, -1).reshape(2, 6, 4, 3, 16, 16)
    return {"kneel": whole[0], "swing_up": whole[1]}


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return PatchAutoencoder(**NARROW.codec)


@pytest.fixture
def denoiser(encoder, codec):
    torch.manual_seed(0)
    settings = TinySettings("WanTransformer3DModel", NARROW.codec, "tiny", "0", frames=4, size=16)
    return assemble("tiny", build(settings.network, NARROW.flow), codec, encoder, settings).denoiser


@pytest.fixture
def lessons():
    draw = torch.Generator().manual_seed(1)
    means = {"kneel": -1.0, "swing_up": 1.0}
    return {
        name: Lesson(
            mean + 0.1 * torch.randn(8, 4, 4, 2, 2, generator=draw),
            torch.stack([torch.randn(3, 16, generator=draw), torch.zeros(3, 16)], dim=1),
        )
        for name, mean in means.items()
    }


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_gradients_of_parts_are_the_gradient_of_the_whole(denoiser, lessons):
    denoiser.model.requires_grad_(True)
    parameters = list(denoiser.model.parameters())
    batch = draw_examples(NARROW, denoiser, lessons, 8, generator_at(0, 0))
    whole = matching_loss(denoiser, *batch)
    expected = torch.autograd.grad(whole, parameters, allow_unused=True)
    with workers(2) as pool:
        parts = list(zip(*(value.chunk(2) for value in batch), strict=True))
        loss = spread_gradients(pool, lambda *part: matching_loss(denoiser, *part), parameters, parts)
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.allclose(parameter.grad, gradient, atol=1e-5)


def test_the_fitted_encoder_has_unit_variance_and_its_inverse_is_the_best_linear_one(codec):
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(4000, 4, generator=draw) @ torch.randn(4, 192, generator=draw) + 0.3
    patches = patches.reshape(-1, 3, 8, 8)
    codec.fit(patches, torch.ones(len(patches)))
    latents = codec.encoder(patches)
    assert latents.mean(0).abs().max() < 1e-3
    assert (latents.std(0) - 1).abs().max() < 1e-3
    assert torch.allclose(codec.decode(latents), patches, atol=1e-3)


def test_weights_lie_where_something_is_not_background():
    frames = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    frames[..., 1:4, 1:4] = 255
    patches, weights = weighed_patches(frames, torch.zeros(1, 3, 16, 16), 8)
    assert patches.shape == (4, 3, 8, 8)
    assert patches[0].max() == 1
    assert (patches[1:] == -1).all()
    assert weights[0] > 2 * weights[1]
    assert (weights[1:] == weights[1]).all()


def test_the_codec_learns_what_its_linear_part_cannot(codec, clips, tmp_path):
    recipe = replace(NARROW, codec_steps=150, codec_rate=1e-2)
    frames, behind = draw_frames(clips, backgrounds(clips), 32, generator_at(9, 0))
    codec.fit(*weighed_patches(frames, behind, 8))
    before = float(codec_loss(codec, frames, behind).detach())
    latents = encode_clips(codec, clips["kneel"])
    train_codec(recipe, codec, clips, tmp_path, cores=2)
    assert float(codec_loss(codec, frames, behind).detach()) < before
    assert latents.shape == encode_clips(codec, clips["kneel"]).shape == (6, 4, 4, 2, 2)


def test_a_codec_that_is_trained_is_read_back_and_not_trained_again(codec, clips, tmp_path):
    other = deepcopy(codec)
    torch.manual_seed(3)
    train_codec(NARROW, codec, clips, tmp_path, cores=1)
    trained = deepcopy(codec)
    train_codec(NARROW, other, clips, tmp_path, cores=1)
    assert same(trained, other)
    assert set(psnr(codec, clips)) == set(clips)


def test_a_denoiser_learns_its_lessons_and_is_read_back_when_it_has(denoiser, lessons, tmp_path):
    fresh = deepcopy(denoiser)
    recipe = Recipe(rate=5e-3, average=0.9, drop=0.1)
    batch = draw_examples(recipe, denoiser, lessons, 64, generator_at(5, 0))
    before = float(matching_loss(denoiser, *batch))
    seen = []
    watch = lambda _, step: seen.append(step)  # noqa: E731
    path = tmp_path / "a.pt"
    averaged = train_denoiser(recipe, denoiser, lessons, path, steps=60, batch=8, cores=1, watch=watch)
    assert seen == [60]
    assert float(matching_loss(averaged, *batch)) < 0.6 * before
    again = train_denoiser(recipe, fresh, lessons, path, steps=60, batch=8, cores=1)
    assert same(averaged, again)


def test_dropped_prompts_are_blank_and_noise_leaves_the_blank_token_alone(denoiser, lessons):
    _, _, _, told = draw_examples(Recipe(drop=0.0), denoiser, lessons, 16, generator_at(0, 0))
    _, _, _, dropped = draw_examples(Recipe(drop=1.0), denoiser, lessons, 16, generator_at(0, 0))
    assert not dropped.any()
    assert not told[:, 1].any()
    assert told[:, 0].any(dim=1).all()
    _, _, _, exact = draw_examples(Recipe(drop=0.0, wording_noise=0.0), denoiser, lessons, 16, generator_at(0, 0))
    said = torch.cat([lesson.embeds for lesson in lessons.values()])
    assert all((row == said).flatten(1).all(dim=1).any() for row in exact)


def test_the_rate_warms_up_and_ends_at_zero():
    assert pace(0.0) < 0.02
    assert pace(0.03) == pytest.approx(1.0)
    assert pace(1.0) == 0.0
