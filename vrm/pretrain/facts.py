"""The space that images and sentences share: a direction for every fact, and sentences as sums of directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class FactSpace(nn.Module):
    """Learned directions of one subject, its facts and their negations for each environment family.

    A sentence is the unit vector of the sum of its subject's and its clauses' directions, so that a picture near to
    two facts is near to the sentence that joins them, and every sentence that says the same is the same point.

    Args:
        facts: number of facts of each family.
        dim: size of the shared space.
    """

    def __init__(self, facts: Sequence[int], dim: int) -> None:
        """Draw directions; those of a fact and its negation start opposite."""
        super().__init__()
        self.tables = nn.ParameterList()
        for count in facts:
            towards = functional.normalize(torch.randn(count, dim), dim=-1)
            subject = functional.normalize(torch.randn(1, dim), dim=-1)
            self.tables.append(nn.Parameter(torch.cat([towards, -towards, subject])))

    def forward(self, family: int, columns: Tensor) -> Tensor:
        """Place sentences: unit vectors ``(M, D)``.

        Args:
            family: which family they are about.
            columns: ``(M, C)`` facts ``k``, negations ``K + k``, or ``2 K`` for no further clause.
        """
        table = functional.normalize(self.tables[family], dim=-1)
        subject, clauses = table[-1], torch.cat([table[:-1], torch.zeros_like(table[:1])])
        return functional.normalize(subject + clauses[columns].sum(1), dim=-1)
