"""Perceptual rewards: the steps of a task, found in a few demonstrations, each with its own detector.

Sermanet, Xu and Levine, "Unsupervised Perceptual Rewards for Imitation Learning", 2016, arXiv 1612.06699.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.data.demos import Demo, DemoError
from vrm.encoders import Encoder
from vrm.encoders.layers import GLOBAL, encode_layer, resolve_layer
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.demonstrations import Findings, check_demos, encode_demos, refuse_goals
from vrm.rewards.steps import (
    FLOOR,
    bic_scores,
    check_fit,
    discover_steps,
    jaccard,
    segment_jointly,
    step_masks,
)

Floats = NDArray[np.float64]

MAX_STEPS = 6
VARIES = 1e-2  # a feature that varies less than this share of the one that varies most says nothing
_FEATURES: WeakKeyDictionary[Demo, dict[tuple[str, str], Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class StepDetectors:
    """What is kept of ``n`` steps, ``F`` features each.

    Attributes:
        indices: ``(n, F)`` int64, which of the encoder's features each step looks at.
        centre: ``(n, F)`` mean of those inside the step.
        weight: ``(n, F)`` what their squared distances from it are multiplied by.
        squash: ``(n, 2)`` slope and intercept of the logistic curve from the step's quantity to its reward.
    """

    indices: Tensor
    centre: Tensor
    weight: Tensor
    squash: Tensor


class PerceptualReward(RewardModel):
    """How far a task has come, by which of its steps a frame looks like.

    :meth:`fit` cuts demonstrations into ``n`` steps, keeps for each step the features that tell its frames from all
    others, and describes them by mean ``mu`` and deviation ``sigma``. A frame with (standardised) features ``f`` has ::

        q_s = -mean_i (f_i - mu_si)^2 / sigma_si            how much it looks like step s
        R_s = 1 / (1 + exp(-(a_s q_s + b_s)))               in (0, 1), above 0.5 where q_s is likelier inside step s
        R   = sum_s 2^(s-1) R_s / sum_s 2^(s-1)             over the steps s = 2, ..., n

    The first step is where everything starts and pays nothing. Later steps pay more, but the reward need not rise all
    the time, and a frame of the last step alone gets ``2^(n-1) / (2^n - 2)``, 1 for two steps and 2/3 for three.

    Three things are ours. The paper prints the distance without a sign, and binarises step rewards at 0.5; they are
    brought to that scale by logistic regression on the demonstrations' frames, those inside a step and the others
    counting alike. The weights ``2^(s-1)`` are what its appendix is reported to use, which has not been checked; we
    divide by their sum. Deviations are kept above 0.1, so that still demonstrations do not make detectors of needles.

    Each frame is judged by itself. The terms are ``step_1`` to ``step_n``; :meth:`fit` makes rewards, the constructor
    puts together what it found.

    Args:
        encoder: whose features are looked at.
        detectors: one per step.
        layer: of the encoder, as :func:`vrm.encoders.layers.encode_layer` takes it.

    Attributes:
        found: after :meth:`fit`, the steps of each demonstration and how well the detectors agree with them.

    Raises:
        UnknownNameError: if the encoder has no such layer.

    Example:
        >>> reward = PerceptualReward.fit(encoder, demos, steps=3)  # doctest: +SKIP
        >>> reward(clips)  # (B, T) in [0, 1]  # doctest: +SKIP
        >>> reward.terms(clips)["step_3"]  # (B, T): does the frame look like the last step?  # doctest: +SKIP
    """

    range = (0.0, 1.0)
    takes_goals = False
    found: Findings
    indices: Tensor
    centre: Tensor
    weight: Tensor
    squash: Tensor

    def __init__(self, encoder: Encoder, detectors: StepDetectors, layer: str = GLOBAL) -> None:
        """Keep the detectors as buffers."""
        super().__init__()
        if layer != GLOBAL:
            resolve_layer(encoder, layer)
        self.encoder, self.layer = encoder, layer
        self.reads_pixels = layer != GLOBAL
        for name in ("indices", "centre", "weight", "squash"):
            self.register_buffer(name, getattr(detectors, name))

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        demos: Sequence[Demo],
        *,
        steps: int | Literal["bic"] = "bic",
        min_size: int | None = None,
        n_features: int = 32,
        alpha: float = 5.0,
        layer: str = GLOBAL,
        joint: bool = True,
        seed: int = 0,
    ) -> Self:
        """Find the steps of demonstrations and how to tell them apart.

        Demonstrations should show one task, its steps in one order, from one viewpoint. One is enough, a few that
        differ in what does not matter are better.

        Args:
            encoder: whose features to use.
            demos: videos of the task done; labels are not looked at, except to report against true stages.
            steps: number of steps, at least 2; ``"bic"`` chooses 2 to 6 (:func:`vrm.rewards.steps.bic_scores`).
            min_size: least frames per step; by default a twentieth of the demonstration, and no fewer than 2.
            n_features: features per step; fewer if the layer has fewer that vary.
            alpha: how much the distance of means counts against spread when features are chosen.
            layer: ``"global"`` for the unit embedding, ``"patches"`` or a layer's name for what is inside.
            joint: whether demonstrations are cut together, with shared statistics per step
                (:func:`vrm.rewards.steps.segment_jointly`), or each by itself as in the paper
                (:func:`vrm.rewards.steps.discover_steps`).
            seed: not used, since nothing here is random; all kinds of rewards take it.

        Raises:
            DemoError: if there are no demonstrations, one shows a single picture or has fewer frames than the steps
                need, or no feature varies.
            UnknownNameError: if the encoder has no such layer.
            ValueError: if a number is out of its range.
        """
        _check_options(steps, n_features, alpha)
        check_demos(demos, cls.__name__, frames=4)
        wanted = 2 if steps == "bic" else steps
        for demo in demos:
            _check_room(demo, wanted, min_size)
        raw = [part.double().numpy() for part in _encode(encoder, demos, layer)]
        mean, deviation, varies = _standard(np.concatenate(raw))
        features = [(part[:, varies] - mean[varies]) / deviation[varies] for part in raw]
        findings = Findings()
        if steps == "bic":
            scores = bic_scores(features, MAX_STEPS, min_size)
            wanted = min(scores, key=scores.__getitem__)
            listed = ", ".join(f"{number}: {score:.1f}" for number, score in scores.items())
            findings.notes.append(f"{wanted} steps by BIC ({listed}).")
        cuts = (
            segment_jointly(features, wanted, min_size).cuts
            if joint
            else [discover_steps(part, wanted, min_size) for part in features]
        )
        masks = [step_masks(own, len(demo)) for own, demo in zip(cuts, demos, strict=True)]
        detectors = _detectors(np.concatenate(features), np.concatenate(masks, axis=1), n_features, alpha)
        chosen = varies[detectors.indices.numpy()]
        scale = torch.from_numpy(deviation[chosen])
        reward = cls(
            encoder,
            StepDetectors(
                indices=torch.from_numpy(chosen),
                centre=(torch.from_numpy(mean[chosen]) + scale * detectors.centre).float(),
                weight=(detectors.weight / scale**2).float(),
                squash=detectors.squash.float(),
            ),
            layer,
        )
        reward.found = findings
        findings.steps = list(cuts)
        reward._report(demos, raw, masks)
        return reward

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Reward of each step as ``step_1`` … ``step_n``, each ``(B, T)`` in (0, 1).

        Raises:
            PromptError: if ``goals`` are given, for the demonstrations are the goal.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        if self.layer == GLOBAL:
            features = encode_frames(self.encoder, clips)
        else:
            flat = encode_layer(self.encoder, clips.flatten(0, 1), self.layer)
            features = flat.unflatten(0, clips.shape[:2]).to(clips.device)  # type: ignore[no-untyped-call]
        return {f"step_{s + 1}": values for s, values in enumerate(self._steps(features).unbind(-1))}

    def combine(self, terms: Terms) -> Tensor:
        """Weighted mean of the rewards of all steps but the first."""
        names = [f"step_{s + 1}" for s in range(1, len(terms))]
        total = float(2 ** len(terms) - 2)
        return torch.stack([2.0**power * terms[name] for power, name in enumerate(names, 1)]).sum(dim=0) / total

    def config(self) -> dict[str, Any]:
        """The encoder by name, its layer, and the numbers of steps and features that give the tensors' shapes."""
        steps, features = self.indices.shape
        return {"encoder": self.encoder.name, "layer": self.layer, "steps": steps, "n_features": features}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`, with detectors of the right shape whose values come from the file."""
        shape = (config["steps"], config["n_features"])
        empty = StepDetectors(
            torch.zeros(shape, dtype=torch.int64), torch.zeros(shape), torch.ones(shape), torch.zeros(shape[0], 2)
        )
        return cls(pick_encoder(config["encoder"], encoder), empty, config["layer"])

    def _steps(self, features: Tensor) -> Tensor:
        """Rewards of all steps ``(..., n)`` from features ``(..., D)``."""
        indices, centre, weight, squash = (
            tensor.to(features.device) for tensor in (self.indices, self.centre, self.weight, self.squash)
        )
        quantity = -((features[..., indices] - centre) ** 2 * weight).mean(dim=-1)
        return torch.sigmoid(squash[:, 0] * quantity + squash[:, 1])

    def _report(self, demos: Sequence[Demo], raw: Sequence[Floats], masks: Sequence[NDArray[np.bool_]]) -> None:
        """Write down where steps begin, and how well detectors agree with them and they with true stages, if known."""
        found = self.found
        seen = [self._steps(torch.from_numpy(part).float()).numpy().T > 0.5 for part in raw]
        overlap = jaccard(np.concatenate(seen, axis=1), np.concatenate(masks, axis=1))
        found.figures["steps"] = float(len(overlap))
        for s, value in enumerate(overlap, 1):
            found.figures[f"overlap_step_{s}"] = float(value)
            if value < 0.5:
                found.notes.append(
                    f"The detector of step {s} overlaps with its frames by {value:.2f} only; try fewer steps, "
                    "another layer or more demonstrations."
                )
        for demo, own in zip(demos, masks, strict=True):
            begin = ", ".join(str(int(mask.argmax())) for mask in own)
            found.notes.append(f"{demo.name}: steps begin at frames {begin} of {len(demo)}.")
        true = [demo.stages == np.arange(len(overlap))[:, None] for demo in demos if demo.stages is not None]
        if len(true) == len(demos) and all(mask.any(axis=1).all() for mask in true):
            agreement = jaccard(np.concatenate(masks, axis=1), np.concatenate(true, axis=1))
            found.figures["overlap_true_stages"] = float(agreement.mean())


def _encode(encoder: Encoder, demos: Sequence[Demo], layer: str) -> list[Tensor]:
    """Features ``(T, D)`` of every demonstration on the CPU, made once per encoder and layer."""
    if layer == GLOBAL:
        return encode_demos(encoder, demos)
    features = []
    for demo in demos:
        known = _FEATURES.setdefault(demo, {})
        key = (encoder.fingerprint, layer)
        if key not in known:
            with torch.no_grad():
                known[key] = encode_layer(encoder, demo.frames, layer).cpu()
        features.append(known[key])
    return features


def _standard(frames: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean and deviation of every feature, and which of them vary."""
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    varies = np.flatnonzero(deviation > max(VARIES * float(deviation.max()), 1e-6))
    if not len(varies):
        raise DemoError("No feature of the encoder varies over the demonstrations; use ones in which something moves.")
    return mean, deviation, varies


def _detectors(frames: Floats, masks: NDArray[np.bool_], n_features: int, alpha: float) -> StepDetectors:
    """Choose features of standardised ``frames (M, D)`` for the steps ``masks (n, M)``, describe and calibrate them."""
    count = min(n_features, frames.shape[1])
    indices, means, weights, squashes = [], [], [], []
    for mask in masks:
        inside, outside = frames[mask], frames[~mask]
        gap = np.abs(inside.mean(axis=0) - outside.mean(axis=0))
        score = alpha * gap - (inside.std(axis=0) + outside.std(axis=0))
        best = np.sort(np.argsort(-score, kind="stable")[:count])
        mean = inside[:, best].mean(axis=0)
        weight = 1 / np.maximum(inside[:, best].std(axis=0), FLOOR)
        quantity = -((frames[:, best] - mean) ** 2 * weight).mean(axis=1)
        indices.append(best)
        means.append(mean)
        weights.append(weight)
        squashes.append(fit_logistic(quantity, mask))
    return StepDetectors(*(torch.from_numpy(np.stack(part)) for part in (indices, means, weights, squashes)))


def fit_logistic(quantity: Floats, label: NDArray[np.bool_]) -> Floats:
    """Fit slope and intercept of a rising logistic curve ``P(label | quantity)``, both classes weighing the same.

    Otherwise the curve of a short step that looks much like its neighbours would stay below 0.5 everywhere. Targets are
    drawn in from 0 and 1 by Platt's rule, so that the curve stays finite where a threshold separates the classes. The
    likelihood is concave, and Newton's method with step halving finds its maximum.

    Args:
        quantity: ``(M,)``.
        label: ``(M,)`` bool, of both kinds.

    Returns:
        ``(2,)``: slope, at least 0, and intercept.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999; Lin, Lin and Weng, "A note on Platt's
    probabilistic outputs for support vector machines", 2007.
    """
    positive, negative = int(label.sum()), int((~label).sum())
    target = np.where(label, (positive + 1) / (positive + 2), 1 / (negative + 2))
    share = np.where(label, 0.5 / positive, 0.5 / negative)
    centre, spread = float(quantity.mean()), float(quantity.std()) or 1.0
    design = np.stack([(quantity - centre) / spread, np.ones(len(quantity))], axis=1)

    def loss(at: Floats) -> float:
        logit = design @ at
        return float((share * (np.logaddexp(0, logit) - target * logit)).sum())

    rate = float((share * target).sum())
    flat = np.array([0.0, np.log(rate / (1 - rate))])
    at = flat
    for _ in range(100):
        probability = 1 / (1 + np.exp(-(design @ at)))
        gradient = design.T @ (share * (probability - target))
        curvature = (design * (share * probability * (1 - probability))[:, None]).T @ design + 1e-12 * np.eye(2)
        move = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-8 and loss(at - size * move) > loss(at):
            size /= 2
        at = at - size * move
        if np.abs(size * move).max() < 1e-9:
            break
    slope, intercept = at if at[0] > 0 else flat
    return np.array([slope / spread, intercept - slope * centre / spread])


def _check_options(steps: int | str, n_features: int, alpha: float) -> None:
    if steps != "bic" and not (isinstance(steps, int) and steps >= 2):
        raise ValueError(f"steps must be 'bic' or a number of at least 2, got {steps!r}.")
    if n_features < 1:
        raise ValueError(f"n_features must be at least 1, got {n_features}.")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}.")


def _check_room(demo: Demo, steps: int, min_size: int | None) -> None:
    try:
        check_fit(len(demo), steps, min_size)
    except ValueError as error:
        raise DemoError(f"Demonstration {demo.name!r} is too short: {error}") from error
