"""Agents that learn from a dataset alone: IQL, CQL, TD3+BC, and behaviour cloning as the baseline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vrm.agents.torchrl_agent import TorchAgent
from vrm.data.demos import DemoError
from vrm.data.trajectories import Transitions
from vrm.errors import MissingExtraError, VrmError

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.objectives import BCLoss, CQLLoss, IQLLoss, SoftUpdate, TD3BCLoss
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "Learning from a dataset") from error

INSIDE = 1e-4  # share of the range that actions keep from their bounds, where tanh would need infinity


class OfflineAgent(TorchAgent):
    """An agent that learns from transitions; observations are normalised by the dataset's statistics.

    Args:
        env: as for :class:`~vrm.agents.torchrl_agent.TorchAgent`.
        seed: as there.
        device: as there.
        hidden: as there.
        learning_rate: of Adam.
        batch_size: transitions per update.
        gamma: discount.
        tau: share of the critics that their targets take over per update.
    """

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str = "cpu",
        *,
        hidden: Sequence[int] = (256, 256),
        learning_rate: float = 3e-4,
        batch_size: int = 256,
        gamma: float = 0.99,
        tau: float = 0.005,
    ) -> None:
        """Keep the settings and build the networks."""
        self.learning_rate, self.batch_size, self.gamma, self.tau = learning_rate, batch_size, gamma, tau
        super().__init__(env, seed, device, hidden)

    def study(self, found: Transitions) -> None:
        """Take the dataset to learn from.

        Raises:
            DemoError: if it does not fit the agent's observations and actions.
        """
        observations, actions = found.observations, found.actions
        if observations.shape[1] != self.networks.inputs:
            raise DemoError(
                f"The dataset's observations have {observations.shape[1]} numbers, but the task's have "
                f"{self.networks.inputs}; use the task that it was recorded in."
            )
        if self.networks.continuous:
            low, high = self.networks.bounds
            if actions.shape[1] != len(low):
                raise DemoError(f"The dataset's actions have {actions.shape[1]} numbers, but the task's {len(low)}.")
            margin = INSIDE * (high - low)
            actions = actions.clamp(low + margin, high - margin)
        elif actions.shape[1] != 1:
            raise DemoError(f"The dataset's actions have {actions.shape[1]} numbers, but the task's are discrete.")
        else:
            actions = actions[:, 0].long()
        self.normalise_by(observations)
        ended = found.terminated[:, None]
        self.data = TensorDict(
            {
                "observation": observations,
                "action": actions,
                "next": {
                    "observation": found.next_observations,
                    "reward": found.rewards[:, None],
                    "terminated": ended,
                    "done": ended,  # what lies behind a time limit still has a value
                },
            },
            [len(observations)],
        ).to(self.device)

    def update(self) -> dict[str, float]:
        """Learn from one random batch, and tell how it went."""
        rows = torch.randint(len(self.data), (self.batch_size,), generator=self.random)
        return {name: float(value.detach()) for name, value in self.step(self.data[rows.to(self.device)]).items()}

    @abstractmethod
    def step(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Make one update."""

    def adam(self, *parts: Any) -> torch.optim.Adam:
        """An optimiser for the parameters of parts of a loss."""
        parameters = [p for part in parts for p in part.flatten_keys().values() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=self.learning_rate)


class BC(OfflineAgent):
    """Behaviour cloning: acts as the dataset does, whatever that was worth; rewards are not looked at."""

    def build(self) -> None:
        """Make the actor: deterministic for vectors, categorical for discrete actions."""
        continuous = self.networks.continuous
        self.policy = (self.networks.deterministic_actor() if continuous else self.networks.actor()).to(self.device)
        loss = BCLoss(self.policy, loss_function="mse") if continuous else _Likelihood(self.policy)
        self.losses = {"bc": loss}
        self.optimisers = {"bc": torch.optim.Adam(loss.parameters(), lr=self.learning_rate)}

    def step(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Come nearer to the dataset's actions."""
        found = self.losses["bc"](batch)
        self.descend("bc", found["loss_bc"])
        return {"loss_bc": found["loss_bc"]}


class IQL(OfflineAgent):
    """Implicit Q-learning (Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169).

    The value is an upper expectile of the critics over the dataset's actions, equations 5 and 6; the actor imitates
    them, each weighted by ``exp(temperature * advantage)``, equation 7.

    Args:
        env: as for :class:`OfflineAgent`.
        seed: as there.
        device: as there.
        expectile: of the value; 0.5 is the mean, near 1 the best of the dataset.
        temperature: of the weights; 0 imitates all alike.
        settings: further arguments of :class:`OfflineAgent`.

    Raises:
        VrmError: if actions are discrete.
    """

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str = "cpu",
        *,
        expectile: float = 0.7,
        temperature: float = 3.0,
        **settings: Any,
    ) -> None:
        """Keep the settings and build the networks."""
        if not 0 < expectile < 1 or temperature < 0:
            raise VrmError(
                f"expectile must lie in (0, 1) and temperature be 0 or more, got {expectile}, {temperature}."
            )
        self.expectile, self.temperature = expectile, temperature
        super().__init__(env, seed, device, **settings)

    def build(self) -> None:
        """Make actor, critics, value and target."""
        self.needs_vectors()
        self.policy = self.networks.squashed_actor().to(self.device)
        loss = IQLLoss(
            self.policy, self.networks.action_value().to(self.device), self.networks.value().to(self.device),
            num_qvalue_nets=2, loss_function="l2", temperature=self.temperature, expectile=self.expectile,
        )  # fmt: skip
        loss.make_value_estimator(gamma=self.gamma)
        self.target = SoftUpdate(loss, tau=self.tau)
        self.losses = {"iql": loss}
        self.optimisers = {
            "iql": self.adam(loss.actor_network_params, loss.qvalue_network_params, loss.value_network_params)
        }

    def step(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Update all networks once."""
        found = self.losses["iql"](batch)
        names = ("loss_actor", "loss_qvalue", "loss_value")
        self.descend("iql", sum((found[name] for name in names), torch.zeros((), device=self.device)))
        self.target.step()
        return {name: found[name] for name in names}


class CQL(OfflineAgent):
    """Conservative Q-learning (Kumar et al. 2020, https://arxiv.org/abs/2006.04779) on soft actor-critic.

    Args:
        env: as for :class:`OfflineAgent`.
        seed: as there.
        device: as there.
        min_q_weight: how much the critics are pushed down where the dataset has no actions.
        settings: further arguments of :class:`OfflineAgent`.

    Raises:
        VrmError: if actions are discrete.
    """

    def __init__(
        self, env: Any, seed: int = 0, device: str = "cpu", *, min_q_weight: float = 5.0, **settings: Any
    ) -> None:
        """Keep the settings and build the networks."""
        self.min_q_weight = min_q_weight
        super().__init__(env, seed, device, **settings)

    def build(self) -> None:
        """Make actor, critics, temperature and target."""
        self.needs_vectors()
        self.policy = self.networks.squashed_actor().to(self.device)
        loss = CQLLoss(
            self.policy, self.networks.action_value().to(self.device), loss_function="l2",
            min_q_weight=self.min_q_weight, target_entropy=-float(len(self.networks.bounds[0])),
        )  # fmt: skip
        loss.make_value_estimator(gamma=self.gamma)
        self.target = SoftUpdate(loss, tau=self.tau)
        self.losses = {"cql": loss}
        self.optimisers = {
            "actor": self.adam(loss.actor_network_params),
            "qvalue": self.adam(loss.qvalue_network_params),
            "alpha": torch.optim.Adam([loss.log_alpha], lr=self.learning_rate),
        }

    def step(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Update all networks once."""
        found = self.losses["cql"](batch)
        totals = {
            "actor": found["loss_actor"],
            "qvalue": found["loss_qvalue"] + found["loss_cql"],
            "alpha": found["loss_alpha"],
        }
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        torch.stack([total.reshape(()) for total in totals.values()]).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.target.step()
        return totals


class TD3BC(OfflineAgent):
    """TD3 with a behaviour-cloning term (Fujimoto & Gu 2021, https://arxiv.org/abs/2106.06860).

    Args:
        env: as for :class:`OfflineAgent`.
        seed: as there.
        device: as there.
        alpha: weight of the critic against imitation.
        policy_delay: critic updates per actor update.
        settings: further arguments of :class:`OfflineAgent`.

    Raises:
        VrmError: if actions are discrete.
    """

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str = "cpu",
        *,
        alpha: float = 2.5,
        policy_delay: int = 2,
        **settings: Any,
    ) -> None:
        """Keep the settings and build the networks."""
        self.alpha, self.policy_delay = alpha, policy_delay
        super().__init__(env, seed, device, **settings)

    def build(self) -> None:
        """Make actor, critics and targets."""
        self.needs_vectors()
        self.policy = self.networks.deterministic_actor().to(self.device)
        loss = TD3BCLoss(
            self.policy, self.networks.action_value().to(self.device), bounds=self.networks.bounds, num_qvalue_nets=2,
            loss_function="l2", alpha=self.alpha, delay_actor=True, delay_qvalue=True,
        )  # fmt: skip
        loss.make_value_estimator(gamma=self.gamma)
        self.target = SoftUpdate(loss, tau=self.tau)
        self.losses = {"td3": loss}
        self.optimisers = {
            "actor": self.adam(loss.actor_network_params),
            "qvalue": self.adam(loss.qvalue_network_params),
        }

    def step(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Update the critics, and every so often the actor and the targets."""
        loss: Any = self.losses["td3"]
        qvalue = loss.qvalue_loss(batch.clone())[0]
        self.descend("qvalue", qvalue)
        found = {"loss_qvalue": qvalue}
        if self.num_timesteps % self.policy_delay == 0:
            actor = loss.actor_loss(batch.clone())[0]
            self.descend("actor", actor)
            self.target.step()
            found["loss_actor"] = actor
        return found


class _Likelihood(nn.Module):
    """Cross-entropy of a categorical actor; TorchRL's loss would compare actions by their numbers."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        return {"loss_bc": -self.actor.get_dist(batch).log_prob(batch["action"]).mean()}
