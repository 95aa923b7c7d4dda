"""Process reward feedback in latent space (PRFL): the reward of a half-denoised latent, at any step, no decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vrm.diffusion.aligners.base import Aligner, Batch, Metrics, Training, reward_metrics
from vrm.diffusion.aligners.reward_gradient import clean_latents, distance_from_base, matching_loss
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.grad_sampler import sample_with_gradient
from vrm.diffusion.latent_rewards import LatentRewardModel, label_loss, preference_loss, regression_loss
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise
from vrm.errors import CheckpointError, UnknownNameError

if TYPE_CHECKING:
    from accelerate import Accelerator

LESSONS = ("regression", "label", "preference")


@dataclass(frozen=True)
class Proxy:
    """A latent reward that learns online from rewards of decoded videos, which need no gradient.

    Attributes:
        depth: blocks of the generator that are copied; a fifth of them if None.
        heads: of the attention that pools.
        hidden: widths of the network after it.
        fits: its updates per lesson.
        warmup: steps at first in which it learns and nobody follows it.
        every: steps from one lesson to the next after that; 0 for no more.
        lr: learning rate of its AdamW.
        weight_decay: of its AdamW.

    Raises:
        ValueError: if a number is out of its range.
    """

    depth: int | None = None
    heads: int = 8
    hidden: Sequence[int] = (1024, 512)
    fits: int = 4
    warmup: int = 50
    every: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.fits < 1 or min(self.warmup, self.every) < 0 or self.warmup + self.every < 1 or not self.lr > 0:
            raise ValueError(
                "A proxy needs fits >= 1, warmup and every >= 0 (one of them above), and lr > 0; got "
                f"fits={self.fits}, warmup={self.warmup}, every={self.every} and lr={self.lr}."
            )

    def lesson_due(self, step: int) -> bool:
        """Whether it learns in this step, counted from 1."""
        return step == 1 or step <= self.warmup or (self.every > 0 and step % self.every == 0)


@dataclass(frozen=True)
class SampledProxy(Proxy):
    """A proxy that learns from samples of the generator and the batch's videos, noised anew for every fit.

    Attributes:
        lesson: what is learned of their rewards: the value (``"regression"``), whether it is above the batch's mean
            (``"label"``, by cross-entropy), or which video of a prompt is the best and which the worst
            (``"preference"``, by Bradley-Terry).
        samples: drawn per prompt for each lesson.

    Raises:
        ValueError: if a number is out of its range, or preferences have one sample per prompt.
        UnknownNameError: if there is no such lesson.
    """

    lesson: Literal["regression", "label", "preference"] = "regression"
    samples: int = 2

    def __post_init__(self) -> None:
        """Check the lesson too."""
        super().__post_init__()
        if self.lesson not in LESSONS:
            raise UnknownNameError("lesson", self.lesson, LESSONS)
        least = 2 if self.lesson == "preference" else 1
        if self.samples < least:
            raise ValueError(f"Lesson {self.lesson!r} needs samples >= {least} per prompt, got {self.samples}.")


class ProxyTrainer:
    """A latent reward with its optimiser.

    Args:
        model: the latent reward.
        settings: of its training.
        accelerator: of Hugging Face Accelerate, for several processes.
    """

    def __init__(self, model: LatentRewardModel, settings: Proxy, accelerator: Accelerator | None = None) -> None:
        """Make the optimiser."""
        self.model, self.accelerator = model, accelerator
        self.optimiser = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.weight_decay)

    def learn(self, loss: Tensor) -> float:
        """Follow the gradient of a loss of the model; returns its value."""
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            for parameter in self.model.parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(gradient, "mean")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        return {"model": model, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take :meth:`state_dict` back.

        Raises:
            CheckpointError: if it is of another model.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"This state holds another latent reward ({error}); resume with the arguments of the first start."
            ) from error


class LatentReward(Aligner):
    """Runs the sampler without gradient to a random step, differentiates that one, and climbs a latent reward there.

    The reward is asked about what the step leads to, ``r(x_{m+1}, t_{m+1}, c)``, and the loss is
    ``scale * relu(target - r)``. Every such update is followed by one of the model's own training loss on the batch's
    videos, so that pleasing the reward does not cost the data.

    The latent reward is learned online from the objective, whose rewards need no gradient; or a
    :class:`~vrm.diffusion.latent_rewards.LatentRewardModel` fitted to people's labels is given and stays as it is.
    Targets are in deviations of the reward from its mean, or, for a model that gives probabilities, as they are: the
    published 2 is then never reached.

    Args:
        generator: is changed.
        objective: what the latent reward learns; any rewards. Not asked where ``model`` is given.
        training: adapters and optimiser.
        proxy: how the latent reward learns.
        model: a finished latent reward in its place.
        target: of the hinge.
        scale: of the hinge.
        steps: ``N`` of the sampler; the generator's default if None.
        alternate: whether updates on the batch's videos, which are then needed, come in between.
        accelerator: of Hugging Face Accelerate.

    Paper: "Video Generation Models Are Good Latent Reward Models", arXiv 2511.21541.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        proxy: SampledProxy | None = None,
        model: LatentRewardModel | None = None,
        *,
        target: float = 2.0,
        scale: float = 0.1,
        steps: int | None = None,
        alternate: bool = True,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Copy the first blocks for the latent reward, unless there is one."""
        settings = proxy or SampledProxy()
        bounded = settings.lesson == "label"
        seed = (training or Training()).seed
        head = (settings.depth, settings.heads, settings.hidden, bounded, seed)
        learner = LatentRewardModel(generator.denoiser, *head) if model is None else model
        super().__init__(generator, objective, training, accelerator=accelerator)
        self.proxy = None if model is not None else settings
        self.trainer = ProxyTrainer(learner, settings, accelerator)
        self.target, self.scale, self.alternate = target, scale, alternate
        self.needs_videos = alternate
        self.grid = self.denoiser.schedule.grid(steps or generator.defaults.steps)
        if len(self.grid) < 3:
            raise ValueError(f"LatentReward differentiates one of all steps but the last, so steps >= 2, got {steps}.")
        self.taken = 0

    @property
    def model(self) -> LatentRewardModel:
        """The latent reward."""
        return self.trainer.model

    def update(self, batch: Batch) -> Metrics:
        """Teach the latent reward if it is time, then follow it."""
        self.taken += 1
        metrics: Metrics = {}
        if self.proxy is not None:
            if self.proxy.lesson_due(self.taken):
                metrics = self._teach(batch, self.proxy)
            if self.taken <= self.proxy.warmup:
                return {"loss": metrics["proxy_loss"], **metrics}
        metrics |= self._climb(batch)
        if self.alternate:
            matching = matching_loss(self, clean_latents(self, batch), batch)
            self.backward(matching)
            self.descend()
            metrics["matching"] = float(matching.detach())
        return metrics

    def memory(self) -> dict[str, Any]:
        """The latent reward and how far its training is."""
        return {"taken": self.taken, "proxy": self.trainer.state_dict()}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take :meth:`memory` back."""
        self.taken = memory["taken"]
        self.trainer.load_state_dict(memory["proxy"])

    def _climb(self, batch: Batch) -> Metrics:
        conditions = self.generator.condition(batch.prompts)
        noise = draw_noise(self.generator.latent_shape(len(conditions)), self.rng, self.denoiser.device)
        step = int(torch.randint(len(self.grid) - 2, (1,), generator=self.rng))
        sample = sample_with_gradient(self.denoiser, conditions, noise, self.grid, [step], stop=step)
        rewards = self.model.standing(sample.latents, sample.time, conditions)
        loss = self.scale * torch.relu(self.target - rewards).mean()
        with torch.no_grad():
            kl = distance_from_base(self.denoiser, sample.latents, sample.time, conditions)
        self.backward(loss)
        self.descend()
        self.trainer.optimiser.zero_grad()
        found = {"latent": rewards.detach()}
        return {"loss": float(loss.detach()), **reward_metrics(found), "kl": float(kl)}

    def _teach(self, batch: Batch, settings: SampledProxy) -> Metrics:
        """A lesson on fresh samples of the generator as it is, and on the batch's videos if there are any."""
        count = len(batch.prompts)
        prompts = [prompt for prompt in batch.prompts for _ in range(settings.samples)]
        seeds = torch.randint(2**31, (len(prompts),), generator=self.rng).tolist()
        with torch.no_grad():
            latents = self.generator.sample_latents(prompts, seed=seeds)
            values = self.objective.score(self.codec.decode(latents, clamp="hard"), prompts)
        rewards = self.objective.total(values).reshape(count, -1)
        groups = latents.reshape(count, -1, *latents.shape[1:])
        if batch.videos is not None:
            real = self.objective.total(self.objective.score(batch.videos, batch.prompts))
            rewards = torch.cat([rewards, real.to(rewards)[:, None]], dim=1)
            groups = torch.cat([groups, clean_latents(self, batch)[:, None]], dim=1)
        if self.taken == 1:
            self.model.standardise(rewards.flatten())
        lesson = _lesson(
            settings.lesson, self.model, groups, rewards, self.generator.condition(batch.prompts), self.rng
        )
        losses = [self.trainer.learn(lesson()) for _ in range(settings.fits)]
        return {**reward_metrics(values), "proxy_loss": sum(losses) / len(losses)}


def _lesson(
    kind: str, model: LatentRewardModel, groups: Tensor, rewards: Tensor, conditions: Conditions, rng: torch.Generator
) -> Callable[[], Tensor]:
    """The loss on ``(B, S, C, T, h, w)`` latents of ``B`` prompts with rewards ``(B, S)``, new noise at every call."""
    latents, rows = groups.flatten(0, 1), conditions.repeat(groups.shape[1])
    if kind == "regression":
        return lambda: regression_loss(model, latents, rewards.flatten(), rows, rng)
    if kind == "label":
        labels = (rewards > rewards.mean()).float().flatten()
        return lambda: label_loss(model, latents, labels, rows, rng)
    each = torch.arange(len(groups), device=groups.device)
    best, worst = (groups[each, place.to(groups.device)] for place in (rewards.argmax(1), rewards.argmin(1)))
    return lambda: preference_loss(model, best, worst, conditions, rng)
