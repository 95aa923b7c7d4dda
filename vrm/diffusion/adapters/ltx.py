"""``LTXVideoTransformer3DModel`` and its video autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vrm.diffusion.codec import VideoCodec, forgetful
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.schedule import NoiseSchedule

FRAME_RATE = 25.0  # frames per second that the positions are scaled for


class LTXDenoiser(VideoDenoiser):
    """A flow transformer over packed tokens ``(B, L, C)``.

    Args:
        model: the transformer.
        schedule: its shift and terminal sigma.
        compression: frames per latent and pixels per latent of its autoencoder, which scale its positions.
    """

    def __init__(self, model: nn.Module, schedule: NoiseSchedule, compression: tuple[int, int]) -> None:
        """Keep the scale of the positions."""
        super().__init__(model, schedule, "flow")
        self.scale = (compression[0] / FRAME_RATE, float(compression[1]), float(compression[1]))

    def call(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Run the network; arguments as in the base class."""
        config: Any = self.model.config
        patches = (x.shape[2] // config.patch_size_t, *(side // config.patch_size for side in x.shape[3:]))
        mask = conditions.mask
        output: Tensor = self.model(
            hidden_states=pack(x, config.patch_size_t, config.patch_size),
            encoder_hidden_states=conditions.embeds,
            timestep=timestep,
            encoder_attention_mask=torch.ones(conditions.embeds.shape[:2], device=x.device) if mask is None else mask,
            num_frames=patches[0],
            height=patches[1],
            width=patches[2],
            rope_interpolation_scale=self.scale,
            return_dict=False,
        )[0]
        return unpack(output, patches, config.patch_size_t, config.patch_size)


def pack(x: Tensor, time: int, side: int) -> Tensor:
    """Cut latents ``(B, C, T, h, w)`` into tokens ``(B, L, C * time * side * side)``."""
    rows, channels, frames, height, width = x.shape
    cut = x.reshape(rows, channels, frames // time, time, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpack(tokens: Tensor, patches: tuple[int, ...], time: int, side: int) -> Tensor:
    """Undo :func:`pack`, given how many patches lie along time, height and width."""
    cut = tokens.reshape(len(tokens), *patches, -1, time, side, side)
    return cut.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class LTXCodec(VideoCodec):
    """``AutoencoderKLLTXVideo``; unless its decoder is causal, every frame depends on all latents."""

    def __init__(self, model: nn.Module) -> None:
        """Read size and scale from the model's config and statistics."""
        config: Any = model.config
        own: Any = model
        super().__init__(
            model,
            own.latents_mean,
            own.latents_std / config.scaling_factor,
            channels=config.latent_channels,
            spatial=int(own.spatial_compression_ratio),
            temporal=int(own.temporal_compression_ratio),
        )

    def _prefix(self, latents: Tensor, last: int, checkpoint: bool) -> Tensor:
        model: Any = self.model
        config = model.config
        if config.decoder_causal:
            latents = latents[:, :, : 1 - (-last // self.temporal)]
        clean = latents.new_zeros(len(latents)) if config.timestep_conditioning else None
        frames: Tensor = forgetful(model.decoder, latents, clean, again=checkpoint)
        return frames
