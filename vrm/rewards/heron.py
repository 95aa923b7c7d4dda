"""HERON: who only knows which of several factors matters more can compare behaviour, level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from vrm.data.comparisons import ComparisonError, Segments
from vrm.encoders import Encoder
from vrm.errors import UnknownNameError
from vrm.rewards.base import Encoders, RewardModel, from_spec, to_spec

Summary = Literal["mean", "last", "min", "max"]
_SUMMARIES = {
    "mean": lambda values: values.mean(dim=1),
    "last": lambda values: values[:, -1],
    "min": lambda values: values.amin(dim=1),
    "max": lambda values: values.amax(dim=1),
}


@dataclass(frozen=True)
class Factor:
    """One thing that matters.

    Attributes:
        name: a state key, or what to call the reward.
        higher: whether more is better.
        margin: differences up to so many standard deviations leave the decision to the next factor; None for 1. Not
            for a labeller with bins.
        summary: one number of a segment's values.
    """

    name: str
    higher: bool = True
    margin: float | None = None
    summary: Summary = "mean"

    def __post_init__(self) -> None:
        """Check name, margin and summary."""
        if not isinstance(self.name, str) or not self.name:
            raise ComparisonError(f"A factor needs a name, got {self.name!r}.")
        if self.margin is not None and not 0 <= self.margin < float("inf"):
            raise ComparisonError(f"The margin of factor {self.name!r} must be at least 0, got {self.margin}.")
        if self.summary not in get_args(Summary):
            raise UnknownNameError("summary", self.summary, get_args(Summary))


class HeronLabeller(nn.Module):
    """HERON's comparator: the first factor that differs decides (Bukharin et al. 2023, arXiv 2309.02632, section 3).

    Factors ``f_1, f_2, …`` are given in order of importance. Of two segments, the one that is better in ``f_1`` by more
    than ``margin_1 * std(f_1)`` is preferred; if neither is, ``f_2`` is asked, and so on. Where no factor decides,
    there is no answer (NaN).

    Such margins make circles possible: a beats b and b beats c by a hair's breadth less than the first margin and
    clearly in the second factor, and c beats a in the first. With ``bins`` each factor is cut into that many levels of
    about equal frequency instead, and levels are compared, which is transitive.
    :func:`~vrm.rewards.heron_report.report_heron` says how often either happens, before anything is trained.

    Standard deviations and bins are those of the segments given to :meth:`calibrate`, or else of all segments of the
    first call; they are kept with the module's state.

    Args:
        factors: in order of importance; mappings are read as :class:`Factor`, so are bare names.
        rewards: reward models by the name of the factor that they score; factors without one are state keys. A reward
            model sees a segment's frames and scores every frame.
        bins: levels per factor, or None for margins.

    Raises:
        ComparisonError: if there are no factors, one comes twice, a reward belongs to none, or margins are given
            together with bins.

    Example:
        >>> labeller = HeronLabeller(["standing", {"name": "effort", "higher": False, "margin": 0.5}])
        >>> seen = Segments(state={"standing": torch.tensor([[1.0], [0.0], [1.0]]), "effort": torch.zeros(3, 1)})
        >>> labeller.calibrate(seen).compare(seen[:2], seen[1:])
        tensor([1., 0.])
    """

    spread: Tensor
    edges: Tensor
    ready: Tensor

    def __init__(
        self,
        factors: Sequence[Factor | Mapping[str, Any] | str],
        rewards: Mapping[str, RewardModel] | None = None,
        bins: int | None = None,
    ) -> None:
        """Check that factors, rewards and margins fit together."""
        super().__init__()
        self.factors = tuple(_factor(factor) for factor in factors)
        self.rewards = nn.ModuleDict({name: reward for name, reward in (rewards or {}).items()})
        self.bins = bins
        self._check()
        self.register_buffer("spread", torch.ones(len(self.factors)))
        self.register_buffer("edges", torch.zeros(len(self.factors), (bins or 1) - 1))
        self.register_buffer("ready", torch.zeros(()))

    @classmethod
    def of(cls, encoder: Encoder, **arguments: Any) -> Self:
        """Build the labeller around ``encoder``; what config files call, where rewards still lack their encoder."""
        rewards: Mapping[str, Any] = arguments.pop("rewards", None) or {}
        built = {
            name: reward if isinstance(reward, RewardModel) else reward(encoder) for name, reward in rewards.items()
        }
        return cls(rewards=built, **arguments)

    @property
    def sees_frames(self) -> bool:
        """Whether one of the reward models looks at frames, itself or through an encoder."""
        return any(
            reward.reads_pixels or any(isinstance(part, Encoder) for part in reward.modules())
            for reward in self._models().values()
        )

    @property
    def state_keys(self) -> tuple[str, ...]:
        """State values that factors and reward models read."""
        models = self._models()
        keys = [factor.name for factor in self.factors if factor.name not in models]
        return tuple(dict.fromkeys([*keys, *(key for reward in models.values() for key in reward.state_keys)]))

    @torch.no_grad()
    def measure(self, segments: Segments) -> Tensor:
        """The factors of each segment ``(N, m)`` float32, most important first, signed so that more is better.

        Raises:
            ComparisonError: if a state value or the frames are missing, or a value is not finite.
        """
        columns = []
        for factor in self.factors:
            values = _SUMMARIES[factor.summary](self._values(factor.name, segments)).float().cpu()
            if not torch.isfinite(values).all():
                raise ComparisonError(f"Factor {factor.name!r} of a segment is NaN or infinite; it cannot be compared.")
            columns.append(values if factor.higher else -values)
        return torch.stack(columns, dim=1)

    def calibrate(self, segments: Segments) -> Self:
        """Take standard deviations and bins from ``segments``, at least two, such as random play.

        Returns:
            This labeller.

        Raises:
            ComparisonError: as :meth:`measure`, or if there are fewer than two.
        """
        return self._calibrate(self.measure(segments))

    def compare(self, first: Segments, second: Segments) -> Tensor:
        """1 or 0 ``(N,)`` for the pairs that a factor decides, NaN for the others."""
        one, other = self.measure(first), self.measure(second)
        if not self.ready:
            self._calibrate(torch.cat([one, other]))
        decision = self.decide(one, other)[0]
        return torch.where(decision == 0, torch.nan, (decision + 1) / 2)

    def decide(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Which is better, and which factor says so.

        Args:
            one: ``(..., m)`` factors as :meth:`measure` gives them.
            other: those of the second, in a shape that broadcasts.

        Returns:
            Two tensors ``(...)``: 1 for the first, -1 for the second, 0 for neither; and the number of the factor that
            decides, counted from 0, ``m`` where none does.
        """
        if self.bins is None:
            shares = torch.tensor([1.0 if factor.margin is None else factor.margin for factor in self.factors])
            margins = shares.to(one.device) * self.spread.to(one.device)
            gap = one - other
            verdicts = gap.sign() * (gap.abs() > margins)
        else:
            verdicts = (self._levels(one) - self._levels(other)).sign().float()
        decided = verdicts != 0
        level = torch.where(decided.any(dim=-1), decided.int().argmax(dim=-1), len(self.factors))
        padded = torch.cat([verdicts, torch.zeros_like(verdicts[..., :1])], dim=-1)
        return padded.gather(-1, level.unsqueeze(-1)).squeeze(-1), level

    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values, reward models as their specs."""
        return {
            "factors": [asdict(factor) for factor in self.factors],
            "rewards": {name: to_spec(reward) for name, reward in self._models().items()},
            "bins": self.bins,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`; ``encoder`` as for reward models."""
        rewards = {name: from_spec(spec, encoder) for name, spec in config["rewards"].items()}
        return cls(config["factors"], rewards, config["bins"])

    def _models(self) -> dict[str, RewardModel]:
        return {name: part for name, part in self.rewards.items() if isinstance(part, RewardModel)}

    def _values(self, name: str, segments: Segments) -> Tensor:
        reward = self._models().get(name)
        if reward is None:
            if name not in segments.state:
                raise ComparisonError(
                    f"Factor {name!r} is not among the state values of the segments, {sorted(segments.state)}; name "
                    "one of those, or give a reward model for it."
                )
            return segments.state[name].float()
        frames = segments.frames
        if frames is None:
            if self.sees_frames:
                raise ComparisonError(f"Factor {name!r} is scored on frames, but the segments have none.")
            frames = torch.zeros(len(segments), segments.length, 3, 1, 1, dtype=torch.uint8)
        scored: Tensor = reward(frames, state=segments.state)
        return scored

    def _calibrate(self, values: Tensor) -> Self:
        if len(values) < 2:
            raise ComparisonError(f"HERON's margins and bins need at least 2 segments, got {len(values)}; give more.")
        self.spread.copy_(values.std(dim=0, correction=0))
        if self.bins is not None:
            cuts = torch.arange(1, self.bins, dtype=torch.float64) / self.bins
            self.edges.copy_(values.double().quantile(cuts, dim=0).T)
        self.ready.fill_(1)
        return self

    def _levels(self, values: Tensor) -> Tensor:
        return (values.unsqueeze(-1) > self.edges.to(values.device)).sum(dim=-1)

    def _check(self) -> None:
        names = [factor.name for factor in self.factors]
        if not names or len(set(names)) != len(names):
            raise ComparisonError(f"HERON needs factors of different names, most important first, got {names}.")
        for name in self.rewards:
            if name not in names:
                raise UnknownNameError("factor", name, names, "A reward must belong to a factor.")
        if self.bins is None:
            return
        if self.bins < 2:
            raise ComparisonError(f"bins must be at least 2, or None for margins, got {self.bins}.")
        if any(factor.margin is not None for factor in self.factors):
            raise ComparisonError("Factors are compared by margins or by bins, not both; leave out one of them.")


def _factor(given: Factor | Mapping[str, Any] | str) -> Factor:
    if isinstance(given, Factor):
        return given
    try:
        return Factor(given) if isinstance(given, str) else Factor(**given)
    except TypeError:
        known = list(Factor.__dataclass_fields__)
        raise ComparisonError(f"A factor is described by {known}, got {given!r}.") from None
