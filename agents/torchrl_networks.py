"""The networks of TorchRL agents: perceptrons on flat observations, for discrete and continuous actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from vrm.errors import MissingExtraError, VrmError

try:
    from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
    from torchrl.modules import IndependentNormal, NormalParamExtractor, TanhNormal, ValueOperator
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "A TorchRL agent") from error

SMALLEST_STD = 1e-3


class Normalise(nn.Module):
    """Shifts and scales observations by statistics that are saved with the weights; at first it only makes float32.

    Args:
        size: length of an observation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        """Change nothing yet."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, observations: Tensor) -> None:
        """Take mean and deviation from observations ``(M, size)``."""
        self.mean.copy_(observations.mean(0))
        self.std.copy_(observations.std(0).clamp(min=SMALLEST_STD))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise ``(..., size)``."""
        normal: Tensor = (observation.float() - self.mean) / self.std
        return normal


class _Normal(nn.Module):
    """Mean by a network, one standard deviation per action for all observations, as PPO usually has it."""

    def __init__(self, network: nn.Module, actions: int) -> None:
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.network(observation)
        return loc, self.log_std.exp().expand_as(loc)


class _Scaled(nn.Module):
    """Squashes a network's outputs into the range of actions."""

    low: Tensor
    high: Tensor

    def __init__(self, network: nn.Module, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, observation: Tensor) -> Tensor:
        action: Tensor = self.low + (self.network(observation).tanh() + 1) / 2 * (self.high - self.low)
        return action


class _OnBoth(nn.Module):
    """A value of observation and action together."""

    def __init__(self, normalise: Normalise, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.normalise = normalise

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.network(torch.cat([self.normalise(observation), action.float()], dim=-1))
        return value


class Networks:
    """Builds networks for one environment's spaces.

    Args:
        observations: a flat ``Box``.
        actions: a ``Box`` of bounded vectors, or ``Discrete``.
        hidden: widths of the hidden layers.
        activation: between layers.

    Raises:
        VrmError: if the spaces are of another kind.
    """

    def __init__(
        self,
        observations: spaces.Space[Any],
        actions: spaces.Space[Any],
        hidden: Sequence[int],
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        """Look at the spaces."""
        if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
            raise VrmError(f"TorchRL agents need observations that are one vector, got {observations}.")
        flat = isinstance(actions, spaces.Box) and len(actions.shape) == 1 and actions.is_bounded()
        if not flat and not isinstance(actions, spaces.Discrete):
            raise VrmError(f"TorchRL agents need Discrete actions or a bounded vector of them, got {actions}.")
        self.hidden, self.activation = tuple(hidden), activation
        self.inputs = observations.shape[0]
        self.normalise = Normalise(self.inputs)
        self.actions = actions

    @property
    def continuous(self) -> bool:
        """Whether actions are vectors."""
        return isinstance(self.actions, spaces.Box)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest action ``(A,)``."""
        assert isinstance(self.actions, spaces.Box)
        return torch.from_numpy(self.actions.low).float(), torch.from_numpy(self.actions.high).float()

    def actor(self) -> Any:
        """A stochastic actor whose samples may leave the bounds: a normal, or a categorical distribution."""
        if self.continuous:
            size = len(self.bounds[0])
            body = TensorDictModule(_Normal(self._on_observation(size), size), ["observation"], ["loc", "scale"])
            return self._probabilistic(body, IndependentNormal)
        assert isinstance(self.actions, spaces.Discrete)
        body = TensorDictModule(self._on_observation(int(self.actions.n)), ["observation"], ["logits"])
        return self._probabilistic(body, torch.distributions.Categorical)

    def squashed_actor(self) -> Any:
        """A stochastic actor within the bounds: a normal through tanh, of learned mean and deviation."""
        low, high = self.bounds
        body = nn.Sequential(self._on_observation(2 * len(low)), NormalParamExtractor())
        return self._probabilistic(
            TensorDictModule(body, ["observation"], ["loc", "scale"]), TanhNormal, low=low, high=high
        )

    def deterministic_actor(self) -> Any:
        """An actor without randomness, within the bounds."""
        low, high = self.bounds
        return TensorDictModule(_Scaled(self._on_observation(len(low)), low, high), ["observation"], ["action"])

    def value(self) -> Any:
        """A value of observations."""
        return ValueOperator(self._on_observation(1), in_keys=["observation"])

    def action_value(self) -> Any:
        """A value of observations and continuous actions."""
        network = self._layers(self.inputs + len(self.bounds[0]), 1)
        return ValueOperator(_OnBoth(self.normalise, network), in_keys=["observation", "action"])

    def _on_observation(self, outputs: int) -> nn.Sequential:
        return nn.Sequential(self.normalise, self._layers(self.inputs, outputs))

    def _layers(self, inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in self.hidden:
            layers += [nn.Linear(inputs, width), self.activation()]
            inputs = width
        return nn.Sequential(*layers, nn.Linear(inputs, outputs))

    @staticmethod
    def _probabilistic(body: Any, distribution: type, **settings: Any) -> Any:
        parameters = body.out_keys
        head = ProbabilisticTensorDictModule(
            in_keys=parameters, out_keys=["action"], distribution_class=distribution,
            distribution_kwargs=settings, return_log_prob=True,
        )  # fmt: skip
        return ProbabilisticTensorDictSequential(body, head)
