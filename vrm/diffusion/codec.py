"""Between videos and latents: chosen frames only, piece by piece, with gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint as recompute

from vrm.errors import FrameError
from vrm.frames import check_frames, to_float

Clamp = Literal["straight-through", "hard"] | None


class LatentCodec(nn.Module, ABC):
    """Turns videos ``(B, T, 3, H, W)`` in [0, 1] into latents ``(B, C, t, h, w)`` of unit scale, and back.

    Args:
        model: the autoencoder; its weights are frozen.
        mean: ``(C,)`` or scalar; latents are the model's own, minus this ...
        std: ... divided by this.
        channels: ``C``.
        spatial: pixels per latent along height and width.
        temporal: frames per latent after the first.

    Attributes:
        decodes: frames that have been decoded so far, those that only lead to a wanted one included.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Tensor | float,
        std: Tensor | float,
        *,
        channels: int,
        spatial: int,
        temporal: int = 1,
    ) -> None:
        """Freeze the model and keep the scale."""
        super().__init__()
        self.model = model
        self.channels = channels
        self.spatial = spatial
        self.temporal = temporal
        self.decodes = 0
        for name, value in (("mean", mean), ("std", std)):
            numbers = torch.as_tensor(value, dtype=torch.float32).reshape(-1)
            self.register_buffer(name, numbers.expand(channels).clone().reshape(1, channels, 1, 1, 1))
        self.requires_grad_(False).eval()

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return next(self.model.parameters()).dtype

    def train(self, mode: bool = True) -> LatentCodec:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def latent_frames(self, frames: int) -> int:
        """How many latents a video of ``frames`` has.

        Raises:
            FrameError: if the codec has no latents for that length.
        """
        if frames < 1 or (frames - 1) % self.temporal:
            raise FrameError(f"This codec takes 1 + {self.temporal} k frames, got {frames}; cut or pad the video.")
        return 1 + (frames - 1) // self.temporal

    def video_frames(self, latents: int) -> int:
        """How many frames come out of ``latents`` latents."""
        return 1 + (latents - 1) * self.temporal

    def encode(self, videos: Tensor) -> Tensor:
        """Latents ``(B, C, t, h, w)`` float32 of videos ``(B, T, 3, H, W)``, uint8 or float in [0, 1]; the mean code.

        Raises:
            FrameError: if the layout, the range, the length or the size does not fit.
        """
        check_frames(videos, 5)
        self.latent_frames(videos.shape[1])
        if any(side % self.spatial for side in videos.shape[-2:]):
            raise FrameError(f"Frames must have sides divisible by {self.spatial}, got {tuple(videos.shape[-2:])}.")
        signed = (to_float(videos) * 2 - 1).to(self.dtype)
        return (self._encode(signed).float() - self.mean) / self.std

    def decode(
        self,
        latents: Tensor,
        frames: Tensor | None = None,
        *,
        chunk: int | None = None,
        checkpoint: bool = False,
        clamp: Clamp = "straight-through",
    ) -> Tensor:
        """Frames ``(B, S, 3, H, W)`` of latents ``(B, C, t, h, w)``, equal to those of a full decode.

        Args:
            latents: as :meth:`encode` makes them.
            frames: which to return, ``(S,)`` or ``(B, S)``; all of them if None.
            chunk: decode so many frames (codecs of single frames) or videos (video codecs) at a time; all if None.
            checkpoint: forget activations of each piece and compute them again on the way back.
            clamp: ``"straight-through"`` keeps values in [0, 1] and lets the gradient pass; ``"hard"`` stops it at
                saturated pixels; None leaves values as they are.

        Raises:
            FrameError: if an index is outside the video.
        """
        total = self.video_frames(latents.shape[2])
        wanted = torch.arange(total) if frames is None else frames.long()
        wanted = wanted.to(latents.device).expand(len(latents), wanted.shape[-1])
        if not wanted.numel() or bool(((wanted < 0) | (wanted >= total)).any()):
            raise FrameError(f"Frames to decode must lie between 0 and {total - 1}, got {wanted[0].tolist()}.")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}.")
        own = (latents.float() * self.std + self.mean).to(self.dtype)
        return _clamped((self._decode(own, wanted, chunk, checkpoint).float() + 1) / 2, clamp)

    @abstractmethod
    def _encode(self, videos: Tensor) -> Tensor:
        """Codes ``(B, C, t, h, w)`` in the model's scale of ``(B, T, 3, H, W)`` in [-1, 1]."""

    @abstractmethod
    def _decode(self, latents: Tensor, wanted: Tensor, chunk: int | None, checkpoint: bool) -> Tensor:
        """The ``wanted`` frames, ``(B, S)``, of latents in the model's scale: ``(B, S, 3, H, W)`` around [-1, 1]."""


class FrameCodec(LatentCodec):
    """An image autoencoder of diffusers (``AutoencoderKL``, ``AutoencoderTiny``) applied to each frame by itself.

    Args:
        model: the autoencoder.
        mean: ``(C,)`` or scalar mean of its codes; its own shift if None.
        std: ``(C,)`` or scalar deviation; the inverse of its own scaling factor if None.
    """

    def __init__(self, model: nn.Module, mean: Tensor | float | None = None, std: Tensor | float | None = None) -> None:
        """Read size and scale from the model's config."""
        config: Any = model.config
        widths = config.get("block_out_channels") or config["decoder_block_out_channels"]
        super().__init__(
            model,
            (config.get("shift_factor") or 0.0) if mean is None else mean,
            1 / config["scaling_factor"] if std is None else std,
            channels=config["latent_channels"],
            spatial=2 ** (len(widths) - 1),
        )

    def _encode(self, videos: Tensor) -> Tensor:
        encoded = self.model.encode(videos.flatten(0, 1))  # type: ignore[operator]
        codes: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return codes.reshape(*videos.shape[:2], *codes.shape[1:]).transpose(1, 2)

    def _decode(self, latents: Tensor, wanted: Tensor, chunk: int | None, checkpoint: bool) -> Tensor:
        rows = torch.arange(len(latents), device=latents.device)[:, None]
        chosen = latents.transpose(1, 2)[rows, wanted].flatten(0, 1)
        self.decodes += len(chosen)
        pieces = [
            forgetful(self._images, piece, again=checkpoint) for piece in torch.split(chosen, chunk or len(chosen))
        ]
        images = torch.cat(pieces)
        return images.reshape(*wanted.shape, *images.shape[1:])

    def _images(self, codes: Tensor) -> Tensor:
        images: Tensor = self.model.decode(codes).sample  # type: ignore[operator]
        return images


class VideoCodec(LatentCodec):
    """Base of video autoencoders: latents are decoded in order, as far as the last wanted frame needs."""

    @abstractmethod
    def _prefix(self, latents: Tensor, last: int, checkpoint: bool) -> Tensor:
        """Frames ``(B, 3, n, H, W)`` from the first to at least number ``last``."""

    def _encode(self, videos: Tensor) -> Tensor:
        codes: Tensor = self.model.encode(videos.transpose(1, 2)).latent_dist.mode()  # type: ignore[operator]
        return codes

    def _decode(self, latents: Tensor, wanted: Tensor, chunk: int | None, checkpoint: bool) -> Tensor:
        size = chunk or len(latents)
        parts = []
        for codes, places in zip(torch.split(latents, size), torch.split(wanted, size), strict=True):
            video = self._prefix(codes, int(places.max()), checkpoint).transpose(1, 2)
            self.decodes += len(video) * video.shape[1]
            parts.append(video[torch.arange(len(video), device=video.device)[:, None], places])
        return torch.cat(parts)


def forgetful(function: Callable[..., Any], *arguments: Any, again: bool) -> Any:
    """Call a function; where ``again``, forget its activations and compute them again on the way back."""
    if again and torch.is_grad_enabled():
        return recompute(function, *arguments, use_reentrant=False)
    return function(*arguments)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient


def _clamped(frames: Tensor, clamp: Clamp) -> Tensor:
    if clamp is None:
        return frames
    if clamp == "hard":
        return frames.clamp(0, 1)
    if clamp != "straight-through":
        raise ValueError(f"clamp must be 'straight-through', 'hard' or None, got {clamp!r}.")
    clamped: Tensor = _StraightThrough.apply(frames)
    return clamped
