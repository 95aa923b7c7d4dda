"""Pairwise progress: how much of the remaining task lies between two frames, and whether the task is done (VLAC)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrm.data.demos import Demo
from vrm.encoders import Encoder
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.critic_data import Pairs, PairSampler, grey_thumbnails
from vrm.rewards.demonstrations import Findings, check_demos, encode_demos
from vrm.rewards.holdout import describe, hold_out, order_figures, seeded_training, train_watched
from vrm.rewards.told import SHARED_TEXT, told, wrong_texts

Composition = Literal["inverse", "simple", "mixed", "incremental"]
Pay = Literal["delta", "done", "both"]
EXAM = 1024  # pairs that the held-out loss is computed on


def compose_progress(deltas: Tensor, form: Composition = "inverse", start: float = 0.0) -> Tensor:
    """Add up signed fractions of the remaining task to the share of the task that is done.

    A step forward, ``c >= 0``, takes its fraction of what remains: ``v' = v + (1 - v) c``. A step back, ``c < 0``, is
    one of:

    =================  ================================================================================================
    form               ``v'`` for ``c < 0``
    =================  ================================================================================================
    ``"inverse"``      ``1 - max(1 - v, 0.01) / (1 + c)``, which undoes the step forward by ``-c``; one of the released
                       code's forms
    ``"simple"``       ``v + (1 - v) c``, the published formula
    ``"mixed"``        ``v + v c`` up to ``v = 1/2``, else the larger of ``"inverse"`` and 0.1; another released form
    ``"incremental"``  ``v + v c``, of Robo-Dopamine (2025)
    =================  ================================================================================================

    Whatever the form, values are kept in [0, 1].

    Args:
        deltas: ``(..., N)`` in [-1, 1], each from one frame to the next that counts.
        form: one of the above.
        start: the first value, in [0, 1]; 0 as published.

    Returns:
        ``(..., N + 1)`` values in [0, 1], the first ``start``.

    Raises:
        ValueError: if ``form`` is unknown, or a delta is outside [-1, 1] or ``start`` outside [0, 1].

    Example:
        >>> compose_progress(torch.tensor([0.2, 0.3, -0.1, 0.5, -0.2]))
        tensor([0.0000, 0.2000, 0.4400, 0.3778, 0.6889, 0.6111])

    Source: Zhai et al. 2025, "A Vision-Language-Action-Critic Model for Robotic Real-World Reinforcement Learning"
    (VLAC), arXiv 2509.15937, and its released code.
    """
    if form not in get_args(Composition):
        raise ValueError(f"form must be one of {', '.join(get_args(Composition))}, got {form!r}.")
    if not bool((deltas.abs() <= 1).all()) or not 0 <= start <= 1:
        raise ValueError(
            "Deltas must lie in [-1, 1], as signed fractions of the remaining task, and the first value in [0, 1]; got "
            f"a delta of size {float(deltas.abs().max()) if deltas.numel() else 0:.4g} and start={start}."
        )
    values = [torch.full_like(deltas[..., :1].sum(-1), start)]
    for c in deltas.unbind(-1):
        v = values[-1]
        back = _step_back(v, c.clamp(max=0), form)
        values.append(torch.where(c < 0, back, v + (1 - v) * c).clamp(0, 1))
    return torch.stack(values, dim=-1)


def _step_back(v: Tensor, c: Tensor, form: Composition) -> Tensor:
    if form == "simple":
        return v + (1 - v) * c
    inverse = 1 - (1 - v).clamp(min=0.01) / (1 + c).clamp(min=1e-6)
    if form == "inverse":
        return inverse
    return v + v * c if form == "incremental" else torch.where(v > 0.5, inverse.clamp(min=0.1), v + v * c)


class PairNetwork(nn.Module):
    """Delta and done heads over frozen features.

    The delta is ``tanh(f(a, b) - f(b, a))`` with one network ``f`` of both frames, their difference and the text:
    swapping the frames negates it and a frame beside itself gives 0, whatever the weights are.

    Args:
        embed_dim: size ``D`` of frame and text features.
        width: of the hidden layers.
        dropout: in training.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, embed_dim: int, width: int, dropout: float = 0.0) -> None:
        """Draw weights from torch's global generator."""
        super().__init__()
        self.register_buffer("centre", torch.zeros(embed_dim))
        self.register_buffer("spread", torch.ones(()))
        self.pair = _head(4 * embed_dim, width, dropout)
        self.single = _head(2 * embed_dim, width, dropout)

    def standardise(self, features: Tensor) -> None:
        """Take the mean ``(D,)`` and the root mean square deviation of training frames ``(M, D)``."""
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_((features - self.centre).square().mean().sqrt().clamp(min=1e-6))

    def delta(self, before: Tensor, after: Tensor, text: Tensor) -> Tensor:
        """Signed fraction ``(...)`` in [-1, 1] from frames and texts, each ``(..., D)``."""
        a, b, goal = self._scaled(before), self._scaled(after), text * text.shape[-1] ** 0.5
        there = self.pair(torch.cat([a, b, b - a, goal], dim=-1))
        back = self.pair(torch.cat([b, a, a - b, goal], dim=-1))
        return torch.tanh(there - back)[..., 0]

    def done(self, frames: Tensor, text: Tensor) -> Tensor:
        """Logit ``(...)`` of the task being done, from frames and texts, each ``(..., D)``."""
        goal = text * text.shape[-1] ** 0.5
        logit: Tensor = self.single(torch.cat([self._scaled(frames), goal], dim=-1))[..., 0]
        return logit

    def _scaled(self, frames: Tensor) -> Tensor:
        return (frames - self.centre) / self.spread


def _head(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width),
        nn.GELU(), nn.Linear(width, 1),
    )  # fmt: skip


class ProgressCritic(RewardModel):
    """Pays the fraction of the remaining task that the last ``interval`` frames achieved, and for being done.

    The critic's terms are ``"delta"`` in [-1, 1], signed, comparing frame ``t`` with frame ``t - interval``, or with
    the first one while the episode is younger; and ``"done"`` in [0, 1], of frame ``t`` alone. VLAC pays both (its
    section on reinforcement learning). A clip's score is the value composed from the deltas of the pairs that lead, in
    steps of ``interval``, to its last frame.

    Args:
        encoder: the image-text model, frozen.
        text: the goal where a call gives none.
        interval: frames between the two that are compared; VLAC's training frames are about 0.2 s apart, its
            evaluation pairs 1 s.
        pay: whether the reward is the ``"delta"``, ``"done"`` or the sum of ``"both"``.
        composition: how :meth:`score` composes values, as in :func:`compose_progress`.
        width: of the hidden layers.

    Raises:
        ValueError: if ``interval`` or ``width`` is below 1, or ``pay`` or ``composition`` unknown.

    Attributes:
        found: what :meth:`fit` found; absent from a reward that was loaded.

    Example:
        >>> critic = ProgressCritic.fit(encoder, demos, interval=5)  # doctest: +SKIP
        >>> critic.terms(clips)["delta"]  # (B, T)  # doctest: +SKIP

    Paper: Zhai et al. 2025, "A Vision-Language-Action-Critic Model for Robotic Real-World Reinforcement Learning"
    (VLAC), arXiv 2509.15937. The published critic is a vision-language model of 2B or 8B parameters that writes the
    number; this one is a small head on frozen features.
    """

    reads_pixels = False
    found: Findings

    def __init__(
        self,
        encoder: Encoder,
        text: str | None = None,
        interval: int = 5,
        pay: Pay = "both",
        composition: Composition = "inverse",
        width: int = 256,
    ) -> None:
        """Build the heads with random weights, which :meth:`fit` or a file replaces."""
        super().__init__()
        if interval < 1 or width < 1:
            raise ValueError(f"interval and width must be at least 1, got interval={interval} and width={width}.")
        if pay not in get_args(Pay) or composition not in get_args(Composition):
            raise ValueError(
                f"pay must be one of {', '.join(get_args(Pay))} and composition one of "
                f"{', '.join(get_args(Composition))}, got {pay!r} and {composition!r}."
            )
        self.encoder, self.text = encoder, text
        self.interval, self.window = int(interval), int(interval) + 1
        self.pay, self.composition, self.width = pay, composition, int(width)
        self.range = {"delta": (-1.0, 1.0), "done": (0.0, 1.0), "both": (-1.0, 2.0)}[pay]
        with torch.random.fork_rng(devices=[]):
            self.network = PairNetwork(encoder.embed_dim, width)
        self.network.requires_grad_(False)
        self.eval()

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        demos: Sequence[Demo],
        *,
        seed: int = 0,
        text: str | None = None,
        negatives: Sequence[str] | None = None,
        interval: int = 5,
        pay: Pay = "both",
        composition: Composition = "inverse",
        still: float = 0.01,
        mismatch: float = 0.05,
        irrelevant: float = 0.05,
        width: int = 256,
        dropout: float = 0.1,
        steps: int = 600,
        batch: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        held_out: float = 0.2,
    ) -> Self:
        """Train on pairs of frames from demonstrations of success; keep the state best on those held out.

        Half of the pairs are ``interval`` apart, half any distance, as published. Swapped pairs are negated by
        construction. The loss is the squared error of the delta plus the binary cross-entropy of done.

        Args:
            encoder: the image-text model.
            demos: demonstrations of success.
            seed: decides everything that is drawn.
            text: what demonstrations without a text show, and the goal where a call gives none; by default the
                demonstrations' own text if there is one only.
            negatives: sentences that are wrong for every demonstration; by default the other demonstrations' texts, or
                if there are none, sentences about unrelated things (:data:`vrm.rewards.told.UNRELATED`).
            interval: as for the class.
            pay: as for the class.
            composition: as for the class.
            still: two frames of which less than this share of pixels differ count as still: delta 0.
            mismatch: share of pairs told with a wrong text: delta 0 (published), not done (ours).
            irrelevant: share of pairs whose second frame is of a demonstration with another text: delta 0; where all
                have one text there are none.
            width: as for the class.
            dropout: in training.
            steps: of the optimiser.
            batch: pairs per step.
            learning_rate: at the start.
            weight_decay: of AdamW.
            held_out: share of demonstrations that are held out, at least one unless there is one only.

        Raises:
            DemoError: if there is no demonstration, or one is too short or shows one picture only.
            ValueError: if an option is out of its range.
        """
        check_demos(demos, "ProgressCritic", frames=3)
        texts = [demo.text or text or SHARED_TEXT for demo in demos]
        known, wrong = wrong_texts(texts, negatives)
        sampler = PairSampler(
            features=encode_demos(encoder, demos),
            thumbnails=[grey_thumbnails(demo.frames) for demo in demos],
            told=encoder.encode_text(known).cpu(),
            own=torch.tensor([known.index(t) for t in texts]),
            wrong=wrong,
            interval=interval,
            still=still,
            mismatch=mismatch,
            irrelevant=irrelevant,
        )
        default = text or (texts[0] if len(wrong) == 1 else None)
        critic = cls(encoder, default, interval, pay, composition, width)
        generator = torch.Generator().manual_seed(seed)
        trained, watched = hold_out(texts, generator, held_out)
        exam = sampler.sample(watched, EXAM, torch.Generator().manual_seed(seed + 1))
        with seeded_training(seed):
            network = PairNetwork(encoder.embed_dim, width, dropout)
            network.standardise(torch.cat([sampler.features[i] for i in trained]))
            result = train_watched(
                network,
                lambda: _loss(network, sampler.sample(trained, batch, generator)),
                lambda: _loss(network, exam),
                steps,
                learning_rate,
                weight_decay,
            )
        critic.network.load_state_dict(network.state_dict())
        figures = order_figures(
            critic._judge,
            [sampler.features[i] for i in watched],
            sampler.own[watched].tolist(),
            sampler.told,
            wrong,
            judge_reversed=partial(critic._judge, start=1.0),
        )
        critic.found = describe(result, steps, [demos[i].name for i in watched], len(demos) == 1, figures)
        critic.network.to(encoder.device)
        return critic

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """``"delta"`` and ``"done"``, each ``(B, T)``; arguments as in the base class.

        Raises:
            PromptError: if the critic was fitted to several texts and ``goals`` do not say which one is meant.
        """
        features = encode_frames(self.encoder, check_call(clips, goals, state))
        return self._judged(features, told(self.encoder, self.text, goals, len(clips)))

    def latest(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The terms of the last frame, from the two frames compared alone."""
        check_call(clips, goals, state)
        if self.encoder.supplied(clips) is None and clips.shape[1] > 2:
            pair = clips[:, [max(clips.shape[1] - self.window, 0), -1]]
        else:
            pair = clips
        features = encode_frames(self.encoder, pair)
        before = features[:, [max(features.shape[1] - self.window, 0)]]
        found = self._heads(before, features[:, -1:], told(self.encoder, self.text, goals, len(clips)))
        return {name: values[:, 0] for name, values in found.items()}

    def combine(self, terms: Terms) -> Tensor:
        """What is paid: one term or the sum of both."""
        return terms["delta"] + terms["done"] if self.pay == "both" else terms[self.pay]

    def values(self, clips: Tensor, goals: Goals = None, state: State = None, start: float = 0.0) -> Tensor:
        """Share of the task done ``(B, P)`` in [0, 1] at the frames of :meth:`anchors`, composed from deltas.

        ``start`` is the value at the first frame; the other arguments are as in :meth:`terms`.
        """
        deltas = self.terms(clips, goals, state)["delta"]
        return compose_progress(deltas[:, self.anchors(clips.shape[1])[1:]], self.composition, start)

    def anchors(self, total: int) -> list[int]:
        """Frames whose pairs values are composed from: the first, and back from the last in steps of ``interval``."""
        return [0, *reversed(range(total - 1, 0, -self.interval))]

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """The value at the last frame ``(B,)``, in [0, 1]."""
        return self.values(clips, goals, state)[:, -1]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: what was learned is frozen."""
        return super().train(False)

    def config(self) -> dict[str, Any]:
        """Constructor arguments; the encoder by name."""
        return {
            "encoder": self.encoder.name,
            "text": self.text,
            "interval": self.interval,
            "pay": self.pay,
            "composition": self.composition,
            "width": self.width,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with random weights, which loading replaces."""
        return cls(**{**config, "encoder": pick_encoder(config["encoder"], encoder)})

    def _judged(self, features: Tensor, text: Tensor) -> Terms:
        earlier = (torch.arange(features.shape[1]) - self.interval).clamp(min=0)
        return self._heads(features[:, earlier], features, text)

    def _heads(self, before: Tensor, after: Tensor, text: Tensor) -> Terms:
        device = self.network.centre.device
        a, b = before.to(device), after.to(device)
        goal = text.to(device)[:, None].expand_as(b)
        found = {"delta": self.network.delta(a, b, goal), "done": torch.sigmoid(self.network.done(b, goal))}
        return {name: values.to(after.device) for name, values in found.items()}

    def _judge(self, features: Tensor, text: Tensor, start: float = 0.0) -> Tensor:
        deltas = self._judged(features[None], text[None])["delta"]
        return compose_progress(deltas[0, self.anchors(len(features))[1:]], self.composition, start)


def _loss(network: PairNetwork, pairs: Pairs) -> Tensor:
    """Squared error of the delta plus cross-entropy of done."""
    error = functional.mse_loss(network.delta(pairs.before, pairs.after, pairs.text), pairs.delta)
    return error + functional.binary_cross_entropy_with_logits(network.done(pairs.frame, pairs.text), pairs.done)
