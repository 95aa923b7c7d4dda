"""A text-to-video generator: prompts to conditions, noise to latents, latents to frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vrm.diffusion.codec import LatentCodec
from vrm.diffusion.conditions import Conditions, PromptEncoder
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.kernels import Kernel, ode
from vrm.diffusion.rollout import draw_noise, rollout
from vrm.errors import PromptError

BUNDLED = ("vrm-tiny",)


@dataclass(frozen=True)
class SamplingDefaults:
    """How a generator is sampled unless a call says otherwise.

    Attributes:
        frames: of a video.
        size: height and width in pixels.
        steps: of the sampler.
        guidance: classifier-free guidance weight.
    """

    frames: int
    size: tuple[int, int]
    steps: int
    guidance: float


class VideoGenerator(nn.Module):
    """Denoiser, codec and text encoder of one text-to-video model.

    Args:
        denoiser: predicts latents.
        codec: turns them into frames.
        text: prompts to :class:`~vrm.diffusion.conditions.Conditions`, one row each; any callable. The empty prompt
            must have an embedding too: it is the null condition.
        defaults: how to sample.
        name: what it was loaded by.

    Example:
        >>> generator = load_generator("vrm-tiny")  # doctest: +SKIP
        >>> videos = generator.sample(["a humanoid kneels"], seed=3)  # (1, T, 3, H, W) in [0, 1]  # doctest: +SKIP
    """

    def __init__(
        self,
        denoiser: VideoDenoiser,
        codec: LatentCodec,
        text: PromptEncoder,
        defaults: SamplingDefaults,
        name: str = "custom",
    ) -> None:
        """Put the parts together."""
        super().__init__()
        self.denoiser = denoiser
        self.codec = codec
        self.text = text
        self.defaults = defaults
        self.name = name
        self._null: Conditions | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.denoiser.device

    def condition(self, prompts: Sequence[str]) -> Conditions:
        """Embed prompts, one row each, without gradient.

        Raises:
            PromptError: if there are none, or one is not a text.
        """
        if isinstance(prompts, str) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise PromptError(f"prompts must be a list of texts, one per video, got {prompts!r}.")
        with torch.no_grad():
            return self.text(list(prompts)).to(self.device)

    def null(self, count: int) -> Conditions:
        """``count`` rows of the empty prompt, for guidance."""
        if self._null is None:
            self._null = self.condition([""])
        return self._null.to(self.device).expand(count)

    def latent_shape(self, count: int, frames: int | None = None) -> tuple[int, int, int, int, int]:
        """Shape ``(count, C, t, h, w)`` of the latents of so many videos.

        Raises:
            FrameError: if the codec has no latents for that length.
        """
        height, width = self.defaults.size
        latents = self.codec.latent_frames(frames or self.defaults.frames)
        return count, self.codec.channels, latents, height // self.codec.spatial, width // self.codec.spatial

    def sample_latents(
        self,
        prompts: Sequence[str],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] = 0,
        kernel: Kernel = ode,
        frames: int | None = None,
    ) -> Tensor:
        """Latents ``(B, C, t, h, w)`` of :meth:`sample`, before they are decoded."""
        conditions = self.condition(prompts)
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        generators = [torch.Generator().manual_seed(number) for number in seeds]
        weight = self.defaults.guidance if guidance is None else guidance
        return rollout(
            self.denoiser,
            conditions,
            draw_noise(self.latent_shape(len(prompts), frames), generators, self.device),
            self.denoiser.schedule.grid(steps or self.defaults.steps),
            kernel,
            guidance=weight,
            null=self.null(len(prompts)) if weight != 1.0 else None,
            generator=generators,
        ).x0

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] = 0,
        kernel: Kernel = ode,
        frames: int | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Draw one video per prompt; a video depends on its own prompt and seed, not on the others of its batch.

        Args:
            prompts: one text per video.
            steps: of the sampler; the generator's default if None.
            guidance: classifier-free guidance weight; the default if None.
            seed: of each video; one number stands for ``seed``, ``seed + 1`` and so on.
            kernel: the sampler's step.
            frames: length; the default if None.
            chunk: how many frames or videos are decoded at a time, see :meth:`LatentCodec.decode`.

        Returns:
            ``(B, T, 3, H, W)`` float32 in [0, 1].
        """
        latents = self.sample_latents(prompts, steps=steps, guidance=guidance, seed=seed, kernel=kernel, frames=frames)
        return self.codec.decode(latents, chunk=chunk, clamp="hard")

    def with_defaults(self, **changes: Any) -> VideoGenerator:
        """Change how it is sampled (``frames``, ``size``, ``steps``, ``guidance``; None keeps) and return it.

        Raises:
            ValueError: if a side of the frames is not divisible as the codec needs it.
        """
        self.defaults = replace(self.defaults, **{k: v for k, v in changes.items() if v is not None})
        if any(side % self.codec.spatial for side in self.defaults.size):
            raise ValueError(f"size must be divisible by {self.codec.spatial}, got {self.defaults.size}.")
        return self


def load_generator(
    name: str,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    dtype: torch.dtype | None = None,
) -> VideoGenerator:
    """Load a text-to-video generator.

    Args:
        name: ``"vrm-tiny"``, the flow transformer that comes with this library, a
            folder that holds a diffusers pipeline, or such a pipeline's name on the hub. Weights are read from
            safetensors files only, and no code of the folder is run.
        frames: length of its videos in place of the model's default.
        size: height and width in place of the default.
        steps: of the sampler in place of the default.
        guidance: weight in place of the default.
        dtype: of the weights, such as ``torch.bfloat16``; the sampler's own arithmetic stays float32.

    Raises:
        CheckpointError: if there is no such pipeline or it cannot be read.
        UnknownNameError: if the pipeline is of a class that this library does not drive.
        MissingExtraError: if diffusers is not installed.
    """
    changes = {"frames": frames, "size": size, "steps": steps, "guidance": guidance}
    if name not in BUNDLED:
        from vrm.diffusion.pipelines import load_pipeline

        return load_pipeline(name, dtype, **changes)
    from vrm.diffusion.tiny import load_tiny

    generator: VideoGenerator = load_tiny(name)
    if dtype is not None:
        generator.denoiser.model.to(dtype)
        generator.codec.model.to(dtype)
    return generator.with_defaults(**changes)
