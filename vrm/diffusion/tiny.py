"""The small generators that come with this library: ``vrm-tiny`` and ``vrm-tiny-unet``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vrm.diffusion.adapters.unet3d import UNet3DDenoiser
from vrm.diffusion.adapters.wan import WanDenoiser
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.generator import SamplingDefaults, VideoGenerator
from vrm.diffusion.patch_codec import PatchAutoencoder, PatchCodec
from vrm.diffusion.schedule import DiffusionSchedule, FlowSchedule
from vrm.encoders import Encoder, load_encoder
from vrm.errors import CheckpointError, MissingExtraError

FOLDERS = {"vrm-tiny": "vrm_tiny", "vrm-tiny-unet": "vrm_tiny_unet"}
WEIGHTS = Path(__file__).parent / "weights"
SETTINGS, CONFIG = "generator.json", "network.json"
NETWORK, CODEC = "network", "codec"


@dataclass(frozen=True)
class TinySettings:
    """What a folder says of its generator beside the configs of its parts.

    Attributes:
        network: class of the denoiser's network in diffusers, ``WanTransformer3DModel`` or ``UNet3DConditionModel``.
        codec: arguments of :class:`~vrm.diffusion.patch_codec.PatchAutoencoder`.
        encoder: name of the dual encoder whose text tower reads prompts.
        fingerprint: of that encoder, :attr:`vrm.encoders.Encoder.fingerprint`.
        frames: of a video.
        size: pixels of a frame's side.
        steps: of the sampler.
        guidance: classifier-free guidance weight.
        shift: of a flow's noise levels.
    """

    network: str
    codec: dict[str, Any]
    encoder: str
    fingerprint: str
    frames: int = 8
    size: int = 64
    steps: int = 20
    guidance: float = 3.0
    shift: float = 3.0


class SentenceText(nn.Module):
    """Prompts as one token each, the sentence's embedding by a dual encoder, beside a blank one.

    Attention can turn to the blank token where the sentence says nothing; the empty prompt, which guidance compares
    with, is blank in both.

    Args:
        encoder: whose text tower reads the prompts; frozen.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Keep the encoder."""
        super().__init__()
        self.encoder = encoder

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditions:
        """Embed prompts: ``(B, 2, D)`` float32, the first token of mean square 1, the other 0."""
        width = self.encoder.embed_dim
        embeds = torch.zeros(len(prompts), 2, width, device=self.encoder.device)
        told = [row for row, prompt in enumerate(prompts) if prompt.strip()]
        if told:
            embeds[told, 0] = self.encoder.encode_text([prompts[row] for row in told]) * width**0.5
        return Conditions(embeds)


def load_tiny(name: str, folder: Path | None = None) -> VideoGenerator:
    """Load a bundled generator.

    Args:
        name: ``"vrm-tiny"``, a flow transformer, or ``"vrm-tiny-unet"``, a 3D U-Net that predicts noise.
        folder: what :func:`save_tiny` wrote, in place of the bundled weights.

    Raises:
        CheckpointError: if weights are missing or damaged, or were trained with another version of their text encoder.
        MissingExtraError: if diffusers is not installed.
    """
    folder = folder or WEIGHTS / FOLDERS[name]
    settings = _read_settings(folder)
    encoder = load_encoder(settings.encoder)
    if encoder.fingerprint != settings.fingerprint:
        raise CheckpointError(
            f"Generator {name!r} was trained with version {settings.fingerprint} of the encoder {settings.encoder!r}, "
            f"which is {encoder.fingerprint} here and reads prompts differently; train it with vrm pretrain-generator."
        )
    network = build(settings.network, _read_config(folder / CONFIG))
    codec = PatchAutoencoder(**settings.codec)
    for part, model in ((NETWORK, network), (CODEC, codec)):
        _read_weights(model, folder / f"{part}.safetensors")
    return assemble(name, network, codec, encoder, settings)


def save_tiny(folder: Path, generator: VideoGenerator, settings: TinySettings) -> None:
    """Write a generator of this module: configs and half-precision weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, model in ((NETWORK, generator.denoiser.model), (CODEC, generator.codec.model)):
        weights = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
        partial = folder / f"{part}.partial"
        save_file(weights, partial)
        partial.replace(folder / f"{part}.safetensors")
    network: Any = generator.denoiser.model
    (folder / CONFIG).write_text(network.to_json_string(), encoding="utf-8")
    (folder / SETTINGS).write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")


def build(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """A denoising network of diffusers with random weights.

    Args:
        kind: ``"WanTransformer3DModel"`` or ``"UNet3DConditionModel"``.
        config: its arguments.

    Raises:
        MissingExtraError: if diffusers is not installed.
    """
    try:
        from diffusers import UNet3DConditionModel, WanTransformer3DModel
    except ImportError as error:
        raise MissingExtraError("diffusers", "diffusion", "A bundled generator") from error
    classes: dict[str, Any] = {
        "WanTransformer3DModel": WanTransformer3DModel,
        "UNet3DConditionModel": UNet3DConditionModel,
    }
    network: nn.Module = classes[kind].from_config(dict(config))
    return network


def assemble(
    name: str, network: nn.Module, codec: PatchAutoencoder, encoder: Encoder, settings: TinySettings
) -> VideoGenerator:
    """Put network, autoencoder and text encoder together as one generator."""
    denoiser: VideoDenoiser
    if settings.network == "UNet3DConditionModel":
        denoiser = UNet3DDenoiser(network, DiffusionSchedule.scaled_linear(), "epsilon")
    else:
        denoiser = WanDenoiser(network, FlowSchedule(settings.shift), "flow")
    defaults = SamplingDefaults(settings.frames, (settings.size,) * 2, settings.steps, settings.guidance)
    return VideoGenerator(denoiser, PatchCodec(codec), SentenceText(encoder), defaults, name)


def _read_settings(folder: Path) -> TinySettings:
    try:
        return TinySettings(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder} holds no generator ({error}); write one with save_tiny.") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a network's configuration ({error}).") from error
    return config


def _read_weights(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read or does not fit its configuration ({error}).") from error
