"""Policy gradients on the log-probabilities of denoising steps: DDPO, the GRPO family, B2-DiffuRL, RLCM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vrm.diffusion.advantage import AdaptiveKL, Credit, PairwiseJudge
from vrm.diffusion.aligners.base import Batch, Metrics, Training, reward_metrics
from vrm.diffusion.aligners.plans import AllSteps, StepPlan
from vrm.diffusion.aligners.sampling import Experience, Sampling, SamplingAligner, own_kernel, take_rows
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel, Transition, kl
from vrm.diffusion.losses import guarded_log_ratio, ppo_clip
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.schedule import FlowSchedule

if TYPE_CHECKING:
    from accelerate import Accelerator

JUDGED = "judge"  # the reward that a pairwise judge gives


@dataclass(frozen=True)
class PolicyLoss:
    """What is minimised, and how often.

    Attributes:
        clip: range of the ratio around 1; small, because log-probabilities are means over dimensions.
        kl: coefficient of the divergence to the base model, or one that adapts; 0 leaves it out.
        ratio: ``"plain"``, or ``"guard"`` for GRPO-Guard's, which treats all steps of a flow alike.
        epochs: updates on the same videos.

    Raises:
        ValueError: if a number is out of its range or the ratio is unknown.
    """

    clip: float = 1e-4
    kl: float | AdaptiveKL = 0.0
    ratio: Literal["plain", "guard"] = "plain"
    epochs: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.clip > 0 or self.epochs < 1 or (not isinstance(self.kl, AdaptiveKL) and self.kl < 0):
            raise ValueError(
                f"A policy loss needs clip > 0, kl >= 0 and epochs >= 1, got {self.clip}, {self.kl}, {self.epochs}."
            )
        if self.ratio not in ("plain", "guard"):
            raise ValueError(f"ratio must be 'plain' or 'guard', got {self.ratio!r}.")

    @property
    def penalty(self) -> float:
        """The coefficient at present."""
        return self.kl.value if isinstance(self.kl, AdaptiveKL) else self.kl


class PolicyGradient(SamplingAligner):
    """Makes decisions more likely that led to better videos than the others of their prompt.

    The parts make the published methods:

    ===============  ==================================================================================================
    DDPO             ``Credit(baseline="prompt")``
    B2-DiffuRL       ``plan=BackwardProgression()``, ``Credit(baseline="prompt", decisive=True)``,
                     ``PolicyLoss(clip=0.1)``
    Flow-GRPO        ``PolicyLoss(kl=0.04)``
    DanceGRPO        ``kernel=dance_sde()``, ``Sampling(shared_noise=True)``, ``AllSteps(0.6)``,
                     ``Credit("advantages", best=4, worst=4)``
    MixGRPO          ``plan=SlidingWindow()``
    Flow-CPS         ``kernel=cps()``
    GRPO-Guard       ``PolicyLoss(ratio="guard")``
    Pref-GRPO        ``Credit("win_rate")``, or ``judge=PairwiseJudge(labeller)`` beside other rewards
    RLCM             ``kernel=lcm``, on a consistency model
    ===============  ==================================================================================================

    Args:
        generator: is changed: gets adapters, which are trained.
        objective: the rewards; they need no gradient.
        training: adapters and optimiser.
        sampling: how videos are drawn; a group needs at least two, branches counted.
        kernel: makes the steps stochastic; ``flow_sde(0.7)`` for flows and ``ddim(1.0)`` otherwise if None.
        plan: which steps are decisions.
        credit: how rewards become advantages.
        loss: what is minimised.
        judge: compares videos of a group; its win rates are one more reward.
        accelerator: of Hugging Face Accelerate.

    Attributes:
        rounds: calls of :meth:`step` so far.

    Raises:
        ValueError: if a group has a single video, or the guarded ratio meets a model that is no flow.

    Papers: DDPO arXiv 2305.13301, B2-DiffuRL 2503.11240, Flow-GRPO 2505.05470, DanceGRPO 2505.07818, Pref-GRPO
    2508.20751, RLCM 2404.03673.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        sampling: Sampling | None = None,
        *,
        kernel: Kernel | None = None,
        plan: StepPlan | None = None,
        credit: Credit | None = None,
        loss: PolicyLoss | None = None,
        judge: PairwiseJudge | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Check that there is something to compare."""
        super().__init__(generator, objective, training or Training(lr=3e-4), sampling, accelerator=accelerator)
        self.kernel = kernel or own_kernel(self.denoiser)
        self.plan = plan or AllSteps()
        self.credit = credit or Credit()
        self.loss = loss or PolicyLoss()
        self.judge = judge
        self.rounds = 0
        if self.sampling.group * self.plan.branches < 2:
            raise ValueError("An advantage compares at least two videos of a prompt; use a group or branch above 1.")
        if self.loss.ratio == "guard" and not isinstance(self.denoiser.schedule, FlowSchedule):
            raise ValueError("ratio='guard' is for flow models; use ratio='plain' for this one.")

    def update(self, batch: Batch) -> Metrics:
        """Draw, judge, and learn ``loss.epochs`` times.

        Metrics besides the usual: ``clip_frac`` (share of ratios outside the range), ``ratio_max``, ``ratio_start``
        (the greatest ``|log ratio|`` before the first update, which must be 0), ``kl`` or ``velocity_distance``,
        ``kept`` (share of videos trained on) and the judge's ``comparisons`` and ``unanswered``.
        """
        steps = self.plan.at(self.steps, self.rounds, self.rng)
        drawn = self.draw(batch.prompts, self.kernel, steps, keep_means=self.loss.ratio == "guard")
        if not drawn[0].steps:
            raise ValueError("None of the steps to train is stochastic; use another kernel, plan or more steps.")
        rewards, weights = self._judged(drawn, batch.prompts)
        advantages = self.credit(rewards, batch.prompts, weights)
        kept = self.credit.kept(advantages, steps.branch).flatten()
        parts = take_rows(drawn, kept, self.denoiser)
        seen = _Seen()
        for epoch in range(self.loss.epochs if parts else 0):
            self._learn(parts, advantages.flatten()[kept], seen, first=epoch == 0)
        self.rounds += 1
        metrics = {**reward_metrics(rewards), **seen.metrics(), "kept": float(kept.float().mean())}
        if self.judge is not None:
            metrics |= {"comparisons": float(self.judge.comparisons), "unanswered": float(self.judge.unanswered)}
        if isinstance(self.loss.kl, AdaptiveKL) and parts:
            self.loss.kl.observe(metrics["kl"])
        if "kl" not in metrics:
            past = drawn[0].trajectory
            metrics["velocity_distance"] = self.velocity_distance(past.x0, past.conditions)
        return metrics

    def memory(self) -> dict[str, Any]:
        """Rounds, past rewards of prompts, the judge's counts and the adaptive coefficient."""
        return {
            "rounds": self.rounds,
            "prompts": self.credit.statistics.state_dict(),
            "judge": None if self.judge is None else [self.judge.comparisons, self.judge.unanswered],
            "penalty": self.loss.penalty,
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take :meth:`memory` back."""
        self.rounds = memory["rounds"]
        self.credit.statistics.load_state_dict(memory["prompts"])
        if self.judge is not None and memory["judge"] is not None:
            self.judge.comparisons, self.judge.unanswered = memory["judge"]
        if isinstance(self.loss.kl, AdaptiveKL):
            self.loss.kl.value = memory["penalty"]

    def _judged(
        self, drawn: Sequence[Experience], prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        rewards, videos = self.score(drawn, prompts)
        weights = dict(self.objective.weights)
        if self.judge is not None:
            rewards[JUDGED] = self.judge.win_rates(videos, prompts).to(self.denoiser.device)
            weights[JUDGED] = self.judge.weight
        return rewards, weights

    def _learn(self, parts: Sequence[Experience], advantages: Tensor, seen: _Seen, first: bool) -> None:
        """One gradient over all steps of all videos, added up step by step."""
        total, start = len(advantages) * len(parts[0].steps), 0
        for part in parts:
            own = advantages[start : start + len(part)]
            start += len(part)
            for column, step in enumerate(part.steps):
                loss = self._step_loss(part, own, column, step, seen, first)
                self.backward(loss.sum() / total)
        self.descend()

    def _step_loss(
        self, part: Experience, advantages: Tensor, column: int, step: int, seen: _Seen, first: bool
    ) -> Tensor:
        policy = part.transition(self.denoiser, step)
        log_ratio = part.log_prob(policy, step) - part.log_probs[:, column]
        if first:
            seen.start = max(seen.start, float(log_ratio.detach().abs().max()))
        length = 1.0
        if self.loss.ratio == "guard":
            shift = _shift(policy, part.means[step])
            log_ratio = guarded_log_ratio(log_ratio, shift, policy.std)
            length = float(part.trajectory.times[step] - part.trajectory.times[step + 1])
        loss = ppo_clip(log_ratio, advantages, self.loss.clip) / length
        seen.add("loss", loss)
        seen.ratios.append(log_ratio.detach().exp())
        seen.add("clip_frac", ((seen.ratios[-1] - 1).abs() > self.loss.clip).float())
        if self.loss.penalty > 0:
            with torch.no_grad(), self.denoiser.reference():
                reference = part.transition(self.denoiser, step)
            divergence = kl(policy, reference)
            seen.add("kl", divergence)
            loss = loss + self.loss.penalty * divergence
        return loss


@dataclass
class _Seen:
    """What the updates of one round show, gathered row by row."""

    start: float = 0.0
    ratios: list[Tensor] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        self.rows.setdefault(name, []).append(values.detach())

    def metrics(self) -> Metrics:
        if not self.ratios:
            return {"loss": 0.0, "clip_frac": 0.0, "ratio_max": 1.0, "ratio_start": 0.0}
        means = {name: float(torch.cat(values).mean()) for name, values in self.rows.items()}
        return {**means, "ratio_max": float(torch.cat(self.ratios).max()), "ratio_start": self.start}


def _shift(policy: Transition, old: Tensor) -> Tensor:
    """The bias that GRPO-Guard takes out of a log-ratio: the divergence of the two means."""
    error = (policy.mean - old).square().flatten(1).mean(dim=1)
    return error / (2 * policy.std**2) if policy.weighted else error
