""":func:`load_encoder`: one string to one encoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vrm.encoders.base import Encoder
from vrm.errors import CheckpointError, UnknownNameError

if TYPE_CHECKING:
    from vrm.encoders.hf import HFEncoder
    from vrm.encoders.openclip import OpenCLIPEncoder

BUNDLED = "vrm-sim"
BUNDLED_FOLDER = Path(__file__).parent / "weights" / "vrm_sim"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMS = (BUNDLED, "ARCH/TAG", "ARCH:/path/to/checkpoint", "ARCH/TAG:/path/to/checkpoint", "hf:org/name", "/a/folder")
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def load_encoder(
    name: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    compile: bool = False,
    max_batch: int = 1024,
) -> Encoder:
    """Load a frozen encoder by name.

    ========================================  ==========================================================================
    name                                      what is loaded
    ========================================  ==========================================================================
    ``"vrm-sim"``                             the small encoder that comes with the library
    ``"ViT-L-14/openai"``                     an OpenCLIP architecture with the weights of a tag, downloaded once
    ``"/a/folder"``                           ``open_clip_config.json`` and ``open_clip_model.safetensors`` in a folder
    ``"ViT-L-14:/path/weights.pt"``           a bare checkpoint file of an OpenCLIP architecture
    ``"ViT-L-14/openai:/path/weights.pt"``    the same, with the image statistics and activation of that tag
    ``"hf:org/name"``, ``"hf:/a/folder"``     a CLIP, SigLIP or fixed-size SigLIP2 model of ``transformers``
    ========================================  ==========================================================================

    Weights are loaded strictly, from safetensors or as plain tensors; nothing in a file is ever executed.

    Args:
        name: one of the forms above; it becomes the encoder's ``name``, so that a saved reward can reload it.
        device: where the towers run.
        dtype: precision of the towers, also ``"fp32"``, ``"bf16"`` or ``"fp16"``; features come back in float32, and
            the fingerprint is that of the float32 weights whatever is asked for here.
        compile: whether the image tower is compiled at its first call.
        max_batch: the most frames sent through the tower at once.

    Raises:
        UnknownNameError: if ``name`` has no known form, or names an unknown architecture, tag or precision.
        CheckpointError: if weights are missing, damaged, cannot be downloaded or do not fit their model.
        MissingExtraError: if an ``hf:`` encoder is asked for without ``transformers``.
        ValueError: if ``device`` cannot be used or ``max_batch`` is not positive.

    Example:
        >>> encoder = load_encoder("vrm-sim")  # doctest: +SKIP
        >>> encoder.encode_text(["a humanoid robot standing up"]).shape == (1, encoder.embed_dim)  # doctest: +SKIP
        True
    """
    precision, place = _precision(dtype), _device(device)
    if max_batch < 1:
        raise ValueError(f"max_batch must be at least 1, got {max_batch}.")
    encoder = _load(name, max_batch)
    if precision != torch.float32:
        _ = encoder.fingerprint  # remembered before rounding, so that it does not depend on the precision
    encoder.to(place, precision)
    if compile:
        encoder.image_tower.compile()
    return encoder


def _keep_triton_out() -> None:
    """Leave triton, which torchvision would import, out of a process where it would crash.

    Triton and Mesa's software renderer both bring LLVM; whichever is loaded second must not be triton. Only
    ``torch.compile`` for GPUs misses it.
    """
    maps = Path("/proc/self/maps")
    if "triton" not in sys.modules and maps.is_file() and "/libLLVM" in maps.read_text(errors="replace"):
        sys.modules["triton"] = None  # type: ignore[assignment]  # how Python marks what must not be imported


def _load(name: str, max_batch: int) -> OpenCLIPEncoder | HFEncoder:
    _keep_triton_out()
    if name.startswith("hf:"):
        from vrm.encoders.hf import load_hf

        return load_hf(name, name.removeprefix("hf:"), max_batch)

    from vrm.encoders.openclip import load_architecture, load_folder

    if (folder := _folder(name)) is not None:
        return load_folder(name, folder, max_batch)
    model, colon, path = name.partition(":")
    arch, slash, tag = model.partition("/")
    if not arch or not (colon or slash):
        raise _unknown(name)
    if colon and not path:
        raise CheckpointError(f"Encoder {name!r} has no path after the colon; pass '{model}:/path/to/checkpoint'.")
    return load_architecture(name, arch, tag if slash else None, Path(path).expanduser() if colon else None, max_batch)


def _folder(name: str) -> Path | None:
    """Return the OpenCLIP folder that ``name`` means, or None if it is of another form."""
    if name == BUNDLED:
        if not BUNDLED_FOLDER.is_dir():
            raise CheckpointError(
                f"The bundled encoder {name!r} is missing from {str(BUNDLED_FOLDER)!r}; reinstall vrm with its weights."
            )
        return BUNDLED_FOLDER
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if ":" not in name and path.suffix in CHECKPOINT_SUFFIXES:
        raise CheckpointError(
            f"A bare checkpoint does not say which architecture it is for; pass 'ARCH:{name}', for example "
            f"'ViT-B-32:{name}'."
        )
    if name.startswith(("/", "./", "../", "~")):
        raise CheckpointError(f"Folder {name!r} does not exist; check the path.")
    return None


def _unknown(name: str) -> UnknownNameError:
    import open_clip

    if name in open_clip.list_models():
        return UnknownNameError(
            "encoder", name, (f"{name}/{tag}" for tag in open_clip.list_pretrained_tags_by_model(name)), "Add the tag."
        )
    return UnknownNameError("encoder", name, FORMS)


def _precision(dtype: str | torch.dtype) -> torch.dtype:
    precision = PRECISIONS.get(dtype) if isinstance(dtype, str) else dtype
    if precision is None or precision not in PRECISIONS.values():
        raise UnknownNameError("dtype", str(dtype), PRECISIONS)
    return precision


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"Device {str(device)!r} cannot be used here ({str(error).splitlines()[0][:80]}); pass device='cpu'."
        ) from error
