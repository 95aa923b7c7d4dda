"""Progress reward: how far along a frame is, by a small head on frozen features that time alone has trained."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from vrm.data.demos import Demo, DemoError
from vrm.encoders import Encoder
from vrm.errors import UnknownNameError
from vrm.metrics import spearman
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.demonstrations import Findings, check_demos, encode_demos, refuse_goals
from vrm.rewards.holdout import hold_out, seeded_training, train_watched
from vrm.rewards.time_objectives import OBJECTIVES, Clips, expected_time

CHECKS, WATCHED_DRAWS = 20, 2048  # how often the loss held out is computed, and on how much
DISTANCE = ("vip", "tcc")  # objectives whose reward is a distance to a goal in the head's space


@dataclass(frozen=True)
class Recipe:
    """How a head is trained if nothing else is said.

    Attributes:
        hidden: sizes of the hidden layers.
        size: number of outputs.
        batch: frames, pairs, parts of clips or, for TCC, clips per step.
        lr: learning rate of AdamW.
    """

    hidden: tuple[int, ...]
    size: int
    batch: int
    lr: float


RECIPES = {
    "vip": Recipe((), 32, 32, 1e-3),  # the authors' 1e-4 is for a whole encoder
    "tcc": Recipe((), 32, 4, 1e-3),
    "rank": Recipe((256,), 1, 256, 1e-4),  # theirs has three layers of 1000, for 100 demonstrations
    "time": Recipe((256,), 1, 256, 1e-4),
}


class FeatureHead(nn.Module):
    """Layers with ReLU between them, on features moved to mean 0 and scaled to variance 1.

    Frames of one task differ by little in an encoder's space, so the scale is one number for all features: one for
    each would blow up those in which only noise differs.

    Args:
        sizes: number of features ``D``, of each hidden layer, and of outputs.
        seed: of the first weights.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, sizes: Sequence[int], seed: int = 0) -> None:
        """Draw the first weights, without touching the global generator."""
        super().__init__()
        self.sizes = [int(size) for size in sizes]
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for before, after in zip(self.sizes[:-1], self.sizes[1:], strict=True):
                layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("centre", torch.zeros(self.sizes[0]))
        self.register_buffer("spread", torch.ones(()))

    def fit_scale(self, features: Tensor) -> None:
        """Take mean and scale from ``features`` ``(N, D)``."""
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_((features - self.centre).square().mean().sqrt().clamp(min=1e-6))

    def scaled(self, features: Tensor) -> Tensor:
        """Features ``(..., D)`` as the layers see them."""
        return (features - self.centre) / self.spread

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., outputs)``."""
        outputs: Tensor = self.layers(self.scaled(features))
        return outputs


class ProgressReward(RewardModel):
    """Progress through a task, learned from a few videos of it by a head on frozen features.

    ==========  =============================================================================  =================
    objective   what the head learns                                                           reward
    ==========  =============================================================================  =================
    ``"vip"``   a space in which the distance to a later frame is the discounted time to it    ``-||f - g||``
                (Ma et al. 2022, arXiv 2210.00030); option ``gamma = 0.98``
    ``"tcc"``   a space in which frames of two videos find each other and back (XIRL: Zakka    ``-k ||f - g||``
                et al. 2021, arXiv 2106.03911); options ``frames = 40``, ``temperature = 0.1``,
                ``loss = "regression_mse"``, or ``"regression_mse_var"``, ``"classification"``
    ``"rank"``  a utility, 0 at the start, whose differences say which frame is later          sigmoid, in [0, 1]
                (Rank2Reward's paper: Yang et al. 2024, arXiv 2404.14735); option
                ``weight = 0.01`` of the penalty that keeps it finite
    ``"time"``  the place ``t / (T - 1)`` in the clip (what Rank2Reward's code comes to); with in [0, 1]
                ``size = K`` outputs, by classification into ``K`` bins
    ==========  =============================================================================  =================

    The goal ``g`` is the mean embedding of the demonstrations' last frames, so every demonstration must end with the
    task done. ``k`` makes the mean distance from start to goal of the demonstrations 1. VIP's authors pay the
    difference ``V(o') - V(o)``; that is a transform of this reward.

    Nothing here knows videos that are not demonstrations: what was never seen may look like progress.

    Args:
        encoder: whose features the head sees.
        head: maps ``(..., D)`` features to embeddings, or to logits.
        objective: one of the above, which says how the head's output becomes a reward.
        goal: ``(size,)`` embedding, for ``"vip"`` and ``"tcc"``.
        scale: the factor ``k``.

    Raises:
        UnknownNameError: if ``objective`` is unknown.
        ValueError: if ``head`` does not fit the encoder, or a goal is missing or not needed.

    Attributes:
        found: what :meth:`fit` wants a person to read; empty for a reward that was loaded.

    Example:
        >>> reward = ProgressReward.fit(encoder, demos, objective="time")  # doctest: +SKIP
        >>> reward(clips)  # (B, T), near 0 at the start and near 1 at the end  # doctest: +SKIP
    """

    takes_goals = False
    reads_pixels = False
    goal: Tensor
    scale: Tensor

    def __init__(
        self, encoder: Encoder, head: FeatureHead, objective: str, goal: Tensor | None = None, scale: float = 1.0
    ) -> None:
        """Check that the parts fit; see :meth:`fit` for how they are made."""
        super().__init__()
        if objective not in OBJECTIVES:
            raise UnknownNameError("objective", objective, OBJECTIVES)
        if head.sizes[0] != encoder.embed_dim:
            raise ValueError(
                f"The head reads {head.sizes[0]} features, but encoder {encoder.name!r} has {encoder.embed_dim}; use "
                "the encoder that it was trained on."
            )
        if (goal is not None) != (objective in DISTANCE):
            raise ValueError(
                f"objective {objective!r} {'needs a' if goal is None else 'has no'} goal; objectives with one are "
                f"{', '.join(DISTANCE)}."
            )
        self.encoder, self.objective = encoder, objective
        self.head = head.requires_grad_(False)
        self.found = Findings()
        self.range = (-float("inf"), 0.0) if goal is not None else (0.0, 1.0)
        if goal is not None:
            self.register_buffer("goal", goal.detach().float().clone())
            self.register_buffer("scale", torch.tensor(float(scale)))

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        demos: Sequence[Demo],
        *,
        objective: str = "vip",
        steps: int = 2000,
        batch: int | None = None,
        lr: float | None = None,
        hidden: Sequence[int] | None = None,
        size: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Train a head on the demonstrations' features.

        Of three or more demonstrations, one, or a tenth, is held out; the head of the step at which its loss was
        lowest is kept. ``found`` has the curves, and the rank correlation of reward and time (VOC).

        Args:
            encoder: makes the features; stays as it is.
            demos: videos of the task done, of any length and, for ``"tcc"``, two or more.
            objective: one of those above.
            steps: how many; :data:`RECIPES` has the defaults of what follows.
            batch: frames, pairs or parts of clips per step; clips for ``"tcc"``.
            lr: learning rate of AdamW, whose weight decay is 1e-4.
            hidden: sizes of the head's hidden layers.
            size: number of the head's outputs.
            seed: of the first weights, the batches and the choice of what is held out.
            options: those of the objective.

        Raises:
            DemoError: if demonstrations are too few, too short, do not move, or one is known to fail.
            UnknownNameError: if ``objective`` is unknown or has no such option.
            ValueError: if a number is out of its range.
        """
        loss = _objective(objective, options)
        recipe = RECIPES[objective]
        sizes = [encoder.embed_dim, *(recipe.hidden if hidden is None else hidden), size or recipe.size]
        batch, lr = recipe.batch if batch is None else batch, recipe.lr if lr is None else lr
        _check_numbers(objective, steps, batch, lr, sizes)
        check_demos(demos, f"ProgressReward ({objective})", at_least=2 if objective == "tcc" else 1)
        check_success(demos)
        training, held = _split(encode_demos(encoder, demos), seed)
        head = FeatureHead(sizes, seed)
        head.fit_scale(torch.cat(training))
        figures = _train(head, loss, training, held, steps, batch, lr, seed)
        draft = cls._around(encoder, head, objective, training)
        figures |= draft._vocs({"training": training, "held_out": held})
        reward = cls._around(encoder, head, objective, [*training, *held])
        reward.found = Findings(notes=[_note(figures, len(training), len(held), steps)], figures=figures)
        return reward

    @classmethod
    @torch.no_grad()
    def _around(cls, encoder: Encoder, head: FeatureHead, objective: str, clips: Sequence[Tensor]) -> Self:
        """The reward of a trained head, with start and goal as ``clips`` show them."""
        start = head(torch.stack([clip[0] for clip in clips]))
        if objective not in DISTANCE:
            head = copy.deepcopy(head)
            if objective == "rank":
                last = head.layers[-1]
                assert isinstance(last, nn.Linear)
                last.bias.sub_(start.mean(dim=0))  # the utility is 0 at the start
            return cls(encoder, head, objective)
        goal = head(torch.stack([clip[-1] for clip in clips])).mean(dim=0)
        distance = float((start - goal).norm(dim=-1).mean())
        return cls(encoder, head, objective, goal, 1 / max(distance, 1e-6) if objective == "tcc" else 1.0)

    def progress(self, features: Tensor) -> Tensor:
        """Reward ``(...)`` of frames by their features ``(..., D)``, on the device of those."""
        outputs = self.head(features.to(self.head.centre.device))
        if self.objective not in DISTANCE:
            return expected_time(outputs).to(features.device)
        distance: Tensor = torch.linalg.vector_norm(outputs - self.goal, dim=-1)
        return (-self.scale * distance).to(features.device)

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The progress of each frame as ``{"progress": (B, T)}``; arguments as in the base class.

        Raises:
            PromptError: if ``goals`` are given, for the demonstrations are the goal.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        return {"progress": self.progress(encode_frames(self.encoder, clips))}

    def combine(self, terms: Terms) -> Tensor:
        """The progress."""
        return terms["progress"]

    def config(self) -> dict[str, Any]:
        """The encoder by name, the objective and the head's sizes; weights and goal are saved beside."""
        return {"encoder": self.encoder.name, "objective": self.objective, "sizes": self.head.sizes}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with weights and a goal that loading replaces."""
        head, objective = FeatureHead(config["sizes"]), config["objective"]
        goal = torch.zeros(head.sizes[-1]) if objective in DISTANCE else None
        return cls(pick_encoder(config["encoder"], encoder), head, objective, goal)

    @torch.no_grad()
    def _vocs(self, groups: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
        found = {}
        for name, clips in groups.items():
            values = [spearman(self.progress(clip).numpy(), np.arange(len(clip))) for clip in clips]
            if values and np.isfinite(values).all():
                found[f"{name}_voc"] = float(np.mean(values))
        return found


def _split(clips: Sequence[Tensor], seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Clips to train on, and of three or more, one or a tenth to watch."""
    if len(clips) < 3:
        return list(clips), []
    ours, others = hold_out([""] * len(clips), Generator().manual_seed(seed), share=0.1)
    return [clips[i] for i in ours], [clips[i] for i in others]


def _train(
    head: FeatureHead,
    loss: partial[Tensor],
    training: Sequence[Tensor],
    held: Sequence[Tensor],
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> dict[str, float]:
    """Train ``head`` in place, leave it as it was at its best step, and return the curves.

    With nothing held out, what is watched is the loss of the same clips on draws that do not change.
    """
    generator = Generator().manual_seed(seed)
    clips, watched_clips = Clips.of(training), Clips.of(held or training)
    is_cycle = loss.func is OBJECTIVES["tcc"]
    watched = partial(loss, partners=clips) if is_cycle and held else loss
    curves, losses = dict[str, float](), list[Tensor]()

    def training_loss() -> Tensor:
        value = loss(head, clips, batch, generator)
        losses.append(value.detach())
        bar.update()
        return value

    def watched_loss() -> Tensor:
        value = watched(head, watched_clips, WATCHED_DRAWS, Generator().manual_seed(seed + 1))
        step = len(losses)
        curves[f"training_loss_{step}"] = float(torch.stack(losses[-max(1, steps // CHECKS) :]).mean())
        if held:
            curves[f"held_out_loss_{step}"] = float(value)
        return value

    # no bar where stderr is no terminal
    with tqdm(total=steps, desc="fit", unit="step", disable=None, leave=False) as bar, seeded_training(seed):
        best = train_watched(head, training_loss, watched_loss, steps, lr, checks=CHECKS).best_step
    return {"best_step": float(best), **curves}


def objective_options(name: str) -> list[str]:
    """Names of the options that an objective has beside those of :meth:`ProgressReward.fit`.

    Example:
        >>> objective_options("vip")
        ['gamma']
    """
    fixed = ("head", "clips", "batch", "generator", "partners")
    return [option for option in inspect.signature(OBJECTIVES[name]).parameters if option not in fixed]


def _objective(name: str, options: Mapping[str, Any]) -> partial[Tensor]:
    """The loss with its options.

    Raises:
        UnknownNameError: if it is unknown or has no such option.
        ValueError: if an option is out of its range.
    """
    if name not in OBJECTIVES:
        raise UnknownNameError("objective", name, OBJECTIVES)
    known = objective_options(name)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of objective {name!r}", option, known)
    if not 0 < options.get("gamma", 0.5) < 1:
        raise ValueError(f"gamma must lie between 0 and 1, got {options['gamma']}.")
    if not options.get("temperature", 1) > 0 or not options.get("weight", 1) > 0:
        raise ValueError(f"temperature and weight must be positive, got {dict(options)}.")
    if options.get("frames", 2) < 2:
        raise ValueError(f"frames must be at least 2, got {options['frames']}.")
    losses = ("regression_mse", "regression_mse_var", "classification")
    if options.get("loss", losses[0]) not in losses:
        raise UnknownNameError("loss", options["loss"], losses)
    return partial(OBJECTIVES[name], **options)


def _check_numbers(objective: str, steps: int, batch: int, lr: float, sizes: Sequence[int]) -> None:
    if steps < 1 or batch < 1 or not lr > 0 or min(sizes) < 1:
        raise ValueError(
            f"steps, batch, lr and layer sizes must be positive, got steps={steps}, batch={batch}, lr={lr}, {sizes=}."
        )
    if objective == "rank" and sizes[-1] != 1:
        raise ValueError(f"objective 'rank' has one output, got size={sizes[-1]}.")
    if objective == "tcc" and batch < 2:
        raise ValueError(f"objective 'tcc' compares clips, so batch must be at least 2, got {batch}.")


def check_success(demos: Sequence[Demo]) -> None:
    """Refuse demonstrations that are known to fail, for their last frames would stand for the goal.

    Raises:
        DemoError: if there is one.
    """
    for demo in demos:
        if demo.success is False:
            raise DemoError(
                f"Demonstration {demo.name!r} ends without success, but its last frame would stand for the goal; "
                "leave it out."
            )


def _note(figures: Mapping[str, float], training: int, held: int, steps: int) -> str:
    if not held:
        return f"trained on {training} demonstrations, none held out (3 are needed for that): kept step {steps}"
    voc = figures.get("held_out_voc", float("nan"))
    return (
        f"trained on {training} demonstrations, {held} held out: kept step {figures['best_step']:.0f} of {steps}, "
        f"rank correlation of reward and time {voc:.2f} on what was held out"
    )
