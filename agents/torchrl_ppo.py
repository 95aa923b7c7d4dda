"""Proximal policy optimisation (Schulman et al. 2017) with TorchRL's loss and advantage estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vrm.agents.torchrl_agent import OnlineAgent
from vrm.errors import MissingExtraError

try:
    from tensordict import TensorDictBase
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "PPO") from error


class PPO(OnlineAgent):
    """PPO for discrete and continuous actions.

    Args:
        env: as for :class:`~vrm.agents.torchrl_agent.TorchAgent`.
        seed: as there.
        device: as there.
        hidden: as there.
        learning_rate: of Adam.
        gamma: discount.
        gae_lambda: of generalised advantage estimation.
        n_steps: steps of each environment per rollout.
        batch_size: steps per update.
        n_epochs: times each rollout is gone through.
        clip: range of the probability ratio.
        entropy_coef: weight of the entropy bonus.
        value_coef: weight of the value's loss.
        max_grad_norm: of an update's gradient.
    """

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str = "cpu",
        *,
        hidden: Sequence[int] = (64, 64),
        learning_rate: float = 3e-4,
        gamma: float = 0.98,
        gae_lambda: float = 0.95,
        n_steps: int = 100,
        batch_size: int = 200,
        n_epochs: int = 8,
        clip: float = 0.2,
        entropy_coef: float = 0.0,
        value_coef: float = 0.5,
        max_grad_norm: float = 0.5,
    ) -> None:
        """Keep the settings and build the networks."""
        self.learning_rate, self.gamma, self.gae_lambda = learning_rate, gamma, gae_lambda
        self.steps_per_batch, self.batch_size, self.n_epochs = n_steps, batch_size, n_epochs
        self.clip, self.entropy_coef, self.value_coef = clip, entropy_coef, value_coef
        self.max_grad_norm = max_grad_norm
        super().__init__(env, seed, device, hidden, nn.Tanh)

    def build(self) -> None:
        """Make actor, value and loss."""
        self.policy = self.networks.actor().to(self.device)
        value = self.networks.value().to(self.device)
        self.advantage = GAE(gamma=self.gamma, lmbda=self.gae_lambda, value_network=value, average_gae=False)
        loss = ClipPPOLoss(
            self.policy, value, clip_epsilon=self.clip, entropy_bonus=self.entropy_coef > 0,
            entropy_coeff=self.entropy_coef, critic_coeff=self.value_coef, loss_critic_type="l2",
            normalize_advantage=True,
        )  # fmt: skip
        self.losses = {"ppo": loss}
        self.optimisers = {"ppo": torch.optim.Adam(loss.parameters(), lr=self.learning_rate, eps=1e-5)}

    def learn(self, data: TensorDictBase) -> dict[str, float]:
        """Go through a rollout ``(N, T)`` several times, in random batches."""
        data = data.to(self.device)
        for key in ("observation", ("next", "observation"), ("next", "reward")):
            data[key] = data[key].float()
        with torch.no_grad():
            self.advantage(data)
        flat, sums = data.reshape(-1), dict.fromkeys(("loss_objective", "loss_critic"), 0.0)
        updates = 0
        for _ in range(self.n_epochs):
            for rows in torch.split(torch.randperm(len(flat), generator=self.random), self.batch_size):
                if len(rows) < 2:
                    continue  # advantages of one step cannot be normalised
                found = self.losses["ppo"](flat[rows])
                total = sum(found[key] for key in found.keys() if key.startswith("loss_"))  # noqa: SIM118
                self.descend("ppo", total, self.max_grad_norm)
                updates += 1
                for key in sums:
                    sums[key] += float(found[key].detach())
        return {key: value / max(updates, 1) for key, value in sums.items()}
