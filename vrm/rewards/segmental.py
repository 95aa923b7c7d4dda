"""Segmental reward: a clip is judged by one frame of each of its segments, whatever judges the frames.

InstructVideo (Yuan et al. 2023, arXiv 2312.12490) tunes video generators with an image reward: segmental sparse
sampling (SegVR) picks few frames over the whole clip, and the temporally attenuated reward (TAR) trusts those near the
middle most, because what is left of the source video at the edits' ends should not be over-optimised.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor

from vrm.errors import UnknownNameError
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, from_spec, supply_part, to_spec

REWARD = "segmental"  # the term that holds the clip's number


def segment_indices(total: int, segments: int, generator: Generator | None = None) -> Tensor:
    """Choose one frame in each of ``segments`` equal parts of a clip (SegVR; InstructVideo, section 3.3).

    Part ``i`` holds the frames from ``floor(i * total / segments)`` up to where the next begins. A clip with fewer
    frames than segments gives some frames more than once.

    Args:
        total: number of frames there are.
        segments: number ``S`` of parts.
        generator: draws a random frame of each part; without it, the middle one is taken.

    Returns:
        ``(S,)`` int64 indices in [0, total), in order.

    Raises:
        ValueError: if ``total`` or ``segments`` is below 1.

    Example:
        >>> segment_indices(16, 4)
        tensor([ 1,  5,  9, 13])
    """
    if total < 1 or segments < 1:
        raise ValueError(f"Segments need at least one frame and one segment, got {total} frames, {segments} segments.")
    part = torch.arange(segments)
    if generator is None:
        return (((2 * part + 1) * total - segments) // (2 * segments)).clamp(min=0)
    first, end = part * total // segments, (part + 1) * total // segments
    draws = torch.rand(segments, generator=generator, device=generator.device).cpu()
    return first + (draws * (end - first)).long()


def tar_weights(
    positions: Tensor, total: int | Tensor, lam: float = 1.0, centre: float | None = None, normalise: bool = False
) -> Tensor:
    """Temporal attenuation ``f_i = exp(-lam * |g_i - centre|)`` of TAR (InstructVideo, section 3.3).

    The published values, ``lam = 1`` and the middle of 16 frames, put 72 % of the weight on one of four segments.

    Args:
        positions: ``(..., S)`` numbers ``g_i`` of the frames.
        total: number ``F`` of frames in the clip, or one per row ``(..., 1)``.
        lam: attenuation per frame, at least 0; 0 weighs all frames alike. At another ``F``, ``lam * 16 / F`` keeps
            the published shape.
        centre: the frame trusted most, ``F // 2`` by default.
        normalise: whether the weights are scaled to mean 1, which makes the reward a weighted mean; as published they
            are not.

    Returns:
        ``(..., S)`` float32 weights: in [0, 1] unless normalised, then in [0, S].

    Example:
        >>> tar_weights(torch.tensor([1, 5, 9, 13]), 16)
        tensor([0.0009, 0.0498, 0.3679, 0.0067])
    """
    middle = torch.as_tensor(total).to(positions.device) // 2 if centre is None else centre
    exponents = -lam * (positions - middle).abs().float()
    if not normalise:
        return exponents.exp()
    return torch.softmax(exponents, dim=-1) * positions.shape[-1]  # unlike a quotient, no 0 / 0 far from the centre


@dataclass(frozen=True)
class SegmentScores:
    """What each segment of each clip got.

    Attributes:
        rewards: ``(B, S)`` image reward of the frame that stands for each segment.
        indices: ``(B, S)`` which frames of the given clips those are.
        positions: ``(B, S)`` their numbers in the files that the clips were sampled from; else ``indices``.
        totals: ``(B, 1)`` number of frames of those files; else of the clips.
        terms: the image reward's named parts, each ``(B, S)``.
    """

    rewards: Tensor
    indices: Tensor
    positions: Tensor
    totals: Tensor
    terms: Terms


def _tar(
    x: Tensor, seen: SegmentScores, lam: float = 1.0, centre: float | None = None, normalise: bool = False
) -> Tensor:
    return (x * tar_weights(seen.positions, seen.totals, lam, centre, normalise)).mean(dim=1)


def _softmin(x: Tensor, seen: SegmentScores, temperature: float = 0.1) -> Tensor:
    return (x * torch.softmax(-x / temperature, dim=1)).sum(dim=1)


def _topk(x: Tensor, seen: SegmentScores, k: int = 2) -> Tensor:
    return x.topk(k, dim=1).values.mean(dim=1)


AGGREGATES: dict[str, Callable[..., Tensor]] = {
    "tar": _tar,
    "mean": lambda x, seen: x.mean(dim=1),
    "median": lambda x, seen: x.quantile(0.5, dim=1),
    "min": lambda x, seen: x.amin(dim=1),
    "max": lambda x, seen: x.amax(dim=1),
    "last": lambda x, seen: x[:, -1],
    "softmin": _softmin,
    "topk": _topk,
}


class SegmentalReward(RewardModel):
    """A clip's reward from an image reward on one frame per segment.

    The middle frame of each segment is taken; after ``reward.train()`` the frames are drawn at random, for each clip
    anew, with torch's global generator, and after ``reward.eval()`` no longer. :meth:`score` is the clip's number,
    :meth:`forward` gives it to every frame, :meth:`segments` shows the parts.

    ==============  ==================================================================================================
    aggregate       the clip's number, from segment rewards ``r_1 … r_S``
    ==============  ==================================================================================================
    ``"tar"``       ``(1 / S) * sum_i f_i r_i`` with the weights of :func:`tar_weights`; options ``lam = 1``,
                    ``centre = None`` (the middle), ``normalise = False``
    ``"mean"``      mean
    ``"median"``    median, the mean of the two middle ones if ``S`` is even
    ``"min"``       smallest
    ``"max"``       largest
    ``"last"``      that of the last segment
    ``"softmin"``   ``sum_i r_i softmax(-r / temperature)_i``, between min and mean; option ``temperature = 0.1``, in
                    units of the reward
    ``"topk"``      mean of the ``k`` largest; option ``k = 2``
    ==============  ==================================================================================================

    If ``state`` has ``"frame_index"`` and ``"frame_count"``, both ``(B, T)``, the clips are samples of longer files and
    attenuation counts in the frames of those files.

    Args:
        image_reward: any reward that judges each frame by itself: ``window`` 1 and granularity ``"frame"``.
        segments: number ``S`` of segments.
        aggregate: one of the above.
        options: those of the aggregate.

    Raises:
        ValueError: if ``image_reward`` looks at more than one frame, or a number is out of its range.
        UnknownNameError: if ``aggregate`` is unknown or has no such option.

    Example:
        >>> reward = SegmentalReward(GoalReward(encoder, "a dog runs"), segments=4)  # doctest: +SKIP
        >>> reward.score(clips)  # (B,)  # doctest: +SKIP

    Paper: Yuan et al., "InstructVideo: Instructing Video Diffusion Models with Human Feedback", arXiv 2312.12490.
    """

    causal = False
    granularity: Literal["frame", "clip"] = "clip"

    def __init__(self, image_reward: RewardModel, segments: int = 4, aggregate: str = "tar", **options: Any) -> None:
        """Check that the parts fit."""
        super().__init__()
        if not isinstance(image_reward, RewardModel):
            raise TypeError(f"image_reward must be a RewardModel, got {type(image_reward).__name__}.")
        if image_reward.window != 1 or image_reward.granularity != "frame" or not image_reward.causal:
            raise ValueError(
                f"SegmentalReward shows single frames to the reward inside, but {type(image_reward).__name__} looks at "
                "several; put it beside instead, in a Sum."
            )
        if segments < 1:
            raise ValueError(f"segments must be at least 1, got {segments}.")
        if aggregate not in AGGREGATES:
            raise UnknownNameError("aggregate", aggregate, AGGREGATES)
        _check_options(aggregate, options, segments)
        self.image_reward = image_reward
        self.count, self.aggregate, self.options = int(segments), aggregate, options
        self.differentiable = image_reward.differentiable
        self.reads_pixels, self.frame_side = image_reward.reads_pixels, image_reward.frame_side
        self.takes_goals = image_reward.takes_goals
        low, high = image_reward.range
        shrinks = aggregate == "tar" and not options.get("normalise", False)
        self.range = (min(low, 0.0), max(high, 0.0)) if shrinks else (low, high)
        self.eval()  # unlike other modules: nobody should get random scores by default

    @property
    def state_keys(self) -> tuple[str, ...]:
        """What the image reward reads."""
        return self.image_reward.state_keys

    def segments(
        self, clips: Tensor, goals: Goals = None, state: State = None, generator: Generator | None = None
    ) -> SegmentScores:
        """Judge one frame per segment; arguments as in :meth:`terms`.

        Args:
            clips: ``(B, T, 3, H, W)`` clips; if ``T < S``, some frames stand for several segments.
            goals: one goal per clip.
            state: as for the image reward, and ``"frame_index"`` with ``"frame_count"`` if the clips are samples.
            generator: draws the frames, also in evaluation.
        """
        is_sample = state is not None and ("frame_index" in state or "frame_count" in state)
        keys = (*self.state_keys, *(("frame_index", "frame_count") if is_sample else ()))
        check_call(clips, goals, state, keys)
        indices = self._choose(clips, generator)
        picked = {key: state[key].to(clips.device).gather(1, indices) for key in keys} if state is not None else {}
        terms = self._judge(clips, indices, goals, picked)
        return SegmentScores(
            rewards=self.image_reward.combine(terms),
            indices=indices,
            positions=picked.get("frame_index", indices),
            totals=picked.get("frame_count", torch.full_like(indices, clips.shape[1]))[:, :1],
            terms=terms,
        )

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The clip's number as ``"segmental"`` and each aggregated part of it, the same ``(B, T)`` for every frame."""
        seen = self.segments(clips, goals, state)
        found = {**self._aggregated(seen), REWARD: self._aggregate(seen.rewards, seen)}
        return {name: value[:, None].repeat(1, clips.shape[1]) for name, value in found.items()}

    def combine(self, terms: Terms) -> Tensor:
        """The clip's number."""
        return terms[REWARD]

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """The clip's number ``(B,)``."""
        seen = self.segments(clips, goals, state)
        return self._aggregate(seen.rewards, seen)

    def dimensions(self, clips: Tensor, goals: Goals = None, state: State = None) -> dict[str, Tensor]:
        """Each part of the image reward, aggregated as the reward itself is, ``(B,)``."""
        return self._aggregated(self.segments(clips, goals, state))

    def config(self) -> dict[str, Any]:
        """The image reward by class and config, and the rest."""
        return {
            "image_reward": to_spec(self.image_reward),
            "segments": self.count,
            "aggregate": self.aggregate,
            **self.options,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build the image reward, then the whole."""
        return cls(**{**config, "image_reward": from_spec(config["image_reward"], encoder)})

    def _choose(self, clips: Tensor, generator: Generator | None) -> Tensor:
        batch, total = clips.shape[:2]
        if generator is None and self.training:
            generator = torch.default_generator
        draws = batch if generator is not None else 1
        rows = torch.stack([segment_indices(total, self.count, generator) for _ in range(draws)])
        return rows.expand(batch, -1).to(clips.device)

    def _judge(self, clips: Tensor, indices: Tensor, goals: Goals, state: State) -> Terms:
        rows = torch.arange(len(clips), device=clips.device)[:, None]
        picked = clips[rows, indices]
        with supply_part(self.image_reward, clips, picked, (rows, indices)):
            return self.image_reward.terms(picked, goals, state)

    def _aggregate(self, values: Tensor, seen: SegmentScores) -> Tensor:
        return AGGREGATES[self.aggregate](values, seen, **self.options)

    def _aggregated(self, seen: SegmentScores) -> dict[str, Tensor]:
        return {name: self._aggregate(values, seen) for name, values in seen.terms.items()}


def _check_options(aggregate: str, options: Mapping[str, Any], segments: int) -> None:
    known = [name for name in inspect.signature(AGGREGATES[aggregate]).parameters if name not in ("x", "seen")]
    for name in options:
        if name not in known:
            raise UnknownNameError(f"option of aggregate {aggregate!r}", name, known)
    if not 0 <= options.get("lam", 0) < math.inf:
        raise ValueError(f"lam must be at least 0 and finite, got {options['lam']}.")
    if not options.get("temperature", 1) > 0:
        raise ValueError(f"temperature must be positive, got {options['temperature']}.")
    if not 1 <= options.get("k", 1) <= segments:
        raise ValueError(f"k must lie between 1 and the number of segments ({segments}), got {options['k']}.")
