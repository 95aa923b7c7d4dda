"""Training a small network while watching demonstrations it is not trained on, and keeping its best state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from vrm.errors import NonFiniteError
from vrm.metrics.correlation import value_order_correlation
from vrm.rewards.demonstrations import Findings


@dataclass(frozen=True)
class Watched:
    """What watching gave.

    Attributes:
        best_step: number of optimiser steps after which the watched loss was lowest; the network is in that state.
        best_loss: that loss.
        last_loss: the watched loss after the last step.
    """

    best_step: int
    best_loss: float
    last_loss: float


def hold_out(texts: Sequence[str], generator: Generator, share: float = 0.2) -> tuple[list[int], list[int]]:
    """Split demonstrations into those to train on and those to watch, the latter about ``share`` and at least one.

    Demonstrations whose text occurs again are held out first, so that no task is lost to training unless each has one
    demonstration only. A single demonstration is trained on and watched.

    Args:
        texts: ``N`` texts, one per demonstration.
        generator: draws which ones.
        share: in (0, 1).

    Returns:
        Indices to train on and indices to watch, each in order.

    Raises:
        ValueError: if ``share`` is outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"The share held out must lie between 0 and 1, got {share}.")
    if len(texts) == 1:
        return [0], [0]
    left, watched = Counter(texts), list[int]()
    shuffled = torch.randperm(len(texts), generator=generator).tolist()
    for spare in (1, 0):  # how many demonstrations of its text must stay
        for i in shuffled:
            if len(watched) < max(1, round(share * len(texts))) and i not in watched and left[texts[i]] > spare:
                watched.append(i)
                left[texts[i]] -= 1
    return [i for i in range(len(texts)) if i not in watched], sorted(watched)


def train_watched(
    network: nn.Module,
    loss: Callable[[], Tensor],
    watched_loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    weight_decay: float = 1e-4,
    checks: int = 20,
) -> Watched:
    """Train ``network`` with AdamW, gradient norm 1 and a cosine to a tenth of the rate; leave it in its best state.

    Args:
        network: what to train; in evaluation mode and without gradients afterwards.
        loss: the loss of a new batch.
        watched_loss: the loss of what is held out, the same batch each time; computed in evaluation mode.
        steps: number of optimiser steps.
        learning_rate: at the start.
        weight_decay: of AdamW.
        checks: how often the held-out loss is computed, evenly over the steps.

    Raises:
        ValueError: if ``steps`` is below 1 or ``learning_rate`` is not positive.
        NonFiniteError: if the watched loss is never finite.
    """
    if steps < 1 or not learning_rate > 0:
        raise ValueError(f"Training needs at least one step and a positive rate, got {steps} and {learning_rate}.")
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=learning_rate / 10)
    best, best_step, best_loss, now = deepcopy(network.state_dict()), 0, math.inf, math.inf
    every = max(1, steps // checks)
    for step in range(1, steps + 1):
        network.train()
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        cosine.step()
        if step % every == 0 or step == steps:
            network.eval()
            with torch.no_grad():
                now = float(watched_loss())
            if now < best_loss:
                best, best_step, best_loss = deepcopy(network.state_dict()), step, now
    if not math.isfinite(best_loss):
        raise NonFiniteError(f"The held-out loss was never finite; a learning rate of {learning_rate} is too high.")
    network.load_state_dict(best)
    network.requires_grad_(False).eval()
    return Watched(best_step, best_loss, now)


def seeded_training(seed: int) -> AbstractContextManager[object]:
    """Within this context gradients are on, and torch's global generator starts at ``seed`` and is put back after."""
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    stack.enter_context(torch.random.fork_rng(devices=[]))
    torch.manual_seed(seed)
    return stack


def describe(result: Watched, steps: int, names: Sequence[str], alone: bool, figures: Mapping[str, float]) -> Findings:
    """Tell how training went.

    Args:
        result: of :func:`train_watched`.
        steps: how many there were.
        names: of the demonstrations held out.
        alone: whether the one watched was trained on, for want of another.
        figures: of :func:`order_figures`.
    """
    held = f"Held out: {', '.join(names)}."
    return Findings(
        notes=[
            f"Best on held-out samples after {result.best_step} of {steps} steps "
            f"(loss {result.best_loss:.4f}; {result.last_loss:.4f} after the last).",
            "There is one demonstration only, so the figures are of what was trained on." if alone else held,
        ],
        figures={"best_step": float(result.best_step), "held_out_loss": result.best_loss, **figures},
    )


@torch.no_grad()
def order_figures(
    judge: Callable[[Tensor, Tensor], Tensor],
    features: Sequence[Tensor],
    own: Sequence[int],
    told: Tensor,
    wrong: Sequence[Tensor],
    judge_reversed: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Check a progress model on demonstrations with its controls; means over them.

    Args:
        judge: progress ``(T,)`` from frames ``(T, D)`` and a text ``(D,)``.
        features: per demonstration ``(T, D)``.
        own: number of each one's text.
        told: ``(M, D)`` text features.
        wrong: per text, the numbers of the wrong ones.
        judge_reversed: replaces ``judge`` for reversed demonstrations, if values start at 0 and cannot fall from there.

    Returns:
        ``"voc"``, the rank correlation of progress with time, should be near 1; ``"voc_reversed"``, that of the
        reversed demonstration, near -1; ``"mismatch_gap"``, last-frame progress under the own text minus its mean
        under the wrong ones, near 1. A correlation is left out if progress is constant in every demonstration.
    """
    forward, backward, gaps = [], [], []
    for frames, text in zip(features, own, strict=True):
        values = judge(frames, told[text])
        forward.append(value_order_correlation(values))
        backward.append(value_order_correlation((judge_reversed or judge)(frames.flip(0), told[text])))
        others = torch.stack([judge(frames, told[i])[-1] for i in wrong[text].tolist()])
        gaps.append(float(values[-1] - others.mean()))
    found = {"voc": forward, "voc_reversed": backward, "mismatch_gap": gaps}
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in found.items()}
    return {name: math.fsum(values) / len(values) for name, values in finite.items() if values}
