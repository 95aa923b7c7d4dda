"""Matchers: from the costs between an episode's frames and a demonstration's to one number per frame of the episode.

=====================  ================================================================  ============  ==============
name                   reward of frame ``t``                                             usable        sees order
=====================  ================================================================  ============  ==============
``"nearest"``          minus the cost to the nearest demonstration frame                 online        no
``"segment"``          the same, within the part of the demonstration at the same        online if     yes
                       fraction of time                                                  ``horizon``
``"sinkhorn"``         minus the cost under the optimal transport plan                   whole         no
``"temporal_ot"``      the same with costs in context and a band around the diagonal     whole         yes
``"orca"``             share of the demonstration covered in order and ended at ``t``    online        yes
``"soft_dtw"``         minus the expected cost along a monotone alignment                whole         yes
=====================  ================================================================  ============  ==============

"Whole" ones label whole episodes, after they ended. One that does not see order pays a demonstration played backwards
as much as one played forwards.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vrm.errors import UnknownNameError
from vrm.rewards.transport import diagonal_band, sinkhorn

Scaling = Literal["row", "mass"]
Pair = tuple[Tensor, Tensor]  # reward (B, T) and plan (B, T, T')


@dataclass(frozen=True, eq=False)
class Match:
    """What a matcher found.

    Attributes:
        reward: ``(B, T)`` or ``(T,)`` reward of each frame; 0 where the episode is padding.
        plan: ``(B, T, T')`` or ``(T, T')`` weights at least 0 of what was matched with what, without gradient; 0 where
            either is padding.
    """

    reward: Tensor
    plan: Tensor


@dataclass(frozen=True)
class Matcher(ABC):
    """Base of all matchers: options are fields with JSON values, the call does the rest.

    Gradients reach the costs through the reward with the plan held fixed.

    Attributes:
        causal: whether the reward of a frame depends on that frame and those before only.
        window: how many frames up to the present one a causal matcher needs.
        range: the closed interval of rewards for costs in [0, 2], such as cosine distances.
    """

    causal: ClassVar[bool] = False
    window: ClassVar[int] = sys.maxsize
    range: ClassVar[tuple[float, float]] = (-2.0, 0.0)

    def __call__(self, cost: Tensor, lengths: Tensor | None = None, demo_lengths: Tensor | None = None) -> Match:
        """Match episodes with demonstrations, pair by pair.

        Args:
            cost: ``(B, T, T')`` costs between frames, or ``(T, T')`` of one pair; float, finite where not padding.
            lengths: ``(B,)`` number of frames of each episode, the rest is padding; ``T`` if omitted.
            demo_lengths: ``(B,)`` number of frames of each demonstration; ``T'`` if omitted.

        Raises:
            ValueError: if a shape, length or value breaks these rules.
        """
        single = cost.ndim == 2
        batch = _check_cost(cost)
        size = batch.shape[1:]
        rows, columns = (_check_lengths(n, batch, axis) for axis, n in ((1, lengths), (2, demo_lengths)))
        inside = torch.ones((), dtype=torch.bool, device=cost.device)
        if lengths is not None or demo_lengths is not None:
            i, j = (torch.arange(n, device=cost.device) for n in size)
            inside = (i < rows[:, None])[:, :, None] & (j < columns[:, None])[:, None, :]
            batch = batch.masked_fill(~inside, 0.0)
        if not math.isfinite(float(batch.detach().sum())):
            raise ValueError("The cost holds NaN or infinity where there is no padding; costs must be finite.")
        with torch.autocast(cost.device.type, enabled=False):
            reward, plan = self._match(batch, rows, columns)
        if inside.ndim:
            reward, plan = reward * inside.any(2), plan * inside
        return Match(reward[0], plan[0]) if single else Match(reward, plan)

    @abstractmethod
    def _match(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Pair:
        """Match ``(B, T, T')`` costs, 0 in padding; what is returned for padding does not count."""


@dataclass(frozen=True)
class NearestFrame(Matcher):
    """Pays ``-min_j c(t, j)``; usable online. Blind to order: any frame that looks like any demonstration frame pays.

    Paper: Dong, Omori & Ross, "Is Optimal Transport Necessary for Inverse Reinforcement Learning?", arXiv 2506.06793.
    """

    causal = True
    window = 1

    def _match(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Pair:
        return _nearest(cost, _inside(columns, cost.shape[2])[:, None, :])


@dataclass(frozen=True)
class SegmentMatching(Matcher):
    """Pays ``-min_j c(t, j)`` over the demonstration frames at the same fraction of time.

    Frame ``t`` of ``T`` sees frames ``floor(t T' / T)`` up to ``ceil((t + 1) T' / T) - 1``. Usable online if
    ``horizon`` says in advance how long episodes are; without it, it labels whole episodes.

    Args:
        horizon: number of frames that an episode is taken to have; what comes later is compared with the last
            segment. Without it, the episode's own length.

    Raises:
        ValueError: if ``horizon`` is below 1.

    Paper: Dong, Omori & Ross, arXiv 2506.06793; the rounding is ours.
    """

    horizon: int | None = None

    def __post_init__(self) -> None:
        """Become causal if the length is known in advance."""
        if self.horizon is not None and not self.horizon >= 1:
            raise ValueError(f"horizon must be at least 1 frame, got {self.horizon}.")
        object.__setattr__(self, "causal", self.horizon is not None)  # the class says no, this one may say yes

    def _match(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Pair:
        total = rows if self.horizon is None else torch.full_like(rows, self.horizon)
        i, j = (torch.arange(n, device=cost.device) for n in cost.shape[1:])
        i = torch.minimum(i[None, :], total[:, None] - 1)
        total, columns = total[:, None], columns[:, None]
        first, end = i * columns // total, ((i + 1) * columns + total - 1) // total
        return _nearest(cost, (first[:, :, None] <= j) & (j < end[:, :, None]))


@dataclass(frozen=True)
class _Transport(Matcher):
    """Entropic optimal transport between the frames of both.

    Args:
        eps: weight of the entropy, in units of the cost.
        iterations: the most Sinkhorn iterations.
        tolerance: mass in wrong columns, out of 1, at which to stop earlier.
        scaling: ``"row"`` pays the mean cost of what a frame is matched with, whatever the length of the episode;
            ``"mass"`` weighs that by the frame's mass 1/T, as published, so that rewards add up to the transport cost.
    """

    eps: float = 0.01
    iterations: int = 100
    tolerance: float = 1e-6
    scaling: Scaling = "row"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (self.eps > 0 and self.iterations >= 1 and self.tolerance >= 0):
            raise ValueError(
                f"eps must be positive, iterations at least 1 and tolerance at least 0, got eps={self.eps}, "
                f"iterations={self.iterations}, tolerance={self.tolerance}."
            )
        _check_scaling(self.scaling)

    def _transport(self, cost: Tensor, rows: Tensor, columns: Tensor, allowed: Tensor | None = None) -> Pair:
        plan = sinkhorn(cost.detach(), rows, columns, self.eps, self.iterations, self.tolerance, allowed)
        paid = -(plan * cost).sum(2)
        return paid if self.scaling == "mass" else paid * rows[:, None], plan


@dataclass(frozen=True)
class SinkhornOT(_Transport):
    """Pays minus the cost under the entropic transport plan; labels whole episodes. Blind to order.

    Rows have mass 1/T and columns 1/T', each by its own length: a pair is solved as it would be without padding.

    Args:
        eps: weight of the entropy, in units of the cost.
        iterations: the most Sinkhorn iterations.
        tolerance: mass in wrong columns, out of 1, at which to stop earlier.
        scaling: ``"row"`` pays the mean cost of what a frame is matched with, whatever the length of the episode;
            ``"mass"`` weighs that by the frame's mass 1/T, as published, so that rewards add up to the transport cost.

    Raises:
        ValueError: if a number is out of its range.

    Paper: Luo et al., "Optimal Transport for Offline Imitation Learning" (OTR), arXiv 2303.13971.
    """

    def _match(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Pair:
        return self._transport(cost, rows, columns)


@dataclass(frozen=True)
class TemporalOT(_Transport):
    """Transport of costs in context, only near the diagonal; labels whole episodes.

    The context cost of ``(i, j)`` is the mean cost of ``(i + l, j + l)`` for ``l < context``, held at the ends. For
    unequal lengths the band follows the diagonal (:func:`vrm.rewards.transport.diagonal_band`).

    Args:
        eps: weight of the entropy, in units of the cost.
        iterations: the most Sinkhorn iterations.
        tolerance: mass in wrong columns, out of 1, at which to stop earlier.
        scaling: as for :class:`SinkhornOT`.
        context: number of frames ``k_c`` compared from each on.
        band: half width ``k_m``, in frames of the longer of the two.

    Raises:
        ValueError: if a number is out of its range.

    Paper: Fu et al., "Robot Policy Learning with Temporal Optimal Transport Reward", arXiv 2410.21795.
    """

    context: int = 3
    band: float = 10

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        if not (self.context >= 1 and self.band >= 0):
            raise ValueError(
                f"context must be at least 1 and band at least 0, got context={self.context}, band={self.band}."
            )

    def _match(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Pair:
        near = diagonal_band(rows, columns, (cost.shape[1], cost.shape[2]), self.band)
        return self._transport(self._in_context(cost, rows, columns), rows, columns, near)

    def _in_context(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        pair = torch.arange(len(cost), device=cost.device)[:, None, None]
        i, j = (torch.arange(n, device=cost.device) for n in cost.shape[1:])
        total = cost
        for ahead in range(1, self.context):
            later_i = torch.minimum(i + ahead, rows[:, None] - 1)
            later_j = torch.minimum(j + ahead, columns[:, None] - 1)
            total = total + cost[pair, later_i[:, :, None], later_j[:, None, :]]
        return total / self.context


@dataclass(frozen=True)
class OrderedCoverage(Matcher):
    """Pays how well the demonstration has been covered, in order, by an episode that ends here (ORCA); usable online.

    With ``P = exp(-c / tau)``, ``A[t, j]`` is the best product of matches of demonstration frames 0 to ``j`` with
    episode frames in order up to ``t``::

        A[t, j] = max(A[t - 1, j], A[t, j - 1] * P[t, j])        r[t] = A[t, N - 1] * P[t, N]

    Speed does not matter, order does; a demonstration played backwards, or only its end, earns nothing. The reward is
    a product of as many factors as the demonstration has frames, so that long ones pay late and little: subsample them
    (``max_frames`` of :meth:`vrm.rewards.matching.MatchingReward.fit`), or raise ``tau``. The plan has one 1 per
    demonstration frame, at the episode frame that covers it in the last reward.

    Args:
        tau: cost at which a match counts 1/e.
        scaling: ``"product"`` as published; ``"geometric"`` takes the root of as many factors as there are, so that
            the reward is the typical match of a frame: the same order of episodes, denser, less strict.

    Raises:
        ValueError: if ``tau`` is not positive or ``scaling`` unknown.

    Paper: Huey et al., "Imitation Learning from a Single Temporally Misaligned Video" (ORCA), arXiv 2502.05397.
    """

    causal = True
    range = (0.0, 1.0)
    tau: float = 1.0
    scaling: Literal["product", "geometric"] = "product"

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.tau > 0:
            raise ValueError(f"tau must be positive, got {self.tau}.")
        _check_scaling(self.scaling, ("product", "geometric"))

    def _match(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Pair:
        logs = (-cost / self.tau).permute(2, 0, 1).contiguous()
        covered = torch.zeros_like(logs[0])
        ending, when = [], []
        for column in logs:  # logarithms, because products of hundreds of factors underflow
            ending.append(covered + column)
            covered, at = ending[-1].cummax(dim=1)
            when.append(at)
        pairs = torch.arange(len(cost), device=cost.device)
        whole = torch.stack(ending)[columns - 1, pairs]
        if self.scaling == "geometric":
            whole = whole / columns[:, None]
        frames = self._trace(when, rows, columns)
        plan = torch.zeros_like(cost.detach()).scatter_(1, frames[:, None, :], 1.0)
        return whole.exp(), plan * _inside(columns, cost.shape[2])[:, None, :]

    def _trace(self, when: list[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
        at, found = rows - 1, []
        for j in reversed(range(len(when))):
            at = torch.where(j < columns - 1, when[j].gather(1, at[:, None])[:, 0], rows - 1)
            found.append(at)
        return torch.stack(found[::-1], dim=1)


@dataclass(frozen=True)
class SoftDTW(Matcher):
    """Pays minus the expected cost along a monotone alignment of both from end to end; labels whole episodes.

    The plan is the gradient of soft-DTW by the costs: the probability that an alignment, drawn with weight
    ``exp(-cost / gamma)``, passes through a cell. As ``gamma`` goes to 0 it becomes the alignment of DTW.

    Args:
        gamma: temperature, in units of the summed cost.
        scaling: ``"row"`` pays the mean cost of what a frame is aligned with; ``"mass"`` the sum, so that rewards add
            up to the expected cost of the alignment, and frames on which the demonstration waits pay less.

    Raises:
        ValueError: if ``gamma`` is not positive or ``scaling`` unknown.

    Paper: Cuturi & Blondel, "Soft-DTW: a Differentiable Loss Function for Time-Series", arXiv 1703.01541.
    """

    gamma: float = 0.01
    scaling: Scaling = "row"

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}.")
        _check_scaling(self.scaling)
        if self.scaling == "mass":
            object.__setattr__(self, "range", (-float("inf"), 0.0))  # a frame may pay for the whole demonstration

    def _match(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Pair:
        plan = soft_alignment(cost.detach(), rows, columns, self.gamma)
        paid = -(plan * cost).sum(2)
        return paid if self.scaling == "mass" else paid / plan.sum(2).clamp(min=torch.finfo(plan.dtype).tiny), plan


@torch.no_grad()
def soft_alignment(cost: Tensor, rows: Tensor, columns: Tensor, gamma: float) -> Tensor:
    """Probability of each cell under soft-DTW's distribution of alignments (Cuturi & Blondel 2017, algorithm 2).

    Cells of one anti-diagonal are independent, so the recursion runs over those.

    Args:
        cost: ``(B, T, T')`` finite costs.
        rows: ``(B,)`` lengths of the episodes.
        columns: ``(B,)`` lengths of the demonstrations.
        gamma: temperature.

    Returns:
        ``(B, T, T')`` probabilities; 1 in the first and the last cell that count.
    """
    batch, height, width = cost.shape
    costs, steps = _skewed(cost, 1e12).permute(2, 0, 1), []
    before = torch.full_like(costs[0], 1e12)  # finite, so that no infinity is subtracted from another
    path, earlier = before.clone(), before
    path[:, 0] = costs[0, :, 0]
    for diagonal in costs[1:]:
        came = torch.stack([_moved(earlier, 1e12), _moved(path, 1e12), path])
        least = came.amin(0)
        weights = ((least - came) / gamma).exp_()
        total = weights.sum(0)
        steps.append(weights / total)
        earlier, path = path, (diagonal + least - gamma * total.log()).clamp_(max=1e12)
    flow = cost.new_zeros(len(costs), batch, height + 1)  # one place more, for what would move above the first row
    pairs = torch.arange(batch, device=cost.device)
    flow[rows + columns - 2, pairs, rows] = 1.0
    for d in range(len(steps), 0, -1):
        both, down, along = steps[d - 1] * flow[d, :, 1:]
        flow[d - 1, :, :-1] += down
        flow[d - 1, :, 1:] += along
        if d > 1:
            flow[d - 2, :, :-1] += both
    return _unskewed(flow[:, :, 1:].permute(1, 2, 0), width)


MATCHERS: dict[str, type[Matcher]] = {
    "nearest": NearestFrame,
    "segment": SegmentMatching,
    "sinkhorn": SinkhornOT,
    "temporal_ot": TemporalOT,
    "orca": OrderedCoverage,
    "soft_dtw": SoftDTW,
}


def make_matcher(matcher: str | Matcher | Mapping[str, Any]) -> Matcher:
    """Return a matcher given as such, by a name of :data:`MATCHERS`, or as ``{"name": ..., options}``.

    Raises:
        UnknownNameError: if there is no matcher of this name, or it has no such option.

    Example:
        >>> make_matcher({"name": "orca", "tau": 0.5})
        OrderedCoverage(tau=0.5, scaling='product')
    """
    if isinstance(matcher, Matcher):
        return matcher
    options = {"name": matcher} if isinstance(matcher, str) else dict(matcher)
    name = str(options.pop("name", ""))
    if name not in MATCHERS:
        raise UnknownNameError("matcher", name, MATCHERS)
    known = [field.name for field in fields(MATCHERS[name])]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of matcher {name!r}", option, known)
    return MATCHERS[name](**options)


def matcher_config(matcher: Matcher) -> dict[str, Any]:
    """Describe a matcher as :func:`make_matcher` takes it, in JSON values."""
    names = {cls: name for name, cls in MATCHERS.items()}
    return {"name": names[type(matcher)], **asdict(matcher)}


def _check_cost(cost: Tensor) -> Tensor:
    if cost.ndim not in (2, 3) or 0 in cost.shape or not cost.is_floating_point():
        raise ValueError(f"cost must be float (B, T, T') or (T, T'), not empty, got {cost.dtype} {tuple(cost.shape)}.")
    return (cost if cost.ndim == 3 else cost[None]).to(torch.promote_types(cost.dtype, torch.float32))


def _check_lengths(lengths: Tensor | None, cost: Tensor, axis: int) -> Tensor:
    size = cost.shape[axis]
    if lengths is None:
        return torch.full((len(cost),), size, device=cost.device)
    name = ("lengths", "demo_lengths")[axis - 1]
    if tuple(lengths.shape) != (len(cost),):
        raise ValueError(f"{name} must be (B,) = ({len(cost)},), one for each pair, got {tuple(lengths.shape)}.")
    if not 1 <= int(lengths.min()) <= int(lengths.max()) <= size:
        raise ValueError(f"{name} must lie between 1 and {size}, the size of the cost, got {lengths.tolist()}.")
    return lengths.to(cost.device, torch.int64)


def _check_scaling(scaling: str, known: tuple[str, ...] = ("row", "mass")) -> None:
    if scaling not in known:
        raise UnknownNameError("scaling", scaling, known)


def _inside(count: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=count.device) < count[:, None]


def _nearest(cost: Tensor, among: Tensor) -> Pair:
    least, index = cost.masked_fill(~among, float("inf")).min(dim=2)
    return -least, torch.zeros_like(cost.detach()).scatter_(2, index[:, :, None], 1.0)


def _moved(values: Tensor, fill: float) -> Tensor:
    return torch.cat([torch.full_like(values[:, :1], fill), values[:, :-1]], dim=1)


def _skewed(cost: Tensor, fill: float) -> Tensor:
    """Put cell ``(i, j)`` at ``(i, i + j)``: ``(B, T, T')`` to ``(B, T, T + T' - 1)``."""
    batch, height, width = cost.shape
    padded = torch.nn.functional.pad(cost, (0, height), value=fill).flatten(1)
    return padded[:, : height * (height + width - 1)].view(batch, height, -1)


def _unskewed(cells: Tensor, width: int) -> Tensor:
    batch, height, _ = cells.shape
    padded = torch.nn.functional.pad(cells.flatten(1), (0, height))
    return padded.view(batch, height, -1)[:, :, :width].contiguous()
