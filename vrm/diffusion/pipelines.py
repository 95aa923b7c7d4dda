"""Text-to-video pipelines of diffusers, from a folder or the hub, as generators."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vrm.diffusion.adapters.cogvideox import CogVideoXCodec, CogVideoXDenoiser
from vrm.diffusion.adapters.ltx import LTXCodec, LTXDenoiser
from vrm.diffusion.adapters.unet3d import UNet3DDenoiser
from vrm.diffusion.adapters.unet_motion import UNetMotionDenoiser
from vrm.diffusion.adapters.wan import WanCodec, WanDenoiser, WanExperts
from vrm.diffusion.codec import FrameCodec
from vrm.diffusion.denoiser import Parametrisation
from vrm.diffusion.generator import BUNDLED, SamplingDefaults, VideoGenerator
from vrm.diffusion.schedule import FLOW_TIMESTEPS, NoiseSchedule, from_diffusers
from vrm.diffusion.text import TextTower
from vrm.errors import CheckpointError, MissingExtraError, UnknownNameError

INDEX = "model_index.json"
PARAMETRISATIONS: dict[str, Parametrisation] = {
    "epsilon": "epsilon", "v_prediction": "v", "flow_prediction": "flow",
}  # fmt: skip


def load_pipeline(name: str, dtype: torch.dtype | None = None, **defaults: Any) -> VideoGenerator:
    """Load a pipeline folder, or a pipeline of the hub, by its ``model_index.json``.

    Args:
        name: a folder or ``"owner/name"``.
        dtype: of the weights; as diffusers loads them if None.
        defaults: what to change of how it is sampled, see :meth:`VideoGenerator.with_defaults`.

    Raises:
        CheckpointError: if there is none or it cannot be read.
        UnknownNameError: if it is of a class that is not driven here.
        MissingExtraError: if diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError("diffusers", "diffusion", f"The generator {name!r}") from error
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise CheckpointError(
            f"No generator {name!r}: give a folder, a pipeline's 'owner/name' on the hub, or {' or '.join(BUNDLED)}."
        )
    source = str(folder) if folder.is_dir() else name
    kind = _kind(folder, name)
    if kind not in BUILDERS:
        raise UnknownNameError("pipeline class", kind, BUILDERS, "Save a text-to-video pipeline of one of these.")
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(source, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"Generator {name!r} cannot be read ({error}); save it with save_pretrained.") from error
    generator = BUILDERS[kind](pipeline).with_defaults(**defaults)
    generator.name = name
    if pipeline.scheduler.config.get("use_dynamic_shifting", False):
        generator.denoiser.schedule = from_diffusers(pipeline.scheduler, math.prod(generator.latent_shape(1)[2:]))
    return generator


def _kind(folder: Path, name: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        index = folder / INDEX if folder.is_dir() else Path(hf_hub_download(name, INDEX))
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"Generator {name!r} has no readable {INDEX} ({error}).") from error


def _modelscope(pipeline: Any) -> VideoGenerator:
    schedule, prediction = _diffusion(pipeline)
    codec = FrameCodec(pipeline.vae)
    side = int(pipeline.unet.config.sample_size or 32) * codec.spatial
    denoiser = UNet3DDenoiser(pipeline.unet, schedule, prediction)
    return VideoGenerator(denoiser, codec, _clip(pipeline), SamplingDefaults(16, (side, side), 25, 9.0))


def _animatediff(pipeline: Any) -> VideoGenerator:
    schedule, prediction = _diffusion(pipeline)
    codec = FrameCodec(pipeline.vae)
    side = int(pipeline.unet.config.sample_size or 64) * codec.spatial
    denoiser = UNetMotionDenoiser(pipeline.unet, schedule, prediction)
    return VideoGenerator(denoiser, codec, _clip(pipeline), SamplingDefaults(16, (side, side), 25, 7.5))


def _wan(pipeline: Any) -> VideoGenerator:
    model, boundary = pipeline.transformer, pipeline.config.boundary_ratio
    if boundary is not None:
        model = WanExperts(model, pipeline.transformer_2, boundary * FLOW_TIMESTEPS)
    denoiser = WanDenoiser(model, from_diffusers(pipeline.scheduler), "flow")
    text = TextTower(pipeline.tokenizer, pipeline.text_encoder, 512, "zeroed")
    return VideoGenerator(denoiser, WanCodec(pipeline.vae), text, SamplingDefaults(81, (480, 832), 50, 5.0))


def _cogvideox(pipeline: Any) -> VideoGenerator:
    schedule, prediction = _diffusion(pipeline)
    config = pipeline.transformer.config
    codec = CogVideoXCodec(pipeline.vae, config.patch_size_t or 1)
    size = (config.sample_height * codec.spatial, config.sample_width * codec.spatial)
    text = TextTower(pipeline.tokenizer, pipeline.text_encoder, config.max_text_seq_length)
    denoiser = CogVideoXDenoiser(pipeline.transformer, schedule, prediction)
    return VideoGenerator(denoiser, codec, text, SamplingDefaults(config.sample_frames, size, 50, 6.0))


def _ltx(pipeline: Any) -> VideoGenerator:
    codec = LTXCodec(pipeline.vae)
    compression = (codec.temporal, codec.spatial)
    denoiser = LTXDenoiser(pipeline.transformer, from_diffusers(pipeline.scheduler), compression)
    text = TextTower(pipeline.tokenizer, pipeline.text_encoder, 128, "masked")
    return VideoGenerator(denoiser, codec, text, SamplingDefaults(161, (512, 704), 50, 3.0))


BUILDERS: dict[str, Callable[[Any], VideoGenerator]] = {
    "TextToVideoSDPipeline": _modelscope,
    "AnimateDiffPipeline": _animatediff,
    "WanPipeline": _wan,
    "CogVideoXPipeline": _cogvideox,
    "LTXPipeline": _ltx,
}


def _diffusion(pipeline: Any) -> tuple[NoiseSchedule, Parametrisation]:
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if kind not in PARAMETRISATIONS:
        raise UnknownNameError("prediction type", kind, PARAMETRISATIONS)
    return from_diffusers(pipeline.scheduler), PARAMETRISATIONS[kind]


def _clip(pipeline: Any) -> TextTower:
    positions = pipeline.text_encoder.config.max_position_embeddings
    return TextTower(pipeline.tokenizer, pipeline.text_encoder, min(pipeline.tokenizer.model_max_length, positions))
