"""``WanTransformer3DModel`` and its causal video autoencoder: Wan 2.1 and 2.2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vrm.diffusion.codec import VideoCodec, forgetful
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser


class WanDenoiser(VideoDenoiser):
    """A flow transformer over ``(B, C, T, h, w)``."""

    def call(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Run the network; arguments as in the base class."""
        output: Tensor = self.model(
            hidden_states=x, timestep=timestep, encoder_hidden_states=conditions.embeds, return_dict=False
        )[0]
        return output


class WanExperts(nn.Module):
    """The two transformers of Wan 2.2: one for noisy latents, one for those nearly clean.

    Args:
        high: used at timesteps from the boundary up.
        low: used below it.
        boundary: in training timesteps.
    """

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float) -> None:
        """Keep both."""
        super().__init__()
        self.high = high
        self.low = low
        self.boundary = boundary
        self._supports_gradient_checkpointing = True

    @property
    def dtype(self) -> torch.dtype:
        """What both take."""
        dtype: torch.dtype = self.high.dtype  # type: ignore[assignment]
        return dtype

    def enable_gradient_checkpointing(self) -> None:
        """Checkpoint the blocks of both."""
        for expert in (self.high, self.low):
            expert.enable_gradient_checkpointing()  # type: ignore[operator]

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool
    ) -> tuple[Tensor]:
        """Send each row to its expert."""
        noisy = timestep >= self.boundary
        output = torch.zeros_like(hidden_states)
        for expert, rows in ((self.high, noisy), (self.low, ~noisy)):
            if bool(rows.any()):
                part = expert(hidden_states[rows], timestep[rows], encoder_hidden_states[rows], return_dict=return_dict)
                output = output.index_put((rows,), part[0].to(output.dtype))
        return (output,)


class WanCodec(VideoCodec):
    """``AutoencoderKLWan``, decoded latent by latent.

    Frame 0 depends on latent 0 alone and frame ``k`` on latents up to ``ceil(k / r)``, so the rest is not decoded. The
    model's own ``decode`` clamps its frames, which kills the gradient of saturated pixels; its parts are used instead.
    """

    def __init__(self, model: nn.Module) -> None:
        """Read size and scale from the model's config."""
        config: Any = model.config
        super().__init__(
            model,
            torch.tensor(config.latents_mean),
            torch.tensor(config.latents_std),
            channels=config.z_dim,
            spatial=_spatial(model),
            temporal=2 ** sum(config.temperal_downsample),
        )

    def _prefix(self, latents: Tensor, last: int, checkpoint: bool) -> Tensor:
        model: Any = self.model
        codes = model.post_quant_conv(latents[:, :, : 1 - (-last // self.temporal)])
        cache: list[Any] = [None] * model._cached_conv_counts["decoder"]
        pieces = []
        for i in range(codes.shape[2]):
            piece, cache = forgetful(self._piece, codes[:, :, i : i + 1], cache, i == 0, again=checkpoint)
            pieces.append(piece)
        frames = torch.cat(pieces, dim=2)
        if model.config.patch_size is None:
            return frames
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        unpacked: Tensor = unpatchify(frames, patch_size=model.config.patch_size)  # type: ignore[no-untyped-call]
        return unpacked

    def _piece(self, code: Tensor, cache: list[Any], first: bool) -> tuple[Tensor, list[Any]]:
        """Decode one latent; the cache of the past is an argument and a result, so that the call can be repeated."""
        following = list(cache)
        decoder: Any = self.model.decoder
        return decoder(code, feat_cache=following, feat_idx=[0], first_chunk=first), following


def _spatial(model: Any) -> int:
    stages = len(model.config.dim_mult) - 1
    return int(2**stages * (model.config.patch_size or 1))
