"""What agents in TorchRL have in common: networks, optimisers, checkpoints, and the surface that run folders know."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from vrm.agents.torchrl_networks import Networks
from vrm.errors import CheckpointError, MissingExtraError, VrmError

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.envs.utils import ExplorationType, set_exploration_type
except ImportError as error:
    raise MissingExtraError("torchrl", "torchrl", "A TorchRL agent") from error


class TorchAgent(ABC):
    """An agent that learns from TensorDicts.

    It has as much of the surface of a Stable-Baselines3 algorithm as run folders, films and callbacks use, so that
    ``vrm evaluate`` and ``vrm record`` treat both alike.

    Args:
        env: anything with ``observation_space`` and ``action_space``; it is not stepped.
        seed: of weights and exploration.
        device: where the networks are.
        hidden: widths of the hidden layers.
        activation: between layers.

    Attributes:
        num_timesteps: environment steps, or updates from a dataset, so far.
        networks: the builder; ``networks.normalise`` is shared by all networks.
        policy: writes ``"action"`` into a TensorDict with ``"observation"``.
    """

    policy: Any

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str | torch.device = "cpu",
        hidden: Sequence[int] = (128, 128),
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        """Build networks with weights of their own seed."""
        self.num_timesteps = 0
        self.env = env
        self.device = torch.device("cuda" if str(device) == "auto" and torch.cuda.is_available() else "cpu")
        self.networks = Networks(env.observation_space, env.action_space, hidden, activation)
        self.losses: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.random = torch.Generator().manual_seed(seed)
        self._logger: Logger | None = None
        torch.manual_seed(seed)  # layers and the samples of actions draw from it
        with quiet():
            self.build()
        self.losses = {name: loss.to(self.device) for name, loss in self.losses.items()}

    @abstractmethod
    def build(self) -> None:
        """Make :attr:`policy`, ``losses`` and ``optimisers``."""

    @property
    def logger(self) -> Logger:
        """Where figures go."""
        assert self._logger is not None, "set_logger comes first"
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Send figures to ``logger``."""
        self._logger = logger

    def predict(
        self, observation: NDArray[Any], state: None = None, episode_start: None = None, deterministic: bool = True
    ) -> tuple[NDArray[Any], None]:
        """Actions ``(N, …)`` for observations ``(N, D)``, and None for a recurrent state."""
        data = TensorDict({"observation": torch.as_tensor(np.asarray(observation))}, [len(observation)])
        kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
        with torch.no_grad(), set_exploration_type(kind):
            actions = self.policy(data.to(self.device))["action"].cpu().numpy()
        space = self.networks.actions
        if self.networks.continuous:
            actions = np.clip(actions, space.low, space.high)  # type: ignore[attr-defined]
        return actions.astype(space.dtype), None

    def needs_vectors(self) -> None:
        """Refuse discrete actions.

        Raises:
            VrmError: if the actions are not vectors.
        """
        if not self.networks.continuous:
            raise VrmError(
                f"{type(self).__name__} needs continuous actions, but this task has {self.networks.actions}; "
                "use agent=torchrl_ppo, or agent=torchrl_bc for a dataset."
            )

    def descend(self, name: str, loss: Tensor, clip: float = 0.0) -> None:
        """Make one step of an optimiser, on gradients of norm ``clip`` at most if that is above 0."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if clip:
            nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], clip)
        optimiser.step()

    def write_checkpoint(self, folder: Path) -> None:
        """Write weights, optimisers, counters and what is kept of experience: plain tensors, nothing pickled."""
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in self._tensors()}, folder / "weights.safetensors"
        )
        optimisers = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        counters = {"num_timesteps": self.num_timesteps, "random": self.random.get_state()}
        torch.save({"optimisers": optimisers, **counters, "torch": torch.get_rng_state()}, folder / "optimisers.pt")
        memory = self.memory()
        if memory is not None:
            save_file(memory, folder / "memory.safetensors")

    def read_checkpoint(self, folder: Path, with_buffer: bool = True) -> None:
        """Read what :meth:`write_checkpoint` wrote.

        Raises:
            CheckpointError: if the weights are of another agent or task.
        """
        saved, here = load_file(folder / "weights.safetensors"), dict(self._tensors())
        if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in here.items()}:
            raise CheckpointError(f"its weights are not those of a {type(self).__name__} for this task")
        with torch.no_grad():
            for name, value in saved.items():
                here[name].copy_(value)
        rest = torch.load(folder / "optimisers.pt", weights_only=True, map_location="cpu")
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(rest["optimisers"][name])
        self.num_timesteps = int(rest["num_timesteps"])
        self.random.set_state(rest["random"])
        if with_buffer:
            torch.set_rng_state(rest["torch"])
            if (folder / "memory.safetensors").is_file():
                self.remember(load_file(folder / "memory.safetensors"))

    def memory(self) -> dict[str, Tensor] | None:
        """Experience that a continued run needs; None for an agent that keeps none."""
        return None

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Take back what :meth:`memory` gave.

        Raises:
            CheckpointError: if this kind of agent keeps no experience.
        """
        raise CheckpointError(f"it holds experience, which a {type(self).__name__} does not keep")

    def normalise_by(self, observations: Tensor) -> None:
        """Normalise observations by the statistics of ``(M, D)``, in all networks: critics and targets are copies."""
        self.networks.normalise.fit(observations)
        with torch.no_grad():
            for name, values in self._tensors():
                if name.endswith((".mean", ".std")):
                    values.copy_(getattr(self.networks.normalise, name.rpartition(".")[2]))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights of the networks and their targets, and statistics; losses make other buffers only in use."""
        for name, loss in self.losses.items():
            yield from ((f"{name}.{key}", value) for key, value in loss.named_parameters())
            for key, buffer in loss.named_buffers():
                if "_params." in key or key.endswith((".mean", ".std")):
                    yield f"{name}.{key}", buffer
        yield "mean", self.networks.normalise.mean
        yield "std", self.networks.normalise.std


class OnlineAgent(TorchAgent):
    """An agent that learns from what a collector brings.

    Attributes:
        steps_per_batch: environment steps of each environment between two calls of :meth:`learn`.
        random_steps: environment steps, of all together, that act at random in the beginning.
    """

    steps_per_batch: int
    random_steps: int = 0

    @abstractmethod
    def learn(self, data: TensorDictBase) -> dict[str, float]:
        """Learn from a rollout ``(N, T)`` whose rewards are paid, and tell how it went."""


def transitions(data: TensorDictBase) -> TensorDictBase:
    """The entries of a rollout that losses read, in float32, flattened to ``(N * T,)``."""
    keys = ("observation", "action", ("next", "observation"), ("next", "reward"), ("next", "done"))
    flat: TensorDictBase = data.select(*keys, ("next", "terminated")).reshape(-1)
    for key in ("observation", ("next", "observation"), ("next", "reward")):
        flat[key] = flat[key].float()
    return flat


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow what TorchRL warns of its own classes and of defaults of releases to come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
