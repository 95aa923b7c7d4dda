"""The same held-out videos drawn again and again: what the trained reward, a judge and the monitors say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.finetune.monitors import (
    diversity,
    motion,
    pooled_features,
    saturation,
    sharpness,
    velocity_distance,
)
from vrm.diffusion.finetune.settings import FinetuneSettings
from vrm.diffusion.finetune.team import Team
from vrm.diffusion.objective import RewardObjective
from vrm.frames import to_float
from vrm.rewards import RewardModel

if TYPE_CHECKING:
    from vrm.diffusion.generator import VideoGenerator
    from vrm.encoders import Encoder

SEED = 1_000_003  # far from the seeds of videos drawn for training


@dataclass(frozen=True)
class Exam:
    """What was drawn and measured at once.

    Attributes:
        videos: ``(P * S, T, 3, H, W)`` uint8 on the CPU, the ``S`` samples of a prompt beside each other.
        trained: ``(P * S,)`` the trained reward of each.
        held_out: ``(P * S,)`` the held-out judge's score of each.
        measures: ``diversity``, ``motion``, ``sharpness``, ``saturation``, ``velocity_distance``: means over videos.
    """

    videos: Tensor
    trained: Tensor
    held_out: Tensor
    measures: dict[str, float]

    def row(self) -> dict[str, float]:
        """One line of a table: means, and the spread of both scores over the videos."""
        return {
            "trained": float(self.trained.mean()),
            "held_out": float(self.held_out.mean()),
            **self.measures,
            "trained_std": float(self.trained.std()),
            "held_out_std": float(self.held_out.std()),
        }


class Examiner:
    """Draws fixed-seed videos of held-out prompts and measures them, shared among processes.

    Args:
        generator: what is tuned; on its own device.
        objective: the trained rewards.
        judge: a reward that is never trained on.
        encoder: whose features say how alike samples of one prompt are.
        prompts: held out.
        settings: samples of each prompt, videos drawn and judged at once, and the seed.
        team: processes that share the work.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        objective: RewardObjective,
        judge: RewardModel,
        encoder: Encoder,
        prompts: Sequence[str],
        settings: FinetuneSettings,
        team: Team,
    ) -> None:
        """Draw nothing yet."""
        self.generator, self.objective, self.judge, self.encoder = generator, objective, judge, encoder
        self.batch, self.seed, self.team = settings.eval_batch, settings.seed + SEED, team
        self.prompts = [prompt for prompt in prompts for _ in range(settings.samples)]
        self._base: Tensor | None = None
        self._points: dict[int, Tensor] = {}

    @torch.no_grad()
    def examine(self) -> Exam:
        """Draw all videos with the generator as it is, and measure them."""
        self.base()
        parts = self.team.gather([(rows.start, self._examine(rows)) for rows in self._own_batches()])
        parts.sort(key=lambda part: int(part[0]))
        table = {name: torch.cat([part[name] for _, part in parts]) for name in parts[0][1]}
        measured = ("motion", "sharpness", "saturation", "velocity_distance")
        measures = {name: float(table[name].mean()) for name in measured}
        measures = {"diversity": diversity(table["features"], self.prompts), **measures}
        return Exam(table["videos"], table["trained"], table["held_out"], measures)

    @torch.no_grad()
    def base(self) -> Tensor:
        """The same videos by the base model, ``(P * S, T, 3, H, W)`` uint8 on the CPU; drawn once."""
        if self._base is None:
            parts = []
            with self.generator.denoiser.reference():
                for rows in self._own_batches():
                    videos = self._draw(rows)
                    # Distances from the base are measured here, at points that do not move with training.
                    self._points[rows.start] = self.generator.codec.encode(videos).cpu()
                    parts.append((rows.start, _bytes(videos)))
            parts = self.team.gather(parts)
            parts.sort(key=lambda part: int(part[0]))
            self._base = torch.cat([videos for _, videos in parts])
        return self._base

    def _own_batches(self) -> Iterator[range]:
        """The rows of each batch that this process draws."""
        count = len(self.prompts)
        for start in range(self.team.rank * self.batch, count, self.team.size * self.batch):
            yield range(start, min(start + self.batch, count))

    def _draw(self, rows: range) -> Tensor:
        prompts = [self.prompts[row] for row in rows]
        return self.generator.sample(prompts, seed=[self.seed + row for row in rows])

    def _examine(self, rows: range) -> dict[str, Tensor]:
        prompts = [self.prompts[row] for row in rows]
        drawn = _bytes(self._draw(rows))
        videos = to_float(drawn).to(self.generator.device)  # what is shown and filed is what is judged
        found = {
            "trained": self.objective.total(self.objective.score(videos, prompts)),
            "held_out": self.judge.score(videos, prompts if self.judge.takes_goals else None),
            "features": pooled_features(self.encoder, videos),
            "motion": motion(videos),
            "sharpness": sharpness(videos),
            "saturation": saturation(videos),
            "velocity_distance": self._velocity_distance(rows, self.generator.condition(prompts)),
        }
        return {"videos": drawn, **{name: value.float().cpu() for name, value in found.items()}}

    def _velocity_distance(self, rows: range, conditions: Conditions) -> Tensor:
        points = self._points[rows.start].to(self.generator.device)
        return velocity_distance(self.generator.denoiser, points, conditions, seed=self.seed + rows.start)


def _bytes(videos: Tensor) -> Tensor:
    return (videos.clamp(0, 1) * 255).round().byte().cpu()
