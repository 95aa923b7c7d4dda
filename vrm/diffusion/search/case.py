"""One prompt under search: its noise, its predictions and its scores, each in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vrm.diffusion.conditions import Conditions
from vrm.diffusion.denoiser import Prediction
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import Kernel
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.rollout import draw_noise, rollout
from vrm.errors import NonFiniteError
from vrm.rewards.aggregate import Rewards, aggregate

LatentReward = Callable[[Tensor, Tensor, Conditions], Tensor]  # r(x_t, t, c): (B,)


@dataclass(frozen=True)
class Judgement:
    """What one candidate was worth when it was looked at.

    Attributes:
        stage: denoising steps behind it, or updates of its noise; the last stage holds finished videos.
        candidate: its number within the stage.
        score: weighted sum of its rewards.
        rewards: by name.
        kept: whether the search went on with it.
    """

    stage: int
    candidate: int
    score: float
    rewards: dict[str, float]
    kept: bool


@dataclass(frozen=True)
class Sampling:
    """How every candidate is drawn and compared.

    Attributes:
        steps: of the sampler.
        guidance: classifier-free guidance weight.
        rule: of :func:`vrm.rewards.aggregate.aggregate`, by which candidates are ordered.
        batch: rows that go through network, codec and reward at once; all if None.
    """

    steps: int
    guidance: float
    rule: str = "weighted_sum"
    batch: int | None = None


class Case:
    """One prompt, and all that a search may ask about it.

    Args:
        generator: draws videos.
        objective: judges them.
        prompt: what they should show.
        seed: of the plain sample, which is candidate 0 of every search.
        sampling: how candidates are drawn and compared.

    Attributes:
        grid: ``(N + 1,)`` times of the sampler.
        judgements: of all candidates looked at so far.
        latent_calls: noisy latents judged so far without decoding.
    """

    def __init__(
        self, generator: VideoGenerator, objective: RewardObjective, prompt: str, seed: int, sampling: Sampling
    ) -> None:
        """Embed the prompt."""
        self.generator = generator
        self.denoiser = generator.denoiser
        self.objective = objective
        self.prompt = prompt
        self.seed = seed
        self.sampling = sampling
        self.grid = self.denoiser.schedule.grid(sampling.steps)
        self.judgements: list[Judgement] = []
        self.latent_calls = 0
        self._conditions = generator.condition([prompt])

    @property
    def guidance(self) -> float:
        """Classifier-free guidance weight."""
        return self.sampling.guidance

    def source(self, candidate: int) -> torch.Generator:
        """Fresh randomness of a candidate: the sampler's own for number 0, a stream apart for each other."""
        if candidate == 0:
            return torch.Generator().manual_seed(self.seed)
        entropy = (self.seed % 2**64, candidate)
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))

    def noise(self, sources: Sequence[torch.Generator]) -> Tensor:
        """First latents ``(B, C, T, h, w)``, one from each source."""
        return draw_noise(self.generator.latent_shape(len(sources)), sources, self.generator.device)

    def conditions(self, count: int) -> Conditions:
        """The prompt, for so many rows."""
        return self._conditions.expand(count)

    def null(self, count: int) -> Conditions | None:
        """The empty prompt, where guidance needs it."""
        return self.generator.null(count) if self.guidance != 1.0 else None

    def pieces(self, count: int) -> Iterator[tuple[slice, int]]:
        """Rows ``0 .. count - 1`` in batches, and how many each holds."""
        size = self.sampling.batch or count
        for first in range(0, count, size):
            end = min(first + size, count)
            yield slice(first, end), end - first

    @torch.no_grad()
    def predict(self, x: Tensor, place: int) -> Prediction:
        """What the denoiser says of latents ``x`` at time ``grid[place]``."""
        parts = [
            self.denoiser.predict(x[rows], self.grid[place], self.conditions(n), self.guidance, self.null(n))
            for rows, n in self.pieces(len(x))
        ]
        return Prediction(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x0", "eps", "v")))

    def draw(self, sources: Sequence[torch.Generator], kernel: Kernel, noise: Tensor | None = None) -> Tensor:
        """Whole chains, ``(B, C, T, h, w)``: exactly what the generator's own sampler makes of each source.

        Args:
            sources: one per video.
            kernel: the sampler's step.
            noise: first latents; drawn from the sources if None.
        """
        first = self.noise(sources) if noise is None else noise
        chains = [
            rollout(
                self.denoiser,
                self.conditions(n),
                first[rows],
                self.grid,
                kernel,
                guidance=self.guidance,
                null=self.null(n),
                generator=list(sources[rows]),
            ).x0
            for rows, n in self.pieces(len(sources))
        ]
        return torch.cat(chains)

    @torch.no_grad()
    def score(self, latents: Tensor) -> dict[str, Tensor]:
        """Decode clean latents and score the videos: ``(B,)`` by name, on the CPU.

        Raises:
            NonFiniteError: if a reward is NaN or infinite, which no order could be made of.
        """
        parts = []
        for rows, _ in self.pieces(len(latents)):
            videos = self.generator.codec.decode(latents[rows], clamp="hard")
            parts.append(self.objective.score(videos, [self.prompt] * len(videos)))
        values = {name: torch.cat([part[name] for part in parts]).float().cpu() for name in self.objective.rewards}
        for name, value in values.items():
            if not bool(value.isfinite().all()):
                raise NonFiniteError(f"Reward {name!r} of a video for {self.prompt!r} is not finite: {value.tolist()}.")
        return values

    def score_latents(self, reward: LatentReward, x: Tensor, place: int) -> Tensor:
        """What a noise-aware reward says of latents ``x`` at ``grid[place]``: ``(B,)``, differentiable in ``x``."""
        self.latent_calls += len(x)
        t = self.denoiser.times(x, self.grid[place])
        return torch.cat([reward(x[rows], t[rows], self.conditions(n)) for rows, n in self.pieces(len(x))])

    def keep(self, rewards: Rewards, count: int, stage: int, rule: str | None = None) -> list[int]:
        """Note what candidates are worth and choose the best, best first; of equals the earlier.

        Args:
            rewards: ``(G,)`` by name.
            count: how many to choose.
            stage: denoising steps behind the candidates, or updates of their noise.
            rule: orders them; the sampling's own if None.
        """
        order = aggregate(rewards, rule or self.sampling.rule, self._weights(rewards))
        chosen = torch.argsort(order, descending=True, stable=True)[:count].tolist()
        self.note(rewards, stage, chosen)
        return chosen

    def note(self, rewards: Rewards, stage: int, kept: Sequence[int] = ()) -> Tensor:
        """Remember what candidates are worth, and which the search goes on with; returns their scores ``(G,)``."""
        scores = aggregate(rewards, "weighted_sum", self._weights(rewards))
        for candidate, score in enumerate(scores.tolist()):
            parts = {name: float(values[candidate]) for name, values in rewards.items()}
            self.judgements.append(Judgement(stage, candidate, score, parts, candidate in kept))
        return scores

    def _weights(self, rewards: Rewards) -> dict[str, float]:
        return {name: self.objective.weights.get(name, 1.0) for name in rewards}


def chosen_rows(prediction: Prediction, rows: Sequence[int]) -> Prediction:
    """The prediction of some rows."""
    return Prediction(prediction.x0[rows], prediction.eps[rows], prediction.v[rows])
