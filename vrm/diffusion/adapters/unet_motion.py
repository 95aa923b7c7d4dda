"""``UNetMotionModel``: AnimateDiff."""

from __future__ import annotations

from torch import Tensor

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser


class UNetMotionDenoiser(VideoDenoiser):
    """An image U-Net with motion modules over ``(B, C, T, h, w)``; it wants the text once per frame."""

    def call(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Run the network; arguments as in the base class."""
        text = conditions.embeds.repeat_interleave(x.shape[2], dim=0)
        output: Tensor = self.model(x, timestep, encoder_hidden_states=text).sample
        return output
