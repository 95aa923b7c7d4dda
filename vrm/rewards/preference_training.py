"""Training an ensemble on answered comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from vrm.data.comparisons import ComparisonError, Comparisons
from vrm.encoders import Encoder
from vrm.errors import NonFiniteError
from vrm.rewards.base import encode_frames
from vrm.rewards.preference_losses import TIE_LINKS, Link, answer_probabilities, margin_loss, preference_loss, regret

EXPECTILE = 0.9  # of the value that regrets are measured from: the best that the segments show, not their mean
DISCOUNT = 0.98
PIECES = 16  # segments that are encoded at once
CHUNK = 4096  # frames that go through a network at once where no gradient is needed


@dataclass(frozen=True)
class Recipe:
    """How members are trained; the numbers are those of PEBBLE (Lee et al. 2021, arXiv 2106.05091).

    Attributes:
        link: what scores say about answers.
        noise: share of answers given at random.
        epochs: the most.
        stop_accuracy: on what is trained on, at which training ends; see :func:`agreements` for what counts.
        batch: pairs.
        learning_rate: of Adam.
    """

    link: Link = "bradley_terry"
    noise: float = 0.0
    epochs: int = 200
    stop_accuracy: float = 0.97
    batch: int = 128
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class Trained:
    """How training went: ``epochs`` done, mean ``loss`` and ``accuracy`` of the members in the last of them."""

    epochs: int
    loss: float
    accuracy: float


def check_answers(comparisons: Comparisons, kind: str) -> Comparisons:
    """Return what is answered if something can be learned from it.

    Raises:
        ComparisonError: if there are no answers, nothing but ties, or numbers that are not finite.
    """
    answered = comparisons.answered()
    if not len(answered):
        raise ComparisonError(
            f"{kind} needs answered comparisons, got {len(comparisons)} of which none has an answer; ask on."
        )
    if bool((answered.labels == 0.5).all()):
        raise ComparisonError(
            f"All {len(answered)} answers are ties, which do not say what is better; ask about pairs that differ more."
        )
    for side in (answered.first, answered.second):
        if side.is_floating_point() and not bool(torch.isfinite(side).all()):
            raise ComparisonError("Compared features hold NaN or infinity; encode the pieces again.")
    return answered


@torch.no_grad()
def compared_features(encoder: Encoder, data: Comparisons) -> Comparisons:
    """The same comparisons of the encoder's features, float32 on the CPU.

    Raises:
        ComparisonError: if they are neither of frames nor of such features.
    """
    shape = tuple(data.first.shape)
    if data.first.ndim == 3 and shape[-1] == encoder.embed_dim:
        first, second = data.first, data.second
    elif data.first.ndim == 5:
        first, second = (
            torch.cat([encode_frames(encoder, part) for part in torch.split(side, PIECES)])
            for side in (data.first, data.second)
        )
    else:
        raise ComparisonError(
            f"This reward compares frames (N, L, 3, H, W) or features (N, L, {encoder.embed_dim}) of encoder "
            f"{encoder.name!r}, got {shape}."
        )
    parts = (first.float(), second.float(), data.labels, data.users)
    return Comparisons(*(part.detach().cpu() for part in parts))


def segment_scores(outputs: Tensor, link: Link) -> Tensor:
    """What segments are worth ``(..., N)`` from outputs ``(..., N, L, 1 or 2)``: return, or minus regret."""
    rewards = torch.tanh(outputs[..., 0])
    return -regret(rewards, outputs[..., 1]) if link == "regret" else rewards.sum(dim=-1)


def train_members(
    members: Sequence[nn.Module],
    ties: Tensor,
    data: Comparisons,
    rows: Sequence[Tensor],
    recipe: Recipe,
    generator: Generator,
    margins: Tensor | None = None,
) -> Trained:
    """Train each member on its own rows in its own order, all by one optimiser, until they agree with the answers.

    Args:
        members: networks from what is compared, ``(N, L, ...)``, to ``(N, L, outputs)``; trained in place.
        ties: ``(E,)`` leaf tensor, the tie models' parameter before softplus; trained in place.
        data: answered comparisons.
        rows: per member, which of them it learns from; all of one length.
        recipe: how.
        generator: of the orders.
        margins: ``(N,)`` by which the preferred one must lead.

    Raises:
        NonFiniteError: if the loss becomes NaN or infinite.
    """
    parameters = [p.requires_grad_(True) for member in members for p in member.parameters()]
    optimiser = torch.optim.Adam([*parameters, ties.requires_grad_(True)], lr=recipe.learning_rate)
    result = Trained(0, math.nan, math.nan)
    try:
        for epoch in range(1, recipe.epochs + 1):
            orders = [row[torch.randperm(len(row), generator=generator)] for row in rows]
            told = [
                _step(
                    optimiser,
                    members,
                    ties,
                    data,
                    [order[start : start + recipe.batch] for order in orders],
                    recipe,
                    margins,
                )
                for start in range(0, len(orders[0]), recipe.batch)
            ]
            losses, right, counted = (sum(column) for column in zip(*told, strict=True))
            accuracy = right / counted if counted else math.nan
            result = Trained(epoch, losses / len(told), accuracy)
            if not math.isfinite(losses):
                raise NonFiniteError(
                    f"The loss became {losses}; a learning rate of {recipe.learning_rate} is too high."
                )
            if accuracy > recipe.stop_accuracy:
                break
    finally:
        for parameter in (*parameters, ties):
            parameter.requires_grad_(False).grad = None
    return result


def _step(
    optimiser: torch.optim.Optimizer,
    members: Sequence[nn.Module],
    ties: Tensor,
    data: Comparisons,
    batches: Sequence[Tensor],
    recipe: Recipe,
    margins: Tensor | None,
) -> tuple[float, float, int]:
    """One step of all members: mean loss, and how many answers they got right of how many that count."""
    total, right, counted = torch.zeros(()), 0.0, 0
    for member, tie, batch in zip(members, ties, batches, strict=True):
        part = data[batch]
        outputs = member(torch.cat([part.first, part.second]))
        first, second = segment_scores(outputs, recipe.link).chunk(2)
        difference = first - second
        if margins is None:
            loss = preference_loss(difference, part.labels, recipe.link, functional.softplus(tie), recipe.noise)
        else:
            loss = margin_loss(difference, part.labels, margins[batch])
        total = total.to(loss.device) + loss.mean()
        if recipe.link == "regret":
            total = total + value_loss(outputs)
        hits = agreements(difference.detach(), part.labels, recipe.link, functional.softplus(tie.detach()))
        right, counted = right + float(hits.sum()), counted + len(hits)
    optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimiser.step()
    return float(total.detach()) / len(members), right, counted


def agreements(difference: Tensor, labels: Tensor, link: Link, tie: Tensor) -> Tensor:
    """Whether answers are the likeliest ones: of all pairs for models of ties, else of those decided.

    Args:
        difference: ``(..., N)``.
        labels: ``(N,)``.
        link: of the model.
        tie: its parameter, that broadcasts.

    Returns:
        ``(..., N')`` bool.
    """
    wanted = torch.sign(labels - 0.5)
    if link in TIE_LINKS:
        return 1 - answer_probabilities(difference, link, tie).argmax(dim=-1) == wanted
    return (torch.sign(difference) == wanted)[..., wanted != 0]


def value_loss(outputs: Tensor) -> Tensor:
    """Tie value and reward to each other: expectile regression onto ``r' + gamma V'`` (IQL, arXiv 2110.06169).

    Answers by regret alone would leave the reward free, for a potential can take its place. Unlike in IQL, the reward
    gives way too, for it is as unknown as the value.

    Args:
        outputs: ``(N, L, 2)`` reward before tanh, and value.
    """
    rewards, values = torch.tanh(outputs[..., 1:, 0]), outputs[..., 1]
    error = rewards + DISCOUNT * values[..., 1:].detach() - values[..., :-1]
    weight = torch.where(error > 0, EXPECTILE, 1 - EXPECTILE)
    return (weight * error.square()).mean()


@torch.no_grad()
def member_outputs(members: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Outputs ``(E, N, L, outputs)`` of all members, in chunks."""
    flat = inputs.flatten(0, 1)
    found = [torch.cat([member(part) for part in torch.split(flat, CHUNK)]) for member in members]
    return torch.stack(found).reshape(len(found), *inputs.shape[:2], -1)
