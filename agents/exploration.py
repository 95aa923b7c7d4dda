"""Exploration before there is a reward: pay for states unlike the others, then forget what that was worth."""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

MOST = 2048  # states that a batch is compared with


class StateEntropy:
    """Pays a state its distance to its k-th nearest neighbour, divided by the running standard deviation.

    That is, up to constants, a particle estimate of the entropy of the states visited (PEBBLE: Lee et al. 2021, arXiv
    2106.05091, section 4.1; it takes the logarithm in the paper and leaves it out in its code, as here).

    Args:
        neighbours: which neighbour counts.

    Raises:
        ValueError: if ``neighbours`` is below 1.

    Attributes:
        seen: how many distances the deviation is of, their mean, and the sum of their squared deviations from it.

    Example:
        >>> StateEntropy(1).distances(torch.tensor([[0.0], [5.0]]), torch.tensor([[0.0], [1.0], [5.0]]))
        tensor([1., 4.])
    """

    def __init__(self, neighbours: int = 5) -> None:
        """Nothing has been seen yet."""
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}.")
        self.neighbours = neighbours
        self.seen = (0.0, 0.0, 0.0)

    def distances(self, states: Tensor, others: Tensor) -> Tensor:
        """Euclidean distances ``(B,)`` to the k-th nearest of the others.

        Args:
            states: ``(B, ...)``, themselves among the others.
            others: ``(N, ...)``.
        """
        apart = torch.cdist(states.flatten(1).float(), others.flatten(1).float())
        return apart.kthvalue(min(self.neighbours + 1, len(others)), dim=1).values

    def pay(self, states: Tensor, others: Tensor) -> Tensor:
        """Rewards ``(B,)``, at least 0; see :meth:`distances`. The deviation takes note of these, too."""
        far = self.distances(states, others)
        count, mean, squares = self.seen
        new = float(far.mean()) - mean
        total = count + len(far)
        squares += float((far - far.mean()).square().sum()) + new**2 * count * len(far) / total
        self.seen = (total, mean + new * len(far) / total, squares)
        spread = math.sqrt(squares / total)
        return far / spread if spread > 0 else far


def reset_critic(algo: OffPolicyAlgorithm) -> None:
    """Draw the critic's weights anew, copy them to the target and empty the optimiser.

    For DQN that is the whole agent, because its values choose its actions.

    Raises:
        ValueError: if the algorithm has neither a critic with a target nor a Q-network with one.
    """
    names = next(
        (pair for pair in (("critic", "critic_target"), ("q_net", "q_net_target")) if hasattr(algo, pair[0])), None
    )
    if names is None:
        raise ValueError(f"{type(algo).__name__} has no critic to reset; use SAC, TD3, DDPG, TQC or DQN.")
    critic, target = (getattr(algo, name) for name in names)
    shared = getattr(critic, "share_features_extractor", False)
    for name, module in critic.named_modules():
        draw: Any = getattr(module, "reset_parameters", None)
        if draw is not None and not (shared and name.startswith("features_extractor")):  # that one is the actor's
            draw()
    target.load_state_dict(critic.state_dict())
    optimiser: torch.optim.Optimizer = getattr(critic, "optimizer", None) or algo.policy.optimizer
    optimiser.state.clear()
