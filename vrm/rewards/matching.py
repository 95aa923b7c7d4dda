"""Matching reward: how well an episode's frames match those of demonstrations, by any matcher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from vrm.data.demos import Demo, DemoError
from vrm.encoders import Encoder
from vrm.errors import UnknownNameError
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.demonstrations import Findings, check_demos, encode_demos, refuse_goals
from vrm.rewards.matchers import Match, Matcher, make_matcher, matcher_config

CELLS = 2**25  # of cost matrices held at once
TOTAL = 10.0  # what a held-out demonstration loses over its whole length after scaling, under a linear squash
EXPONENT = 0.5  # and how far its exponent lies below 0 in a mean frame, under the exponential one
OUTLIER = 2.0  # a demonstration that matches the others this many times worse than the median one is named
BLIND = 0.01  # relative difference of forwards and backwards below which a matcher is said not to see order

Pick = Literal["best", "mean"]
Squash = Literal["auto", "exponential", "linear", "none"]


def cosine_cost(episodes: Tensor, demos: Tensor) -> Tensor:
    """Cosine distances ``(B, K, T, T')`` in [0, 2] between unit features ``(B, T, D)`` and ``(K, T', D)``."""
    with torch.autocast(episodes.device.type, enabled=False):
        return (1 - torch.einsum("btd,ksd->bkts", episodes.float(), demos.float())).clamp(0, 2)


class MatchingReward(RewardModel):
    """Pays frames that match those of demonstrations, under cosine distance of the encoder's features.

    Which frames may be matched with which is the matcher's part (:mod:`vrm.rewards.matchers`). ``"nearest"``,
    ``"orca"`` and ``"segment"`` with a ``horizon`` are causal and can be paid online; the others label whole episodes.
    ``"nearest"`` and ``"sinkhorn"`` do not see order: what a demonstration shows pays as much played backwards.

    Of several demonstrations the one with the highest total counts (``pick="best"``): over the episode for matchers of
    whole episodes, over the episode so far for causal ones, in the present frame for ``"nearest"``, which remembers
    nothing. The first frame counts in these totals. ``state`` changes nothing, and goals are refused: the
    demonstrations are the goal.

    Rewards that are minus a cost come out of the matcher in [-2, 0], and are squashed:

    =================  ===============================================================================================
    ``squash``         reward from the matcher's number ``r``
    =================  ===============================================================================================
    ``"exponential"``  ``alpha * exp(beta * scale * r)``, in (0, alpha] (OTR; its factor T is in ``scaling="row"``, and
                       there is no division by the size of an observation, which does not change a cosine)
    ``"linear"``       ``scale * r``
    ``"none"``         ``r``
    ``"auto"``         exponential for costs, none for a share such as ORCA's
    =================  ===============================================================================================

    Never negative, an exponential reward does not tempt an agent to end the episode early; a linear one may.

    Args:
        encoder: makes the features of clips.
        features: ``(K, T', D)`` features of ``K`` demonstrations, padded; normalised here.
        lengths: number of frames of each; ``T'`` if omitted.
        matcher: a matcher, its name, or ``{"name": ..., options}``.
        pick: ``"best"`` or ``"mean"``, the mean over demonstrations before squashing.
        squash: see above.
        alpha: largest exponential reward.
        beta: steepness of the exponential.
        scale: unit of the cost, which :meth:`fit` chooses.

    Attributes:
        found: what :meth:`fit` found; None if the reward was made otherwise.

    Raises:
        ValueError: if shapes do not fit the encoder or a number is out of its range.
        UnknownNameError: if a name is unknown.

    Example:
        >>> reward = MatchingReward.fit(encoder, demos, matcher="sinkhorn")  # doctest: +SKIP
        >>> reward(clips)  # (B, T) rewards in (0, 5]  # doctest: +SKIP

    Papers: Luo et al. (OTR), arXiv 2303.13971; Haldar et al. (ROT), arXiv 2206.15469, and those of the matchers.
    """

    takes_goals = False
    reads_pixels = False
    features: Tensor

    def __init__(
        self,
        encoder: Encoder,
        features: Tensor,
        lengths: Sequence[int] | None = None,
        matcher: str | Matcher | Mapping[str, Any] = "nearest",
        pick: Pick = "best",
        squash: Squash = "auto",
        alpha: float = 5.0,
        beta: float = 5.0,
        scale: float = 1.0,
    ) -> None:
        """Check the options and keep the features."""
        super().__init__()
        if features.ndim != 3 or 0 in features.shape or features.shape[2] != encoder.embed_dim:
            raise ValueError(
                f"features must be (K, T', D) with D = {encoder.embed_dim} for encoder {encoder.name!r}, "
                f"got {tuple(features.shape)}."
            )
        self.lengths = [features.shape[1]] * len(features) if lengths is None else [int(n) for n in lengths]
        if len(self.lengths) != len(features) or not all(1 <= n <= features.shape[1] for n in self.lengths):
            raise ValueError(
                f"lengths must be {len(features)} numbers in [1, {features.shape[1]}], got {self.lengths}."
            )
        if not (alpha > 0 and beta > 0 and 0 < scale < math.inf):
            raise ValueError(f"alpha, beta and scale must be positive, got {alpha}, {beta} and {scale}.")
        self.encoder = encoder
        self.matcher = make_matcher(matcher)
        self.pick, self.squash = _known("pick", pick, ("best", "mean")), _resolve(squash, self.matcher)
        self.alpha, self.beta, self.scale = float(alpha), float(beta), float(scale)
        self.found: Findings | None = None
        self.causal, self.window = self.matcher.causal, self.matcher.window
        low, high = self._squashed(torch.tensor(self.matcher.range)).tolist()
        self.range = (low, high)
        self.register_buffer("features", functional.normalize(features.detach().float(), dim=-1))

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        demos: Sequence[Demo],
        *,
        seed: int = 0,
        matcher: str | Matcher | Mapping[str, Any] = "nearest",
        max_frames: int | None = None,
        pick: Pick = "best",
        squash: Squash = "auto",
        alpha: float = 5.0,
        beta: float = 5.0,
    ) -> Self:
        """Keep the features of demonstrations, and choose ``scale`` by matching each with the others.

        Under a linear squash a held-out demonstration gets a total of -10, as ROT scales by its first episode; under
        the exponential one its mean exponent is -0.5, so about ``0.6 * alpha`` per frame. With a single demonstration,
        or several alike, the unit is instead the mean cost between two frames of one: a frame at random pays -1.

        Args:
            encoder: makes the features.
            demos: one demonstration or more, of any lengths.
            seed: changes nothing, as nothing is drawn; every fit takes one.
            matcher: as in the constructor.
            max_frames: keep at most so many frames of each demonstration, evenly spread; all if omitted.
            pick: as in the constructor.
            squash: as in the constructor.
            alpha: as in the constructor.
            beta: as in the constructor.

        Raises:
            DemoError: if there is no demonstration, one is too short or shows nothing but one picture, or the encoder
                does not tell any frames of one apart.
            ValueError: if ``max_frames`` is below 2.
        """
        if max_frames is not None and max_frames < 2:
            raise ValueError(f"max_frames must be at least 2, got {max_frames}.")
        clips = [_thinned(clip, max_frames) for clip in encode_demos(encoder, check_demos(demos, "MatchingReward"))]
        padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        lengths = [len(clip) for clip in clips]
        raw = cls(encoder, padded, lengths, matcher, pick, "none")
        forward, backward = (_held_out(raw, order) for order in (clips, [clip.flip(0) for clip in clips]))
        arguments: dict[str, Any] = {"squash": squash, "alpha": alpha, "beta": beta}
        reward = cls(encoder, padded, lengths, raw.matcher, pick, scale=1.0, **arguments)
        if reward.squash != "none":
            lost = -float(forward.mean()) if len(clips) > 1 else 0.0
            wanted = EXPONENT / beta if reward.squash == "exponential" else TOTAL * len(clips) / sum(lengths)
            scale = wanted / lost if lost > 1e-6 else 1 / _spread(clips, demos)
            reward = cls(encoder, padded, lengths, raw.matcher, pick, scale=scale, **arguments)
        reward.found = _findings(reward, [demo.name for demo in demos], forward, backward)
        return reward

    def match(self, features: Tensor) -> Match:
        """Match episodes with every demonstration, before picking and squashing; for pictures and analysis.

        Args:
            features: ``(B, T, D)`` unit features of episodes.

        Returns:
            Rewards ``(B, K, T)`` and plans ``(B, K, T, T')``.
        """
        cost = cosine_cost(features, self.features.to(features.device))
        lengths = torch.tensor(self.lengths, device=features.device).repeat(len(features))
        padded = len(set(self.lengths)) > 1 or self.lengths[0] < self.features.shape[1]
        found = self.matcher(cost.flatten(0, 1), demo_lengths=lengths if padded else None)
        return Match(found.reward.reshape(cost.shape[:3]), found.plan.reshape(cost.shape))

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The matcher's number for the picked demonstration as ``{"match": (B, T)}``.

        Raises:
            PromptError: if ``goals`` are given, for the demonstrations are the goal.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        episodes = encode_frames(self.encoder, clips)
        at_once = max(1, CELLS // (episodes.shape[1] * self.features.shape[0] * self.features.shape[1]))
        return {"match": torch.cat([self._picked(self.match(part).reward) for part in torch.split(episodes, at_once)])}

    def combine(self, terms: Terms) -> Tensor:
        """Squash."""
        return self._squashed(terms["match"])

    def config(self) -> dict[str, Any]:
        """Constructor arguments; of the features, the lengths."""
        return {
            "encoder": self.encoder.name,
            "lengths": self.lengths,
            "padded": self.features.shape[1],
            "matcher": matcher_config(self.matcher),
            "pick": self.pick,
            "squash": self.squash,
            "alpha": self.alpha,
            "beta": self.beta,
            "scale": self.scale,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`, with features of zeros that the file replaces."""
        arguments = dict(config)
        found = pick_encoder(arguments.pop("encoder"), encoder)
        shape = (len(config["lengths"]), arguments.pop("padded"), found.embed_dim)
        return cls(found, torch.zeros(shape), **arguments)

    def _picked(self, rewards: Tensor) -> Tensor:
        """From ``(B, K, T)`` to ``(B, T)``."""
        if self.pick == "mean":
            return rewards.mean(1)
        worth = self._squashed(rewards.detach())
        if not self.causal:
            worth = worth.sum(2, keepdim=True).expand_as(worth)
        elif self.window > 1:
            worth = worth.cumsum(2)
        return rewards.gather(1, worth.argmax(1, keepdim=True))[:, 0]

    def _squashed(self, values: Tensor) -> Tensor:
        if self.squash == "exponential":
            return self.alpha * torch.exp(self.beta * self.scale * values)
        return self.scale * values if self.squash == "linear" else values


def _resolve(squash: Squash, matcher: Matcher) -> str:
    is_cost = matcher.range[1] == 0
    if squash == "auto":
        return "exponential" if is_cost else "none"
    if not is_cost and squash != "none":
        raise ValueError(
            f"squash={squash!r} is for costs, but {type(matcher).__name__} pays a share in [0, 1]; use squash='none'."
        )
    return _known("squash", squash, ("auto", "exponential", "linear", "none"))


def _known(kind: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise UnknownNameError(kind, name, names)
    return name


def _thinned(clip: Tensor, max_frames: int | None) -> Tensor:
    if max_frames is None or len(clip) <= max_frames:
        return clip
    return clip[torch.linspace(0, len(clip) - 1, max_frames, dtype=torch.float64).round().long()]


@torch.no_grad()
def _held_out(reward: MatchingReward, clips: Sequence[Tensor]) -> Tensor:
    """What each clip gets per frame ``(K,)`` from the demonstrations other than its own; if alone, from that."""
    found = []
    for own, clip in enumerate(clips):
        others = [k for k in range(len(clips)) if k != own or len(clips) == 1]
        found.append(reward._picked(reward.match(clip[None]).reward[:, others]).mean())
    return torch.stack(found)


def _spread(clips: Sequence[Tensor], demos: Sequence[Demo]) -> float:
    costs = [float(cosine_cost(clip[None], clip[None]).mean()) for clip in clips]
    if min(costs) < 1e-6:
        name = demos[costs.index(min(costs))].name
        raise DemoError(f"The encoder does not tell the frames of demonstration {name!r} apart; use another encoder.")
    return sum(costs) / len(costs)


def _findings(reward: MatchingReward, names: Sequence[str], forward: Tensor, backward: Tensor) -> Findings:
    ahead, behind = float(forward.mean()), float(backward.mean())
    order = (ahead - behind) / max(abs(ahead), abs(behind), 1e-12)
    found = Findings(figures={"scale": reward.scale, "held_out": ahead, "reversed": behind, "order": order})
    against = "the others" if len(names) > 1 else "itself"
    found.notes.append(
        f"Per frame, a demonstration matches {against} with {ahead:.4g}, and played backwards with {behind:.4g}."
    )
    if abs(order) < BLIND:
        found.notes.append(f"{type(reward.matcher).__name__} does not see order here: backwards pays as much.")
    if len(names) == 1:
        found.notes.append("One demonstration cannot be held out; give two or more to see how well they agree.")
        return found
    for name, value, reverse in zip(names, forward.tolist(), backward.tolist(), strict=True):
        found.figures[f"held_out/{name}"] = value
        found.figures[f"reversed/{name}"] = reverse
    # A cost is bad if large, a share if small.
    bad = -forward if reward.matcher.range[1] == 0 else 1 / forward.clamp(min=1e-12)
    usual = float(bad.quantile(0.5))
    for name, value in zip(names, bad.tolist(), strict=True):
        if len(names) > 2 and usual > 0 and value > OUTLIER * usual:
            found.notes.append(
                f"Demonstration {name!r} matches the others {value / usual:.1f} times worse than the median one does; "
                "look at it, and leave it out if it shows something else."
            )
    return found
