"""How long, on what and how carefully a generator is tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from vrm.errors import UnknownNameError

PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class GuardSettings:
    """When :class:`~vrm.diffusion.finetune.guard.Guard` stops training.

    Attributes:
        enabled: whether it may stop; it watches and says what it sees in any case.
        patience: evaluations of hacking in a row until it stops.
        margin: standard errors by which the held-out judge must have fallen.
    """

    enabled: bool = True
    patience: int = 2
    margin: float = 2.0


@dataclass(frozen=True)
class FinetuneSettings:
    """What one tuning does, beside its generator, aligner and rewards.

    Attributes:
        steps: updates.
        batch: prompts per update, on each process.
        seed: of prompts, noise and the adapter's first values.
        eval_every: updates between evaluations on held-out prompts.
        checkpoint_every: updates between checkpoints.
        film_every: updates between sheets and films of samples; one is always made before and one after.
        samples: videos of each held-out prompt, at least 2, so that there is a diversity.
        eval_batch: videos drawn and judged at once.
        shown: held-out prompts on sheets and films.
        fps: of films.
        scales: of the LoRA in the trade-off at the end; 0, the base, is always measured. Empty for no trade-off.
        mixed_precision: of the networks: "no", "bf16" or "fp16".
        videos: real ones, whose prompts are then trained on: a manifest or folder for
            :func:`~vrm.diffusion.finetune.videos.read_captioned`. An aligner that needs some and gets none starts from
            the base model's own.
        guard: when training is stopped.

    Raises:
        ValueError: if a number is out of its range.
        UnknownNameError: if ``mixed_precision`` is unknown.
    """

    steps: int = 200
    batch: int = 4
    seed: int = 0
    eval_every: int = 20
    checkpoint_every: int = 50
    film_every: int = 100
    samples: int = 2
    eval_batch: int = 8
    shown: int = 6
    fps: float = 8.0
    scales: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    videos: str | Path | None = None
    guard: GuardSettings = GuardSettings()

    def __post_init__(self) -> None:
        """Check the ranges."""
        least = {"samples": 2, "seed": 0}
        for name, value in ((f.name, getattr(self, f.name)) for f in fields(self) if f.type == "int"):
            if value < least.get(name, 1):
                raise ValueError(f"{name} must be at least {least.get(name, 1)}, got {value}.")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be positive, got {self.fps}.")
        if not all(math.isfinite(scale) for scale in self.scales):
            raise ValueError(f"scales must be finite numbers, got {list(self.scales)}.")
        if self.mixed_precision not in PRECISIONS:
            raise UnknownNameError("mixed_precision", self.mixed_precision, PRECISIONS)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Take the settings out of a resolved configuration and leave the rest."""
        found = {field.name: config[field.name] for field in fields(cls) if field.name in config}
        scales: Sequence[float] = found.get("scales", cls.scales)
        guard = GuardSettings(**found.get("guard", {}))
        return cls(**{**found, "scales": tuple(map(float, scales)), "guard": guard})
