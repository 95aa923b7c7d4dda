"""Rewards on demonstrations that they were not fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vrm.data.demos import Demo, DemoError
from vrm.encoders import Encoder
from vrm.metrics.correlation import value_order_correlation
from vrm.rewards.base import RewardModel
from vrm.rewards.critic import ProgressCritic
from vrm.rewards.demonstrations import encode_demos
from vrm.rewards.perceptual import PerceptualReward
from vrm.rewards.steps import jaccard
from vrm.rewards.told import SHARED_TEXT

LEAVE_ONE_OUT = 8  # up to so many demonstrations each is a fold of its own
FOLDS = 5
Floats = NDArray[np.float64]


class Fit(Protocol):
    """Makes a reward of demonstrations, as the ``fit`` of every kind does."""

    def __call__(self, encoder: Encoder, demos: Sequence[Demo], *, seed: int) -> RewardModel:
        """Fit to ``demos``."""


@dataclass(frozen=True, eq=False)
class DemoScore:
    """What a reward made of one demonstration.

    Attributes:
        name: of the demonstration.
        held_out: whether the reward was fitted without it.
        rewards: ``(T,)`` reward of each frame.
        voc: rank correlation of reward and time, in [-1, 1]; of composed values for :class:`ProgressCritic`, whose
            reward is a change. nan if all are equal.
        voc_reversed: the same of the demonstration played backwards; exactly ``-voc`` for a reward that judges each
            frame by itself.
        step_rewards: ``(n, T)`` rewards of the single steps of :class:`PerceptualReward`, else None.
        step_overlap: mean Jaccard overlap of these, above 0.5, with the true stages; nan where there are none, or
            another number of them.
        beats_final: share of failed clips that end with a lower reward, ties counting one half; nan without any.
        beats_score: share of failed clips that :meth:`RewardModel.score` puts lower.
    """

    name: str
    held_out: bool
    rewards: Floats
    voc: float
    voc_reversed: float
    step_rewards: Floats | None = None
    step_overlap: float = math.nan
    beats_final: float = math.nan
    beats_score: float = math.nan


@dataclass(frozen=True)
class HeldOut:
    """All demonstrations, each scored by a reward that has not seen it.

    Attributes:
        scores: one per demonstration, in their order.
        folds: how many rewards were fitted for that.
    """

    scores: list[DemoScore]
    folds: int = 0

    def mean(self, name: str) -> float:
        """Mean over demonstrations of a number of :class:`DemoScore`, those that are nan left out.

        Of ``beats_final`` and ``beats_score`` this is the AUROC of demonstrations against failed clips, where only
        numbers of one reward are compared.
        """
        values = [value for score in self.scores if not math.isnan(value := float(getattr(score, name)))]
        return math.fsum(values) / len(values) if values else math.nan


def cross_validate(
    fit: Fit, encoder: Encoder, demos: Sequence[Demo], seed: int = 0, failed: Sequence[Demo] = ()
) -> HeldOut:
    """Score each demonstration with a reward fitted to others: leave-one-out up to 8 demonstrations, else 5 folds.

    Args:
        fit: such as ``functools.partial(ProgressReward.fit, objective="tcc")``.
        encoder: of the rewards.
        demos: two or more.
        seed: of the fits and of the folds.
        failed: clips that every reward should score lower.

    Raises:
        DemoError: if there are fewer than two demonstrations, or ``fit`` refuses those of a fold.

    Example:
        >>> from vrm.rewards import ProgressReward
        >>> cross_validate(ProgressReward.fit, encoder, demos).mean("voc")  # doctest: +SKIP
        0.97
    """
    if len(demos) < 2:
        raise DemoError(f"Nothing can be held out of {len(demos)} demonstration; record or name more.")
    found: dict[int, DemoScore] = {}
    folds = _folds(len(demos), seed)
    for fold in tqdm(folds, desc="held out", unit="fold", disable=None, leave=False):
        reward = fit(encoder, [demo for i, demo in enumerate(demos) if i not in fold], seed=seed)
        scored = score_demos(reward, encoder, [demos[i] for i in fold], failed, held_out=True)
        found |= dict(zip(fold, scored, strict=True))
    return HeldOut([found[i] for i in range(len(demos))], len(folds))


@torch.no_grad()
def score_demos(
    reward: RewardModel, encoder: Encoder, demos: Sequence[Demo], failed: Sequence[Demo] = (), held_out: bool = False
) -> list[DemoScore]:
    """Score demonstrations with one reward; arguments as in :func:`cross_validate`."""
    return [_score(_Asked(reward, encoder, _goal(reward, demo)), demo, failed, held_out) for demo in demos]


def _folds(count: int, seed: int) -> list[list[int]]:
    if count <= LEAVE_ONE_OUT:
        return [[i] for i in range(count)]
    order = np.random.default_rng(seed).permutation(count)
    return [sorted(order[start::FOLDS].tolist()) for start in range(FOLDS)]


@dataclass(frozen=True)
class _Asked:
    """A reward with what it is told, whose encoder is not run again on frames that it has embedded."""

    reward: RewardModel
    encoder: Encoder
    goal: str | None

    def rewards(self, demo: Demo) -> tuple[Floats, Tensor]:
        """Rewards ``(T,)`` of all frames and, stacked, the terms ``(n, T)``."""
        clips, goals = demo.frames[None], self._goals
        with self._supplied(clips, demo):
            terms = self.reward.terms(clips, goals)
            return _array(self.reward.combine(terms)[0]), torch.cat(list(terms.values()))

    def score(self, demo: Demo) -> float:
        clips = demo.frames[None]
        with self._supplied(clips, demo):
            return float(self.reward.score(clips, self._goals))

    def order(self, demo: Demo, rewards: Floats, backwards: bool = False) -> float:
        """VOC of what should rise: the value composed by a critic, the reward of all others."""
        reward = self.reward
        if backwards and reward.causal and reward.window == 1:
            return value_order_correlation(rewards[::-1])
        clips = demo.frames.flip(0)[None] if backwards else demo.frames[None]
        with self._supplied(clips, demo, backwards):
            if isinstance(reward, ProgressCritic):
                # composed from 0, the value of a demonstration that runs backwards could not fall
                return value_order_correlation(_array(reward.values(clips, self._goals, start=float(backwards))[0]))
            return value_order_correlation(_array(reward(clips, self._goals)[0]) if backwards else rewards)

    @property
    def _goals(self) -> list[str] | None:
        return None if self.goal is None else [self.goal]

    def _supplied(self, clips: Tensor, demo: Demo, backwards: bool = False) -> AbstractContextManager[None]:
        if self.reward.reads_pixels:
            return nullcontext()
        (features,) = encode_demos(self.encoder, [demo])
        return self.encoder.supply(clips, (features.flip(0) if backwards else features)[None])


def _goal(reward: RewardModel, demo: Demo) -> str | None:
    """What the reward was told about this demonstration when it was fitted."""
    if not reward.takes_goals:
        return None
    return demo.text or getattr(reward, "text", None) or SHARED_TEXT


def _score(asked: _Asked, demo: Demo, failed: Sequence[Demo], held_out: bool) -> DemoScore:
    rewards, terms = asked.rewards(demo)
    steps = _array(terms) if isinstance(asked.reward, PerceptualReward) else None
    return DemoScore(
        demo.name,
        held_out,
        rewards,
        voc=asked.order(demo, rewards),
        voc_reversed=asked.order(demo, rewards, backwards=True),
        step_rewards=steps,
        step_overlap=_overlap(steps, demo),
        beats_final=_beats(rewards[-1], [asked.rewards(clip)[0][-1] for clip in failed]),
        beats_score=_beats(asked.score(demo), [asked.score(clip) for clip in failed]) if failed else math.nan,
    )


def _overlap(steps: Floats | None, demo: Demo) -> float:
    if steps is None or demo.stages is None or int(demo.stages.max()) + 1 != len(steps):
        return math.nan
    return float(np.nanmean(jaccard(steps > 0.5, demo.stages == np.arange(len(steps))[:, None])))


def _beats(own: float, others: Sequence[float]) -> float:
    return float(np.mean([np.sign(own - other) / 2 + 0.5 for other in others])) if others else math.nan


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
