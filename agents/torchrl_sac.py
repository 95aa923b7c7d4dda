"""Soft actor-critic (Haarnoja et al. 2018) with TorchRL's loss and replay buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vrm.agents.torchrl_agent import OnlineAgent, transitions
from vrm.errors import MissingExtraError

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.objectives import SACLoss, SoftUpdate
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "SAC") from error


class SAC(OnlineAgent):
    """SAC with two critics and a learned temperature, for continuous actions.

    Args:
        env: as for :class:`~vrm.agents.torchrl_agent.TorchAgent`.
        seed: as there.
        device: as there.
        hidden: as there.
        learning_rate: of Adam, for actor, critics and temperature.
        gamma: discount.
        tau: share of the critics that their targets take over per update.
        batch_size: transitions per update.
        buffer_size: transitions that are kept.
        learning_starts: environment steps, of all together, at random before the first update.
        train_freq: steps of each environment between updates.
        gradient_steps: updates each time.

    Raises:
        VrmError: if actions are discrete.
    """

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str = "cpu",
        *,
        hidden: Sequence[int] = (128, 128),
        learning_rate: float = 6e-4,
        gamma: float = 0.98,
        tau: float = 0.01,
        batch_size: int = 256,
        buffer_size: int = 300_000,
        learning_starts: int = 2000,
        train_freq: int = 8,
        gradient_steps: int = 32,
    ) -> None:
        """Keep the settings and build the networks."""
        self.learning_rate, self.gamma, self.tau, self.batch_size = learning_rate, gamma, tau, batch_size
        self.steps_per_batch, self.random_steps, self.gradient_steps = train_freq, learning_starts, gradient_steps
        self.buffer_size = buffer_size
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(buffer_size), batch_size=batch_size)
        super().__init__(env, seed, device, hidden)

    def build(self) -> None:
        """Make actor, critics, temperature and target."""
        self.needs_vectors()
        self.policy = self.networks.squashed_actor().to(self.device)
        loss = SACLoss(
            self.policy, self.networks.action_value().to(self.device), num_qvalue_nets=2, loss_function="l2",
            target_entropy=-float(len(self.networks.bounds[0])),
        )  # fmt: skip
        loss.make_value_estimator(gamma=self.gamma)
        self.target = SoftUpdate(loss, tau=self.tau)
        groups = {
            "actor": loss.actor_network_params.flatten_keys().values(),
            "qvalue": loss.qvalue_network_params.flatten_keys().values(),
            "alpha": [loss.log_alpha],
        }
        self.losses = {"sac": loss}
        self.optimisers = {
            name: torch.optim.Adam([p for p in group if p.requires_grad], lr=self.learning_rate)
            for name, group in groups.items()
        }

    def learn(self, data: TensorDictBase) -> dict[str, float]:
        """Keep a rollout ``(N, T)`` and, after the warm-up, update."""
        self.buffer.extend(transitions(data))
        if self.num_timesteps < self.random_steps:
            return {}
        updates = max(1, round(self.gradient_steps * data.shape[1] / self.steps_per_batch))
        found: dict[str, float] = {}
        for _ in range(updates):
            losses = self.losses["sac"](self.buffer.sample().to(self.device))
            total = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]
            for optimiser in self.optimisers.values():
                optimiser.zero_grad()
            total.backward()
            for optimiser in self.optimisers.values():
                optimiser.step()
            self.target.step()
            found = {name: float(losses[name].detach()) for name in ("loss_actor", "loss_qvalue", "alpha", "entropy")}
        return found

    def memory(self) -> dict[str, Tensor] | None:
        """The replay buffer, oldest transition first."""
        if not len(self.buffer):
            return None
        oldest = int(self.buffer._writer._cursor) if len(self.buffer) == self.buffer_size else 0
        flat = self.buffer[:].exclude("index").flatten_keys("/")
        return {name: torch.roll(values, -oldest, 0).contiguous().clone() for name, values in flat.items()}

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Fill the replay buffer again."""
        count = len(memory["observation"])
        self.buffer.extend(TensorDict(memory, [count]).unflatten_keys("/"))
