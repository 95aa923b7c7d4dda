"""B-Pref's simulated teachers: people who answer from the true reward, and err as people do."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Self

import torch
from torch import Tensor

from vrm.data.comparisons import ComparisonError, Segments
from vrm.rewards.base import Encoders


class SyntheticTeacher:
    r"""Answers from a state value, by default the environment's own reward (B-Pref, Lee et al. 2021, section 3).

    With rewards ``r`` of a segment of ``L`` frames, its worth is ``w = sum_t gamma ** (L - 1 - t) * r_t``. In order:

    1. The question is skipped if neither segment's return reaches ``skip * per_step * L``.
    2. It is a tie if returns differ by less than ``equal * |per_step| * L``, or worths are the same.
    3. Else the first is preferred with probability ``sigmoid(beta * (w_1 - w_2))``; without ``beta``, if it is worth
       more.
    4. With probability ``mistake`` that answer is turned round.
    5. The label is ``1 - label_margin`` for the first, ``label_margin`` for the second, one half for a tie.

    B-Pref lets both thresholds follow the agent, ``epsilon * L / T * R`` with the mean return ``R`` of its episodes of
    ``T`` steps: give ``R / T`` as ``per_step``, or call :meth:`adapt` between sessions. (Its code multiplies by epsilon
    twice in later sessions, so that thresholds of 0.1 are 0.01 there; here they are what they are called.)

    An answer depends on ``seed`` and on the question, everything in its segments, alone: not on what was asked before,
    and turned round if the two are swapped. So questions that look the same get the same answer; where rewards are few
    and the same, as in sparse tasks, hand over frames or further state values to tell them apart.

    Args:
        key: the state value that is worth something.
        beta: rationality, per unit of worth; None for a teacher who always knows.
        gamma: discount towards the segment's start, in (0, 1]; below 1 the teacher is myopic.
        mistake: probability of the wrong answer.
        skip: share of what an average segment earns below which nothing is worth an answer.
        equal: share of what an average segment earns that differences must reach.
        label_margin: how far labels stay from certainty, in [0, 0.5).
        per_step: what an average step earns.
        seed: of chance.

    Raises:
        ComparisonError: if a number is out of range.

    Example:
        >>> earned = lambda *rewards: Segments(state={"env_reward": torch.tensor([rewards])})
        >>> SyntheticTeacher(equal=0.1).compare(earned(1.0, 1.0), earned(0.0, 1.0))
        tensor([1.])
    """

    sees_frames = False

    def __init__(
        self,
        key: str = "env_reward",
        beta: float | None = None,
        gamma: float = 1.0,
        mistake: float = 0.0,
        skip: float = 0.0,
        equal: float = 0.0,
        label_margin: float = 0.0,
        per_step: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Check the numbers."""
        _check("beta", beta is None or 0 < beta < math.inf, beta, "positive, or None for an oracle")
        _check("gamma", 0 < gamma <= 1, gamma, "above 0 and at most 1")
        _check("mistake", 0 <= mistake <= 1, mistake, "a probability in [0, 1]")
        _check("skip", 0 <= skip < math.inf, skip, "a share of at least 0")
        _check("equal", 0 <= equal < math.inf, equal, "a share of at least 0")
        _check("label_margin", 0 <= label_margin < 0.5, label_margin, "at least 0 and below 0.5")
        _check("per_step", math.isfinite(per_step), per_step, "finite")
        self.key, self.beta, self.gamma, self.mistake = key, beta, gamma, mistake
        self.skip, self.equal, self.label_margin, self.per_step, self.seed = skip, equal, label_margin, per_step, seed

    @property
    def state_keys(self) -> tuple[str, ...]:
        """The one value it answers from."""
        return (self.key,)

    def adapt(self, mean_return: float, steps: float) -> Self:
        """Let the thresholds follow the agent, whose episodes of ``steps`` steps earn ``mean_return`` now.

        Where that is not positive, nothing is skipped.

        Raises:
            ComparisonError: if it is no finite number.
        """
        _check("mean_return / steps", steps > 0 and math.isfinite(mean_return), f"{mean_return} / {steps}", "finite")
        self.per_step = mean_return / steps
        return self

    def compare(self, first: Segments, second: Segments) -> Tensor:
        """Labels ``(N,)`` in [0, 1], NaN where the question is skipped.

        Raises:
            ComparisonError: if a segment has no finite rewards.
        """
        one, other = (self._rewards(segments) for segments in (first, second))
        returns = torch.stack([one.sum(dim=1), other.sum(dim=1)])
        discount = self.gamma ** torch.arange(first.length - 1, -1, -1, dtype=torch.float64)
        ahead = ((one - other) * discount).sum(dim=1)
        chance, slip = _draws(first, second, self.seed).unbind(dim=1)
        certainty = torch.where(ahead > 0, 1.0, 0.0) if self.beta is None else torch.sigmoid(self.beta * ahead)
        prefers = (chance < certainty) ^ ((slip - 0.5).abs() * 2 > 1 - self.mistake)
        labels = torch.where(prefers, 1 - self.label_margin, self.label_margin)
        typical = self.per_step * first.length
        gap = (returns[0] - returns[1]).abs()
        labels[(ahead == 0) | (gap < self.equal * abs(typical))] = 0.5
        if self.skip > 0 and typical > 0:
            labels[returns.amax(dim=0) < self.skip * typical] = math.nan
        return labels.float()

    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        names = ("key", "beta", "gamma", "mistake", "skip", "equal", "label_margin", "per_step", "seed")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`; there is no encoder."""
        return cls(**config)

    def _rewards(self, segments: Segments) -> Tensor:
        if self.key not in segments.state:
            raise ComparisonError(
                f"The teacher answers from state {self.key!r}, but the segments have {sorted(segments.state)}; "
                "name another key."
            )
        rewards = segments.state[self.key].detach().cpu().double()
        if not torch.isfinite(rewards).all():
            raise ComparisonError(f"State {self.key!r} of a segment holds NaN or infinity; no teacher can judge that.")
        return rewards


def _draws(first: Segments, second: Segments, seed: int) -> Tensor:
    """Two uniform numbers ``(N, 2)`` for each question; what one order draws is 1 minus what the other does."""
    rows = []
    for one, other in zip(_fingerprints(first), _fingerprints(second), strict=True):
        low, high = sorted((one, other))
        digest = hashlib.blake2b(low + high, digest_size=16, salt=seed.to_bytes(16, "little", signed=True)).digest()
        draws = [(int.from_bytes(half, "little") + 0.5) / 2**64 for half in (digest[:8], digest[8:])]
        rows.append(draws if one == low else [1 - draw for draw in draws])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


def _fingerprints(segments: Segments) -> list[bytes]:
    parts = [segments.state[name] for name in sorted(segments.state)]
    parts += [] if segments.frames is None else [segments.frames]
    arrays = [part.detach().cpu().contiguous().numpy() for part in parts]
    found = []
    for row in range(len(segments)):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[row].tobytes())
        found.append(digest.digest())
    return found


def _check(name: str, holds: bool, value: object, rule: str) -> None:
    if not holds:
        raise ComparisonError(f"{name} of a simulated teacher must be {rule}, got {value}.")
