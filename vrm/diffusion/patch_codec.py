"""The frame codec of the bundled generators: principal components of patches in, a convolutional network out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vrm.diffusion.codec import FrameCodec, LatentCodec


class PatchAutoencoder(nn.Module):
    """Encodes each patch of a frame linearly, and decodes with what the neighbours tell.

    The encoder keeps the leading principal components of patches, each scaled to unit variance. The decoder adds to
    their linear inverse what a network with sub-pixel convolutions (Shi et al. 2016, arXiv 1609.05158) makes of them.

    Args:
        channels: components that are kept.
        widths: of the network at 8, 4 and 2 pixels a cell.
    """

    side = 8

    def __init__(self, channels: int = 16, widths: tuple[int, int, int] = (96, 64, 32)) -> None:
        """Start with a decoder that is all linear."""
        super().__init__()
        self.channels, self.widths = channels, tuple(widths)
        self.encoder = nn.Conv2d(3, channels, self.side, stride=self.side)
        self.inverse = nn.ConvTranspose2d(channels, 3, self.side, stride=self.side, bias=False)
        self.mean = nn.Parameter(torch.zeros(3, self.side, self.side))
        coarse, middle, fine = widths
        self.refine = nn.Sequential(
            nn.Conv2d(channels, coarse, 3, padding=1),
            Residual(coarse),
            Residual(coarse),
            nn.Conv2d(coarse, 4 * middle, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(middle),
            Residual(middle),
            nn.Conv2d(middle, 4 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(fine),
            nn.SiLU(),
            nn.Conv2d(fine, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        last = self.refine[-2]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit(self, patches: Tensor, weights: Tensor) -> None:
        """Set encoder and inverse to the weighted principal components of ``patches (N, 3, 8, 8)``, in [-1, 1].

        Every channel gets variance 1 over unweighted patches.
        """
        flat = patches.flatten(1).double()
        mean = flat.mean(0)
        share = (weights / weights.sum()).double()
        covariance = (flat - mean).T @ ((flat - mean) * share[:, None])
        axes = torch.linalg.eigh(covariance)[1].flip(1)[:, : self.channels]
        scale = ((flat - mean) @ axes).std(0)
        assert self.encoder.bias is not None
        self.encoder.weight.copy_((axes / scale).T.reshape(self.encoder.weight.shape))
        self.encoder.bias.copy_(-(mean @ axes) / scale)
        self.inverse.weight.copy_((axes * scale).T.reshape(self.inverse.weight.shape))
        self.mean.copy_(mean.reshape(self.mean.shape))

    def decode(self, latents: Tensor) -> Tensor:
        """Frames ``(N, 3, 8 h, 8 w)`` around [-1, 1] of latents ``(N, C, h, w)``."""
        height, width = latents.shape[-2:]
        frames: Tensor = self.inverse(latents) + self.mean.repeat(1, height, width) + self.refine(latents)
        return frames


class Residual(nn.Module):
    """Two convolutions beside the identity, which they leave alone at first.

    Args:
        width: channels in and out.
    """

    def __init__(self, width: int) -> None:
        """Zero the second convolution."""
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, width, h, w)`` to the same."""
        change: Tensor = self.second(nn.functional.silu(self.first(nn.functional.silu(x))))
        return x + change


class PatchCodec(FrameCodec):
    """A :class:`PatchAutoencoder` applied to each frame by itself.

    Args:
        model: the autoencoder.
    """

    def __init__(self, model: PatchAutoencoder) -> None:
        """Its latents have unit scale already."""
        LatentCodec.__init__(self, model, 0.0, 1.0, channels=model.channels, spatial=model.side)

    def _encode(self, videos: Tensor) -> Tensor:
        model: PatchAutoencoder = self.model  # type: ignore[assignment]
        codes: Tensor = model.encoder(videos.flatten(0, 1))
        return codes.reshape(*videos.shape[:2], *codes.shape[1:]).transpose(1, 2)

    def _images(self, codes: Tensor) -> Tensor:
        model: PatchAutoencoder = self.model  # type: ignore[assignment]
        return model.decode(codes)
