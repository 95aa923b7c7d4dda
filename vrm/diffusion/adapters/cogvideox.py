"""``CogVideoXTransformer3DModel`` and its video autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vrm.diffusion.codec import VideoCodec, forgetful
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.errors import FrameError


class CogVideoXDenoiser(VideoDenoiser):
    """A v-prediction transformer; its network wants frames before channels, and rotary positions in some sizes."""

    def call(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Run the network; arguments as in the base class."""
        output: Tensor = self.model(
            hidden_states=x.transpose(1, 2),
            encoder_hidden_states=conditions.embeds,
            timestep=timestep,
            image_rotary_emb=self._rotary(x),
            return_dict=False,
        )[0]
        return output.transpose(1, 2)

    def _rotary(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config: Any = self.model.config
        if not config.use_rotary_positional_embeddings:
            return None
        frames, height, width = x.shape[2], x.shape[3] // config.patch_size, x.shape[4] // config.patch_size
        base = config.sample_height // config.patch_size, config.sample_width // config.patch_size
        if config.patch_size_t is None:
            region = get_resize_crop_region_for_grid((height, width), base[1], base[0])  # type: ignore[no-untyped-call]
            where: dict[str, Any] = {"crops_coords": region, "temporal_size": frames}
        else:
            length = -(-frames // config.patch_size_t)
            where = {"crops_coords": None, "temporal_size": length, "grid_type": "slice", "max_size": base}
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim, grid_size=(height, width), device=x.device, **where
        )
        return cos, sin


class CogVideoXCodec(VideoCodec):
    """``AutoencoderKLCogVideoX``, decoded in the model's own groups of two latents, the first of three.

    Its normalisation looks at a whole group, so a frame depends on the latents of its group and the ones before; groups
    after the last wanted frame are not decoded.

    Args:
        model: the autoencoder.
        multiple: the transformer takes latents in multiples of this; version 1.5 leads with one that is not decoded.
    """

    def __init__(self, model: nn.Module, multiple: int = 1) -> None:
        """Read size and scale from the model's config."""
        config: Any = model.config
        super().__init__(
            model,
            0.0,
            1 / config.scaling_factor,
            channels=config.latent_channels,
            spatial=2 ** (len(config.block_out_channels) - 1),
            temporal=int(config.temporal_compression_ratio),
        )
        self.multiple = multiple

    def latent_frames(self, frames: int) -> int:
        """How many latents a video of ``1 + 2 r k`` frames has, those that lead included."""
        if frames < 1 or (frames - 1) % (2 * self.temporal):
            raise FrameError(f"CogVideoX takes 1 + {2 * self.temporal} k frames, got {frames}; cut or pad the video.")
        latents = super().latent_frames(frames)
        return latents + -latents % self.multiple

    def video_frames(self, latents: int) -> int:
        """How many frames come out, without those that lead."""
        return super().video_frames(latents - self._leading(latents))

    def _leading(self, latents: int) -> int:
        return 1 - latents % 2 if self.multiple > 1 else 0

    def _encode(self, videos: Tensor) -> Tensor:
        codes = super()._encode(videos)
        return torch.cat([codes[:, :, :1]] * (-codes.shape[2] % self.multiple) + [codes], dim=2)

    def _prefix(self, latents: Tensor, last: int, checkpoint: bool) -> Tensor:
        codes = latents[:, :, self._leading(latents.shape[2]) :]
        size = int(self.model.num_latent_frames_batch_size)  # type: ignore[arg-type]
        groups = max(codes.shape[2] // size, 1)
        first = codes.shape[2] - size * (groups - 1)
        cache, pieces, made = None, [], 0
        for codes_of_group in torch.split(codes, [first] + [size] * (groups - 1), dim=2):
            piece, cache = forgetful(self._group, codes_of_group, cache, again=checkpoint)
            pieces.append(piece)
            made += piece.shape[2]
            if made > last:
                break
        return torch.cat(pieces, dim=2)

    def _group(self, codes: Tensor, cache: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        model: Any = self.model
        if model.post_quant_conv is not None:
            codes = model.post_quant_conv(codes)
        frames, following = model.decoder(codes, conv_cache=cache)
        return frames, following
