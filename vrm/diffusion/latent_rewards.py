"""Rewards of noisy latents: a head on a generator's own first blocks, so that no frame has to be decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.rollout import draw_noise

BLOCKS = ("blocks", "transformer_blocks", "down_blocks")  # Wan; CogVideoX and LTX; U-Nets


class LatentRewardModel(nn.Module):
    """Noise-aware reward ``r(x_t, t, c)`` of latents (PAVRM of PRFL, arXiv 2511.21541).

    A trainable copy of the first blocks of a generator reads the noisy latent under its prompt. One learned query pools
    all space-time tokens by attention, is added to what it found, and a small network makes one number of it. The same
    model can teach a generator (:class:`~vrm.diffusion.aligners.latent_reward.LatentReward`), guide a sampler or prune
    candidates.

    The number is ``centre + scale * output``: :meth:`standardise` sets the two, so that the network itself fits numbers
    around 0 with deviation 1. With ``bounded`` it is the output's sigmoid, a probability.

    Args:
        denoiser: whose first blocks are copied as they are now, with their adapters.
        depth: how many blocks; a fifth of them if None, as published (8 of 40).
        heads: of the attention that pools.
        hidden: widths of the network after it.
        bounded: whether the output is a probability.
        seed: of the head's first values.

    Raises:
        ValueError: if the denoiser has no ``depth`` blocks in one row, or ``heads`` does not divide their width.

    Example:
        >>> model = LatentRewardModel(generator.denoiser, depth=2)  # doctest: +SKIP
        >>> model(noisy, t, generator.condition(prompts))  # (B,)  # doctest: +SKIP
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        denoiser: VideoDenoiser,
        depth: int | None = None,
        heads: int = 8,
        hidden: Sequence[int] = (1024, 512),
        bounded: bool = False,
        seed: int = 0,
    ) -> None:
        """Copy the blocks; the head is as wide as they are."""
        super().__init__()
        self.backbone, self.last = _first_blocks(denoiser, depth)
        self.bounded = bounded
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        width = _width(self.last)
        if width % heads:
            raise ValueError(f"heads must divide the width of the blocks, {width}, got {heads}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.norm = nn.LayerNorm(width)
            self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
            self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
            sizes = [width, *hidden]
            layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
            self.head = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
        self.to(denoiser.device)

    def output(self, x: Tensor, t: Tensor | float, conditions: Conditions) -> Tensor:
        """What the network says before it is scaled or squashed, ``(B,)`` float32; arguments as in :meth:`forward`."""
        tokens = self.norm(self._tokens(x, t, conditions).float())
        query = self.query.expand(len(tokens), -1, -1)
        found, _ = self.pool(query, tokens, tokens, need_weights=False)
        number: Tensor = self.head((query + found)[:, 0])[:, 0]
        return number

    def standing(self, x: Tensor, t: Tensor | float, conditions: Conditions) -> Tensor:
        """The reward in deviations from the mean, or as a probability, ``(B,)``; arguments as in :meth:`forward`."""
        output = self.output(x, t, conditions)
        return torch.sigmoid(output) if self.bounded else output

    def forward(self, x: Tensor, t: Tensor | float, conditions: Conditions) -> Tensor:
        """Reward ``(B,)`` float32, differentiable in ``x``.

        Args:
            x: ``(B, C, T, h, w)`` noisy latents.
            t: their time, one or one per row.
            conditions: ``B`` rows.
        """
        standing = self.standing(x, t, conditions)
        return standing if self.bounded else self.centre + self.scale * standing

    @torch.no_grad()
    def standardise(self, rewards: Tensor) -> None:
        """Say what rewards are like, ``(B,)``, at least two that differ: their mean and deviation become the scale.

        Raises:
            ValueError: if they are all the same.
        """
        deviation = rewards.float().std() if len(rewards) > 1 else torch.zeros(())
        if not deviation > 0:
            raise ValueError(f"A latent reward learns from rewards that differ, got {rewards.tolist()}.")
        self.centre.copy_(rewards.float().mean())
        self.scale.copy_(deviation)

    def _tokens(self, x: Tensor, t: Tensor | float, conditions: Conditions) -> Tensor:
        """What comes out of the last block, ``(B, L, D)``; nothing after it is computed."""
        handle = self.last.register_forward_hook(_stop)
        try:
            self.backbone.output(x.float(), t, conditions)
        except _Reached as reached:
            return _as_tokens(reached.output, len(x))
        finally:
            handle.remove()
        raise AssertionError("the last block was not reached")


def noised(
    denoiser: VideoDenoiser, latents: Tensor, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Noise each of ``latents`` to a random time between two fractions of the chain: ``(x_t, t)``."""
    t = denoiser.schedule.sample(len(latents), generator, low, high).to(latents.device)
    return denoiser.noise(latents, t, draw_noise(latents.shape, generator, latents.device)), t


def regression_loss(
    model: LatentRewardModel, latents: Tensor, rewards: Tensor, conditions: Conditions, generator: torch.Generator
) -> Tensor:
    """Squared error of the reward of noised latents, in units of its scale: distillation from any other reward.

    Args:
        model: is to learn.
        latents: ``(B, C, T, h, w)`` clean.
        rewards: ``(B,)`` what the other reward says of the decoded videos.
        conditions: ``B`` rows.
        generator: of times, evenly drawn over the whole chain, and noise.
    """
    x, t = noised(model.backbone, latents, generator)
    wanted = (rewards.to(model.scale) - model.centre) / model.scale
    return functional.mse_loss(model.output(x, t, conditions), wanted)


def label_loss(
    model: LatentRewardModel, latents: Tensor, labels: Tensor, conditions: Conditions, generator: torch.Generator
) -> Tensor:
    """Binary cross-entropy of labels ``(B,)`` in [0, 1] on noised latents (PAVRM); the rest as in the regression."""
    x, t = noised(model.backbone, latents, generator)
    return functional.binary_cross_entropy_with_logits(model.output(x, t, conditions), labels.to(x))


def preference_loss(
    model: LatentRewardModel, winners: Tensor, losers: Tensor, conditions: Conditions, generator: torch.Generator
) -> Tensor:
    """Bradley-Terry on pairs ``(B, C, T, h, w)`` that share noise and time: ``-log sigmoid(r_w - r_l)``."""
    t = model.backbone.schedule.sample(len(winners), generator).to(winners.device)
    eps = draw_noise(winners.shape, generator, winners.device)
    pair = torch.cat([model.backbone.noise(latents, t, eps) for latents in (winners, losers)])
    better, worse = model.output(pair, torch.cat([t, t]), conditions.join(conditions)).chunk(2)
    return -functional.logsigmoid(better - worse).mean()


def matched_pairs_loss(ours: Tensor, expert: Tensor) -> Tensor:
    """How differently two rewards order the members of each set (RG-LCD, arXiv 2403.11027).

    For each pair of members the softmax of our two scores is brought to that of the expert's two: the mean over pairs
    of ``KL(expert || ours)``. Only differences count, so the two need no common zero.

    Args:
        ours: ``(B, M)`` scores of ``M`` members of each set, with gradient.
        expert: ``(B, M)`` the other's scores, in the same units, in which 1 should be a clear difference.

    Raises:
        ValueError: unless the shapes agree and ``M`` is at least 2.

    Example:
        >>> matched_pairs_loss(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 1.0, 2.0]])).item()
        0.0
    """
    if ours.shape != expert.shape or ours.ndim != 2 or ours.shape[1] < 2:
        raise ValueError(f"Scores must both be (B, M) with M >= 2, got {tuple(ours.shape)} and {tuple(expert.shape)}.")
    first, second = torch.triu_indices(ours.shape[1], ours.shape[1], offset=1)
    gaps = [scores[:, first] - scores[:, second] for scores in (ours, expert.detach().to(ours))]
    log_ours, log_expert = (torch.stack([functional.logsigmoid(g), functional.logsigmoid(-g)]) for g in gaps)
    return (log_expert.exp() * (log_expert - log_ours)).sum(dim=0).mean()


class _Reached(Exception):
    """Ends a forward pass early, and carries what a block returned out of the network."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(module: nn.Module, arguments: Any, output: Any) -> None:
    raise _Reached(output)


def _first_blocks(denoiser: VideoDenoiser, depth: int | None) -> tuple[VideoDenoiser, nn.Module]:
    """A trainable float32 copy of what leads to block ``depth``, and that block in it."""
    model: Any = denoiser.model
    rows = [name for name in BLOCKS if isinstance(getattr(model, name, None), nn.ModuleList)]
    count = len(getattr(model, rows[0])) if rows else 0
    depth = max(round(count / 5), 1) if depth is None else depth
    if not 1 <= depth <= count:
        raise ValueError(f"depth must lie between 1 and the {count} blocks of {type(model).__name__}, got {depth}.")
    rest = getattr(model, rows[0])[depth:]
    unused = [rest, *(part for name in ("up_blocks", "mid_block") if (part := getattr(model, name, None)) is not None)]
    # What is never run is not copied: the memo gives the copy an empty module in its place.
    memo: dict[int, Any] = {id(block): nn.Identity() for part in unused for block in part.modules()}
    copied = copy.deepcopy(denoiser, memo)
    copied.nfe = 0
    copied.float().requires_grad_(True)
    last: nn.Module = getattr(copied.model, rows[0])[depth - 1]
    return copied, last


def _width(block: nn.Module) -> int:
    """How many numbers per token a block puts out: the size of the last bias or scale in it."""
    *_, last = (p for p in block.parameters() if p.ndim == 1)
    return len(last)


def _as_tokens(output: Any, batch: int) -> Tensor:
    """``(B, L, D)`` of a block's output: tokens, or channels of frames ``(B * T, D, h, w)``; others come behind it."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    if hidden.ndim == 3:
        return hidden
    frames = hidden.reshape(batch, -1, *hidden.shape[1:])
    return frames.permute(0, 1, 3, 4, 2).flatten(1, 3)
