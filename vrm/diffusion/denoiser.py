"""One face for every video denoiser: predictions of data, noise and velocity, guidance, adapters, matching losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vrm.diffusion import lora
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.schedule import FlowSchedule, NoiseSchedule

Parametrisation = Literal["epsilon", "v", "flow"]


@dataclass(frozen=True)
class Prediction:
    """What a denoiser believes about a noisy latent; each part ``(B, C, T, h, w)`` float32.

    Attributes:
        x0: the clean latent.
        eps: the noise.
        v: the velocity: ``eps - x0`` of a flow, ``alpha eps - sigma x0`` of a diffusion model.
    """

    x0: Tensor
    eps: Tensor
    v: Tensor


class VideoDenoiser(nn.Module, ABC):
    """A diffusion or flow model over latents ``(B, C, T, h, w)``, whatever layout its network wants.

    The weights are frozen until :meth:`add_lora` (or the caller) makes some trainable. Dropout never acts: UNet3D has
    24 layers of it that cannot be configured away, and with them a log-probability computed twice would differ.

    Args:
        model: the network.
        schedule: its noise levels.
        prediction: what its output means.

    Attributes:
        nfe: rows that have been through the network so far; guidance counts twice.
    """

    def __init__(self, model: nn.Module, schedule: NoiseSchedule, prediction: Parametrisation) -> None:
        """Freeze the network."""
        super().__init__()
        if (prediction == "flow") != isinstance(schedule, FlowSchedule):
            raise ValueError(f"A model that predicts {prediction!r} does not go with {type(schedule).__name__}.")
        self.model = model
        self.schedule = schedule
        self.prediction: Parametrisation = prediction
        self.nfe = 0
        self._checkpointing = False
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the network takes; parts of it may be kept in float32."""
        own = getattr(self.model, "dtype", None)
        return own if isinstance(own, torch.dtype) else next(self.model.parameters()).dtype

    @abstractmethod
    def call(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Run the network: the one method that knows its layout and arguments.

        Args:
            x: ``(B, C, T, h, w)`` in the network's dtype.
            timestep: ``(B,)`` what :meth:`NoiseSchedule.timestep` says.
            conditions: ``B`` rows, in the network's dtype.

        Returns:
            ``(B, C, T, h, w)`` in any dtype.
        """

    def train(self, mode: bool = True) -> VideoDenoiser:
        """Stay in evaluation mode: training must see the network that sampling saw."""
        super().train(False)
        return self

    def times(self, x: Tensor, t: Tensor | float) -> Tensor:
        """One time per row of ``x``: ``(B,)`` float32 on its device.

        Raises:
            ValueError: if ``t`` is neither a scalar nor one number per row.
        """
        value = torch.as_tensor(t, dtype=torch.float32, device=x.device)
        if value.ndim > 1 or (value.ndim == 1 and len(value) != len(x)):
            raise ValueError(f"t must be one time or one per video ({len(x)} here), got shape {tuple(value.shape)}.")
        return value.expand(len(x)) if value.ndim == 0 else value

    def output(
        self,
        x: Tensor,
        t: Tensor | float,
        conditions: Conditions,
        guidance: float = 1.0,
        null: Conditions | None = None,
        *,
        checkpoint: bool = False,
    ) -> Tensor:
        """The network's own output, guided: ``u + guidance (c - u)``, ``(B, C, T, h, w)`` float32.

        Arguments as in :meth:`predict`; here ``x`` and the output are what gradient flows through.
        """
        rows, times = x, self.times(x, t)
        if guidance != 1.0:
            if null is None:
                raise ValueError(f"guidance={guidance} needs null conditions; pass null=generator.null(count).")
            rows, times, conditions = torch.cat([x, x]), torch.cat([times, times]), conditions.join(null)
        output = self._run(rows, times, conditions, checkpoint)
        if guidance == 1.0:
            return output
        conditional, unconditional = output.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def convert(self, output: Tensor, x: Tensor, t: Tensor | float) -> Prediction:
        """Read a network output as data, noise and velocity; float32 and differentiable in ``output`` and ``x``."""
        x = x.float()
        alpha, sigma = (level.reshape(-1, *[1] * (x.ndim - 1)) for level in self.schedule.levels(self.times(x, t)))
        if self.prediction == "flow":
            return Prediction(x0=x - sigma * output, eps=x + alpha * output, v=output)
        if self.prediction == "v":
            return Prediction(x0=alpha * x - sigma * output, eps=alpha * output + sigma * x, v=output)
        x0 = (x - sigma * output) / alpha
        return Prediction(x0=x0, eps=output, v=alpha * output - sigma * x0)

    def predict(
        self,
        x: Tensor,
        t: Tensor | float,
        conditions: Conditions,
        guidance: float = 1.0,
        null: Conditions | None = None,
        *,
        checkpoint: bool = False,
    ) -> Prediction:
        """Predict data, noise and velocity.

        Args:
            x: ``(B, C, T, h, w)`` noisy latents.
            t: their time, one or one per row.
            conditions: ``B`` rows.
            guidance: classifier-free guidance weight; 1 runs the conditional branch only.
            null: ``B`` rows for the unconditional branch, needed unless ``guidance`` is 1.
            checkpoint: forget activations and compute them again on the way back.
        """
        return self.convert(self.output(x, t, conditions, guidance, null, checkpoint=checkpoint), x, t)

    def noise(self, x0: Tensor, t: Tensor | float, eps: Tensor) -> Tensor:
        """Noised data ``alpha(t) x0 + sigma(t) eps``, float32."""
        alpha, sigma = (level.reshape(-1, *[1] * (x0.ndim - 1)) for level in self.schedule.levels(self.times(x0, t)))
        return alpha * x0.float() + sigma * eps.float()

    def target(self, x0: Tensor, t: Tensor | float, eps: Tensor) -> Tensor:
        """What the network should say about ``noise(x0, t, eps)``: the noise or the velocity, by its kind."""
        if self.prediction == "epsilon":
            return eps.float()
        if self.prediction == "flow":
            return eps.float() - x0.float()
        alpha, sigma = (level.reshape(-1, *[1] * (x0.ndim - 1)) for level in self.schedule.levels(self.times(x0, t)))
        return alpha * eps.float() - sigma * x0.float()

    def matching_loss(self, x0: Tensor, t: Tensor | float, eps: Tensor, conditions: Conditions) -> Tensor:
        """Squared error of the network's own target, mean over everything but the batch: ``(B,)``."""
        output = self.output(self.noise(x0, t, eps), t, conditions)
        return (output - self.target(x0, t, eps)).square().flatten(1).mean(dim=1)

    def enable_checkpointing(self) -> None:
        """Trade time for memory in every call with gradient: per block where the network can, else around it."""
        if getattr(self.model, "_supports_gradient_checkpointing", False):
            model: Any = self.model
            model.enable_gradient_checkpointing()
        else:
            self._checkpointing = True

    def add_lora(
        self, rank: int, alpha: float | None = None, targets: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        """Put trainable low-rank adapters into the attention layers; they change nothing until trained.

        Args:
            rank: of the update.
            alpha: the update is scaled by ``alpha / rank``; ``rank`` if None.
            targets: ends of the names of layers to adapt; attention projections if None.
            seed: of their first values.
        """
        lora.add(self.model, rank, rank if alpha is None else alpha, targets or lora.ATTENTION, seed)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training would change."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def reference(self) -> AbstractContextManager[None]:
        """Within this context the network is the one before training: adapters off, no second copy.

        Raises:
            ValueError: if base weights are trained, so that the reference is gone.
        """
        adapters = {id(parameter) for parameter in lora.parameters(self.model).values()}
        if any(id(parameter) not in adapters for parameter in self.trainable()):
            raise ValueError("The base weights are being trained, so no reference is left; train LoRA adapters.")
        return lora.disabled(self.model) if adapters else nullcontext()

    def lora_scale(self, scale: float) -> AbstractContextManager[None]:
        """Within this context the adapters count ``scale`` times: 0 the base network, 1 the tuned one."""
        return lora.scaled(self.model, scale)

    def lora_state(self) -> dict[str, Tensor]:
        """Copies of the adapters' weights by name."""
        return {name: value.detach().clone() for name, value in lora.parameters(self.model).items()}

    def load_lora_state(self, state: Mapping[str, Tensor]) -> None:
        """Take adapter weights from :meth:`lora_state`.

        Raises:
            CheckpointError: if they are of other adapters.
        """
        lora.check(self.model, state)
        with torch.no_grad():
            for name, parameter in lora.parameters(self.model).items():
                parameter.copy_(state[name])

    def lora_weights(self, state: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Within this context the adapters hold ``state``, such as an old policy or a running mean.

        A graph built outside may be followed back after the exit; one built inside must be followed back inside.
        """
        return lora.replaced(self.model, state)

    def _run(self, x: Tensor, t: Tensor, conditions: Conditions, again: bool) -> Tensor:
        if self.model.training:
            self.model.eval()
        self.nfe += len(x)
        arguments = (x.to(self.dtype), self.schedule.timestep(t), conditions.to(x.device, self.dtype))
        if (again or self._checkpointing) and torch.is_grad_enabled():
            output: Tensor = checkpoint(self.call, *arguments, use_reentrant=False)
            return output.float()
        return self.call(*arguments).float()
