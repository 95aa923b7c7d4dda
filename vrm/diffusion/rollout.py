"""Sampling as a chain of decisions: states, times and log-probabilities of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.kernels import Kernel, Transition, ode

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class Trajectory:
    """What a sampler did with ``B`` videos in ``N`` steps.

    Attributes:
        states: ``N + 1`` latents ``(B, C, T, h, w)``, in the storage type, from the noise to the result.
        times: ``(N + 1,)``.
        log_probs: ``(B, N)`` of the steps taken; 0 at those without a density.
        stochastic: the steps that have a density: what a policy gradient may train.
        conditions: ``B`` rows, repeated where the chain branched.
    """

    states: list[Tensor]
    times: Tensor
    log_probs: Tensor
    stochastic: tuple[int, ...]
    conditions: Conditions

    @property
    def x0(self) -> Tensor:
        """The result ``(B, C, T, h, w)`` float32."""
        return self.states[-1].float()


def draw_noise(shape: Sequence[int], generators: Generators, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal numbers, drawn on the CPU so that they are the same on every device.

    Args:
        shape: first axis the batch.
        generators: one for all, or one per row, so that a row does not depend on the others.
        device: where they go.
    """
    if isinstance(generators, Sequence):
        if len(generators) != shape[0]:
            raise ValueError(f"One generator per video is needed ({shape[0]} here), got {len(generators)}.")
        return torch.stack([torch.randn(*shape[1:], generator=generator) for generator in generators]).to(device)
    return torch.randn(*shape, generator=generators).to(device)


def group_noise(shape: Sequence[int], group: int, shared: bool, generator: torch.Generator | None = None) -> Tensor:
    """First latents of ``shape[0]`` prompts times ``group`` videos; a group may share one (DanceGRPO, D3PO)."""
    if shared:
        return draw_noise(shape, generator).repeat_interleave(group, dim=0)
    return draw_noise((shape[0] * group, *shape[1:]), generator)


@torch.no_grad()
def rollout(
    denoiser: VideoDenoiser,
    conditions: Conditions,
    noise: Tensor,
    grid: Tensor,
    kernel: Kernel,
    *,
    guidance: float = 1.0,
    null: Conditions | None = None,
    sde_window: tuple[int, int] | None = None,
    branch_at: int | None = None,
    branch: int = 1,
    generator: Generators = None,
    store_dtype: torch.dtype = torch.float32,
) -> Trajectory:
    """Sample without gradient and remember the way.

    Args:
        denoiser: the policy.
        conditions: ``B`` rows.
        noise: ``(B, C, T, h, w)`` first latents, or noised data where ``grid`` starts late.
        grid: ``(N + 1,)`` times of :meth:`vrm.diffusion.schedule.NoiseSchedule.grid`.
        kernel: the transition.
        guidance: classifier-free guidance weight.
        null: ``B`` rows for guidance.
        sde_window: ``(first, end)``: the kernel acts in these steps only and the others are deterministic (MixGRPO);
            everywhere if None.
        branch_at: before this step every video becomes ``branch`` videos with one past (B2-DiffuRL, TempFlow).
        branch: how many.
        generator: source of the steps' noise; one per row makes rows independent of each other.
        store_dtype: states are rounded to this type as they are made, so that a log-probability that is computed
            again from the stored states is the same number.

    Raises:
        ValueError: if the window or the branching point is not a step of the grid.
    """
    steps = len(grid) - 1
    first, end = _check_steps(steps, sde_window, branch_at, branch)
    states, log_probs = [noise.to(denoiser.device).to(store_dtype)], list[Tensor]()
    stochastic: list[int] = []
    for step in range(steps):
        if step == branch_at:
            states, log_probs = [_spread(s, branch) for s in states], [_spread(p, branch) for p in log_probs]
            conditions, null = conditions.repeat(branch), None if null is None else null.repeat(branch)
        active = kernel if first <= step < end else ode
        x, times = states[-1].float(), (grid[step], grid[step + 1])
        transition = transit(denoiser, x, *times, conditions, active, guidance=guidance, null=null)
        random = bool((transition.std > 0).any())
        following = transition.sample(draw_noise(x.shape, generator, x.device)) if random else transition.mean
        states.append(following.to(store_dtype))
        log_probs.append(transition.log_prob(states[-1]) if random else torch.zeros(len(x), device=x.device))
        stochastic += [step] if random else []
    return Trajectory(states, grid, torch.stack(log_probs, dim=1), tuple(stochastic), conditions)


def transit(
    denoiser: VideoDenoiser,
    x: Tensor,
    t: Tensor | float,
    t_next: Tensor | float,
    conditions: Conditions,
    kernel: Kernel,
    *,
    guidance: float = 1.0,
    null: Conditions | None = None,
    checkpoint: bool = False,
) -> Transition:
    """The policy's distribution over the next latent, with gradient: what a policy loss compares with the past.

    ``transit(...).log_prob(trajectory.states[i + 1])`` equals ``trajectory.log_probs[:, i]`` while the weights and the
    batch are those of the rollout.
    """
    prediction = denoiser.predict(x.float(), t, conditions, guidance, null, checkpoint=checkpoint)
    return kernel(prediction, x.float(), denoiser.times(x, t), denoiser.times(x, t_next), denoiser.schedule)


def _check_steps(steps: int, window: tuple[int, int] | None, branch_at: int | None, branch: int) -> tuple[int, int]:
    first, end = (0, steps) if window is None else window
    if not 0 <= first <= end <= steps:
        raise ValueError(f"sde_window must lie within the {steps} steps of the grid, got {window}.")
    if branch < 1 or (branch_at is None and branch != 1) or (branch_at is not None and not 0 <= branch_at < steps):
        raise ValueError(f"Branching needs a step 0 to {steps - 1} and branch >= 1, got {branch_at} and {branch}.")
    return first, end


def _spread(rows: Tensor, branch: int) -> Tensor:
    return rows.repeat_interleave(branch, dim=0)
