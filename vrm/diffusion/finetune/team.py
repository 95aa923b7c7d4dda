"""The processes that tune together, one or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Team:
    """Which process this is, and of how many.

    Attributes:
        rank: number of this process, from 0.
        size: number of all.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator | None) -> Self:
        """The processes that Accelerate knows of; this one alone without it."""
        return cls() if accelerator is None else cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def gather(self, parts: list[Any]) -> list[Any]:
        """The lists of all processes as one, in each of them; waits for all."""
        if self.size == 1:
            return parts
        from accelerate.utils import gather_object

        found: list[Any] = gather_object(parts)
        return found

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes so; waits for all."""
        return any(self.gather([wish]))
