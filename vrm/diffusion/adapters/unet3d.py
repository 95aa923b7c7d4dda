"""``UNet3DConditionModel``: ModelScope and ZeroScope."""

from __future__ import annotations

from torch import Tensor

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser


class UNet3DDenoiser(VideoDenoiser):
    """A 3D U-Net over ``(B, C, T, h, w)``; it repeats the text for every frame by itself."""

    def call(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Run the network; arguments as in the base class."""
        output: Tensor = self.model(x, timestep, encoder_hidden_states=conditions.embeds).sample
        return output
