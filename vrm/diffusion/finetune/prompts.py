"""Prompts from a file or a list, and which of them each step trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vrm.errors import PromptError
from vrm.scoring.plan import read_prompts as read_lines


@dataclass(frozen=True)
class Prompts:
    """What is trained on, and what is only looked at.

    Attributes:
        train: sentences.
        held_out: other sentences.

    Raises:
        PromptError: if one is in both, up to case and spaces, or one of the two is empty.
    """

    train: Sequence[str]
    held_out: Sequence[str]

    def __post_init__(self) -> None:
        """Check that they are apart."""
        if not self.train or not self.held_out:
            raise PromptError("Tuning needs at least one prompt to train on and one that is held out.")
        plain = {" ".join(prompt.casefold().split()) for prompt in self.train}
        for prompt in self.held_out:
            if " ".join(prompt.casefold().split()) in plain:
                raise PromptError(f"Prompt {prompt!r} is trained on and held out; take it out of one of the two.")


def read_prompts(source: str | Path | Sequence[str], role: str = "Prompts") -> list[str]:
    """Read a text file with one prompt per line, or take a list.

    Args:
        source: the file, or the prompts themselves.
        role: what to call them in errors.

    Raises:
        InputError: if the file cannot be read.
        PromptError: if there is no prompt, one is empty, or one is given twice.
    """
    lines = read_lines(source) if isinstance(source, (str, Path)) else source
    found = [line.strip() if isinstance(line, str) else "" for line in lines]
    if not found or not all(found):
        raise PromptError(f"{role} must hold at least one sentence and no empty one, got {found!r:.200}.")
    twice = sorted({prompt for prompt in found if found.count(prompt) > 1})
    if twice:
        raise PromptError(f"{role} hold {twice[0]!r} more than once; give every prompt once.")
    return found


def batch_indices(total: int, batch: int, step: int, seed: int, share: tuple[int, int] = (0, 1)) -> list[int]:
    """Choose what a step trains on: all of ``total`` in random order, then all again in another.

    A function of its arguments alone, so that a run continued at ``step`` sees what an uninterrupted one would.

    Args:
        total: how many there are.
        batch: how many to choose for each process.
        step: number of the step, from 0.
        seed: of the orders.
        share: number of this process, and of all; together they train on ``batch`` times as many.

    Returns:
        ``batch`` indices in [0, total).

    Example:
        >>> sorted(batch_indices(4, 2, 0, seed=0) + batch_indices(4, 2, 1, seed=0))
        [0, 1, 2, 3]
    """
    rank, world = share
    places = ((step * world + rank) * batch + offset for offset in range(batch))
    return [int(np.random.default_rng((seed, place // total)).permutation(total)[place % total]) for place in places]
