"""Groups of videos for each prompt, drawn so that every decision on the way can be judged again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrm.diffusion.aligners.base import Aligner, Training
from vrm.diffusion.aligners.plans import Steps
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import Prediction, VideoDenoiser
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel, Transition, ddim, flow_sde, ode
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import Trajectory, group_noise, rollout, transit
from vrm.diffusion.schedule import FlowSchedule, NoiseSchedule

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Sampling:
    """How an aligner draws its videos.

    Attributes:
        group: videos per prompt; those of a group are compared.
        steps: of the sampler; the generator's default if None.
        guidance: classifier-free guidance weight; the generator's default if None.
        shared_noise: whether a group starts from one noise, so that it differs by its way only.
        chunk: videos that are drawn, and trained on, at once; all if None.

    Raises:
        ValueError: if a number is below 1.
    """

    group: int = 8
    steps: int | None = None
    guidance: float | None = None
    shared_noise: bool = False
    chunk: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("group", "steps", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")


@dataclass(frozen=True)
class Experience:
    """Videos drawn at once, and how.

    Attributes:
        trajectory: the states they went through.
        kernel: of the stochastic steps.
        steps: numbers of those steps that are trained.
        log_probs: ``(B, len(steps))`` under the policy that drew them, and in this batch.
        guidance: weight.
        null: ``B`` rows for guidance.
        means: of the transitions, by step, if they were kept.
    """

    trajectory: Trajectory
    kernel: Kernel
    steps: tuple[int, ...]
    log_probs: Tensor
    guidance: float = 1.0
    null: Conditions | None = None
    means: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.log_probs)

    def transition(self, denoiser: VideoDenoiser, step: int) -> Transition:
        """The present policy's distribution at a step, with gradient."""
        times = self.trajectory.times
        return transit(
            denoiser,
            self.trajectory.states[step],
            times[step],
            times[step + 1],
            self.trajectory.conditions,
            self.kernel,
            guidance=self.guidance,
            null=self.null,
        )

    def log_prob(self, transition: Transition, step: int) -> Tensor:
        """Of what was done at a step, ``(B,)``."""
        return transition.log_prob(self.trajectory.states[step + 1])

    @torch.no_grad()
    def replay(self, denoiser: VideoDenoiser) -> Tensor:
        """Log-probabilities ``(B, len(steps))`` under the present weights."""
        return torch.stack([self.log_prob(self.transition(denoiser, step), step) for step in self.steps], dim=1)

    def take(self, rows: Tensor, denoiser: VideoDenoiser) -> Experience:
        """Some of the videos, numbers ``(K,)``; call it while the weights are those that drew them.

        Their log-probabilities are computed again: a network gives other last digits in a batch of another size, and
        a ratio that is not 1 at the start eats up a clip range of 1e-4.
        """
        if len(rows) == len(self):
            return self
        past = self.trajectory
        some = replace(
            self,
            trajectory=Trajectory(
                [state[rows] for state in past.states],
                past.times,
                past.log_probs[rows],
                past.stochastic,
                past.conditions[rows],
            ),
            null=None if self.null is None else self.null[rows],
            log_probs=self.log_probs[rows],
            means={step: mean[rows] for step, mean in self.means.items()},
        )
        return replace(some, log_probs=some.replay(denoiser))


class SamplingAligner(Aligner):
    """An aligner that draws groups of videos and scores them.

    Args:
        generator: is changed: gets adapters, which are trained.
        objective: the rewards.
        training: adapters and optimiser.
        sampling: how videos are drawn.
        accelerator: of Hugging Face Accelerate.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        sampling: Sampling | None = None,
        *,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Fill in the generator's own way of sampling."""
        super().__init__(generator, objective, training, accelerator=accelerator)
        self.sampling = sampling or Sampling()
        self.steps = self.sampling.steps or generator.defaults.steps
        guidance = self.sampling.guidance
        self.guidance = generator.defaults.guidance if guidance is None else guidance

    def draw(
        self,
        prompts: Sequence[str],
        kernel: Kernel = ode,
        plan: Steps | None = None,
        *,
        group: int | None = None,
        keep_means: bool = False,
    ) -> list[Experience]:
        """Draw a group for each prompt; rows stay in the order of the prompts, branches of one past together.

        Args:
            prompts: ``P`` of them.
            kernel: of the stochastic steps.
            plan: which these are, and which are trained.
            group: videos per prompt, in place of the usual.
            keep_means: whether the means of the trained transitions are remembered.
        """
        plan = plan or Steps(())
        group = group or self.sampling.group
        conditions, null = self.conditions(prompts, self.guidance, group)
        shape = self.generator.latent_shape(len(prompts))
        noise = group_noise(shape, group, self.sampling.shared_noise, self.rng).to(self.denoiser.device)
        grid = self.denoiser.schedule.grid(self.steps)
        size = self.sampling.chunk or len(noise)
        drawn = []
        for start in range(0, len(noise), size):
            rows = slice(start, start + size)
            some = None if null is None else null[rows]
            recorder = _Recorder(kernel, plan)
            past = rollout(
                self.denoiser,
                conditions[rows],
                noise[rows],
                grid,
                recorder if keep_means else kernel,
                guidance=self.guidance,
                null=some,
                sde_window=plan.window,
                branch_at=plan.branch_at,
                branch=plan.branch,
                generator=self.rng,
            )
            steps = tuple(step for step in plan.trained if step in past.stochastic)
            spread = None if some is None else some.repeat(plan.branch)
            means = {step: recorder.means[step] for step in steps} if keep_means else {}
            drawn.append(Experience(past, kernel, steps, past.log_probs[:, list(steps)], self.guidance, spread, means))
        return drawn

    @torch.no_grad()
    def score(self, drawn: Sequence[Experience], prompts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Rewards ``(P, G)`` by name of what was drawn for ``P`` prompts, and the videos ``(P, G, T, 3, H, W)``."""
        videos = torch.cat([self.codec.decode(some.trajectory.x0, clamp="hard") for some in drawn])
        group = len(videos) // len(prompts)
        repeated = [prompt for prompt in prompts for _ in range(group)]
        values = self.objective.score(videos, repeated)
        shape = (len(prompts), group)
        device = self.denoiser.device
        groups = videos.reshape(*shape, *videos.shape[1:])
        return {name: value.float().to(device).reshape(shape) for name, value in values.items()}, groups


def own_kernel(denoiser: VideoDenoiser) -> Kernel:
    """The usual stochastic kernel of a model: Flow-GRPO's for flows, else ancestral DDIM with a noisy last step."""
    return flow_sde(0.7) if isinstance(denoiser.schedule, FlowSchedule) else ddim(1.0, keep_noise=True)


class _Recorder:
    """A kernel that remembers the means it gave, by the number of the step."""

    def __init__(self, kernel: Kernel, plan: Steps) -> None:
        self.kernel = kernel
        self.step = 0 if plan.window is None else plan.window[0]
        self.means: dict[int, Tensor] = {}
        self.trained = plan.trained

    def __call__(
        self, prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, schedule: NoiseSchedule
    ) -> Transition:
        transition = self.kernel(prediction, x, t, t_next, schedule)
        if self.step in self.trained:
            self.means[self.step] = transition.mean
        self.step += 1
        return transition


def take_rows(drawn: Sequence[Experience], kept: Tensor, denoiser: VideoDenoiser) -> list[Experience]:
    """The videos ``kept`` ``(N,)`` says, chunk by chunk; empty chunks drop out."""
    parts, start = [], 0
    for some in drawn:
        rows = kept[start : start + len(some)].nonzero()[:, 0]
        start += len(some)
        if len(rows):
            parts.append(some.take(rows, denoiser))
    return parts
