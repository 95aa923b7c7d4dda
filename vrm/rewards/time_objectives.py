"""What a head can be trained on when time is the only label: losses as pure functions, and how batches are drawn.

Each objective has a loss on tensors that can be checked against its paper, and a draw that feeds it from clips of any
length. :class:`~vrm.rewards.progress.ProgressReward` trains heads on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

CycleLoss = Literal["regression_mse", "regression_mse_var", "classification"]


def vip_loss(
    initial: Tensor, current: Tensor, following: Tensor, reward: Tensor, gamma: float = 0.98, epsilon: float = 1e-8
) -> Tensor:
    """Value-implicit pre-training loss (VIP).

    Ma et al. 2022 (arXiv 2210.00030)::

        (1 - gamma) * mean[-V(o_0; g)] + log( epsilon + mean exp{ -(r + gamma * V(o_{t+1}; g) - V(o_t; g)) } )

    Args:
        initial: ``(B,)`` values of the first frames.
        current: ``(B,)`` values of frames in between.
        following: ``(B,)`` values of the frames after those.
        reward: ``(B,)``, 0 where the current frame is the goal and -1 elsewhere.
        gamma: discount per frame.
        epsilon: keeps the logarithm finite.

    Returns:
        The loss, a scalar.
    """
    surprise = -(reward + gamma * following - current) - math.log(current.numel())
    floor = surprise.new_tensor([math.log(epsilon)])
    return (1 - gamma) * -initial.mean() + torch.logsumexp(torch.cat([surprise, floor]), dim=0)


def tcc_loss(
    first: Tensor,
    second: Tensor,
    times: Tensor,
    temperature: float = 0.1,
    loss: CycleLoss = "regression_mse",
    label_smoothing: float = 0.1,
    variance_weight: float = 0.001,
) -> Tensor:
    """Temporal cycle consistency of Dwibedi et al. 2019 (arXiv 1904.07846), as XIRL uses it (arXiv 2106.03911).

    Each frame ``i`` of the first video finds a soft nearest neighbour in the second, and that neighbour is sought in
    the first video again: it should come back to ``i``. Similarity is the negative squared distance over ``D`` times
    ``temperature``.

    Args:
        first: ``(..., M, D)`` embeddings of one video, or of several.
        second: ``(..., N, D)`` embeddings of the videos they are compared with.
        times: ``(..., M)`` times of the first videos' frames, usually in [0, 1].
        temperature: of both softmaxes.
        loss: ``"regression_mse"``, squared error of the expected time; ``"regression_mse_var"``, that over the
            variance ``s`` of the time, plus ``variance_weight * log s``; ``"classification"``, cross-entropy to ``i``.
        label_smoothing: of the classification.
        variance_weight: keeps the variance from growing.

    Returns:
        The mean over frames and videos, a scalar.
    """
    scale = first.shape[-1] * temperature
    neighbour = torch.softmax(-_squared_distances(first, second) / scale, dim=-1) @ second
    logits = -_squared_distances(neighbour, first) / scale
    if loss == "classification":
        rows = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:-1])
        return functional.cross_entropy(logits.flatten(0, -2), rows.flatten(), label_smoothing=label_smoothing)
    weights = torch.softmax(logits, dim=-1)
    expected = (weights * times.unsqueeze(-2)).sum(-1)
    error = (expected - times) ** 2
    if loss == "regression_mse":
        return error.mean()
    variance = (weights * (times.unsqueeze(-2) - expected.unsqueeze(-1)) ** 2).sum(-1).clamp(min=1e-8)
    return (error / variance + variance_weight * variance.log()).mean()


def rank_loss(earlier: Tensor, later: Tensor, weight: float = 0.01) -> Tensor:
    """Bradley-Terry loss of pairs in known order: ``mean[-log sigmoid(later - earlier)]`` and a penalty on size.

    Rank2Reward (Yang et al. 2024, arXiv 2404.14735). The order is certain, so without the penalty
    ``weight * mean[(earlier^2 + later^2) / 2]`` the utilities would grow without end.

    Args:
        earlier: ``(B,)`` utilities of frames.
        later: ``(B,)`` utilities of later frames of the same clips.
        weight: of the penalty.

    Returns:
        The loss, a scalar.
    """
    return functional.softplus(earlier - later).mean() + weight * (earlier**2 + later**2).mean() / 2


def time_loss(logits: Tensor, times: Tensor) -> Tensor:
    """Cross-entropy of a frame's place in its clip.

    With one logit this is what Rank2Reward's code comes to: it draws two frames and trains the logit of the later one
    to 1 and that of the earlier to 0, each by itself. Frame ``t`` of ``T`` is the later one with probability
    ``t / (T - 1)``, so the expected loss is the cross-entropy to that number. With ``K`` logits, the time is split
    between the two nearest of ``K`` bins whose centres are spread over [0, 1], so that :func:`expected_time` of the
    target is the time.

    Args:
        logits: ``(B, 1)``, or ``(B, K)``.
        times: ``(B,)`` places in [0, 1], the first frame's 0 and the last one's 1.

    Returns:
        The mean, a scalar.
    """
    if logits.shape[-1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], times)
    place = times * (logits.shape[-1] - 1)
    bins = torch.arange(logits.shape[-1], device=times.device)
    target = (1 - (place[:, None] - bins).abs()).clamp(min=0)
    return functional.cross_entropy(logits, target)


def expected_time(logits: Tensor) -> Tensor:
    """The place in [0, 1] that logits ``(..., K)`` of :func:`time_loss` stand for, ``(...)``."""
    if logits.shape[-1] == 1:
        return torch.sigmoid(logits[..., 0])
    centres = torch.linspace(0, 1, logits.shape[-1], device=logits.device)
    return torch.softmax(logits, dim=-1) @ centres


@dataclass(frozen=True)
class Clips:
    """Features of clips of different length, end to end.

    Attributes:
        features: ``(N, D)``.
        starts: ``(K,)`` where each clip begins.
        lengths: ``(K,)`` number of frames of each, at least 2.
    """

    features: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, features: Sequence[Tensor]) -> Self:
        """Join ``K`` tensors ``(T, D)``."""
        lengths = torch.tensor([len(clip) for clip in features])
        return cls(torch.cat(list(features)), lengths.cumsum(0) - lengths, lengths)

    def at(self, clip: Tensor, frame: Tensor) -> Tensor:
        """Features ``(..., D)`` of frames ``(...)`` of clips ``(...)``."""
        return self.features[self.starts[clip] + frame]

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Numbers ``(count,)`` of random clips, each as likely, and their lengths."""
        clip = torch.randint(len(self.lengths), (count,), generator=generator)
        return clip, self.lengths[clip]

    def spread(self, count: int, generator: Generator) -> Tensor:
        """One random frame ``(K, count)`` in each of ``count`` equal parts of every clip."""
        offsets = torch.rand(len(self.lengths), count, generator=generator, dtype=torch.float64)
        return ((torch.arange(count) + offsets) / count * self.lengths[:, None]).long()


def vip_objective(head: nn.Module, clips: Clips, batch: int, generator: Generator, gamma: float = 0.98) -> Tensor:
    """:func:`vip_loss` on ``batch`` random parts of clips; the last frame of a part is its goal."""
    clip, length = clips.draw(batch, generator)
    first = _below(length - 1, generator)
    last = first + 1 + _below(length - 1 - first, generator)
    now = first + _below(last - first, generator)
    embedded = head(clips.at(clip, torch.stack([first, now, now + 1, last])))
    initial, current, following = -torch.linalg.vector_norm(embedded[:3] - embedded[3], dim=-1)
    return vip_loss(initial, current, following, torch.full_like(initial, -1.0), gamma)


def tcc_objective(
    head: nn.Module,
    clips: Clips,
    batch: int,
    generator: Generator,
    frames: int = 40,
    temperature: float = 0.1,
    loss: CycleLoss = "regression_mse",
    partners: Clips | None = None,
) -> Tensor:
    """:func:`tcc_loss` over all ordered pairs of ``batch`` random clips, seen at ``frames`` frames each.

    With ``partners``, cycles lead from each clip to each of those, and back, instead.
    """
    if partners is not None:
        count = min(frames, int(clips.lengths.min()), int(partners.lengths.min()))
        ours, times = _embed_spread(head, clips, count, generator)
        theirs, their_times = _embed_spread(head, partners, count, generator)
        one, other = torch.cartesian_prod(torch.arange(len(ours)), torch.arange(len(theirs))).unbind(1)
        there = tcc_loss(ours[one], theirs[other], times[one], temperature, loss)
        return (there + tcc_loss(theirs[other], ours[one], their_times[other], temperature, loss)) / 2
    chosen = torch.randperm(len(clips.lengths), generator=generator)[:batch]
    clips = Clips(clips.features, clips.starts[chosen], clips.lengths[chosen])
    embedded, times = _embed_spread(head, clips, min(frames, int(clips.lengths.min())), generator)
    one, other = torch.cartesian_prod(torch.arange(len(chosen)), torch.arange(len(chosen))).unbind(1)
    one, other = one[one != other], other[one != other]
    return tcc_loss(embedded[one], embedded[other], times[one], temperature, loss)


def rank_objective(head: nn.Module, clips: Clips, batch: int, generator: Generator, weight: float = 0.01) -> Tensor:
    """:func:`rank_loss` on ``batch`` random pairs of frames; the utility of a clip's first frame is 0."""
    clip, length = clips.draw(batch, generator)
    earlier = _below(length, generator)
    other = (earlier + 1 + _below(length - 1, generator)) % length  # any frame but that one
    earlier, later = torch.minimum(earlier, other), torch.maximum(earlier, other)
    start = head(clips.features[clips.starts])[clip, 0]
    utility = head(clips.at(clip, torch.stack([earlier, later])))[..., 0] - start
    return rank_loss(utility[0], utility[1], weight)


def time_objective(head: nn.Module, clips: Clips, batch: int, generator: Generator) -> Tensor:
    """:func:`time_loss` on ``batch`` random frames."""
    clip, length = clips.draw(batch, generator)
    frame = _below(length, generator)
    return time_loss(head(clips.at(clip, frame)), (frame / (length - 1)).float())


OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "vip": vip_objective,
    "tcc": tcc_objective,
    "rank": rank_objective,
    "time": time_objective,
}


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def _embed_spread(head: nn.Module, clips: Clips, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    frame = clips.spread(count, generator)
    clip = torch.arange(len(clips.lengths))[:, None].expand_as(frame)
    return head(clips.at(clip, frame)), (frame / (clips.lengths[:, None] - 1)).float()


def _below(bound: Tensor, generator: Generator) -> Tensor:
    """Random whole numbers in [0, ``bound``), elementwise."""
    return (torch.rand(bound.shape, generator=generator, dtype=torch.float64) * bound).long()
