"""Preference reward: an ensemble of small networks that learns from answers to "which of these two is better?"."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from vrm.data.comparisons import ComparisonError, Comparisons
from vrm.encoders import Encoder
from vrm.errors import UnknownNameError
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.demonstrations import Findings, refuse_goals
from vrm.rewards.holdout import seeded_training
from vrm.rewards.preference_exam import contradictions, examine, questions, split_questions
from vrm.rewards.preference_losses import LINKS, TIE_LINKS, Link, preference_probability
from vrm.rewards.preference_networks import make_heads, restandardise, small_frames
from vrm.rewards.preference_strength import halves, judged_by_others, measure_strength, treat_answers
from vrm.rewards.preference_training import (
    CHUNK,
    Recipe,
    Trained,
    check_answers,
    compared_features,
    member_outputs,
    segment_scores,
    train_members,
)
from vrm.rewards.progress import FeatureHead

Input = Literal["features", "pixels"]
FLAT = 1e-6  # a spread below this is none


class PreferenceReward(RewardModel):
    """The mean of an ensemble's rewards, each in line with the answers given, minus ``caution`` times their spread.

    A member is a network whose output goes through tanh (PEBBLE: Lee et al. 2021, arXiv 2106.05091), on the frozen
    features of an encoder or on pixels (RL-VLM-F: Wang et al. 2024, arXiv 2402.03681). A segment is worth the sum over
    its frames, and ``d`` is what the first is worth minus the second:

    ===================  ==========================================================================================
    link                 what ``d`` says about the answer
    ===================  ==========================================================================================
    ``"bradley_terry"``  ``P(first) = sigmoid(d)``; a tie is half an answer for either
    ``"rao_kupper"``     ``P(first) = sigmoid(d - theta)``, and between is a tie; ``theta`` is learned
    ``"davidson"``       first, tie, second as ``e^(d/2) : nu : e^(-d/2)``; ``nu`` is learned
    ``"regret"``         ``P(first) = sigmoid(d)`` where a segment is worth ``V(last) - V(first)`` plus the sum of what
                         comes after its first frame (Knox et al. 2022, arXiv 2206.02231); each member learns ``V``
                         beside, as the best value of its reward on the segments (IQL, expectile 0.9); the
                         answers are explained by ``V`` for the most part, so look at the reward before paying it
    ===================  ==========================================================================================

    **The free constant.** Segments are of one length, so a constant added to every reward changes no answer, and the
    answers cannot say what it is; yet where episodes end early it decides whether the agent likes to live. So it is
    set: over a reference set (all frames compared, unless others are given) the mean reward is ``anchor`` and its
    standard deviation 1. Offset and factor of each member are buffers, found anew at each refit; all that was paid
    before is then stale.

    Args:
        encoder: whose features members see; not needed for ``input="pixels"``.
        input: ``"features"`` or ``"pixels"``.
        members: how many networks, which differ by first weights and the order of the answers.
        hidden: widths of the layers of a network on features.
        size: pixels of the square that a network on pixels sees, at least 53.
        link: one of the above.
        noise: share of answers taken to be given at random, in [0, 1).
        caution: how many standard deviations over members are subtracted, at least 0.
        anchor: mean reward on the reference set; a positive one pays for staying alive.
        bootstrap: whether each member learns from answers drawn with replacement, rather than all of them.
        epochs: the most per fit; training ends when 97 % of the answers learned from are right.
        batch: pairs per step.
        learning_rate: of Adam.
        seed: of the first weights.

    Raises:
        UnknownNameError: if ``input`` or ``link`` is unknown.
        ValueError: if a number is out of its range, or features are wanted without an encoder.

    Attributes:
        found: what :meth:`fit` wants a person to read; empty for a reward made otherwise.

    Example:
        >>> reward = PreferenceReward.fit(encoder, comparisons, link="davidson")  # doctest: +SKIP
        >>> reward.terms(clips)["disagreement"]  # (B, T)  # doctest: +SKIP
    """

    takes_goals = False
    shift: Tensor
    factor: Tensor
    ties: Tensor
    trained: Tensor

    def __init__(
        self,
        encoder: Encoder | None = None,
        input: Input | str = "features",
        members: int = 3,
        hidden: Sequence[int] = (256, 256, 256),
        size: int = 64,
        link: Link | str = "bradley_terry",
        noise: float = 0.0,
        caution: float = 0.0,
        anchor: float = 0.0,
        bootstrap: bool = False,
        epochs: int = 200,
        batch: int = 128,
        learning_rate: float = 3e-4,
        seed: int = 0,
    ) -> None:
        """Draw first weights, without touching torch's global generator; nothing is learned yet."""
        super().__init__()
        for what, name, known in (("input", input, get_args(Input)), ("link", link, LINKS)):
            if name not in known:
                raise UnknownNameError(what, name, known)
        if min(members, epochs, batch, *hidden) < 1 or not learning_rate > 0:
            raise ValueError(
                "members, hidden widths, epochs and batch must be at least 1 and learning_rate positive, got "
                f"{members=}, hidden={list(hidden)}, {epochs=}, {batch=}, {learning_rate=}."
            )
        if not 0 <= noise < 1 or not 0 <= caution < math.inf or not math.isfinite(anchor):
            raise ValueError(
                f"noise must lie in [0, 1), caution be at least 0 and both it and anchor finite, got {noise=}, "
                f"{caution=}, {anchor=}."
            )
        if input == "features" and encoder is None:
            raise ValueError('input="features" needs an encoder; give one, or use input="pixels".')
        self.reads_pixels = input == "pixels"
        self.encoder = None if self.reads_pixels else encoder
        self.settings: dict[str, Any] = {
            "input": str(input), "members": int(members), "hidden": [int(width) for width in hidden], "size": int(size),
            "link": str(link), "noise": float(noise), "caution": float(caution), "anchor": float(anchor),
            "bootstrap": bool(bootstrap), "epochs": int(epochs), "batch": int(batch),
            "learning_rate": float(learning_rate), "seed": int(seed),
        }  # fmt: skip
        self.recipe = Recipe(_link(link), float(noise), int(epochs), batch=int(batch), learning_rate=learning_rate)
        self.caution, self.anchor = float(caution), float(anchor)
        self.heads = nn.ModuleList(self._new_heads(members, seed)).requires_grad_(False)
        self.register_buffer("shift", torch.zeros(members))
        self.register_buffer("factor", torch.ones(members))
        self.register_buffer("ties", torch.zeros(members))  # before softplus
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))  # how often
        self.found = Findings()

    @classmethod
    @torch.inference_mode(False)
    def fit(
        cls,
        encoder: Encoder | None,
        comparisons: Comparisons,
        *,
        seed: int = 0,
        held_out: float = 0.2,
        shuffles: int = 0,
        reference: Tensor | None = None,
        **settings: Any,
    ) -> Self:
        """Learn from answered comparisons; those without an answer are left out.

        First, a share of the questions is held out and an ensemble fitted to the rest, for the figures; then one is
        fitted to all. The same pieces may stand in other questions, so the figures are about answers to new questions,
        not about new videos.

        Args:
            encoder: makes the features; None with ``input="pixels"``.
            comparisons: of frames, or of the encoder's features.
            seed: decides everything that is drawn.
            held_out: share of the questions held out, in [0, 1); 0 for no figures. None of fewer than five are.
            shuffles: if above 0, the answers' strength is measured first, by models on both halves of so many shuffles
                (10 as published), and answers are flipped, smoothed or given a margin as
                :func:`~vrm.rewards.preference_strength.treat_answers` says.
            reference: ``(M, L, ...)`` features or frames over which the reward is anchored; by default all compared.
            settings: the constructor's other arguments.

        Raises:
            ComparisonError: if there are no answers or nothing but ties, or what is compared does not fit.
            ValueError: if a setting is out of its range, or strength is to be measured with a tie model or noise.
        """
        if not 0 <= held_out < 1 or shuffles < 0:
            raise ValueError(f"held_out must lie in [0, 1) and shuffles be at least 0, got {held_out=}, {shuffles=}.")
        reward = cls(encoder, **settings, seed=seed)
        if shuffles and (reward.recipe.noise or reward.recipe.link in TIE_LINKS):
            raise ValueError(
                f"Measuring strength (shuffles={shuffles}) treats wrong answers itself and knows no ties: use noise=0 "
                f"and link bradley_terry or regret, not noise={reward.recipe.noise}, link={reward.recipe.link}."
            )
        data = reward._seen(check_answers(comparisons, cls.__name__))
        reward.found = reward._examined(data, held_out, shuffles, seed)
        reward.found.figures |= reward._fitted(data, shuffles, seed)
        reward._anchor(data, reference)
        return reward

    @torch.inference_mode(False)
    def update(self, comparisons: Comparisons, *, seed: int, reference: Tensor | None = None) -> dict[str, float]:
        """Refit in place to all answers there are, from the present weights; what was paid before is stale.

        Args:
            comparisons: all that were ever asked, of frames or features.
            seed: of the orders.
            reference: as in :meth:`fit`.

        Returns:
            ``accuracy`` (of decided answers; of all with a model of ties) and ``loss`` in the last epoch,
            ``disagreement`` (mean standard deviation over members of the probability that the first is preferred),
            ``epochs`` done, and how many ``answers`` there are. If none of them is for one side, nothing is learned:
            0 epochs, and what is undefined is nan.

        Raises:
            ComparisonError: if what is compared does not fit.
        """
        answered = comparisons.answered()
        told = {"accuracy": math.nan, "loss": math.nan, "disagreement": math.nan, "epochs": 0.0}
        told["answers"] = float(len(answered))
        if not len(answered) or bool((answered.labels == 0.5).all()):
            return told
        data = self._seen(check_answers(answered, type(self).__name__))
        result = self._learn(data, seed)
        self._anchor(data, reference)
        likely = self._likely(data)
        return told | {
            "accuracy": result.accuracy,
            "loss": result.loss,
            "disagreement": float(likely.std(dim=0, correction=0).mean()),
            "epochs": float(result.epochs),
        }

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """``"preference"``, the mean over members, and ``"disagreement"``, their standard deviation, each ``(B, T)``.

        Raises:
            PromptError: if ``goals`` are given, for the answers are the goal.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        inputs = clips if self.encoder is None else encode_frames(self.encoder, clips)
        rewards = self._rewards(inputs.to(self.shift.device)).to(clips.device)
        spread = torch.zeros_like(rewards[0])
        if len(rewards) > 1:
            spread = rewards.var(dim=0, correction=0).clamp(min=FLAT**2).sqrt()  # the root of 0 has no slope
        return {"preference": rewards.mean(dim=0) + self.anchor, "disagreement": spread}

    def combine(self, terms: Terms) -> Tensor:
        """The mean, minus ``caution`` times the standard deviation."""
        return terms["preference"] - self.caution * terms["disagreement"] if self.caution else terms["preference"]

    def probabilities(self, first: Tensor, second: Tensor) -> Tensor:
        """How likely each member holds the first of each pair to be preferred, a tie counting half.

        Args:
            first: ``(N, L, D)`` features, or ``(N, L, 3, H, W)`` frames.
            second: as ``first``.

        Returns:
            ``(E, N)`` in [0, 1].
        """
        return self._likely(self._seen(Comparisons.of(first, second, torch.full((len(first),), torch.nan))))

    @property
    def taught(self) -> bool:
        """Whether it was ever fitted."""
        return bool(self.trained)

    def stamp(self) -> str:
        """Twelve hex digits that change whenever the reward does."""
        digest = hashlib.sha256(repr((self.caution, self.anchor)).encode())
        for name, value in sorted(self._own_tensors().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()[:12]

    def config(self) -> dict[str, Any]:
        """Constructor arguments; the encoder by name, None on pixels."""
        return {"encoder": None if self.encoder is None else self.encoder.name, **self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with first weights, which loading replaces."""
        name = config["encoder"]
        return cls(**{**config, "encoder": None if name is None else pick_encoder(name, encoder)})

    def _new_heads(self, count: int, seed: int) -> list[nn.Module]:
        inputs = None if self.encoder is None else self.encoder.embed_dim
        outputs = 2 if self.recipe.link == "regret" else 1
        return make_heads(inputs, self.settings["size"], self.settings["hidden"], outputs, count, seed)

    def _seen(self, data: Comparisons) -> Comparisons:
        """Comparisons of what members see, where they are."""
        if self.recipe.link == "regret" and data.first.shape[1] < 2:
            raise ComparisonError(
                f'link="regret" compares pieces of at least 2 frames, got {data.first.shape[1]}; use "bradley_terry".'
            )
        device = self.shift.device
        if self.encoder is not None:
            data = compared_features(self.encoder, data)
        elif data.first.ndim == 5:
            size = self.settings["size"]
            data = replace(data, first=small_frames(data.first, size), second=small_frames(data.second, size))
        else:
            raise ComparisonError(
                f'input="pixels" compares frames (N, L, 3, H, W), got {tuple(data.first.shape)}; features need '
                'input="features" and their encoder.'
            )
        return Comparisons(*(part.to(device) for part in (data.first, data.second, data.labels, data.users)))

    def _examined(self, data: Comparisons, held_out: float, shuffles: int, seed: int) -> Findings:
        """Fit another reward to some answers and see how it does on the others."""
        numbers = questions(data)
        found = Findings()
        if against := contradictions(data, numbers):
            found.notes.append(
                f"{against} of {max(numbers) + 1} questions got answers for either side; they average out."
            )
        rows, held = split_questions(numbers, held_out, Generator().manual_seed(seed))
        if not len(held) or bool((data.labels[rows] == 0.5).all()):
            found.notes.append("Nothing was held out, so nothing is known about new questions.")
            return found
        other = type(self)(self.encoder, **self.settings)
        other.to(self.shift.device)
        other._fitted(data[rows], shuffles, seed)
        figures = examine(
            other._differences(data[held]), other.ties, data.labels[held], self.recipe.link, self.recipe.noise
        )
        found.figures |= {f"held_out_{name}": value for name, value in figures.items()}
        found.notes.append(f"Held out: {len(held)} of {len(data)} answers.")
        return found

    def _fitted(self, data: Comparisons, shuffles: int, seed: int) -> dict[str, float]:
        """Treat the answers if that is wanted, learn from them, and tell."""
        margins, told = None, dict[str, float]()
        if shuffles:
            treated = self._treated(data, shuffles, seed)
            data, margins = replace(data, labels=treated[0]), treated[1]
            told = {f"answers_{name}": float(count) for name, count in treated[2].items()}
        result = self._learn(data, seed, margins)
        return told | {
            "answers": float(len(data)),
            "epochs": float(result.epochs),
            "training_accuracy": result.accuracy,
        }

    def _treated(self, data: Comparisons, shuffles: int, seed: int) -> tuple[Tensor, Tensor, dict[str, int]]:
        """Measure the strength of the answers with models on halves of shuffles, and treat them by it."""
        generator = Generator().manual_seed(seed)
        rows = halves(len(data), shuffles, generator)
        heads = self._new_heads(len(rows), seed + len(self.heads))
        _standardise(heads, data, known=False)
        ties = torch.zeros(len(rows), device=self.shift.device)
        with seeded_training(seed):
            train_members([head.to(self.shift.device) for head in heads], ties, data, rows, self.recipe, generator)
        worth = [segment_scores(member_outputs(heads, side), self.recipe.link) for side in (data.first, data.second)]
        strength = measure_strength(judged_by_others(worth[0] - worth[1], rows), data.labels)
        treated = treat_answers(data.labels, strength)
        return treated.labels, treated.margins, treated.counts

    def _learn(self, data: Comparisons, seed: int, margins: Tensor | None = None) -> Trained:
        generator = Generator().manual_seed(seed)
        heads = list(self.heads)
        with seeded_training(seed):
            _standardise(heads, data, known=bool(self.trained))
            rows = [torch.arange(len(data)) for _ in heads]
            if self.settings["bootstrap"]:
                rows = [torch.randint(len(data), (len(data),), generator=generator) for _ in heads]
            result = train_members(heads, self.ties, data, rows, self.recipe, generator, margins)
        self.trained += 1
        return result

    @torch.no_grad()
    def _anchor(self, data: Comparisons, reference: Tensor | None) -> None:
        """Each member to mean 0 and one spread, then their mean to spread 1; a constant one is only shifted."""
        if reference is not None:
            unasked = torch.full((len(reference),), torch.nan)
            data = self._seen(Comparisons.of(reference, reference, unasked))
        frames = torch.cat([data.first, data.second]).flatten(0, 1)
        raw = torch.tanh(member_outputs(list(self.heads), frames[:, None])[..., 0, 0])
        mean, spread = raw.mean(dim=1), raw.std(dim=1, correction=0)
        factor = torch.where(spread < FLAT, 1.0, 1 / spread.clamp(min=FLAT))
        whole = (factor[:, None] * (raw - mean[:, None])).mean(dim=0).std(correction=0)
        self.shift.copy_(mean)
        self.factor.copy_(factor / whole if whole > FLAT else factor)

    def _rewards(self, inputs: Tensor) -> Tensor:
        """Rewards ``(E, B, T)`` of members around 0 from ``(B, T, ...)``."""
        parts = torch.split(inputs.flatten(0, 1), CHUNK)
        raw = torch.stack([torch.cat([head(part)[:, 0] for part in parts]) for head in self.heads]).tanh()
        rewards = (raw - self.shift[:, None]) * self.factor[:, None]
        return rewards.reshape(-1, *inputs.shape[:2])

    def _differences(self, data: Comparisons) -> Tensor:
        heads = list(self.heads)
        worth = [segment_scores(member_outputs(heads, side), self.recipe.link) for side in (data.first, data.second)]
        return worth[0] - worth[1]

    @torch.no_grad()
    def _likely(self, data: Comparisons) -> Tensor:
        tie = functional.softplus(self.ties)[:, None]
        return preference_probability(self._differences(data), self.recipe.link, tie, self.recipe.noise)


def _link(name: str) -> Link:
    (link,) = (known for known in LINKS if known == name)
    return link


def _standardise(heads: Sequence[nn.Module], data: Comparisons, known: bool) -> None:
    """Fit the scale of heads on features; those that have learned something keep saying what they said."""
    for head in heads:
        if isinstance(head, FeatureHead):
            features = torch.cat([data.first, data.second]).flatten(0, 1)
            (restandardise if known else FeatureHead.fit_scale)(head, features)
