"""Checkpoints that hold a preference loop beside the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from stable_baselines3.common.base_class import BaseAlgorithm

from vrm.agents.run import RunFolder, WritesItself, read_algorithm, write_algorithm


class Loop(Protocol):
    """What goes on beside an agent and has something to remember."""

    @property
    def algo(self) -> BaseAlgorithm: ...  # noqa: D102 (the agent)

    def write(self, folder: Path) -> None:
        """Write its part of a checkpoint."""

    def read(self, folder: Path) -> None:
        """Read what :meth:`write` wrote, after the agent's part."""


class PreferenceRun(RunFolder):
    """A run folder whose checkpoints hold a preference loop beside the agent, complete or not at all."""

    def __init__(self, path: Path, loop: Loop) -> None:
        """Name a folder."""
        super().__init__(path)
        self.loop = loop

    def save_checkpoint(self, algo: BaseAlgorithm | WritesItself, keep: int = 2) -> Path:
        """Write agent and loop."""
        return super().save_checkpoint(_Together(self.loop), keep)

    def load_checkpoint(self, algo: BaseAlgorithm | WritesItself, with_buffer: bool = True) -> int:
        """Read agent and loop."""
        return super().load_checkpoint(_Together(self.loop), with_buffer)


class _Together:
    """Agent and loop, as a checkpoint sees them."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    @property
    def num_timesteps(self) -> int:
        return self.loop.algo.num_timesteps

    @num_timesteps.setter
    def num_timesteps(self, steps: int) -> None:
        self.loop.algo.num_timesteps = steps

    def write_checkpoint(self, folder: Path) -> None:
        write_algorithm(self.loop.algo, folder)
        self.loop.write(folder)

    def read_checkpoint(self, folder: Path, with_buffer: bool = True) -> None:
        read_algorithm(self.loop.algo, folder, with_buffer)
        if with_buffer:
            self.loop.read(folder)
