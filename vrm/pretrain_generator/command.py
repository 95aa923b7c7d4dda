"""``vrm pretrain-generator``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrm.configuration import run_hydra


def pretrain_generator_command(arguments: list[str]) -> int:
    """Train the generators that ``configs/pretrain_generator.yaml`` and overrides describe, and print their scores."""

    def start(config: dict[str, Any], work: Path) -> None:
        from vrm.pretrain_generator.pretrain import pretrain_generators
        from vrm.pretrain_generator.recipe import Recipe

        cores, target = int(config.pop("cores")), Path(config.pop("target"))
        for name, scores in pretrain_generators(Recipe(**config), work, target, cores).items():
            for key, value in scores.items():
                print(f"{name}  {key}: {value}")

    run_hydra("pretrain_generator", arguments, start)
    return 0
