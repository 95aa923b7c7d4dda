"""Features from inside an encoder: patch tokens, feature maps, or the output of any layer of its image tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from math import isqrt
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrm.encoders.base import Encoder
from vrm.errors import NonFiniteError, UnknownNameError
from vrm.frames import check_frames

GLOBAL, PATCHES = "global", "patches"
GRID = 4  # places across and down that feature maps are averaged to

_LAYERS: WeakKeyDictionary[Encoder, dict[str, tuple[int, ...]]] = WeakKeyDictionary()


def encode_layer(encoder: Encoder, frames: Tensor, layer: str = PATCHES, grid: int = GRID) -> Tensor:
    """Compute what a layer of the image tower makes of each frame.

    =================  =================================================================================================
    layer              features
    =================  =================================================================================================
    ``"global"``       the unit embedding, as :meth:`Encoder.encode_image` gives it
    ``"patches"``      the last layer that still knows places: patch tokens of a ViT, the last feature map of a ResNet
    another name       output of that submodule of the image tower, one of :func:`layer_names`
    =================  =================================================================================================

    Maps ``(N, C, h, w)`` and tokens ``(N, L, C)`` are averaged to at most ``grid x grid`` places, so that ``D`` is
    ``C grid^2`` at most. Tokens are taken as rows of the picture; those in front of them (class and register tokens)
    are left out.

    Args:
        encoder: whose image tower to look into.
        frames: ``(N, 3, H, W)`` RGB, uint8 or float in [0, 1].
        layer: as above.
        grid: places across and down.

    Returns:
        ``(N, D)`` float32 on the encoder's device, of any norm unless ``"global"``; carries gradients to float frames.

    Raises:
        FrameError: if ``frames`` breaks the layout.
        UnknownNameError: if there is no such layer, or the tower does not run it.
        NonFiniteError: if the layer returns NaN or infinity.
    """
    check_frames(frames, 4)
    if layer == GLOBAL:
        return encoder.encode_image(frames)
    module = _tower(encoder).get_submodule(resolve_layer(encoder, layer))
    parts = []
    with _eager(encoder):
        for chunk in torch.split(frames, encoder.max_batch):
            seen: list[Tensor] = []
            handle = module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(_tensor(output)))
            try:
                encoder.image_features(encoder.preprocess(chunk.to(encoder.device)).to(encoder.dtype))
            finally:
                handle.remove()
            parts.append(_pool(seen[-1].float(), encoder.preprocess.size, grid))
    features = torch.cat(parts)
    if not torch.isfinite(features.detach()).all():
        raise NonFiniteError(
            f"Layer {layer!r} of encoder {encoder.name!r} produced NaN or infinity in {encoder.dtype}; "
            "load it with dtype=torch.float32, or check the weights."
        )
    return features


def layer_names(encoder: Encoder) -> list[str]:
    """Name the submodules of the image tower whose output :func:`encode_layer` can read, in the order they finish."""
    return list(_layers(encoder))


def resolve_layer(encoder: Encoder, layer: str) -> str:
    """Return the submodule that ``layer`` means; ``"patches"`` is the last one whose output has more than one place.

    Raises:
        UnknownNameError: if the tower runs no such submodule, or none that knows places.
    """
    known = _layers(encoder)
    if layer == PATCHES:
        with_places = [name for name, shape in known.items() if _places(shape) > 1]
        if with_places:
            return with_places[-1]
    if layer in known:
        return layer
    nearest = get_close_matches(layer, known, n=8, cutoff=0.0)
    raise UnknownNameError(
        f"layer of encoder {encoder.name!r}",
        layer,
        [GLOBAL, PATCHES, *nearest],
        f"Named here are the nearest of {len(known)}; vrm.encoders.layers.layer_names(encoder) lists all.",
    )


def _layers(encoder: Encoder) -> dict[str, tuple[int, ...]]:
    """Shape of what each submodule returns for a few frames, in the order they finish; found out once per encoder."""
    if encoder not in _LAYERS:
        count, shapes = 3, dict[str, tuple[int, ...]]()

        def note(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                value = _tensor(output)
                shapes.pop(name, None)  # a module that runs twice counts where it ran last
                if isinstance(value, Tensor) and 2 <= value.ndim <= 4 and len(value) == count:
                    shapes[name] = tuple(value.shape)

            return hook

        blank = torch.zeros(count, 3, *encoder.preprocess.size, device=encoder.device)
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(_eager(encoder))
            for name, module in _tower(encoder).named_modules():
                if name:
                    stack.callback(module.register_forward_hook(note(name)).remove)
            encoder.image_features(encoder.preprocess(blank).to(encoder.dtype))
        _LAYERS[encoder] = shapes
    return _LAYERS[encoder]


def _tower(encoder: Encoder) -> nn.Module:
    tower: nn.Module = getattr(encoder, "image_tower", encoder)
    return tower


@contextmanager
def _eager(encoder: Encoder) -> Iterator[None]:
    """Run a compiled tower as written: compiled code does not call hooks added later."""
    if any(module._compiled_call_impl is not None for module in encoder.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def _tensor(output: Any) -> Any:
    """The tensor a module returned, first of several."""
    if hasattr(output, "last_hidden_state"):
        return output.last_hidden_state
    return output[0] if isinstance(output, tuple | list) and output else output


def _places(shape: tuple[int, ...]) -> int:
    """How many places of the picture an output of this shape tells apart."""
    return shape[2] * shape[3] if len(shape) == 4 else shape[1] if len(shape) == 3 else 1


def _pool(output: Tensor, size: tuple[int, int], grid: int) -> Tensor:
    """Average an output to at most ``grid x grid`` places and flatten it to ``(N, D)``."""
    if output.ndim == 2:
        return output
    if output.ndim == 3:
        height, width = _token_grid(output.shape[1], size)
        output = output[:, -height * width :].mT.reshape(len(output), -1, height, width)
    places = (min(output.shape[2], grid), min(output.shape[3], grid))
    return functional.adaptive_avg_pool2d(output, places).flatten(1)


def _token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches among ``tokens``; what is left over stands in front."""
    return max(isqrt(tokens * size[0] // size[1]), 1), max(isqrt(tokens * size[1] // size[0]), 1)
