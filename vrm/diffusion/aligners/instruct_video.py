"""InstructVideo: tuning as editing, from noised videos through the end of the chain only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrm.diffusion.aligners.base import Batch, Training
from vrm.diffusion.aligners.reward_gradient import Climb, Drawn, GradientAligner, clean_latents
from vrm.diffusion.frames import TAR, Segments
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.grad_sampler import noised_start, sample_with_gradient
from vrm.diffusion.objective import RewardObjective

if TYPE_CHECKING:
    from accelerate import Accelerator

PUBLISHED = Climb(selection=Segments(4, weighting=TAR()))


class InstructVideo(GradientAligner):
    """Noises a video of the prompt to ``tau``, denoises it again and climbs the reward of what comes out.

    Only ``tau`` of the chain is run, and only its last step is differentiated. One random frame of each of four
    segments is decoded and judged (SegVR), and counts less the further it is from the middle (TAR): the edit's ends
    keep most of the source video, and their reward would be over-optimised. The batch's videos may be real, or drawn by
    the generator before it was tuned. TAR's options, and other frames, are those of ``climb.selection``.

    Args:
        generator: is changed.
        objective: differentiable rewards of single frames, such as HPSv2 or a goal.
        training: adapters and optimiser.
        climb: from rewards to a loss; four segments with the published attenuation by default.
        tau: share of the chain that is run, in (0, 1].
        steps: length ``D`` of the whole chain.
        guidance: classifier-free guidance weight; the generator's default if None.
        offset: deviation of an extra noise that is constant within a frame, as in the authors' code.
        accelerator: of Hugging Face Accelerate.

    Raises:
        ValueError: if ``tau`` and ``steps`` leave no step.

    Example:
        >>> aligner = InstructVideo(generator, RewardObjective({"goal": reward}))  # doctest: +SKIP
        >>> aligner.step(Batch(["a dog runs"], videos))  # doctest: +SKIP

    Paper: Yuan et al., "InstructVideo: Instructing Video Diffusion Models with Human Feedback", arXiv 2312.12490.
    """

    needs_videos = True

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        training: Training | None = None,
        climb: Climb | None = None,
        *,
        tau: float = 0.6,
        steps: int = 20,
        guidance: float | None = 3.0,
        offset: float = 0.1,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Lay the truncated grid."""
        super().__init__(generator, objective, training, climb or PUBLISHED, accelerator=accelerator)
        if not offset >= 0:
            raise ValueError(f"offset must be at least 0, got {offset}.")
        self.grid = self.denoiser.schedule.grid(steps, tau)
        self.guidance = generator.defaults.guidance if guidance is None else guidance
        self.offset = offset

    def draw(self, batch: Batch) -> Drawn:
        """Edit the batch's videos."""
        conditions, null = self.conditions(batch.prompts, self.guidance)
        x0 = clean_latents(self, batch)
        sample = sample_with_gradient(
            self.denoiser,
            conditions,
            noised_start(self.denoiser, x0, self.grid[0], self.rng, self.offset),
            self.grid,
            [len(self.grid) - 2],
            guidance=self.guidance,
            null=null,
        )
        return Drawn(sample.latents, list(batch.prompts), conditions, self.grid[-2:-1])
