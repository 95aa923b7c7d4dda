"""Rewards of several people at once: what each of them prefers, from answers that say who gave them.

Here is what such rewards share, and the cheapest of them: ideal points. The other is
:class:`~vrm.rewards.preference_variational.VariationalReward`.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn

from vrm.data.comparisons import Comparisons
from vrm.encoders import Encoder
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.demonstrations import Findings, refuse_goals
from vrm.rewards.holdout import seeded_training
from vrm.rewards.preference_exam import questions, split_questions
from vrm.rewards.preference_losses import ideal_point_loss
from vrm.rewards.preference_training import CHUNK, check_answers, compared_features
from vrm.rewards.progress import FeatureHead

FLAT = 1e-6  # a spread below this is none


@dataclass(frozen=True)
class Training:
    """How rewards of users are trained.

    Attributes:
        steps: of Adam.
        batch: pairs per step.
        learning_rate: of Adam.
        held_out: share of the questions that figures are of, in [0, 1).
        kl_weight: of the divergence, for those that have one.
    """

    steps: int
    batch: int
    learning_rate: float
    held_out: float
    kl_weight: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError if a number is out of its range."""
        rates = self.learning_rate > 0 and 0 <= self.held_out < 1 and self.kl_weight >= 0
        if min(self.steps, self.batch) < 1 or not rates:
            raise ValueError(
                "steps and batch must be at least 1, learning_rate positive, held_out in [0, 1) and kl_weight at least "
                f"0, got {self}."
            )


class UserReward(RewardModel):
    """What rewards of several users share: pick a user, or pay the mean over users.

    Each user's reward is scaled to mean 0 and standard deviation 1 over all frames compared, so that no user counts
    for more in the mean, and no reward's size depends on who is asked.

    Attributes:
        users: the numbers by which answers name their givers.
        user: whose reward is paid; None for the mean over users.
        found: what ``fit`` wants a person to read; empty for a reward made otherwise.
    """

    takes_goals = False
    reads_pixels = False
    per_user: ClassVar[tuple[str, ...]] = ("shift", "factor")  # tensors with a row for each user
    encoder: Encoder
    settings: dict[str, Any]  # the constructor's other arguments
    shift: Tensor
    factor: Tensor

    def __init__(self, encoder: Encoder, users: Sequence[int], user: int | None) -> None:
        """Keep who there is."""
        super().__init__()
        if not users or len(set(users)) < len(users):
            raise ValueError(f"users must be different numbers, at least one, got {list(users)}.")
        self.encoder, self.users, self.found = encoder, [int(one) for one in users], Findings()
        self.user = self._known(user)
        self.register_buffer("shift", torch.zeros(len(users)))
        self.register_buffer("factor", torch.ones(len(users)))

    def config(self) -> dict[str, Any]:
        """Constructor arguments; the encoder by name."""
        return {"encoder": self.encoder.name, "users": self.users, "user": self.user, **self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with first weights, which loading replaces."""
        return cls(**{**config, "encoder": pick_encoder(config["encoder"], encoder)})

    @classmethod
    @torch.inference_mode(False)
    def _fitted(
        cls, encoder: Encoder, data: Comparisons, shape: Mapping[str, Any], training: Training, seed: int
    ) -> Self:
        """Fit to a share of the questions for figures, then to all of them.

        A question is held out for all users at once: the others' answers to it would tell.
        """
        config = {
            "encoder": encoder.name,
            "users": sorted(set(data.users.tolist())),
            "user": None,
            **shape,
            "seed": seed,
        }
        reward = cls.from_config(config, encoder)
        found = reward.found
        rows, held = split_questions(questions(data), training.held_out, Generator().manual_seed(seed))
        if len(held) and not bool((data.labels[rows] == 0.5).all()):
            other = cls.from_config(config, encoder)
            other._learn(data[rows], training, seed)
            right = other.accuracies(data[held])
            found.figures |= {f"held_out_accuracy_user_{user}": value for user, value in right.items()}
            found.notes.append(f"Held out: {len(held)} of {len(data)} answers.")
        else:
            found.notes.append("Nothing was held out, so nothing is known about new questions.")
        reward._learn(data, training, seed)
        found.figures |= {"answers": float(len(data)), "users": float(len(reward.users))}
        return reward

    @abstractmethod
    def _learn(self, data: Comparisons, training: Training, seed: int) -> None:
        """Learn from answered comparisons of features, on the CPU."""

    @abstractmethod
    def _values(self, features: Tensor, rows: Tensor) -> Tensor:
        """Unscaled rewards ``(U, N)`` of users at ``rows`` for frames ``(N, D)``."""

    @abstractmethod
    def for_answers(self, comparisons: Comparisons, user: int, *, seed: int = 0) -> Self:
        """The reward of a new ``user`` who has given these answers; all that is shared stays as it is."""

    def for_user(self, user: int | None) -> Self:
        """The same reward, paying for this user; None for the mean over users. Tensors are shared.

        Raises:
            ValueError: if the user is unknown.
        """
        other = copy.copy(self)
        other.user = other._known(user)
        return other

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The user's reward as ``{"preference": (B, T)}``; arguments as in the base class.

        Raises:
            PromptError: if ``goals`` are given, for the answers are the goal.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        features = encode_frames(self.encoder, clips).to(self.shift.device)
        rows = self._rows()
        values = torch.cat([self._values(part, rows) for part in torch.split(features.flatten(0, 1), CHUNK)], dim=1)
        rewards = (values - self.shift[rows, None]) * self.factor[rows, None]
        return {"preference": rewards.mean(dim=0).reshape(clips.shape[:2]).to(clips.device)}

    def combine(self, terms: Terms) -> Tensor:
        """The term."""
        return terms["preference"]

    @torch.no_grad()
    def leads(self, first: Tensor, second: Tensor, user: int) -> Tensor:
        """By how much a user holds the first of pairs of features ``(N, L, D)`` for better: ``(N,)``, unscaled."""
        rows = torch.tensor([self.users.index(user)], device=self.shift.device)
        sides = (self._values(side.flatten(0, 1).to(self.shift.device), rows) for side in (first, second))
        first_worth, second_worth = (values.reshape(first.shape[:2]).sum(dim=1) for values in sides)
        return first_worth - second_worth

    def accuracies(self, comparisons: Comparisons) -> dict[int, float]:
        """Share of each user's decided answers that the user's reward agrees with, for users that have any."""
        found = dict[int, float]()
        for user in self.users:
            part = comparisons[(comparisons.users == user) & (comparisons.labels != 0.5)].answered()
            if len(part):
                right = (self.leads(part.first, part.second, user).cpu() > 0) == (part.labels.cpu() > 0.5)
                found[user] = float(right.float().mean())
        return found

    def _rows(self) -> Tensor:
        rows = range(len(self.users)) if self.user is None else [self.users.index(self.user)]
        return torch.tensor(list(rows), device=self.shift.device)

    def _known(self, user: int | None) -> int | None:
        if user is not None and user not in self.users:
            raise ValueError(
                f"User {user} has given no answers; known are {self.users}, a new one joins with for_answers."
            )
        return user

    @torch.no_grad()
    def _anchor(self, frames: Tensor, rows: Tensor) -> None:
        """Mean 0 and spread 1 of users at ``rows`` over frames ``(N, D)``; a constant reward is only shifted."""
        values = torch.cat([self._values(part, rows) for part in torch.split(frames, CHUNK)], dim=1)
        spread = values.std(dim=1, correction=0)
        self.shift[rows] = values.mean(dim=1)
        self.factor[rows] = torch.where(spread < FLAT, 1.0, 1 / spread.clamp(min=FLAT))

    def _joined(self, user: int, data: Comparisons, **rows: Tensor) -> Self:
        """A copy paying for ``user``, who has joined with these rows of :attr:`per_user` and is scaled on ``data``."""
        if user in self.users:
            raise ValueError(f"User {user} is known already; take for_user({user}), or another number.")
        other = copy.deepcopy(self, {id(self.encoder): self.encoder})
        unscaled = {"shift": torch.zeros(()), "factor": torch.ones(())}
        for name in self.per_user:
            before: Tensor = getattr(other, name)
            setattr(other, name, torch.cat([before, (unscaled | rows)[name].to(before)[None]]))
        other.users.append(int(user))
        other.user = int(user)
        other._anchor(torch.cat([data.first, data.second]).flatten(0, 1).to(other.shift.device), other._rows())
        return other


class IdealPointReward(UserReward):
    """Minus the distance from a user's ideal point, which is a mixture of few prototypes (PAL).

    ``r = -||f(x) - u||`` with ``u = sum_k w_k p_k`` and ``w`` the softmax of the user's weights. Projection ``f`` and
    prototypes ``p`` are shared; a new user is ``K`` numbers. Segments are compared by their mean distance.

    Args:
        encoder: whose features are projected.
        users: who has answered.
        user: whose reward is paid; None for the mean over users.
        prototypes: ``K``, typically 2.
        size: of the space of ideal points.
        hidden: widths of the projection's hidden layers; none makes it linear.
        seed: of the first weights.

    Raises:
        ValueError: if a number is below 1, or users are not different.

    Paper: Chen et al. 2024, "PAL: Pluralistic Alignment Framework for Learning from Heterogeneous Preferences",
    arXiv 2406.08469. The prototypes here live in the projected space.
    """

    range = (-float("inf"), float("inf"))
    per_user = ("shift", "factor", "weights")
    weights: Tensor

    def __init__(
        self,
        encoder: Encoder,
        users: Sequence[int],
        user: int | None = None,
        prototypes: int = 2,
        size: int = 16,
        hidden: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        """Draw first weights, without touching torch's global generator; nothing is learned yet."""
        super().__init__(encoder, users, user)
        if min(prototypes, size, *hidden) < 1:
            raise ValueError(f"Sizes must be at least 1, got {prototypes=}, {size=}, hidden={list(hidden)}.")
        self.settings = {"prototypes": prototypes, "size": size, "hidden": list(hidden), "seed": seed}
        generator = Generator().manual_seed(seed)
        self.projection = FeatureHead([encoder.embed_dim, *hidden, size], seed).requires_grad_(False)
        self.prototypes = nn.Parameter(torch.randn(prototypes, size, generator=generator), requires_grad=False)
        self.register_buffer("weights", 0.1 * torch.randn(len(users), prototypes, generator=generator))

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        comparisons: Comparisons,
        *,
        seed: int = 0,
        prototypes: int = 2,
        size: int = 16,
        hidden: Sequence[int] = (),
        steps: int = 600,
        batch: int = 128,
        learning_rate: float = 1e-2,
        held_out: float = 0.2,
    ) -> Self:
        """Learn projection, prototypes and every user's weights; figures are of questions held out of a first fit.

        Args:
            encoder: makes the features.
            comparisons: of frames or features, with ``users``.
            seed: decides everything that is drawn.
            prototypes: as in the constructor, as are those that follow.
            size: of the space of ideal points.
            hidden: of the projection.
            steps: of Adam.
            batch: pairs per step.
            learning_rate: of Adam.
            held_out: share of the questions, in [0, 1).

        Raises:
            ComparisonError: if there are no answers or nothing but ties, or what is compared does not fit.
            ValueError: if a number is out of its range.
        """
        training = Training(steps, batch, learning_rate, held_out)
        data = compared_features(encoder, check_answers(comparisons, cls.__name__))
        shape = {"prototypes": prototypes, "size": size, "hidden": hidden}
        return cls._fitted(encoder, data, shape, training, seed)

    def _learn(self, data: Comparisons, training: Training, seed: int) -> None:
        generator = Generator().manual_seed(seed)
        rows = torch.tensor([self.users.index(user) for user in data.users.tolist()])
        frames = torch.cat([data.first, data.second]).flatten(0, 1)
        self.projection.fit_scale(frames)
        with seeded_training(seed):
            weights = self.weights.clone().requires_grad_(True)
            shared = [p.requires_grad_(True) for p in (*self.projection.parameters(), self.prototypes)]
            optimiser = torch.optim.Adam([weights, *shared], lr=training.learning_rate)
            for _ in range(training.steps):
                chosen = torch.randint(len(data), (min(training.batch, len(data)),), generator=generator)
                descend(optimiser, self._loss(data[chosen], weights[rows[chosen]]))
        for parameter in shared:
            parameter.requires_grad_(False).grad = None
        self.weights.copy_(weights.detach())
        self._anchor(frames, self._rows())

    def for_answers(self, comparisons: Comparisons, user: int, *, seed: int = 0, steps: int = 200) -> Self:
        """The reward of a new user: ``K`` numbers fitted to these answers, all else as it is.

        Args:
            comparisons: that the user has answered, whatever :attr:`Comparisons.users` says.
            user: a new number.
            seed: not used, since nothing here is random; all rewards of users take it.
            steps: of Adam, on all answers at once.

        Raises:
            ComparisonError: if there are no answers or nothing but ties.
            ValueError: if the user is known already.
        """
        data = compared_features(self.encoder, check_answers(comparisons, type(self).__name__))
        device = self.weights.device
        here = Comparisons(*(part.to(device) for part in (data.first, data.second, data.labels, data.users)))
        with seeded_training(seed):
            weights = torch.zeros(1, len(self.prototypes), device=device, requires_grad=True)
            optimiser = torch.optim.Adam([weights], lr=0.1)
            for _ in range(steps):
                descend(optimiser, self._loss(here, weights.expand(len(here), -1)))
        return self._joined(user, data, weights=weights.detach()[0])

    def _values(self, features: Tensor, rows: Tensor) -> Tensor:
        ideal = self.weights[rows].softmax(dim=-1) @ self.prototypes
        return -_distance(self.projection(features)[None], ideal[:, None])

    def _loss(self, data: Comparisons, weights: Tensor) -> Tensor:
        ideal = (weights.softmax(dim=-1) @ self.prototypes)[:, None]
        first, second = (_distance(self.projection(side), ideal).mean(dim=1) for side in (data.first, data.second))
        return ideal_point_loss(second - first, data.labels).mean()


def _distance(points: Tensor, ideal: Tensor) -> Tensor:
    return ((points - ideal).square().sum(dim=-1) + 1e-6).sqrt()  # the root of 0 has no slope


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimiser.step()
