"""Rank2Reward: progress along the demonstrations, paid where a classifier takes frames for demonstrated ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from vrm.data.demos import Demo
from vrm.encoders import Encoder
from vrm.errors import UnknownNameError
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames
from vrm.rewards.demonstrations import encode_demos, refuse_goals
from vrm.rewards.progress import DISTANCE, FeatureHead, ProgressReward

LOWEST_PROGRESS = 1e-6  # as in the authors' code, so that its logarithm stays finite
RANGES = {"mask": (0.0, 1.0), "log": (-float("inf"), 0.0), "ratio": (-float("inf"), float("inf"))}


def rank2reward(progress: Tensor, logit: Tensor, form: str = "mask", alpha: float = 1.0) -> Tensor:
    """Combine progress ``p`` and the classifier's ``D = sigmoid(logit)`` (Yang et al. 2024, arXiv 2404.14735).

    ===========  ==============================================================  ===========
    form         reward                                                          range
    ===========  ==============================================================  ===========
    ``"mask"``   ``p * D``, what the authors' code pays                          [0, 1]
    ``"log"``    ``log p + alpha * log D``, an option of it                      <= 0
    ``"ratio"``  ``log p + alpha * (log D - log(1 - D))``, the paper's           any
    ===========  ==============================================================  ===========

    Args:
        progress: ``(...)`` in [0, 1]; logarithms take it as at least 1e-6.
        logit: ``(...)`` log-odds that a frame is from a demonstration.
        form: one of the above.
        alpha: weight of the classifier; the mask has none.

    Raises:
        UnknownNameError: if ``form`` is unknown.

    Example:
        >>> round(rank2reward(torch.tensor(0.5), torch.tensor(0.0)).item(), 2)
        0.25
    """
    if form == "mask":
        return progress * torch.sigmoid(logit)
    if form not in RANGES:
        raise UnknownNameError("form", form, RANGES)
    log_progress = progress.clamp(min=LOWEST_PROGRESS).log()
    return log_progress + alpha * (functional.logsigmoid(logit) if form == "log" else logit)


def mixed(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Points ``(B, D)`` on the lines between two batches; ``weight`` ``(B,)`` of the first."""
    return weight[:, None] * first + (1 - weight[:, None]) * second


def gradient_penalty(critic: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """One-sided penalty ``mean[max(||grad critic(x)|| - 1, 0)^2]`` at ``points`` ``(B, D)``, for each point its own.

    Gulrajani et al. 2017 (arXiv 1704.00028); one-sided as in Petzka et al. 2018 (arXiv 1709.08894).
    """
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return functional.relu(gradient.norm(dim=-1) - 1).square().mean()


class Rank2Reward(RewardModel):
    """Progress by a ranker, and an expert-against-agent classifier that learns online what the agent does.

    A ranker alone is fooled by frames that no demonstration has; :meth:`observe` shows the classifier the agent's
    frames, which tells them apart from demonstrated ones, and what they pay falls. Half of the classifier's negative
    frames are the agent's; the authors' other half, demonstrated frames of other goals, has no place here where there
    is one goal.

    The classifier sees features with the mean and scale of the ranker, at training as at scoring. Rewards paid before
    :meth:`observe` are not those paid after: what lies in a replay buffer is stale and can be scored again.
    :meth:`save` keeps the frames seen and the classifier, but not the state of its optimiser.

    Args:
        ranker: a fitted :class:`ProgressReward` of objective ``"rank"`` or ``"time"``.
        experts: ``(N, D)`` features of the demonstrations' frames.
        form: how both are combined, see :func:`rank2reward`.
        alpha: weight of the classifier in the forms with logarithms.
        hidden: sizes of the classifier's hidden layers; the authors have three of 1000, for 100 demonstrations.
        capacity: how many of the agent's frames are kept, the newest ones.
        mixup: whether the classifier is trained on mixtures of two frames, labelled by their shares.
        penalty: weight of :func:`gradient_penalty` between both kinds; 0 for none.
        lr: learning rate of Adam.
        seed: of the classifier's first weights and of its batches.

    Raises:
        ValueError: if the ranker measures distances, or a number is out of its range.
        UnknownNameError: if ``form`` is unknown.

    Example:
        >>> reward = Rank2Reward.fit(encoder, demos)  # doctest: +SKIP
        >>> reward.observe(agent_clips)  # doctest: +SKIP
        {'loss': 0.61, 'expert_probability': 0.58, 'agent_probability': 0.43, 'penalty': 0.0}

    Paper: Yang et al., "Rank2Reward: Learning Shaped Reward Functions from Passive Video", arXiv 2404.14735.
    """

    takes_goals = False
    reads_pixels = False
    experts: Tensor
    agents: Tensor
    seen: Tensor

    def __init__(
        self,
        ranker: ProgressReward,
        experts: Tensor,
        *,
        form: str = "mask",
        alpha: float = 1.0,
        hidden: Sequence[int] = (256,),
        capacity: int = 4096,
        mixup: bool = True,
        penalty: float = 10.0,
        lr: float = 1e-4,
        seed: int = 0,
    ) -> None:
        """Start with a classifier that has seen nothing."""
        super().__init__()
        if ranker.objective in DISTANCE:
            raise ValueError(f"The ranker must give progress in [0, 1], but {ranker.objective!r} measures distances.")
        if form not in RANGES:
            raise UnknownNameError("form", form, RANGES)
        if capacity < 1 or not lr > 0 or penalty < 0 or not alpha > 0:
            raise ValueError(
                f"capacity, lr and alpha must be positive and penalty at least 0, got {capacity=}, {lr=}, {alpha=}, "
                f"{penalty=}."
            )
        dim = ranker.encoder.embed_dim
        if experts.ndim != 2 or experts.shape[1] != dim or not len(experts):
            raise ValueError(f"experts must be features (N, {dim}), got shape {tuple(experts.shape)}.")
        self.ranker, self.form, self.alpha, self.hidden = ranker, form, float(alpha), [int(h) for h in hidden]
        self.capacity, self.mixup, self.penalty, self.lr, self.seed = capacity, bool(mixup), float(penalty), lr, seed
        self.range = RANGES[form]
        self.found = ranker.found
        self.classifier = FeatureHead([dim, *hidden, 1], seed).requires_grad_(False)
        self.classifier.centre.copy_(ranker.head.centre)
        self.classifier.spread.copy_(ranker.head.spread)
        for value in self.classifier.layers[-1].parameters():
            nn.init.zeros_(value)  # before it has seen anything it says 0.5 to all
        self.register_buffer("experts", experts.detach().float().clone())
        self.register_buffer("agents", torch.zeros(capacity, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # frames ever observed
        self._optimizer: torch.optim.Optimizer | None = None

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        demos: Sequence[Demo],
        *,
        objective: str = "time",
        steps: int = 2000,
        form: str = "mask",
        alpha: float = 1.0,
        hidden: Sequence[int] = (256,),
        capacity: int = 4096,
        mixup: bool = True,
        penalty: float = 10.0,
        lr: float = 1e-4,
        seed: int = 0,
    ) -> Self:
        """Fit the ranker and keep the demonstrations' features; the classifier learns later, from :meth:`observe`.

        Args:
            encoder: makes the features.
            demos: videos of the task done.
            objective: ``"time"``, as in the authors' code, or ``"rank"``, as in their paper.
            steps: of the ranker.
            form: see :func:`rank2reward`.
            alpha: see :func:`rank2reward`.
            hidden: as in the constructor, as are those that follow.
            capacity: of frames of the agent.
            mixup: whether the classifier learns from mixtures.
            penalty: weight of the gradient penalty.
            lr: of the classifier.
            seed: of all random draws.

        Raises:
            DemoError: as :meth:`ProgressReward.fit` does.
        """
        ranker = ProgressReward.fit(encoder, demos, objective=objective, steps=steps, seed=seed)
        return cls(
            ranker, torch.cat(encode_demos(encoder, demos)), form=form, alpha=alpha, hidden=hidden, capacity=capacity,
            mixup=mixup, penalty=penalty, lr=lr, seed=seed,
        )  # fmt: skip

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Progress and the classifier's log-odds as ``"progress"`` and ``"expert_logit"``, each ``(B, T)``.

        Raises:
            PromptError: if ``goals`` are given, for the demonstrations are the goal.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        features = encode_frames(self.ranker.encoder, clips)
        logit = self.classifier(features.to(self.experts.device))[..., 0]
        return {"progress": self.ranker.progress(features), "expert_logit": logit.to(features.device)}

    def combine(self, terms: Terms) -> Tensor:
        """Both in one number, by :func:`rank2reward`."""
        return rank2reward(terms["progress"], terms["expert_logit"], self.form, self.alpha)

    def observe(self, agent: Tensor, steps: int = 50, batch: int = 256) -> dict[str, float]:
        """Show the classifier frames of the agent and train it; rewards paid before are stale afterwards.

        Args:
            agent: ``(B, T, 3, H, W)`` clips, ``(N, 3, H, W)`` frames, or ``(N, D)`` features of them.
            steps: of training, on demonstrated frames and all of the agent's that are kept.
            batch: frames of each kind per step.

        Returns:
            Means over the steps: ``loss``, ``expert_probability`` and ``agent_probability`` (what the classifier says
            of each kind), ``penalty`` (before its weight).

        Raises:
            FrameError: if frames break the layout.
            ValueError: if features have another size, or a number is not positive.
        """
        if steps < 1 or batch < 1:
            raise ValueError(f"steps and batch must be at least 1, got {steps=}, {batch=}.")
        self._keep(self._features(agent))
        generator = Generator().manual_seed(self.seed + int(self.seen))
        self.classifier.requires_grad_(True)
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.classifier.parameters(), lr=self.lr)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                told = [self._learn(self._optimizer, batch, generator) for _ in range(steps)]
        finally:
            self.classifier.requires_grad_(False)
        return {name: sum(values[name] for values in told) / steps for name in told[0]}

    def config(self) -> dict[str, Any]:
        """The ranker's config, how many demonstrated frames there are, and the constructor's other arguments."""
        return {
            "ranker": self.ranker.config(),
            "experts": len(self.experts),
            "form": self.form,
            "alpha": self.alpha,
            "hidden": self.hidden,
            "capacity": self.capacity,
            "mixup": self.mixup,
            "penalty": self.penalty,
            "lr": self.lr,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with features and weights that loading replaces."""
        ranker = ProgressReward.from_config(config["ranker"], encoder)
        experts = torch.zeros(config["experts"], ranker.encoder.embed_dim)
        return cls(ranker, experts, **{k: v for k, v in config.items() if k not in ("ranker", "experts")})

    @torch.no_grad()
    def _features(self, agent: Tensor) -> Tensor:
        encoder = self.ranker.encoder
        if agent.ndim != 2:
            return encoder.encode_image(agent.flatten(0, 1) if agent.ndim == 5 else agent).to(self.agents.device)
        if agent.shape[1] != encoder.embed_dim or not len(agent):
            raise ValueError(
                f"Features of encoder {encoder.name!r} must be (N, {encoder.embed_dim}), got {tuple(agent.shape)}."
            )
        return agent.detach().to(self.agents.device, torch.float32)

    def _keep(self, features: Tensor) -> None:
        """Put features over the oldest kept."""
        count = len(features)
        newest = features[-self.capacity :]
        places = (int(self.seen) + count - len(newest) + torch.arange(len(newest))) % self.capacity
        self.agents[places.to(self.agents.device)] = newest
        self.seen += count

    def _learn(self, optimizer: torch.optim.Optimizer, batch: int, generator: Generator) -> dict[str, float]:
        """One step of the classifier."""
        count = min(int(self.seen), self.capacity)
        device = self.experts.device
        expert = self.experts[torch.randint(len(self.experts), (batch,), generator=generator).to(device)]
        agent = self.agents[torch.randint(count, (batch,), generator=generator).to(device)]
        line = mixed(expert, agent, torch.rand(batch, generator=generator).to(device))
        inputs, labels = torch.cat([expert, agent]), torch.cat([torch.ones(batch), torch.zeros(batch)]).to(device)
        if self.mixup:
            order = torch.randperm(2 * batch, generator=generator).to(device)
            weight = torch.rand(2 * batch, generator=generator).to(device)
            inputs, labels = mixed(inputs, inputs[order], weight), weight * labels + (1 - weight) * labels[order]
        loss = functional.binary_cross_entropy_with_logits(self.classifier(inputs)[:, 0], labels)
        # on the features as the layers see them: on unit features the slope would depend on the encoder's spread
        slope = gradient_penalty(self.classifier.layers, self.classifier.scaled(line)) if self.penalty else loss * 0
        optimizer.zero_grad(set_to_none=True)
        (loss + self.penalty * slope).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        with torch.no_grad():
            sure = [float(torch.sigmoid(self.classifier(kind)).mean()) for kind in (expert, agent)]
        told = {"loss": float(loss.detach()), "expert_probability": sure[0], "agent_probability": sure[1]}
        return {**told, "penalty": float(slope.detach())}
