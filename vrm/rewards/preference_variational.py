"""Variational preference learning: a user is a point in a latent space, inferred from a few answers (VPL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
from torch import Generator, Tensor, nn

from vrm.data.comparisons import Comparisons
from vrm.encoders import Encoder
from vrm.errors import UnknownNameError
from vrm.rewards.holdout import seeded_training
from vrm.rewards.preference_losses import bradley_terry, bradley_terry_loss
from vrm.rewards.preference_training import check_answers, compared_features
from vrm.rewards.preference_users import Training, UserReward, descend

Scaling = Literal["unit", "win"]
CYCLES = 4  # of the KL weight's annealing, as published
SET_SIZE = 8  # answers that a user is inferred from in training, at most; as published
COLLAPSED = 0.1  # nats; a user whose posterior is nearer to the prior has told nothing
SAMPLES = 32  # of a user, as opinions about a question


class AnswerSet(nn.Module):
    """Posterior of a user from a set of answers, whatever their order and whichever side was first.

    An answer is the difference of the mean features of both sides, turned towards the preferred one, beside their mean
    and how decided it is; embeddings of answers are averaged. (The published encoder takes a fixed number in order.)

    Args:
        dim: features ``D``.
        width: of the layers.
        latent: size ``Z``.
    """

    def __init__(self, dim: int, width: int, latent: int) -> None:
        """Draw weights from torch's global generator."""
        super().__init__()
        self.answer = nn.Sequential(nn.Linear(2 * dim + 1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.whole = nn.Sequential(nn.Linear(width + 1, width), nn.ReLU(), nn.Linear(width, 2 * latent))

    def forward(self, first: Tensor, second: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(G, Z)`` from mean features ``(G, S, D)`` and labels ``(G, S)`` of ``G`` sets."""
        lean = (2 * labels - 1)[..., None]
        told = self.answer(torch.cat([lean * (first - second), (first + second) / 2, lean.abs()], dim=-1)).mean(dim=1)
        count = torch.full_like(told[:, :1], float(labels.shape[1])).log1p()
        mean, log_variance = self.whole(torch.cat([told, count], dim=-1)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-10, 10)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence ``(...)`` in nats of the Gaussian posterior ``(..., Z)`` from the standard one.

    Example:
        >>> kl_divergence(torch.tensor([1.0, 0.0]), torch.zeros(2)).item()
        0.5
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1)


def annealed(step: int, steps: int, cycles: int = CYCLES) -> float:
    """Share of the KL weight at a step: rising over the first half of each cycle, then 1 (Fu et al. 2019, 1903.10145).

    Example:
        >>> [annealed(step, 16, cycles=2) for step in range(8)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    """
    return min(1.0, 2 * (step * cycles / steps % 1))


class VariationalReward(UserReward):
    """A reward that depends on a latent ``z`` of the user, inferred once from the user's answers.

    Encoder ``q(z | answers)`` and decoder ``r(s, z)`` learn together: cross-entropy of answers by the sum of rewards,
    plus ``kl_weight`` times ``KL(q || N(0, I))``, annealed in four cycles. In use, ``z`` is the posterior's mean, kept
    for each known user; the divergence of each is in ``found`` and in :meth:`divergences`: near 0, the posterior has
    collapsed, and all such users get the same reward.

    ============  ===============================================================================================
    scaling       how rewards of different ``z`` are made comparable
    ============  ===============================================================================================
    ``"unit"``    mean 0 and standard deviation 1 for each user over all frames compared
    ``"win"``     mean probability of being preferred to frames drawn from those compared, in [0, 1] (VPL-SPO)
    ============  ===============================================================================================

    Args:
        encoder: whose features are decoded.
        users: who has answered.
        user: whose reward is paid; None for the mean over users.
        latent: size of ``z``.
        width: of the three layers of the decoder and of the encoder's.
        scaling: one of the above.
        rivals: how many frames ``"win"`` compares with.
        seed: of the first weights.

    Raises:
        UnknownNameError: if ``scaling`` is unknown.
        ValueError: if a size is below 1, or users are not different.

    Paper: Poddar et al. 2024, "Personalizing Reinforcement Learning from Human Feedback with Variational Preference
    Learning", arXiv 2408.10075.
    """

    per_user = ("shift", "factor", "means", "log_variances")
    means: Tensor
    log_variances: Tensor
    compared: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        encoder: Encoder,
        users: Sequence[int],
        user: int | None = None,
        latent: int = 32,
        width: int = 256,
        scaling: Scaling | str = "unit",
        rivals: int = 1000,
        seed: int = 0,
    ) -> None:
        """Draw first weights, without touching torch's global generator; nothing is learned yet."""
        super().__init__(encoder, users, user)
        if scaling not in get_args(Scaling):
            raise UnknownNameError("scaling", scaling, get_args(Scaling))
        if min(latent, width, rivals) < 1:
            raise ValueError(f"Sizes must be at least 1, got {latent=}, {width=}, {rivals=}.")
        self.settings = {
            "latent": latent, "width": width, "scaling": str(scaling), "rivals": rivals, "seed": seed,
        }  # fmt: skip
        self.range = (0.0, 1.0) if scaling == "win" else (-float("inf"), float("inf"))
        dim = encoder.embed_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.posterior = AnswerSet(dim, width, latent)
            layers = [nn.Linear(dim + latent, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
            self.decoder = nn.Sequential(*layers, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("means", torch.zeros(len(users), latent))
        self.register_buffer("log_variances", torch.zeros(len(users), latent))
        self.register_buffer("compared", torch.zeros(rivals if scaling == "win" else 0, dim))

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        comparisons: Comparisons,
        *,
        seed: int = 0,
        latent: int = 32,
        width: int = 256,
        scaling: Scaling | str = "unit",
        rivals: int = 1000,
        kl_weight: float = 0.01,
        steps: int = 600,
        batch: int = 256,
        learning_rate: float = 1e-3,
        held_out: float = 0.2,
    ) -> Self:
        """Learn encoder and decoder, and infer each user; figures are of questions held out of a first fit.

        Each step draws sixteen users; of each, one to eight answers to infer ``z`` from, and others to explain with it.

        Args:
            encoder: makes the features.
            comparisons: of frames or features, with ``users``.
            seed: decides everything that is drawn.
            latent: as in the constructor, as are those that follow.
            width: of the layers.
            scaling: of the reward.
            rivals: of ``"win"``.
            kl_weight: of the divergence, at least 0; ours.
            steps: of Adam.
            batch: pairs explained per step.
            learning_rate: of Adam.
            held_out: share of the questions, in [0, 1).

        Raises:
            ComparisonError: if there are no answers or nothing but ties, or what is compared does not fit.
            ValueError: if a number is out of its range.
        """
        training = Training(steps, batch, learning_rate, held_out, kl_weight)
        data = compared_features(encoder, check_answers(comparisons, cls.__name__))
        shape = {"latent": latent, "width": width, "scaling": scaling, "rivals": rivals}
        reward = cls._fitted(encoder, data, shape, training, seed)
        reward._tell()
        return reward

    def divergences(self) -> dict[int, float]:
        """KL divergence in nats of each user's posterior from what is believed of somebody unknown."""
        return dict(zip(self.users, kl_divergence(self.means, self.log_variances).tolist(), strict=True))

    @torch.no_grad()
    def infer(self, comparisons: Comparisons) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each ``(Z,)``, of whoever gave these answers, all by one user.

        Raises:
            ComparisonError: if there are no answers or nothing but ties, or what is compared does not fit.
        """
        data = compared_features(self.encoder, check_answers(comparisons, type(self).__name__))
        mean, log_variance = self._posterior(data, torch.arange(len(data))[None])
        return mean[0], log_variance[0]

    def for_answers(self, comparisons: Comparisons, user: int, *, seed: int = 0) -> Self:
        """The reward of a new user, inferred from these answers; nothing is trained.

        Args:
            comparisons: that the user has answered, whatever :attr:`Comparisons.users` says.
            user: a new number.
            seed: not used, since nothing here is random; all rewards of users take it.

        Raises:
            ComparisonError: if there are no answers or nothing but ties.
            ValueError: if the user is known already.
        """
        mean, log_variance = self.infer(comparisons)
        data = compared_features(self.encoder, comparisons.answered())
        return self._joined(user, data, means=mean, log_variances=log_variance)

    @torch.no_grad()
    def probabilities(self, first: Tensor, second: Tensor) -> Tensor:
        """What samples of the user's posterior say, for query samplers; of the prior, if no user is picked.

        Args:
            first: ``(N, L, D)`` features or ``(N, L, 3, H, W)`` frames.
            second: as ``first``.

        Returns:
            ``(32, N)`` in [0, 1], the same at every call.
        """
        unasked = Comparisons.of(first, second, torch.full((len(first),), torch.nan))
        data = compared_features(self.encoder, unasked)
        noise = torch.randn(SAMPLES, self.settings["latent"], generator=Generator().manual_seed(0))
        codes = noise.to(self.means.device)
        if self.user is not None:
            row = self.users.index(self.user)
            codes = self.means[row] + codes * (0.5 * self.log_variances[row]).exp()
        sides = (self._decoded(side.flatten(0, 1).to(codes.device), codes) for side in (data.first, data.second))
        first_worth, second_worth = (raw.reshape(SAMPLES, *data.first.shape[:2]).sum(dim=2) for raw in sides)
        return bradley_terry(first_worth - second_worth)

    def _values(self, features: Tensor, rows: Tensor) -> Tensor:
        values = self._decoded(features, self.means[rows])
        if self.settings["scaling"] == "unit":
            return values
        rivals = self._decoded(self.compared, self.means[rows])
        return torch.stack(
            [torch.sigmoid(own[:, None] - other).mean(1) for own, other in zip(values, rivals, strict=True)]
        )

    def _anchor(self, frames: Tensor, rows: Tensor) -> None:
        if self.settings["scaling"] == "unit":
            super()._anchor(frames, rows)

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self.centre) / self.spread

    def _decoded(self, features: Tensor, codes: Tensor) -> Tensor:
        """Rewards ``(G, N)`` in [-1, 1] of frames ``(N, D)`` for each of ``(G, Z)`` codes."""
        return self._decoded_own(features.expand(len(codes), *features.shape), codes)

    def _decoded_own(self, features: Tensor, codes: Tensor) -> Tensor:
        """Rewards ``(G, N)`` of frames ``(G, N, D)``, each row's own, for codes ``(G, Z)``."""
        both = torch.cat([self._scaled(features), codes[:, None].expand(-1, features.shape[1], -1)], dim=-1)
        return torch.tanh(self.decoder(both)[..., 0])

    def _posterior(self, data: Comparisons, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Posteriors ``(G, Z)`` from sets of answers at ``rows`` ``(G, S)``."""
        device = self.centre.device
        first, second = (self._scaled(side[rows].to(device)).mean(dim=2) for side in (data.first, data.second))
        found: tuple[Tensor, Tensor] = self.posterior(first, second, data.labels[rows].to(device))
        return found

    def _learn(self, data: Comparisons, training: Training, seed: int) -> None:
        generator = Generator().manual_seed(seed)
        frames = torch.cat([data.first, data.second]).flatten(0, 1)
        self.centre.copy_(frames.mean(dim=0))
        self.spread.copy_((frames - self.centre).square().mean().sqrt().clamp(min=1e-6))
        own = [(data.users == user).nonzero()[:, 0] for user in self.users]
        with seeded_training(seed):
            learned = [p.requires_grad_(True) for part in (self.posterior, self.decoder) for p in part.parameters()]
            optimiser = torch.optim.Adam(learned, lr=training.learning_rate)
            for step in range(training.steps):
                weight = training.kl_weight * annealed(step, training.steps)
                descend(
                    optimiser, self._loss(data, [rows for rows in own if len(rows)], training.batch, weight, generator)
                )
        for parameter in learned:
            parameter.requires_grad_(False).grad = None
        for place, rows in enumerate(own):
            if len(rows):
                mean, log_variance = self._posterior(data, rows[None])
                self.means[place], self.log_variances[place] = mean[0], log_variance[0]
        picks = torch.randint(len(frames), (len(self.compared),), generator=generator)
        self.compared.copy_(frames[picks])
        self._anchor(frames, torch.arange(len(self.users)))

    def _loss(
        self, data: Comparisons, own: Sequence[Tensor], batch: int, weight: float, generator: Generator
    ) -> Tensor:
        """Cross-entropy of some users' answers given others of theirs, plus the weighted divergence."""
        groups = min(16, batch)
        size = int(torch.randint(1, SET_SIZE + 1, (1,), generator=generator))
        drawn = torch.randint(len(own), (groups,), generator=generator).tolist()
        picks = torch.rand(groups, size + max(1, batch // groups), generator=generator)
        rows = torch.stack([own[user][(pick * len(own[user])).long()] for user, pick in zip(drawn, picks, strict=True)])
        mean, log_variance = self._posterior(data, rows[:, :size])
        noise = torch.randn(mean.shape, generator=generator)
        codes = mean + noise * (0.5 * log_variance).exp()
        asked = data[rows[:, size:].flatten()]
        worth = []
        for side in (asked.first, asked.second):
            raw = self._decoded_own(side.reshape(groups, -1, side.shape[-1]), codes)
            worth.append(raw.reshape(len(asked), -1).sum(dim=1))
        explained = bradley_terry_loss(worth[0] - worth[1], asked.labels).mean()
        return explained + weight * kl_divergence(mean, log_variance).mean()

    def _tell(self) -> None:
        """Put every user's divergence into what was found, and say who has told nothing."""
        told = self.divergences()
        self.found.figures |= {f"kl_user_{user}": value for user, value in told.items()}
        if silent := [user for user, value in told.items() if value < COLLAPSED]:
            self.found.notes.append(
                f"The posterior of users {silent} has collapsed, so nothing sets them apart; ask them more, or lower "
                "kl_weight."
            )
