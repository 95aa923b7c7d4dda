"""What a tuning leaves behind: low-rank weights and what they belong to, loadable without the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrm.diffusion import lora
from vrm.errors import CheckpointError
from vrm.video import replacing

if TYPE_CHECKING:
    from vrm.diffusion.denoiser import VideoDenoiser
    from vrm.diffusion.generator import VideoGenerator

FORMAT = 1
FIELDS = ("generator", "rank", "alpha", "targets", "step")
Which = Literal["best", "last"]


def describe_adapter(denoiser: VideoDenoiser) -> dict[str, Any]:
    """Say what :meth:`VideoDenoiser.add_lora` needs for the same adapter: ``rank``, ``alpha``, ``targets``."""
    adapted = lora.layers(denoiser.model)
    own = {id(layer) for layer in adapted}
    rank = int(adapted[0].r[lora.ADAPTER])
    targets = [name for name, module in denoiser.model.named_modules() if id(module) in own]
    return {"rank": rank, "alpha": float(adapted[0].scaling[lora.ADAPTER]) * rank, "targets": targets}


def save_tuned(folder: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write ``lora.safetensors`` and ``lora.json``, each atomically, weights first.

    Args:
        folder: made if missing.
        weights: the adapter's, by name, as :meth:`VideoDenoiser.lora_state` gives them.
        about: at least ``generator`` (what :func:`vrm.diffusion.load_generator` takes), ``rank``, ``alpha``,
            ``targets`` and ``step``, as JSON values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "lora.safetensors", ".safetensors") as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, partial)
    with replacing(folder / "lora.json", ".json") as partial:
        partial.write_text(json.dumps({"format": FORMAT, **about}, indent=1) + "\n")


def load_tuned(
    path: str | Path, which: Which = "best", generator: VideoGenerator | None = None, scale: float = 1.0
) -> VideoGenerator:
    """Load a generator with what a tuning taught it.

    Args:
        path: the run's folder, or one that holds ``lora.json`` and ``lora.safetensors``.
        which: of a run, the weights of the highest trained reward before the held-out judge fell, or the last ones.
        generator: to put the weights into; by default the one they were tuned on is loaded by its name.
        scale: of the tuning: 0 is the base model, values between 0 and 1 are nearer to it.

    Returns:
        The generator; its adapter stays switchable, with the base as ``denoiser.reference()``.

    Raises:
        CheckpointError: if there are no such weights, they are damaged, or they do not fit the generator.

    Example:
        >>> videos = load_tuned("runs/finetune/RUN").sample(["a robot kneeling"], seed=0)  # doctest: +SKIP
    """
    folder = Path(path) if (Path(path) / "lora.json").is_file() else Path(path) / which
    about, weights = read_tuned(folder)
    if generator is None:
        from vrm.diffusion.generator import load_generator

        generator = load_generator(about["generator"])
    generator.denoiser.add_lora(about["rank"], about["alpha"] * scale, about["targets"])
    generator.denoiser.load_lora_state(weights)
    return generator


def read_tuned(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`save_tuned` wrote: the facts and the weights.

    Raises:
        CheckpointError: if a file is missing, damaged or of a newer format.
    """
    try:
        about = json.loads((folder / "lora.json").read_text())
        weights = load_file(folder / "lora.safetensors")
        missing = [name for name in FIELDS if name not in about]
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"{str(folder)!r} holds no tuned weights, or they are damaged ({error}).") from error
    if missing or about.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(folder / 'lora.json')!r} is of format {about.get('format')!r} and lacks {missing}; this version of "
            f"vrm reads format {FORMAT}."
        )
    return about, weights
