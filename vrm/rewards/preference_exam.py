"""Examining a preference model on answers that it has not seen."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from vrm.data.comparisons import Comparisons
from vrm.metrics.ties import measure_agreement
from vrm.rewards.preference_losses import (
    TIE_LINKS,
    Link,
    answer_probabilities,
    preference_loss,
    preference_probability,
)

BINS = 10  # of the calibration error
FEWEST = 5  # questions from which some can be held out


def questions(comparisons: Comparisons) -> list[int]:
    """Number the questions ``(N,)``: pairs of the same two pieces, in either order, get one number."""

    def digests(side: Tensor) -> list[bytes]:
        return [hashlib.blake2b(row.contiguous().numpy(), digest_size=16).digest() for row in side.detach().cpu()]

    known = dict[tuple[bytes, bytes], int]()
    pairs = zip(digests(comparisons.first), digests(comparisons.second), strict=True)
    return [known.setdefault((min(a, b), max(a, b)), len(known)) for a, b in pairs]


def contradictions(comparisons: Comparisons, numbers: list[int]) -> int:
    """How many questions one annotator answered for either side; ``numbers`` are those of :func:`questions`."""
    seen = dict[tuple[int, int], set[float]]()
    keys = zip(numbers, comparisons.users.tolist(), strict=True)
    first_of = dict[int, Tensor]()
    for row, key in enumerate(keys):
        shown = comparisons.first[row]
        turned = not torch.equal(first_of.setdefault(key[0], shown), shown)
        lean = float(torch.sign(comparisons.labels[row] - 0.5))
        seen.setdefault(key, set()).add(-lean if turned else lean)
    return sum({-1.0, 1.0} <= leans for leans in seen.values())


def split_questions(numbers: list[int], share: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to hold out, no question on both sides; none are held out of fewer than five.

    Args:
        numbers: of :func:`questions`.
        share: of the questions, in [0, 1).
        generator: draws which.
    """
    count = max(numbers) + 1
    held = torch.zeros(count, dtype=torch.bool)
    if share and count >= FEWEST:
        held[torch.randperm(count, generator=generator)[: max(1, round(share * count))]] = True
    rows = held[torch.tensor(numbers)]
    return (~rows).nonzero()[:, 0], rows.nonzero()[:, 0]


@torch.no_grad()
def examine(differences: Tensor, ties: Tensor, labels: Tensor, link: Link, noise: float) -> dict[str, float]:
    """Figures of an ensemble on answered comparisons.

    Args:
        differences: ``(E, N)``.
        ties: ``(E,)`` parameters of tie models.
        labels: ``(N,)``.
        link: of the ensemble.
        noise: of the ensemble.

    Returns:
        Those of ``accuracy`` (of decided answers), ``accuracy_with_ties`` (three classes; a model without ties calls
        one where the difference is below a threshold, cross-fitted), ``log_loss`` and ``ece`` (expected calibration
        error of the probability in ten bins) that are defined.
    """
    column = functional.softplus(ties)[:, None]
    likely = preference_probability(differences, link, column, noise).mean(dim=0)
    wanted = torch.sign(labels - 0.5).cpu().numpy()
    agreement = measure_agreement((likely - 0.5).double().cpu().numpy(), wanted)
    with_ties = agreement.accuracy.heldout
    if link in TIE_LINKS:
        said = 1 - answer_probabilities(differences, link, column).exp().mean(dim=0).argmax(dim=-1)
        with_ties = float((said.cpu().numpy() == wanted).mean())
    found = {
        "accuracy": agreement.accuracy.tie_aware,
        "accuracy_with_ties": with_ties,
        "log_loss": float(preference_loss(differences, labels, link, column, noise).mean()),
        "ece": calibration_error(likely.double().cpu().numpy(), labels.double().cpu().numpy()),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def calibration_error(likely: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """Expected calibration error: how far probabilities are from the shares of answers, mean over ten bins of them.

    Either side of a pair may come first, so each pair counts both ways round.

    Args:
        likely: ``(N,)`` predicted probabilities that the first is preferred.
        labels: ``(N,)`` answers in [0, 1].

    Example:
        >>> round(calibration_error(np.array([0.8, 0.8]), np.array([1.0, 0.0])), 4)
        0.3
    """
    both, answers = np.concatenate([likely, 1 - likely]), np.concatenate([labels, 1 - labels])
    bins = np.minimum((both * BINS).astype(int), BINS - 1)
    gaps = [abs(float((both - answers)[bins == place].sum())) for place in range(BINS)]
    return sum(gaps) / len(both)
