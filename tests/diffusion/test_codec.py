import pytest
import tiny_pipelines
import torch
from tiny_generator import tiny_codec

from vrm.diffusion.adapters.cogvideox import CogVideoXCodec
from vrm.diffusion.adapters.ltx import LTXCodec
from vrm.diffusion.adapters.wan import WanCodec
from vrm.diffusion.codec import FrameCodec
from vrm.errors import FrameError

PATCHED = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "decoder_base_dim": 4}


def build(kind):
    return {
        "tiny": tiny_codec,
        "kl": lambda: FrameCodec(tiny_pipelines.seeded(tiny_pipelines.image_vae)),
        "wan": lambda: WanCodec(tiny_pipelines.seeded(tiny_pipelines.wan_vae)),
        "wan-2.2": lambda: WanCodec(tiny_pipelines.seeded(tiny_pipelines.wan_vae, **PATCHED)),
        "cogvideox": lambda: CogVideoXCodec(tiny_pipelines.seeded(tiny_pipelines.cogvideox_vae)),
        "cogvideox-1.5": lambda: CogVideoXCodec(tiny_pipelines.seeded(tiny_pipelines.cogvideox_vae), 2),
        "ltx": lambda: LTXCodec(tiny_pipelines.seeded(tiny_pipelines.ltx_vae)),
        "ltx-causal": lambda: LTXCodec(tiny_pipelines.seeded(tiny_pipelines.ltx_vae, causal=True)),
    }[kind]()


KINDS = ["tiny", "kl", "wan", "wan-2.2", "cogvideox", "cogvideox-1.5", "ltx", "ltx-causal"]
FRAMES = {"tiny": 5, "kl": 5, "wan": 9, "wan-2.2": 9, "cogvideox": 17, "cogvideox-1.5": 17, "ltx": 7, "ltx-causal": 7}


def latents_of(codec, frames, batch=2, side=4):
    source = torch.Generator().manual_seed(1)
    return torch.randn(batch, codec.channels, codec.latent_frames(frames), side, side, generator=source)


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_frames_are_those_of_a_full_decode(kind):
    codec, frames = build(kind), FRAMES[kind]
    latents = latents_of(codec, frames)
    full = codec.decode(latents, clamp=None)
    side = 4 * codec.spatial
    assert full.shape == (2, frames, 3, side, side)
    assert codec.video_frames(latents.shape[2]) == frames
    for wanted in ([0], [frames - 1], [1, frames // 2]):
        part = codec.decode(latents, torch.tensor(wanted), clamp=None)
        torch.testing.assert_close(part, full[:, wanted], atol=1e-5, rtol=1e-4)
    places = torch.tensor([[0, 2], [frames - 1, 1]])
    rows = codec.decode(latents, places, chunk=1, clamp=None)
    torch.testing.assert_close(rows, full[torch.tensor([[0], [1]]), places], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_in_pieces_and_again_keeps_the_gradient(kind):
    codec, frames = build(kind), FRAMES[kind]
    wanted = torch.tensor([1, frames - 2])
    gradients = []
    for chunk, again in ((None, False), (1, True)):
        latents = latents_of(codec, frames).requires_grad_()
        codec.decode(latents, wanted, chunk=chunk, checkpoint=again).square().mean().backward()
        gradients.append(latents.grad)
    assert bool(gradients[0].abs().sum() > 0)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_videos_have_latents_of_the_shape_and_scale_of_the_model(kind):
    codec, frames = build(kind), FRAMES[kind]
    videos = torch.rand(2, frames, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    latents = codec.encode(videos)
    assert latents.shape == (2, codec.channels, codec.latent_frames(frames), *[16 // codec.spatial] * 2)
    assert latents.dtype == torch.float32
    whole = (videos * 255).round().to(torch.uint8)
    torch.testing.assert_close(codec.encode(whole), codec.encode(whole.float() / 255))


def test_a_wan_codec_is_the_model_with_its_scale():
    codec = build("wan")
    videos = torch.rand(1, 5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    mean, std = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([1.5, 2.0, 0.5, 1.0])
    own = codec.model.encode(videos.transpose(1, 2) * 2 - 1).latent_dist.mode()
    wide = (mean.reshape(1, 4, 1, 1, 1), std.reshape(1, 4, 1, 1, 1))
    torch.testing.assert_close(codec.encode(videos), (own - wide[0]) / wide[1])
    decoded = codec.decode((own - wide[0]) / wide[1], clamp="hard")
    torch.testing.assert_close(decoded, codec.model.decode(own).sample.transpose(1, 2) / 2 + 0.5, atol=1e-5, rtol=1e-4)


def test_the_first_frame_of_wan_hangs_on_the_first_latent_alone():
    codec = build("wan")
    for frame, reached in ((0, [0]), (1, [0, 1]), (4, [0, 1]), (5, [0, 1, 2]), (12, [0, 1, 2, 3])):
        latents = latents_of(codec, 13).requires_grad_()
        before = codec.decodes
        codec.decode(latents, torch.tensor([frame])).mean().backward()
        strength = latents.grad.abs().sum(dim=(0, 1, 3, 4))
        assert strength.nonzero().flatten().tolist() == reached
        assert codec.decodes - before == 2 * codec.video_frames(len(reached))


def test_gradient_passes_a_straight_through_clamp_and_stops_at_a_hard_one():
    codec = build("wan")
    codec.model.decoder.conv_out.weight *= 30
    gradients = {}
    for clamp in ("straight-through", "hard", None):
        latents = latents_of(codec, 5).requires_grad_()
        frames = codec.decode(latents, clamp=clamp)
        frames.sum().backward()
        gradients[clamp] = latents.grad
        if clamp is not None:
            assert float(frames.detach().min()) >= 0
            assert float(frames.detach().max()) <= 1
            assert float(((frames == 0) | (frames == 1)).float().mean()) > 0.2
    assert torch.equal(gradients["straight-through"], gradients[None])
    assert not torch.allclose(gradients["hard"], gradients[None])


def test_only_chosen_frames_are_decoded():
    codec = tiny_codec()
    codec.decode(latents_of(codec, 16), torch.tensor([3, 9]))
    assert codec.decodes == 4


def test_an_own_mean_and_deviation_replace_those_of_the_model():
    model = tiny_codec().model
    codec = FrameCodec(model, mean=torch.tensor([1.0, 2.0, 3.0, 4.0]), std=2.0)
    plain = FrameCodec(model)
    latents = latents_of(codec, 3)
    own = latents * 2 + torch.arange(1.0, 5.0).reshape(1, 4, 1, 1, 1)
    torch.testing.assert_close(codec.decode(latents), plain.decode(own))
    videos = torch.rand(1, 3, 3, 8, 8)
    torch.testing.assert_close(codec.encode(videos) * 2 + torch.arange(1.0, 5.0).reshape(1, 4, 1, 1, 1),
                               plain.encode(videos))  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        ("wan", lambda c: c.encode(torch.rand(1, 4, 3, 16, 16)), r"1 \+ 4 k frames, got 4"),
        ("wan", lambda c: c.encode(torch.rand(1, 5, 3, 15, 16)), "divisible by 4"),
        ("wan", lambda c: c.encode(torch.rand(1, 5, 3, 16, 16) * 2), r"must lie in \[0, 1\]"),
        ("cogvideox", lambda c: c.latent_frames(5), r"1 \+ 8 k frames, got 5"),
        ("tiny", lambda c: c.decode(latents_of(c, 4), torch.tensor([4])), "between 0 and 3"),
        ("tiny", lambda c: c.decode(latents_of(c, 4), torch.tensor([], dtype=torch.long)), "between 0 and 3"),
        ("tiny", lambda c: c.decode(latents_of(c, 4), chunk=0), "chunk must be at least 1"),
        ("tiny", lambda c: c.decode(latents_of(c, 4), clamp="soft"), "clamp must be"),
    ],
)
def test_what_does_not_fit_is_refused(kind, call, message):
    with pytest.raises((FrameError, ValueError), match=message):
        call(build(kind))
