"""One-step rewards: noise videos a little, predict them in one go, and climb the reward of the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrm.diffusion.aligners.base import Batch, Training
from vrm.diffusion.aligners.reward_gradient import Climb, Drawn, GradientAligner, clean_latents
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise

if TYPE_CHECKING:
    from accelerate import Accelerator

NEXT = 0.001  # of the chain: how much noisier Ctrl-U's second copy is, one of 1000 training timesteps


def uncertain_reward(first: Tensor, second: Tensor) -> Tensor:
    """A reward that counts less where two looks at the same video disagree: ``exp(-u) r - u``, ``u = |r' - r|``.

    Ctrl-U (arXiv 2410.11236) minimises ``exp(-u) R + u`` of a loss ``R``; this is its mirror image.

    Args:
        first: rewards ``r`` of any shape.
        second: rewards ``r'`` of other noised copies.

    Example:
        >>> uncertain_reward(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.7]))
        tensor([0.5000, 0.2094])
    """
    spread = (second - first).abs()
    return torch.exp(-spread) * first - spread


class OneStep(GradientAligner):
    """Climbs the reward of one-step predictions from slightly noised videos: one forward pass per update.

    With ``climb.matching`` the squared error of the same prediction is added, as ControlNet++ does.

    ``uncertainty`` predicts from a second copy, with fresh noise at the next timestep, and pays
    :func:`uncertain_reward`, by name, in place of the reward.

    Args:
        generator: is changed.
        objective: differentiable rewards.
        training: adapters and optimiser.
        climb: from rewards to a loss; ControlNet++ scales rewards by 0.5 or 1 beside the squared error.
        highest: the largest noise level, as a fraction of the chain in (0, 1); 0.2 in ControlNet++, 0.4 in Ctrl-U.
        uncertainty: whether disagreement of two copies lowers the reward (Ctrl-U).
        accelerator: of Hugging Face Accelerate.

    Raises:
        ValueError: if ``highest`` is out of its range.

    Papers: Li et al., "ControlNet++", arXiv 2404.07987; Zhang et al., "Ctrl-U", arXiv 2410.11236.
    """

    needs_videos = True

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        climb: Climb | None = None,
        *,
        highest: float = 0.2,
        uncertainty: bool = False,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Check the level."""
        super().__init__(generator, objective, training, climb or Climb(matching=1.0), accelerator=accelerator)
        if not 0 < highest < 1:
            raise ValueError(f"highest must lie in (0, 1), a fraction of the chain, got {highest}.")
        self.highest = highest
        self.uncertainty = uncertainty

    def draw(self, batch: Batch) -> Drawn:
        """Predict the batch's videos from noised ones; with uncertainty, all first copies and then all second ones."""
        x0 = clean_latents(self, batch)
        conditions, prompts = self.generator.condition(batch.prompts), list(batch.prompts)
        levels = self.highest * torch.rand(len(x0), generator=self.rng)
        if self.uncertainty:
            x0, levels = torch.cat([x0, x0]), torch.cat([levels, (levels + NEXT).clamp(max=1.0)])
            conditions, prompts = conditions.join(conditions), prompts * 2
        times = self.denoiser.schedule.at(levels).to(x0.device)
        eps = draw_noise(x0.shape, self.rng, x0.device)
        noised = self.denoiser.noise(x0, times, eps)
        output = self.denoiser.output(noised, times, conditions)
        error = (output - self.denoiser.target(x0, times, eps)).square().mean()
        return Drawn(self.denoiser.convert(output, noised, times).x0, prompts, conditions, times, error)

    def pixel_rewards(self, drawn: Drawn) -> dict[str, Tensor]:
        """Rewards by name, lowered by their uncertainty where that is wanted: one per video of the batch."""
        values = super().pixel_rewards(drawn)
        if not self.uncertainty:
            return values
        return {name: uncertain_reward(*value.chunk(2)) for name, value in values.items()}
