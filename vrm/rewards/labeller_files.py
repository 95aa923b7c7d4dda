"""Labellers inside reward files: described by class and config, built again without running anything a file says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from vrm.errors import CheckpointError
from vrm.rewards.base import Encoders
from vrm.rewards.labellers import Labeller


def labeller_to_spec(labeller: Labeller) -> dict[str, Any] | None:
    """Describe a labeller as JSON values; None if it has no ``config()``, as one that talks to a server."""
    config = getattr(labeller, "config", None)
    kind = type(labeller)
    return None if config is None else {"class": f"{kind.__module__}:{kind.__qualname__}", "config": config()}


def labeller_from_spec(spec: Mapping[str, Any], encoder: Encoders = None) -> Labeller:
    """Build the labeller that :func:`labeller_to_spec` described.

    Only classes of this library, or of modules imported already, are built.

    Raises:
        CheckpointError: if the class is another one or no labeller.
    """
    module, _, name = str(spec["class"]).partition(":")
    if module not in sys.modules and module.split(".")[0] == "vrm" and all(map(str.isidentifier, module.split("."))):
        try:
            import_module(module)
        except ModuleNotFoundError:
            raise _unknown(spec) from None
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type) or not all(hasattr(kind, part) for part in ("compare", "config", "from_config")):
        raise _unknown(spec)
    built: Labeller = kind.from_config(spec["config"], encoder)  # type: ignore[attr-defined]  # looked for above
    return built


def _unknown(spec: Mapping[str, Any]) -> CheckpointError:
    return CheckpointError(
        f"The file names labeller {spec['class']!r}, which is none that this library knows; import its module first."
    )
