"""Random generators of real diffusers classes, built in milliseconds: a flow transformer and a 3D U-Net."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from diffusers import AutoencoderTiny, UNet3DConditionModel, WanTransformer3DModel
from torch import nn

from vrm.diffusion.adapters.unet3d import UNet3DDenoiser
from vrm.diffusion.adapters.wan import WanDenoiser
from vrm.diffusion.codec import FrameCodec
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.generator import SamplingDefaults, VideoGenerator
from vrm.diffusion.schedule import DiffusionSchedule, FlowSchedule

PROMPTS = ["a humanoid kneels", "a pole swings up", "a cheetah runs", "a humanoid falls"]


class HashedWords(nn.Module):
    """Three tokens per prompt, each a random vector of a word: a text encoder without a file."""

    def __init__(self, width: int = 32, length: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(64, width)
        self.length = length
        self.requires_grad_(False)

    def forward(self, prompts: Sequence[str]) -> Conditions:
        rows = []
        for prompt in prompts:
            ids = [1 + zlib.crc32(word.encode()) % 63 for word in prompt.lower().split()][: self.length]
            rows.append(ids + [0] * (self.length - len(ids)))
        return Conditions(self.words(torch.tensor(rows, device=self.words.weight.device)))


def tiny_codec(seed: int = 0) -> FrameCodec:
    """Four channels, one latent for 2 x 2 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoencoderTiny(
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    return FrameCodec(model)


def tiny_wan_model(channels: int = 4, text: int = 32) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=text,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        rope_max_seq_len=32,
    )


def tiny_unet_model(text: int = 32) -> UNet3DConditionModel:
    model = UNet3DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=text,
        attention_head_dim=4,
    )
    with torch.no_grad():  # these start at zero, and would hide dropout and time from tests
        for parameter in model.parameters():
            if not bool(parameter.any()):
                parameter.normal_(std=0.02)
    return model


def tiny_wan(seed: int = 0, frames: int = 4, shift: float = 3.0) -> VideoGenerator:
    """A flow generator of 8 x 8 latents and 16 x 16 frames, 25 thousand parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = WanDenoiser(tiny_wan_model(), FlowSchedule(shift), "flow")
        text = HashedWords()
    return VideoGenerator(denoiser, tiny_codec(seed), text, SamplingDefaults(frames, (16, 16), 8, 1.0), "tiny-wan")


def tiny_unet(seed: int = 0, frames: int = 4) -> VideoGenerator:
    """An epsilon generator of 8 x 8 latents and 16 x 16 frames, 100 thousand parameters; 100 times slower a call."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = UNet3DDenoiser(tiny_unet_model(), DiffusionSchedule.scaled_linear(), "epsilon")
        text = HashedWords()
    return VideoGenerator(denoiser, tiny_codec(seed), text, SamplingDefaults(frames, (16, 16), 8, 3.0), "tiny-unet")
