"""Nested training state as files of tensors and JSON, never pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrm.errors import CheckpointError

PLAIN = (str, int, float, bool, type(None))


def write_state(folder: Path, name: str, state: Any) -> None:
    """Write dicts, lists, tuples, tensors and JSON values to ``NAME.safetensors`` and ``NAME.json`` in ``folder``.

    Keys of dicts may be texts or integers; floats and tensors come back bit for bit.

    Raises:
        TypeError: if anything else is in it.
    """
    tensors: dict[str, Tensor] = {}
    (folder / f"{name}.json").write_text(json.dumps(_take_apart(state, tensors)))
    save_file(tensors or {"_": torch.zeros(1)}, folder / f"{name}.safetensors")


def read_state(folder: Path, name: str) -> Any:
    """Read what :func:`write_state` wrote, tensors on the CPU.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    try:
        plan = json.loads((folder / f"{name}.json").read_text())
        return _put_together(plan, load_file(folder / f"{name}.safetensors"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"State {name!r} in {str(folder)!r} is missing or damaged ({error}).") from error


def to_cpu(value: Any) -> Any:
    """The same nested state with its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: to_cpu(part) for key, part in value.items()}
    return type(value)(map(to_cpu, value)) if isinstance(value, (list, tuple)) else value


def _take_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        if not all(isinstance(key, (str, int)) for key in value):
            raise TypeError(f"Keys of a state must be texts or integers, got {list(value)!r:.100}.")
        return {"dict": [[key, _take_apart(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_take_apart(part, tensors) for part in value]}
    if not isinstance(value, PLAIN):
        raise TypeError(f"A state holds dicts, lists, tensors and JSON values, got {type(value).__name__}.")
    return value


def _put_together(plan: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(plan, dict):
        return plan
    ((kind, content),) = plan.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_together(part, tensors) for key, part in content}
    parts = [_put_together(part, tensors) for part in content]
    return tuple(parts) if kind == "tuple" else parts
