"""Consistency distillation with a reward, for generators of few steps: T2V-Turbo, and RG-LCD with its latent proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vrm.diffusion.aligners.base import Batch, Metrics, Training, reward_metrics
from vrm.diffusion.aligners.latent_reward import Proxy, ProxyTrainer
from vrm.diffusion.aligners.reward_gradient import Climb, Drawn, GradientAligner, clean_latents
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import VideoDenoiser
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import ode, wide
from vrm.diffusion.latent_rewards import LatentRewardModel, matched_pairs_loss
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise

if TYPE_CHECKING:
    from accelerate import Accelerator

DATA_STD = 0.5  # of the latents, in the boundary condition of consistency models
TIMESTEP_SCALING = 10.0  # how fast that condition gives way to the network


def pseudo_huber(difference: Tensor, c: float = 1e-3) -> Tensor:
    """Mean of ``sqrt(d^2 + c^2) - c`` over all numbers, a scalar: absolute error, smooth near 0."""
    return ((difference.square() + c**2).sqrt() - c).mean()


def consistency(denoiser: VideoDenoiser, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    """The consistency function ``c_skip(t) x + c_out(t) x0(x, t)``: a one-step sample, and ``x`` itself at the end.

    With ``s`` ten times the timestep, ``c_skip = 0.25 / (s^2 + 0.25)`` and ``c_out = s / sqrt(s^2 + 0.25)`` (LCM, arXiv
    2310.04378).

    Args:
        denoiser: the student.
        x: ``(B, C, T, h, w)``.
        t: ``(B,)``.
        conditions: ``B`` rows.
    """
    scaled = TIMESTEP_SCALING * denoiser.schedule.timestep(t)
    skip = DATA_STD**2 / (scaled**2 + DATA_STD**2)
    out = scaled / (scaled**2 + DATA_STD**2).sqrt()
    return wide(skip, x) * x + wide(out, x) * denoiser.predict(x, t, conditions).x0


class ConsistencyReward(GradientAligner):
    """Makes a generator of few steps out of one of many, and climbs a reward of its one-step samples on the way.

    A noised video ``x_t`` is brought one solver step nearer by the guided base model; from both places the student
    should predict the same video (latent consistency distillation, pseudo-Huber loss, weight ``climb.matching``). The
    student's prediction from ``x_t`` is judged: there is no chain to go back through. Sample what comes out with
    ``generator.sample(prompts, steps=4, guidance=1.0, kernel=lcm)``.

    With ``proxy`` the reward needs no gradient: a latent reward learns to order, as the objective does, the student's
    prediction, its target and the video, and the student climbs that (RG-LCD), which also keeps the decoder's
    high-frequency artefacts out.

    Args:
        generator: is changed; its base model is the teacher.
        objective: rewards, differentiable unless there is a proxy.
        training: adapters and optimiser; ``ema`` averages the student that gives the targets, else it is the student.
        climb: from rewards to a loss. T2V-Turbo judges 5 random frames by an image reward and 8 even ones by a video
            reward: ``selection={"image": RandomFrames(5), "video": EvenFrames(8)}``.
        proxy: of the latent reward; None for gradients through the decoder.
        steps: of the solver; neighbouring times of its grid are made to agree.
        guidance: the teacher's weight, drawn between the two anew for each batch.
        accelerator: of Hugging Face Accelerate.

    Raises:
        ValueError: if guidance is not an interval.

    Papers: Li et al., "T2V-Turbo", arXiv 2405.18750; "Reward Guided Latent Consistency Distillation", arXiv 2403.11027.
    """

    needs_videos = True

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        climb: Climb | None = None,
        proxy: Proxy | None = None,
        *,
        steps: int = 50,
        guidance: tuple[float, float] = (5.0, 15.0),
        accelerator: Accelerator | None = None,
    ) -> None:
        """Copy the first blocks for the proxy, if there is to be one."""
        low, high = guidance
        if not 1 <= low <= high:
            raise ValueError(f"guidance must be an interval from 1 on, (low, high), got {tuple(guidance)}.")
        self.needs_gradient = proxy is None
        training = training or Training(ema=0.95)
        self.trainer = None
        if proxy is not None:
            head = (proxy.depth, proxy.heads, proxy.hidden, False, training.seed)
            self.trainer = ProxyTrainer(LatentRewardModel(generator.denoiser, *head), proxy, accelerator)
        super().__init__(generator, objective, training, climb or Climb(matching=1.0), accelerator=accelerator)
        self.proxy, self.guidance = proxy, (low, high)
        self.grid = self.denoiser.schedule.grid(steps)
        self.taken = 0

    def draw(self, batch: Batch) -> Drawn:
        """Predict the batch's videos from noised ones, and say how far that is from consistent."""
        self.taken += 1
        x0 = clean_latents(self, batch)
        conditions = self.generator.condition(batch.prompts)
        places = torch.randint(len(self.grid) - 1, (len(x0),), generator=self.rng)
        t, t_next = (self.grid[place].to(x0.device) for place in (places, places + 1))
        noised = self.denoiser.noise(x0, t, draw_noise(x0.shape, self.rng, x0.device))
        student = consistency(self.denoiser, noised, t, conditions)
        with torch.no_grad():
            nearer = self._solve(noised, t, t_next, conditions)
            with self.averaged():
                target = consistency(self.denoiser, nearer, t_next, conditions)
        error = pseudo_huber(student - target)
        return Drawn(student, list(batch.prompts), conditions, t, error, rivals=(target, x0))

    def judge(self, drawn: Drawn) -> tuple[Tensor, Metrics]:
        """Ask the objective, or teach the proxy and then ask that."""
        if self.trainer is None or self.proxy is None:
            return super().judge(drawn)
        metrics: Metrics = {}
        if self.proxy.lesson_due(self.taken):
            metrics = self._teach(drawn, self.trainer, self.proxy)
        followed = float(self.taken > self.proxy.warmup)
        rewards = self.trainer.model(drawn.latents, self.denoiser.schedule.clean, drawn.conditions)
        metrics |= reward_metrics({"latent": rewards.detach()})
        return followed * rewards, metrics

    def memory(self) -> dict[str, Any]:
        """The proxy and how far the training is."""
        return {"taken": self.taken, "proxy": None if self.trainer is None else self.trainer.state_dict()}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take :meth:`memory` back."""
        self.taken = memory["taken"]
        if self.trainer is not None:
            self.trainer.load_state_dict(memory["proxy"] or {})

    def _solve(self, x: Tensor, t: Tensor, t_next: Tensor, conditions: Conditions) -> Tensor:
        low, high = self.guidance
        weight = low + (high - low) * float(torch.rand(1, generator=self.rng))
        with self.denoiser.reference():
            prediction = self.denoiser.predict(x, t, conditions, weight, self.generator.null(len(x)))
        return ode(prediction, x, t, t_next, self.denoiser.schedule).mean

    def _teach(self, drawn: Drawn, trainer: ProxyTrainer, settings: Proxy) -> Metrics:
        """Bring the proxy's order of prediction, target and video to the objective's."""
        members = (drawn.latents.detach(), *drawn.rivals)
        with torch.no_grad():
            scores = [self.objective.score(self.codec.decode(x, clamp="hard"), drawn.prompts) for x in members]
        expert = torch.stack([self.objective.total(values) for values in scores], dim=1)
        if self.taken == 1:
            trainer.model.standardise(expert.flatten())
        latents, clean = torch.cat(members), self.denoiser.schedule.clean
        rows = drawn.conditions[torch.arange(len(drawn.latents)).repeat(len(members))]
        losses = []
        for _ in range(settings.fits):
            ours = trainer.model.output(latents, clean, rows).reshape(len(members), -1).T
            losses.append(trainer.learn(matched_pairs_loss(ours, expert / trainer.model.scale)))
        return {**reward_metrics(scores[0]), "proxy_loss": sum(losses) / len(losses)}
