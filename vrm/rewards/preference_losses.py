"""What a difference of scores says about an answer, and losses made of that: pure functions of numbers.

Throughout, ``difference`` is the score of the first item minus that of the second, and a label says how likely the
first is preferred: 1, 0, 0.5 for a tie, or anything between. Losses are not reduced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Link = Literal["bradley_terry", "rao_kupper", "davidson", "regret"]
LINKS: tuple[Link, ...] = ("bradley_terry", "rao_kupper", "davidson", "regret")
TIE_LINKS: tuple[Link, ...] = ("rao_kupper", "davidson")  # models that have a word for "neither"


def bradley_terry(difference: Tensor, noise: float = 0.0) -> Tensor:
    """Probability that the first is preferred: ``(1 - noise) sigmoid(d) + noise / 2``.

    Args:
        difference: ``(...)``.
        noise: share of answers that are given at random, in [0, 1); Christiano et al. 2017 (arXiv 1706.03741) take 0.1.

    Example:
        >>> round(bradley_terry(torch.tensor(20.0), noise=0.1).item(), 4)
        0.95
    """
    return (1 - noise) * torch.sigmoid(difference) + noise / 2


def bradley_terry_loss(difference: Tensor, labels: Tensor, noise: float = 0.0) -> Tensor:
    """Cross-entropy of :func:`bradley_terry` against soft labels.

    Without noise, the best difference for a label ``y`` is ``log(y / (1 - y))``: 2.197 for a label smoothed to 0.9.

    Args:
        difference: ``(...)``.
        labels: that broadcasts, in [0, 1].
        noise: as in :func:`bradley_terry`.

    Example:
        >>> round(bradley_terry_loss(torch.tensor(0.3 + 0.2), torch.tensor(1.0)).item(), 6)
        0.474077
    """
    first = _mixed(functional.logsigmoid(difference), noise, 2)
    second = _mixed(functional.logsigmoid(-difference), noise, 2)
    return -(labels * first + (1 - labels) * second)


def rao_kupper(difference: Tensor, theta: Tensor | float) -> Tensor:
    """Log-probabilities ``(..., 3)`` of first, tie, second (Rao and Kupper 1967).

    ``P(first) = sigmoid(d - theta)``, ``P(second) = sigmoid(-d - theta)`` and a tie is the rest, which is
    ``(e^(2 theta) - 1) P(first) P(second)``.

    Args:
        difference: ``(...)``.
        theta: how far scores must be apart to be told apart, at least 0; 0 leaves Bradley-Terry.

    Example:
        >>> rao_kupper(torch.tensor(0.0), 1.0).exp()
        tensor([0.2689, 0.4621, 0.2689])
    """
    width = torch.as_tensor(theta, dtype=difference.dtype, device=difference.device)
    first, second = functional.logsigmoid(difference - width), functional.logsigmoid(-difference - width)
    tie = 2 * width + torch.log(-torch.expm1(-2 * width)) + first + second
    return torch.stack([first, tie, second], dim=-1)


def davidson(difference: Tensor, nu: Tensor | float) -> Tensor:
    """Log-probabilities ``(..., 3)`` of first, tie, second, as ``e^(d/2) : nu : e^(-d/2)`` (Davidson 1970).

    Args:
        difference: ``(...)``.
        nu: weight of a tie, at least 0; 0 leaves Bradley-Terry, 1 makes the three alike at equal scores.

    Example:
        >>> davidson(torch.tensor(0.0), 1.0).exp()
        tensor([0.3333, 0.3333, 0.3333])
    """
    weight = torch.as_tensor(nu, dtype=difference.dtype, device=difference.device)
    half = difference / 2
    return torch.log_softmax(torch.stack([half, weight.log().expand_as(half), -half], dim=-1), dim=-1)


def three_answers(labels: Tensor) -> Tensor:
    """Labels as weights ``(..., 3)`` of first, tie, second: 0.5 is a tie, and between are mixtures with one side.

    Example:
        >>> three_answers(torch.tensor([1.0, 0.75, 0.5, 0.0]))
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    lean = 2 * labels - 1
    return torch.stack([lean.relu(), 1 - lean.abs(), (1 - 2 * labels).relu()], dim=-1)


def answer_loss(log_probabilities: Tensor, labels: Tensor, noise: float = 0.0) -> Tensor:
    """Cross-entropy ``(...)`` of a model of three answers against soft labels.

    Args:
        log_probabilities: ``(..., 3)``, of :func:`rao_kupper` or :func:`davidson`.
        labels: that broadcasts to ``(...)``.
        noise: share of answers drawn from the three at random, in [0, 1).
    """
    weights = three_answers(labels).expand_as(log_probabilities)
    known = _mixed(log_probabilities, noise, 3).masked_fill(weights == 0, 0)  # what cannot happen does not count
    return -(weights * known).sum(dim=-1)


def preference_loss(difference: Tensor, labels: Tensor, link: Link, tie: Tensor, noise: float = 0.0) -> Tensor:
    """The loss of a link by name; ``tie`` is ``theta`` or ``nu`` where it has one. A regret is a difference too."""
    if link not in TIE_LINKS:
        return bradley_terry_loss(difference, labels, noise)
    return answer_loss(answer_probabilities(difference, link, tie), labels, noise)


def answer_probabilities(difference: Tensor, link: Link, tie: Tensor) -> Tensor:
    """Log-probabilities ``(..., 3)`` under a link by name; one without ties gives them probability 0."""
    if link == "rao_kupper":
        return rao_kupper(difference, tie)
    return davidson(difference, tie if link == "davidson" else 0.0)


def preference_probability(difference: Tensor, link: Link, tie: Tensor, noise: float = 0.0) -> Tensor:
    """How likely the first is preferred, ``(...)`` in [0, 1], a tie counting half to either side."""
    if link not in TIE_LINKS:
        return bradley_terry(difference, noise)
    probabilities = answer_probabilities(difference, link, tie).exp()
    return (1 - noise) * (probabilities[..., 0] + probabilities[..., 1] / 2) + noise / 2


def margin_loss(difference: Tensor, labels: Tensor, margin: Tensor | float) -> Tensor:
    """Bradley-Terry loss in which the preferred one must lead by ``margin``: ``-log sigmoid(d - margin)``.

    The adaptive margin of Wang et al. 2024 ("Secrets of RLHF in Large Language Models Part II", arXiv 2401.06080).

    Args:
        difference: ``(...)``.
        labels: that broadcasts, in [0, 1].
        margin: that broadcasts; 0 leaves :func:`bradley_terry_loss`.

    Example:
        >>> round(margin_loss(torch.tensor(2.0), torch.tensor(1.0), 2.0).item(), 4)
        0.6931
    """
    return labels * functional.softplus(margin - difference) + (1 - labels) * functional.softplus(margin + difference)


def plackett_luce_loss(scores: Tensor) -> Tensor:
    """Minus the log-likelihood of a ranking: ``sum_i [log sum_(j >= i) exp(s_j) - s_i]`` (Plackett 1975, Luce 1959).

    Args:
        scores: ``(..., n)`` in the order of the ranking, best first.

    Returns:
        ``(...)``; of two items, the Bradley-Terry loss.

    Example:
        >>> round(plackett_luce_loss(torch.zeros(3)).exp().item(), 4)  # one of six orders
        6.0
    """
    return (scores.flip(-1).logcumsumexp(dim=-1).flip(-1) - scores).sum(dim=-1)


def ranklist_loss(scores: Tensor, weights: Sequence[float] = (1.0, 1.0)) -> Tensor:
    """Order constraints between neighbours and across skips: ``sum_k w_k sum_i softplus(s_(i+k) - s_i)``.

    After RankList (2025, arXiv 2508.09826), from its abstract: the weights are ours. If all that follow an item are
    put into one ``log(1 + sum_(j > i) exp(s_j - s_i))``, the sum over items is :func:`plackett_luce_loss`.

    Args:
        scores: ``(..., n)`` in the order of the ranking, best first.
        weights: ``w_1 ... w_K`` of skips of one place, two places and so on; those longer than the list do nothing.

    Returns:
        ``(...)``.

    Example:
        >>> round(ranklist_loss(torch.tensor([2.0, 1.0, 0.0])).item(), 4)
        0.7535
    """
    total = torch.zeros_like(scores[..., :0].sum(dim=-1))
    for skip, weight in enumerate(weights[: scores.shape[-1] - 1], start=1):
        total = total + weight * functional.softplus(scores[..., skip:] - scores[..., :-skip]).sum(dim=-1)
    return total


def regret(rewards: Tensor, values: Tensor) -> Tensor:
    """Deterministic regret of segments, ``V(s_0) - (sum_t r_t + V(s_T))`` (Knox et al. 2022, arXiv 2206.02231).

    The first frame is where a segment starts: what was paid for arriving there is not of the segment.

    Args:
        rewards: ``(..., L)`` for arriving at each frame.
        values: ``(..., L)`` optimal value, or another potential, of each frame; the ends are read.

    Returns:
        ``(...)``; the first of two is preferred with probability ``sigmoid(regret of second - regret of first)``.

    Example:
        >>> regret(torch.tensor([9.0, 1.0, 1.0]), torch.tensor([5.0, 4.0, 2.5])).item()
        0.5
    """
    return values[..., 0] - rewards[..., 1:].sum(dim=-1) - values[..., -1]


def ideal_point_loss(difference: Tensor, labels: Tensor, sharpness: float = 5.0) -> Tensor:
    """Hinge ``max(0, 1 - lead)`` of the preferred one, rounded off: ``softplus(k (1 - lead)) / k``.

    PAL (Chen et al. 2024, arXiv 2406.08469) trains with a smoothed hinge of sharpness 5; this form of it is ours.

    Args:
        difference: ``(...)`` distance of the second from the user's ideal point, minus that of the first.
        labels: that broadcasts, in [0, 1].
        sharpness: ``k``, positive.

    Example:
        >>> round(ideal_point_loss(torch.tensor(1.0), torch.tensor(1.0)).item(), 4)
        0.1386
    """
    first = functional.softplus(sharpness * (1 - difference)) / sharpness
    second = functional.softplus(sharpness * (1 + difference)) / sharpness
    return labels * first + (1 - labels) * second


def _mixed(log_probability: Tensor, noise: float, answers: int) -> Tensor:
    """Log of ``(1 - noise) p + noise / answers``, finite where ``p`` underflows."""
    if not noise:
        return log_probability
    floor = torch.full_like(log_probability, math.log(noise / answers))
    return torch.logaddexp(log_probability + math.log1p(-noise), floor)
