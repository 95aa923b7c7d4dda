"""What every aligner owns: adapters, optimiser, running mean, random numbers and an account of what it used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise
from vrm.errors import CheckpointError, NonFiniteError

if TYPE_CHECKING:
    from accelerate import Accelerator

Metrics = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """What an update starts from.

    Attributes:
        prompts: ``B`` sentences.
        videos: ``(B, T, 3, H, W)`` in [0, 1]: real videos of the prompts, or the preferred ones of given pairs; None
            for aligners that draw their own.
        losers: ``(B, T, 3, H, W)`` in [0, 1]: the other ones of given pairs.

    Raises:
        ValueError: if there is no prompt, not one video per prompt, or losers without videos.
    """

    prompts: Sequence[str]
    videos: Tensor | None = None
    losers: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the lengths."""
        if not len(self.prompts):
            raise ValueError("A batch needs at least one prompt, got none.")
        for name, videos in (("videos", self.videos), ("losers", self.losers)):
            if videos is not None and len(videos) != len(self.prompts):
                raise ValueError(
                    f"A batch needs one of its {name} per prompt ({len(self.prompts)}), got {len(videos)}."
                )
        if self.losers is not None and self.videos is None:
            raise ValueError("A batch with losers needs the preferred videos too; pass them as videos.")


@dataclass(frozen=True)
class Training:
    """Adapters and optimiser of an aligner.

    Attributes:
        rank: of the LoRA adapters; those a generator already has are trained on as they are.
        alpha: the adapters' output is scaled by ``alpha / rank``; ``rank`` if None.
        targets: ends of the names of adapted layers; the attention projections if None.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        warmup: updates over which the learning rate rises to ``lr``.
        clip_norm: largest norm of the gradient.
        accumulate: gradients that are averaged into one update.
        ema: decay of a running mean of the adapters, at most ``(1 + k) / (10 + k)`` after ``k`` updates; no mean if
            None.
        checkpoint: whether the denoiser forgets activations and computes them again on the way back.
        seed: of the adapters' first values and of all random numbers the aligner draws.

    Raises:
        ValueError: if a number is out of its range.
    """

    rank: int = 4
    alpha: float | None = None
    targets: Sequence[str] | None = None
    lr: float = 1e-5
    weight_decay: float = 0.0
    warmup: int = 0
    clip_norm: float = 1.0
    accumulate: int = 1
    ema: float | None = None
    checkpoint: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (self.lr > 0 and self.clip_norm > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"lr and clip_norm must be positive and weight_decay at least 0, got {self.lr}, {self.clip_norm} and "
                f"{self.weight_decay}."
            )
        if self.accumulate < 1 or self.warmup < 0:
            raise ValueError(f"accumulate must be >= 1 and warmup >= 0, got {self.accumulate} and {self.warmup}.")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}; None keeps no mean.")


class Aligner(ABC):
    """Improves a generator by rewards, one batch of prompts at a time.

    A subclass implements :meth:`update`: it draws, judges, calls :meth:`backward` as often as it likes and
    :meth:`descend` once per gradient. What else it must remember between steps goes into :meth:`memory`.

    Gradients of several processes are averaged before each update, so adapters stay equal without wrapping the
    network; each process draws its own random numbers.

    Args:
        generator: is changed: gets adapters, which are trained.
        objective: the rewards.
        training: adapters and optimiser.
        accelerator: of Hugging Face Accelerate, for several processes or mixed precision.

    Attributes:
        rng: the only source of random numbers, on the CPU.
        ema: running mean of the adapters by name, or None.
        updates: of the weights so far.
        needs_videos: whether each batch must bring videos.
        needs_gradient: whether rewards must be differentiable.
    """

    needs_videos: bool = False
    needs_gradient: bool = False

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        *,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Put adapters into the denoiser and make an optimiser for them."""
        self.generator = generator
        self.denoiser = generator.denoiser
        self.codec = generator.codec
        self.objective = objective
        self.training = training = training or Training()
        self.accelerator = accelerator
        if self.needs_gradient:
            objective.require_gradient(type(self).__name__)
        if not self.denoiser.lora_state():
            self.denoiser.add_lora(training.rank, training.alpha, training.targets, training.seed)
        if training.checkpoint:
            self.denoiser.enable_checkpointing()
        self.parameters = self.denoiser.trainable()
        optimiser = torch.optim.AdamW(self.parameters, lr=training.lr, weight_decay=training.weight_decay)
        self.optimiser: torch.optim.Optimizer = accelerator.prepare(optimiser) if accelerator else optimiser
        self.rng = torch.Generator().manual_seed(training.seed + (accelerator.process_index if accelerator else 0))
        self.ema = None if training.ema is None else self.denoiser.lora_state()
        self.updates = 0
        self._pending = 0
        self._norms: list[float] = []

    @abstractmethod
    def update(self, batch: Batch) -> Metrics:
        """Learn from a batch; returns at least ``loss``."""

    def memory(self) -> dict[str, Any]:
        """What the method itself remembers between steps: nested dicts, lists, tensors and JSON values."""
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take :meth:`memory` back."""
        if memory:
            raise CheckpointError(f"{type(self).__name__} remembers nothing, but the state has {sorted(memory)}.")

    def step(self, batch: Batch) -> Metrics:
        """Learn from a batch of prompts.

        Returns:
            ``loss``, ``reward/NAME`` and ``reward/NAME_std``, ``grad_norm`` (before clipping; 0 while gradients are
            still being accumulated), ``nfe`` (rows through the denoiser), ``reward_calls``, ``decodes`` (frames), and
            what the method adds.

        Raises:
            ValueError: if the batch lacks the videos that the method needs.
            NonFiniteError: if a loss or gradient is not finite; the weights are as they were.
        """
        if self.needs_videos and batch.videos is None:
            raise ValueError(f"{type(self).__name__} learns from videos; put them into the batch.")
        before = self._account()
        self._norms = []
        with self.autocast():
            metrics = self.update(batch)
        norm = sum(self._norms) / len(self._norms) if self._norms else 0.0
        used = {name: float(count - before[name]) for name, count in self._account().items()}
        return {**metrics, "grad_norm": norm, **used}

    def backward(self, loss: Tensor) -> None:
        """Add a loss to the gradient being accumulated.

        Raises:
            NonFiniteError: if it is not finite.
        """
        if not bool(torch.isfinite(loss)):
            self._drop()
            raise NonFiniteError(f"{type(self).__name__} got a loss of {loss.item()} in update {self.updates + 1}.")
        loss = loss / self.training.accumulate
        with torch.autocast(loss.device.type, enabled=False):
            if self.accelerator is None:
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                self.accelerator.backward(loss)

    def descend(self) -> None:
        """Count one gradient; with the last of ``accumulate``, clip it and change the weights.

        Raises:
            NonFiniteError: if the gradient is not finite.
        """
        self._pending += 1
        if self._pending < self.training.accumulate:
            return
        norm = self._clipped()
        if not norm < float("inf") and not self._scaled():
            self._drop()
            raise NonFiniteError(f"{type(self).__name__} got a gradient of norm {norm} in update {self.updates + 1}.")
        for group in self.optimiser.param_groups:
            group["lr"] = self.training.lr * min(1.0, (self.updates + 1) / max(self.training.warmup, 1))
        self.optimiser.step()
        self._drop()
        self.updates += 1
        self._norms.append(norm)
        self._average()

    def autocast(self) -> AbstractContextManager[None]:
        """The accelerator's precision, for networks; without a cache, which would lose gradients after ``no_grad``."""
        if self.accelerator is None:
            return nullcontext()
        from accelerate.utils import AutocastKwargs

        context: AbstractContextManager[None] = self.accelerator.autocast(AutocastKwargs(cache_enabled=False))
        return context

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the adapters hold their running mean, if there is one."""
        with nullcontext() if self.ema is None else self.denoiser.lora_weights(self.ema):
            yield

    def conditions(
        self, prompts: Sequence[str], guidance: float, repeat: int = 1
    ) -> tuple[Conditions, Conditions | None]:
        """Embed prompts, each ``repeat`` times in a place, and nothing as often if guidance wants it."""
        rows = self.generator.condition(prompts).repeat(repeat)
        return rows, None if guidance == 1.0 else self.generator.null(len(rows))

    @torch.no_grad()
    def velocity_distance(self, latents: Tensor, conditions: Conditions, most: int = 4) -> float:
        """Mean squared distance of velocities to those of the base model, at a random time of each of a few latents."""
        x0, rows = latents[:most].float(), conditions[: min(most, len(latents))]
        t = self.denoiser.schedule.sample(len(x0), self.rng).to(x0.device)
        x = self.denoiser.noise(x0, t, draw_noise(x0.shape, self.rng, x0.device))
        tuned = self.denoiser.predict(x, t, rows).v
        with self.denoiser.reference():
            base = self.denoiser.predict(x, t, rows).v
        return float((tuned - base).square().mean())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: nested dicts, lists, tensors and JSON values.

        After loading it, an aligner made with the same arguments goes on as if it had never stopped.
        """
        return {
            "lora": self.denoiser.lora_state(),
            "optimiser": deepcopy(self.optimiser.state_dict()),
            "rng": self.rng.get_state(),
            "ema": None if self.ema is None else {name: value.clone() for name, value in self.ema.items()},
            "updates": self.updates,
            "pending": self._pending,
            "gradients": [None if p.grad is None else p.grad.clone() for p in self.parameters] if self._pending else [],
            "memory": self.memory(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take :meth:`state_dict` back.

        Raises:
            CheckpointError: if it belongs to another aligner.
        """
        missing = {"lora", "optimiser", "rng", "ema", "updates", "pending", "gradients", "memory"} - set(state)
        if missing or (state["ema"] is None) != (self.ema is None):
            raise CheckpointError(
                f"This state was not saved by a {type(self).__name__} with ema={self.training.ema} (missing: "
                f"{sorted(missing)}); resume with the arguments of the first start."
            )
        self.denoiser.load_lora_state(state["lora"])
        self.optimiser.load_state_dict(deepcopy(state["optimiser"]))
        self.rng.set_state(state["rng"].cpu())
        device = self.denoiser.device
        if state["ema"] is not None:
            self.ema = {name: value.to(device, copy=True) for name, value in state["ema"].items()}
        self.updates, self._pending = state["updates"], state["pending"]
        self._drop_gradients()
        for parameter, gradient in zip(self.parameters, state["gradients"], strict=False):
            parameter.grad = None if gradient is None else gradient.to(device, copy=True)
        self.remember(state["memory"])

    def _account(self) -> dict[str, int]:
        return {
            "nfe": self.denoiser.nfe,
            "reward_calls": self.objective.reward_calls,
            "decodes": self.codec.decodes,
        }

    def _clipped(self) -> float:
        """The norm of the gradient, averaged over processes, before it is clipped."""
        if self.accelerator is not None:
            if self._scaled():
                self.accelerator.unscale_gradients(self.optimiser)
            if self.accelerator.num_processes > 1:
                for parameter in self.parameters:
                    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = self.accelerator.reduce(gradient, "mean")
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, self.training.clip_norm))

    def _scaled(self) -> bool:
        """Whether losses are scaled for fp16, whose scaler skips updates that overflow."""
        return self.accelerator is not None and self.accelerator.scaler is not None

    def _drop(self) -> None:
        self._pending = 0
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def _average(self) -> None:
        if self.ema is None or self.training.ema is None:
            return
        decay = min(self.training.ema, (1 + self.updates) / (10 + self.updates))
        for name, value in self.denoiser.lora_state().items():
            self.ema[name].lerp_(value, 1 - decay)


def reward_metrics(rewards: Mapping[str, Tensor]) -> Metrics:
    """Mean and deviation of each reward ``(B,)``, as ``reward/NAME`` and ``reward/NAME_std``."""
    found: Metrics = {}
    for name, values in rewards.items():
        found[f"reward/{name}"] = float(values.mean())
        found[f"reward/{name}_std"] = float(values.std(correction=0))
    return found
