"""Entropic optimal transport between batches of episodes and demonstrations, with uniform marginals.

The scaling form of Sinkhorn's algorithm (Cuturi 2013, arXiv 1306.0895), stabilised by absorbing the scalings into the
potentials of the log domain (Schmitzer 2019, arXiv 1610.06519, section 3): float32 is enough where the plain kernel
underflows, and two batched products make an iteration.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 2**19  # of cost matrices solved together on a processor: the kernels then stay in its cache
LIMIT = 18.0  # logarithm of a scaling beyond which it is absorbed, far from the 88 at which float32 ends
CUT = 1e-24  # kernel entries below this count as 0
FLOOR = -25.0  # logarithm of the smallest scaling that a solution may start from


def sinkhorn(
    cost: Tensor,
    rows: Tensor,
    columns: Tensor,
    eps: float,
    iterations: int,
    tolerance: float,
    allowed: Tensor | None = None,
) -> Tensor:
    """Find the plans ``P`` that minimise ``<P, C> - eps * entropy(P)`` with rows of mass 1/T and columns of 1/T'.

    Iteration starts from the textbook's scalings of one, unless the rows' least costs lie more than ``25 eps`` apart,
    where the start is held back. Each pair stops by itself, so a plan does not depend on what else is in the batch,
    beyond rounding. The last half-step is on the rows, which are exact.

    Args:
        cost: ``(B, T, T')`` finite costs.
        rows: ``(B,)`` how many rows of each matrix count; the others get no mass.
        columns: ``(B,)`` how many columns count.
        eps: weight of the entropy, in units of the cost.
        iterations: the most updates of both scalings.
        tolerance: a pair is done when the mass in wrong columns, out of 1, is below this; looked at every few
            iterations.
        allowed: ``(B, T, T')`` bool, where mass may go; every row and column that counts needs a feasible plan.

    Returns:
        ``(B, T, T')`` plans of total mass 1, without gradient.
    """
    size = max(1, CELLS // cost[0].numel()) if cost.device.type == "cpu" else len(cost)
    plans = torch.zeros_like(cost)
    with torch.no_grad():
        for start in range(0, len(cost), size):
            part = slice(start, start + size)
            scaled = cost[part] / eps
            a, b = (
                _uniform(n[part], length, scaled) for n, length in zip((rows, columns), cost.shape[1:], strict=True)
            )
            if not bool((a > 0).all() & (b > 0).all()):
                scaled.masked_fill_(~((a > 0).unsqueeze(2) & (b > 0).unsqueeze(1)), math.inf)
            if allowed is not None:
                scaled.masked_fill_(~allowed[part], math.inf)
            _solve(_Scalings(scaled, a, b), plans[part], iterations, tolerance)
    return plans


def diagonal_band(rows: Tensor, columns: Tensor, size: tuple[int, int], width: float) -> Tensor:
    """Say which frames of demonstrations lie near the diagonal, for unequal lengths too.

    Frame ``i`` of ``T`` covers the time from ``i / T`` to ``(i + 1) / T`` of its clip. Frames are near if the middles
    of their times are at most ``width`` frames of the longer clip apart, or if the times overlap, without which no
    plan could have the right marginals. For ``T = T'`` this is ``|i - j| <= width``.

    Args:
        rows: ``(B,)`` lengths ``T``.
        columns: ``(B,)`` lengths ``T'``.
        size: numbers of rows and columns of the padded matrices.
        width: in frames of the longer clip.

    Returns:
        ``(B, *size)`` bool.
    """
    t, s = rows[:, None, None].double(), columns[:, None, None].double()
    i, j = (torch.arange(n, device=rows.device).double() for n in size)
    apart = ((i[:, None] + 0.5) / t - (j[None, :] + 0.5) / s).abs()
    return (apart * torch.maximum(t, s) <= width + 1e-9) | (apart < 0.5 / t + 0.5 / s - 1e-9)


class _Scalings:
    """Scalings ``u`` and ``v`` of a batch of kernels ``exp(f + g - C / eps)`` whose potentials keep them near one."""

    def __init__(self, scaled: Tensor, a: Tensor, b: Tensor) -> None:
        self.scaled, self.a, self.b = scaled, a, b
        self.f = _finite(scaled.amin(2))
        self.g = _finite((scaled - self.f[:, :, None]).amin(1))
        self.tiny = torch.finfo(scaled.dtype).tiny
        self._make_kernel()
        # Scalings of one in the textbook's kernel are these in ours.
        self.u = (self.f.amin(1, keepdim=True) - self.f).clamp(min=FLOOR).exp() * (a > 0)
        self.v = torch.zeros_like(b)
        self.mass = _times(self.u, self.kernel)

    def _make_kernel(self) -> None:
        exponent = (self.g[:, None, :] - self.scaled).add_(self.f[:, :, None])
        # Subnormal numbers, with which processors are slow, arise neither in the exponential nor in products with it.
        self.kernel: Tensor = functional.threshold(exponent.clamp_(min=-60.0).exp_(), CUT, 0.0, inplace=True)
        # A row vector times a contiguous matrix is the batched product that processors do fast.
        self.transposed = self.kernel.mT.contiguous()

    def step(self) -> None:
        """Correct the columns, then the rows."""
        self.v = self.b / self.mass.clamp_(min=self.tiny)
        self.u = self.a / _times(self.v, self.transposed).clamp_(min=self.tiny)
        self.mass = _times(self.u, self.kernel)

    def misplaced(self) -> Tensor:
        """Mass ``(B,)`` that is in the wrong columns."""
        return (self.v * self.mass - self.b).abs().sum(1)

    def absorb(self) -> None:
        """Move scalings into the potentials where they have grown far from one."""
        logs = [torch.where(m > 0, x.clamp(min=self.tiny).log(), 0.0) for x, m in ((self.u, self.a), (self.v, self.b))]
        if max(float(log.abs().max()) for log in logs) < LIMIT:
            return
        self.f, self.g = self.f + logs[0], self.g + logs[1]
        self._make_kernel()
        self.u, self.v = (self.a > 0).to(self.u), (self.b > 0).to(self.v)
        self.mass = _times(self.u, self.kernel)

    def plan(self, which: Tensor) -> Tensor:
        """The plans of some of the pairs."""
        return self.kernel[which].mul_(self.u[which][:, :, None]).mul_(self.v[which][:, None, :])

    def keep(self, which: Tensor) -> None:
        """Forget all other pairs."""
        for name in ("scaled", "a", "b", "f", "g", "kernel", "transposed", "u", "v", "mass"):
            setattr(self, name, getattr(self, name)[which])


def _solve(scalings: _Scalings, plans: Tensor, iterations: int, tolerance: float) -> None:
    # A step changes no scaling by more than a factor of the length, so that between two looks none overflows.
    every = max(1, min(10, int(60 / math.log(max(3, *plans.shape[1:])))))
    index = torch.arange(len(plans), device=plans.device)
    waiting = torch.ones(len(plans), dtype=torch.bool, device=plans.device)
    for step in range(1, iterations + 1):
        scalings.step()
        if step % every == 0 and step < iterations:
            done = waiting & (scalings.misplaced() <= tolerance)
            if bool(done.any()):
                plans[index[done]] = scalings.plan(done)
                waiting = waiting & ~done
            left = int(waiting.sum())
            if left == 0:
                return
            if 2 * left <= len(waiting):
                scalings.keep(waiting)
                index, waiting = index[waiting], waiting[waiting]
            scalings.absorb()
    plans[index[waiting]] = scalings.plan(waiting)


def _uniform(count: Tensor, length: int, like: Tensor) -> Tensor:
    places = torch.arange(length, device=like.device)
    return (places < count[:, None]).to(like) / count[:, None].to(like)


def _times(vector: Tensor, matrix: Tensor) -> Tensor:
    return torch.bmm(vector[:, None, :], matrix)[:, 0]


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isinf(), 0.0, values)
