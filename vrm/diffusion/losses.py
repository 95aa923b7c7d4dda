"""Losses of policy gradients, of preference pairs and of weighted matching: pure functions, one number per row.

Log-probabilities and squared errors are MEANS over the numbers of a latent, as in the published code of these methods;
that is why clip ranges are as small as 1e-4 and the betas of preference losses in the hundreds or thousands.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def ppo_clip(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Clipped policy loss ``max(-A rho, -A clip(rho, 1 - clip, 1 + clip))``, ``rho = exp(log_ratio)`` (DDPO).

    Args:
        log_ratio: ``(N,)`` log-probability now minus that of the sampling policy.
        advantages: ``(N,)``.
        clip: range of the ratio around 1.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def guarded_log_ratio(log_ratio: Tensor, shift: Tensor, std: Tensor) -> Tensor:
    """GRPO-Guard's log-ratio ``(log rho + |dm|^2 / (2 std^2)) std``, without the bias below 1 and alike at all steps.

    Args:
        log_ratio: ``(N,)``.
        shift: ``(N,)`` divergence ``|m - m_old|^2 / (2 std^2)`` of the two policies' transitions.
        std: ``(N,)`` of the transition. The loss is divided by the length of the time step besides.
    """
    return (log_ratio + shift) * std


def d3po(log_ratios: Tensor, beta: float = 0.1, clip: float = 0.1) -> Tensor:
    """Preference loss of every denoising step (D3PO, arXiv 2311.13231): ``(P,)``, mean over steps.

    ``-log sigmoid(beta (log clip(rho_w) - log clip(rho_l)))`` with ``rho`` the policy over the reference, clipped to
    ``1 +- clip``.

    Args:
        log_ratios: ``(P, 2, N)`` per pair (winner, loser) and step.
        beta: sharpness.
        clip: range of the ratio around 1.
    """
    bounded = log_ratios.exp().clamp(1 - clip, 1 + clip).log()
    return -functional.logsigmoid(beta * (bounded[:, 0] - bounded[:, 1])).mean(dim=1)


def prdp(log_ratios: Tensor, old: Tensor, rewards: Tensor, beta: float = 10.0, clip: float = 1e-4) -> Tensor:
    """Reward difference prediction (PRDP, arXiv 2402.08714): ``(P,)``.

    ``|beta (sum_t rho_a - sum_t rho_b) - (r_a - r_b)|^2`` with ``rho`` the log-ratio to the reference: in units of the
    reward. Proximal: each step is also clipped to within ``clip`` of its value before the updates, and the greater loss
    counts.

    Args:
        log_ratios: ``(P, 2, N)``.
        old: ``(P, 2, N)`` the same before the first update on these videos.
        rewards: ``(P, 2)``.
        beta: strength of the pull to the reference.
        clip: largest change of a step.
    """
    wanted = rewards[:, 0] - rewards[:, 1]
    near = old + (log_ratios - old).clamp(-clip, clip)
    far, close = (beta * (found[:, 0] - found[:, 1]).sum(dim=1) - wanted for found in (log_ratios, near))
    return torch.maximum(far.square(), close.square())


def rebel(log_ratios: Tensor, advantages: Tensor, eta: float = 1.0) -> Tensor:
    """Regression of relative rewards (REBEL, arXiv 2404.16767): ``(P,)``.

    ``(eta (sum_t log rho_a - sum_t log rho_b) - (A_a - A_b))^2``.

    Args:
        log_ratios: ``(P, 2, N)`` to the policy that sampled.
        advantages: ``(P, 2)``.
        eta: scale of the log-ratios.
    """
    predicted = eta * (log_ratios[:, 0] - log_ratios[:, 1]).sum(dim=1)
    return (predicted - (advantages[:, 0] - advantages[:, 1])).square()


def dpo(winner: Tensor, loser: Tensor, beta: Tensor | float, loser_sign: Tensor | float = 1.0) -> Tensor:
    """Diffusion-DPO (arXiv 2311.12908, eq. 14) and Flow-DPO (arXiv 2501.13918): ``(P,)``; log 2 at the reference.

    ``-log sigmoid(-(beta / 2) (d_w - d_l))``, ``d`` the squared error of the model minus that of the reference, both at
    the same time with the same noise.

    Args:
        winner: ``(P,)`` differences ``d_w``.
        loser: ``(P,)`` differences ``d_l``.
        beta: sharpness, one or per pair.
        loser_sign: 1 pushes away from the loser, -1 pulls towards it too (SePPO's flipper).
    """
    return -functional.logsigmoid(-0.5 * beta * (winner - loser_sign * loser))


def rwr_weights(rewards: Tensor, temperature: float = 1.0) -> Tensor:
    """Reward-weighted regression: ``G softmax(r / temperature)`` over each group ``(P, G)``, mean 1."""
    return torch.softmax(rewards / temperature, dim=1) * rewards.shape[1]


def raft_weights(rewards: Tensor, top: int = 1) -> Tensor:
    """RAFT: the ``top`` best of each group ``(P, G)`` count alike, the others not at all; mean 1."""
    best = rewards.topk(top, dim=1).indices
    return torch.zeros_like(rewards).scatter_(1, best, rewards.shape[1] / top)


def nft(positive: Tensor, negative: Tensor, x0: Tensor, optimality: Tensor, strength: float = 1.0) -> Tensor:
    """Negative-aware fine-tuning (DiffusionNFT, arXiv 2509.16117): ``(N,)``.

    ``(p |x+ - x0|^2 / w+ + (1 - p) |x- - x0|^2 / w-) / b``, ``w`` the mean absolute error, without gradient.

    Args:
        positive: ``(N, ...)`` clean latents that the velocity ``b v + (1 - b) v_old`` predicts.
        negative: ``(N, ...)`` those of ``(1 + b) v_old - b v``.
        x0: ``(N, ...)`` latents drawn from the old policy.
        optimality: ``(N,)`` how good they are, ``p`` in [0, 1].
        strength: ``b`` above 0.
    """
    parts = []
    for prediction, weight in ((positive, optimality), (negative, 1 - optimality)):
        error = (prediction - x0).flatten(1)
        scale = error.detach().abs().mean(dim=1).clamp(min=1e-5)
        parts.append(weight * error.square().mean(dim=1) / scale)
    return (parts[0] + parts[1]) / strength
