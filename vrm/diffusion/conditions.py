"""What a denoiser is told beside the noisy latent: the embedded prompts of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """Embedded prompts, one row per video.

    Attributes:
        embeds: ``(B, L, D)`` token embeddings.
        mask: ``(B, L)`` true where a token counts, or None if the model attends to all.
    """

    embeds: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Conditions:
        """The conditions of some rows."""
        return self._map(lambda tensor: tensor[rows])

    def repeat(self, count: int) -> Conditions:
        """Each row ``count`` times in a place: row ``i`` becomes rows ``i * count`` to ``(i + 1) * count - 1``."""
        return self._map(lambda tensor: tensor.repeat_interleave(count, dim=0))

    def expand(self, count: int) -> Conditions:
        """One row for ``count`` videos."""
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditions:
        """The same on another device, the embeddings in another type."""
        moved = self._map(lambda tensor: tensor.to(device))
        return moved if dtype is None else replace(moved, embeds=moved.embeds.to(dtype))

    def join(self, other: Conditions) -> Conditions:
        """These rows, then those of ``other``.

        Raises:
            ValueError: if the two have token axes of different lengths, or only one has a mask.
        """
        if self.embeds.shape[1:] != other.embeds.shape[1:] or (self.mask is None) != (other.mask is None):
            raise ValueError(
                f"Conditions {tuple(self.embeds.shape)} and {tuple(other.embeds.shape)} cannot share a batch; "
                "embed both with the same encoder, padded to the same length."
            )
        masks = [mask for mask in (self.mask, other.mask) if mask is not None]
        return Conditions(torch.cat([self.embeds, other.embeds]), torch.cat(masks) if masks else None)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        return Conditions(change(self.embeds), None if self.mask is None else change(self.mask))


PromptEncoder = Callable[[Sequence[str]], Conditions]
