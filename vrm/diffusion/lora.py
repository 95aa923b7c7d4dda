"""Low-rank adapters inside any network, by peft: added, switched off, scaled, saved and swapped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vrm.errors import CheckpointError, MissingExtraError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ADAPTER = "default"


def add(model: nn.Module, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Put adapters of ``rank`` into every linear layer whose name ends in one of ``targets``.

    The first factor starts as N(0, 1 / rank), the second at zero (InstructVideo). Adapters are float32 even in a bf16
    network, whose small updates would be rounded away.

    Raises:
        MissingExtraError: if peft is not installed.
        ValueError: if no layer matches, the rank is not positive, or there are adapters already.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("peft", "diffusion", "Tuning a generator by LoRA") from error
    if rank < 1 or layers(model):
        raise ValueError(
            f"LoRA needs rank >= 1 and a network without adapters, got rank {rank} and {len(layers(model))}."
        )
    ends = "|".join(re.escape(target) for target in targets)
    chosen = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and re.search(rf"(^|\.)({ends})$", n)]
    if not chosen:
        raise ValueError(f"No linear layer's name ends in any of {list(targets)}; name others by targets.")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, init_lora_weights="gaussian")  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, ADAPTER)
    for parameter in parameters(model).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def layers(model: nn.Module) -> list[Any]:
    """The adapted layers."""
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' weights by name."""
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Leave the adapters out; whether their weights are trainable is the same after as before."""
    flags = {name: parameter.requires_grad for name, parameter in parameters(model).items()}
    adapted = [layer for layer in layers(model) if not layer.disable_adapters]
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)
        for name, parameter in parameters(model).items():
            parameter.requires_grad_(flags[name])


@contextmanager
def scaled(model: nn.Module, scale: float) -> Iterator[None]:
    """Multiply what the adapters add."""
    before = [(layer, layer.scaling[ADAPTER]) for layer in layers(model)]
    for layer, value in before:
        layer.scaling[ADAPTER] = value * scale
    try:
        yield
    finally:
        for layer, value in before:
            layer.scaling[ADAPTER] = value


@contextmanager
def replaced(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the adapters hold the values of ``state`` for a while; the very same tensors return afterwards."""
    check(model, state)
    before = {name: parameter.data for name, parameter in parameters(model).items()}
    for name, parameter in parameters(model).items():
        parameter.data = state[name].to(parameter.device, parameter.dtype)
    try:
        yield
    finally:
        for name, parameter in parameters(model).items():
            parameter.data = before[name]


def check(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse weights of other adapters.

    Raises:
        CheckpointError: naming the first difference.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in parameters(model).items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(expected | given):
        if expected.get(name) != given.get(name):
            raise CheckpointError(
                f"Adapter weights {name!r} have shape {given.get(name)}, this network's have {expected.get(name)}; "
                "add adapters of the same rank and targets before loading."
            )
