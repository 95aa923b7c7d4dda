"""How sure a set of answers is of each answer, and what to do about those it speaks against (Secrets of RLHF II)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMOOTHING = 0.1  # published


@dataclass(frozen=True)
class Strength:
    """Preference strength per pair, from models that were trained on different shuffles.

    Attributes:
        mean: ``(N,)`` mean over models of how far the preferred one leads; negative where the other answers speak
            against this one. NaN for ties, which prefer none.
        std: ``(N,)`` standard deviation over models, whichever was preferred.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Treated:
    """Answers after treatment.

    Attributes:
        labels: ``(N,)`` flipped or smoothed where that was called for.
        margins: ``(N,)`` by which the preferred one must lead; 0 but for the strongest.
        counts: how many were ``flipped``, ``smoothed``, given a ``margin`` or left as ``ties``; ``estimated_wrong`` is
            how many decided answers have negative strength.
    """

    labels: Tensor
    margins: Tensor
    counts: dict[str, int]


def measure_strength(differences: Tensor, labels: Tensor) -> Strength:
    """Mean and spread of the lead of the preferred one over models.

    Args:
        differences: ``(M, N)`` score of the first minus that of the second, by each of ``M`` models.
        labels: ``(N,)`` answers in [0, 1].

    Paper: Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II: Reward Modeling", arXiv 2401.06080.

    Example:
        >>> measure_strength(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([1.0, 0.0])).mean
        tensor([ 2., -2.])
    """
    side = torch.sign(labels - 0.5)
    mean = torch.where(side == 0, torch.nan, side * differences.mean(dim=0))
    return Strength(mean, differences.std(dim=0, correction=0))


def treat_answers(labels: Tensor, strength: Strength, lowest: float = 0.2, highest: float = 0.4) -> Treated:
    """Flip the weakest answers, smooth the middle, ask for an adaptive margin at the top; ties stay as they are.

    Published: the lowest 20 % are flipped. Here, only those of them whose strength is negative, lest answers that all
    agree be flipped; the others of them are smoothed. The share at the top is ours.

    Args:
        labels: ``(N,)`` answers in [0, 1].
        strength: of :func:`measure_strength`.
        lowest: share of the decided answers that may be flipped.
        highest: share of the decided answers whose preferred side must lead by the mean lead.

    Raises:
        ValueError: if a share is outside [0, 1] or both together are more than all.
    """
    if not (0 <= lowest <= 1 and 0 <= highest <= 1 and lowest + highest <= 1):
        raise ValueError(f"Shares must lie in [0, 1] and add up to at most 1, got {lowest=} and {highest=}.")
    decided = (~strength.mean.isnan()).nonzero()[:, 0]
    order = decided[strength.mean[decided].argsort(stable=True)]
    low = order[: int(lowest * len(order))]
    top = order[len(order) - int(highest * len(order)) :]
    flip = low[strength.mean[low] < 0]
    top = top[strength.mean[top] > 0]
    changed = labels.clone()
    changed[decided] = (1 - SMOOTHING) * labels[decided] + SMOOTHING / 2
    changed[top] = labels[top]
    changed[flip] = 1 - labels[flip]
    margins = torch.zeros_like(labels)
    margins[top] = strength.mean[top]
    counts = {
        "flipped": len(flip),
        "smoothed": len(decided) - len(flip) - len(top),
        "margin": len(top),
        "ties": len(labels) - len(decided),
        "estimated_wrong": int((strength.mean < 0).sum()),
    }
    return Treated(changed, margins, counts)


def halves(count: int, shuffles: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of ``count`` answers for ``2 * shuffles`` models: either half of each shuffle.

    A model says most about answers that it has not learned by heart; so each is judged by the half without it. Halves
    of an odd number share one answer.
    """
    size = (count + 1) // 2
    orders = [torch.randperm(count, generator=generator) for _ in range(shuffles)]
    return [rows for order in orders for rows in (order[:size], order[count - size :])]


def judged_by_others(differences: Tensor, rows: list[Tensor]) -> Tensor:
    """Pick ``(M, N)`` differences by models that were not trained on the pair, from those of all ``2 M``.

    Args:
        differences: ``(2 M, N)``.
        rows: of :func:`halves`, what each was trained on.
    """
    known = torch.zeros(differences.shape, dtype=torch.bool, device=differences.device)
    for model, learned in enumerate(rows):
        known[model, learned.to(known.device)] = True
    return torch.where(known[::2], differences[1::2], differences[::2])
