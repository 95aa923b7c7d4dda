"""SPO's reward without a reward model: how often a trajectory beats what the same policy did lately."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrm.data.comparisons import ComparisonError, Segments
from vrm.errors import CheckpointError, UnknownNameError
from vrm.frames import to_float
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call
from vrm.rewards.demonstrations import refuse_goals
from vrm.rewards.labeller_files import labeller_from_spec, labeller_to_spec
from vrm.rewards.labellers import Labeller
from vrm.video import sample_indices

Pay = Literal["end", "spread"]
EARNED = "env_reward"  # an episode that is over earns no more of it; whatever else is known of it stays as it is


@dataclass(frozen=True)
class Held:
    """Sizes of what a queue holds.

    Attributes:
        episodes: how many.
        steps: frames of the longest.
        size: height and width of frames; (1, 1) where nobody looks at them.
        keys: state values.
    """

    episodes: int = 0
    steps: int = 0
    size: tuple[int, int] = (1, 1)
    keys: tuple[str, ...] = ()


class EpisodeQueue(nn.Module):
    """The last episodes, as their labeller sees them: frames, state values, or both.

    Episodes that ended early stay as they ended: the last frame and state values are repeated, and ``env_reward`` is 0.

    Args:
        size: how many are kept; the oldest leave first.
        held: sizes of what is in it.
    """

    seen: Tensor
    told: Tensor

    def __init__(self, size: int, held: Held) -> None:
        """Make room; what is held comes from a file."""
        super().__init__()
        self.size, self.keys = size, held.keys
        shape = (held.episodes, held.steps)
        self.register_buffer("seen", torch.zeros(*shape, 3, *held.size, dtype=torch.uint8))
        self.register_buffer("told", torch.zeros(len(held.keys), *shape))

    def __len__(self) -> int:
        """How many episodes are held."""
        return len(self.seen)

    def held(self) -> Held:
        """Sizes of what is in it."""
        height, width = self.seen.shape[-2:]
        return Held(len(self), self.seen.shape[1], (height, width), self.keys)

    def segments(self) -> Segments:
        """What is in it, oldest first."""
        blind = self.seen.shape[-2:] == (1, 1)
        return Segments(None if blind else self.seen, dict(zip(self.keys, self.told, strict=True)))

    def add(self, episodes: Segments) -> None:
        """Let episodes of one length join, and the oldest leave.

        Raises:
            ComparisonError: if their frames are of another size than those in it.
        """
        frames = episodes.frames
        if frames is None:
            frames = torch.zeros(len(episodes), episodes.length, 3, 1, 1, dtype=torch.uint8)
        if len(self) and frames.shape[-2:] != self.seen.shape[-2:]:
            raise ComparisonError(
                f"The queue holds frames of {tuple(self.seen.shape[-2:])} pixels, new ones have "
                f"{tuple(frames.shape[-2:])}; render both at one size."
            )
        told = {key: episodes.state[key] for key in self.keys}
        joining = Segments(frames, told)
        if len(self):
            before = Segments(self.seen, dict(zip(self.keys, self.told, strict=True)))
            before, joining = same_length(before, joining)
            frames = torch.cat([_frames(before), _frames(joining)])
            told = {key: torch.cat([before.state[key], joining.state[key]]) for key in self.keys}
        device = self.seen.device
        self.seen = frames[-self.size :].to(device)
        rows = [told[key][-self.size :].float() for key in self.keys]
        self.told = (torch.stack(rows) if rows else torch.zeros(0, *self.seen.shape[:2])).to(device)


class WinRateReward(RewardModel):
    """Self-play preference optimisation's reward (Swamy et al. 2024, arXiv 2401.04056, algorithm 1).

    A trajectory is paid its mean win rate against recent ones of the same policy, of which a queue is kept::

        w(i) = mean over j in the queue of P(i beats j),   P(i, j) = (p(i, j) + 1 - p(j, i)) / 2

    with a labeller's answers ``p``. There is no reward model to fit, so answers may go round in circles, where no
    number per behaviour can agree with them all: the policy that learns from win rates goes for the mixture that
    nothing beats. Questions left unanswered do not count; without any answer the rate is one half. Each episode costs
    one question per episode in the queue, two if both orders are asked.

    The rate is about whole trajectories, so it is paid once they end: by :class:`~vrm.wrappers.RewardStream` and all
    wrappers with ``mode="episode_end"``, or by :func:`~vrm.wrappers.attach_reward` to off-policy algorithms. The queue
    changes only under :meth:`playing`, which is what the agent is to be trained on; evaluation leaves it alone. What is
    in a replay buffer was paid against the policy of its time, and stays so. On-policy algorithms forget it, as SPO has
    it; paid at the end of an episode, they need returns that reach back to its start, such as PPO's with
    ``gamma = gae_lambda = 1``.

    Args:
        labeller: compares two trajectories; None for one that :meth:`attach` names later.
        queue: how many trajectories are kept.
        pay: ``"end"`` pays all at the last frame, ``"spread"`` the same sum in equal parts at all but the first.
        total: what a trajectory that always wins is paid in all.
        both_orders: whether each question is asked with sides swapped, too. A labeller that does so itself needs none.
        frames: how many frames stand for a trajectory, evenly spaced from first to last, where the labeller sees
            frames; None for all of them. State values are those of the same frames.
        held: sizes of the queue's content, for files.

    Raises:
        ComparisonError: if ``queue`` or ``frames`` is below 1, or ``total`` not above 0.
        UnknownNameError: if there is no such way to ``pay``.

    Example:
        >>> reward = WinRateReward(labeller, queue=32)  # doctest: +SKIP
        >>> algo.learn(100_000, callback=attach_reward(algo, reward.playing()))  # doctest: +SKIP
    """

    causal = False
    granularity = "clip"
    differentiable = False
    takes_goals = False

    def __init__(
        self,
        labeller: Labeller | None,
        queue: int = 32,
        pay: Pay = "spread",
        total: float = 1.0,
        both_orders: bool = True,
        frames: int | None = 16,
        held: Mapping[str, Any] | None = None,
    ) -> None:
        """Start with an empty queue, unless a file's content is to come."""
        super().__init__()
        if queue < 1 or (frames is not None and frames < 1) or not 0 < total < float("inf"):
            raise ComparisonError(
                f"queue and frames must be at least 1 and total above 0, got queue={queue}, frames={frames} and "
                f"total={total}."
            )
        if pay not in get_args(Pay):
            raise UnknownNameError("pay", pay, get_args(Pay))
        self.pay: Pay = pay
        self.total, self.both_orders, self.frames = float(total), both_orders, frames
        self.range = (0.0, self.total)
        self.remembers = False
        keys = () if labeller is None else labeller.state_keys
        sizes = (
            Held(keys=keys)
            if held is None
            else Held(**{**held, "size": tuple(held["size"]), "keys": tuple(held["keys"])})
        )
        self.queue = EpisodeQueue(queue, sizes)
        self.labeller: Any = None
        if labeller is not None:
            self.attach(labeller)

    def attach(self, labeller: Labeller) -> Self:
        """Let ``labeller`` answer from now on.

        Raises:
            ComparisonError: if it reads state values that the episodes in the queue lack.
        """
        keys = tuple(labeller.state_keys)
        if keys != self.queue.keys and len(self.queue):
            raise ComparisonError(
                f"{type(labeller).__name__} reads state {list(keys)}, the episodes in the queue have "
                f"{list(self.queue.keys)}; attach a labeller that reads the same."
            )
        self.queue.keys = keys
        if not len(self.queue):
            self.queue.told = torch.zeros(len(keys), *self.queue.seen.shape[:2])
        self.labeller = labeller
        self.reads_pixels = labeller.sees_frames
        return self

    def playing(self) -> Self:
        """This reward as an agent is trained on it: each trajectory it labels joins the queue, which both share."""
        player = copy.copy(self)  # parts stay shared
        player.remembers = True
        return player

    @property
    def state_keys(self) -> tuple[str, ...]:
        """What the labeller reads."""
        return self.queue.keys

    @torch.no_grad()
    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """``{"win_rate": (B, T), "share": (B, T)}``: the rate, on every frame, and what part of it that frame is paid.

        Raises:
            PromptError: if goals are given.
            CheckpointError: if the reward came from a file without its labeller and got no other.
        """
        check_call(clips, goals, state, self.state_keys)
        refuse_goals(goals, type(self).__name__)
        episodes = self._seen(clips, state or {})
        rates = self.win_rates(episodes).to(clips.device)
        if self.remembers:
            self.queue.add(episodes)
        shares = torch.zeros(clips.shape[:2], device=clips.device)
        steps = clips.shape[1] - 1
        if self.pay == "spread" and steps:
            shares[:, 1:] = 1 / steps
        else:
            shares[:, -1] = 1
        return {"win_rate": rates[:, None].expand(clips.shape[:2]).clone(), "share": shares}

    def combine(self, terms: Terms) -> Tensor:
        """Pay each frame its share of the rate, ``total`` in all for a trajectory that always wins."""
        return self.total * terms["win_rate"] * terms["share"]

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """The win rates ``(B,)`` in [0, 1]."""
        return self.terms(clips, goals, state)["win_rate"][:, 0]

    def dimensions(self, clips: Tensor, goals: Goals = None, state: State = None) -> dict[str, Tensor]:
        """The win rate, which has no parts."""
        return {"win_rate": self.score(clips, goals, state)}

    def win_rates(self, episodes: Segments) -> Tensor:
        """Mean win rates ``(N,)`` in [0, 1] of ``episodes`` against the queue; one half where nothing is answered."""
        labeller = self._labeller()
        rates = torch.full((len(episodes),), 0.5)
        if not len(self.queue):
            return rates
        others = self.queue.segments()
        for i in range(len(episodes)):
            one, all_others = same_length(episodes[torch.full((len(others),), i)], others)
            answers = [labeller.compare(one, all_others)]
            if self.both_orders:
                answers.append(1 - labeller.compare(all_others, one))
            wins = torch.stack([answer.float().cpu() for answer in answers]).nanmean(dim=0)
            if not wins.isnan().all():
                rates[i] = wins.nanmean()
        return rates

    def config(self) -> dict[str, Any]:
        """Constructor arguments; a labeller that cannot be described is left out, and has to be attached again."""
        return {
            "labeller": None if self.labeller is None else labeller_to_spec(self.labeller),
            "queue": self.queue.size,
            "pay": self.pay,
            "total": self.total,
            "both_orders": self.both_orders,
            "frames": self.frames,
            "held": asdict(self.queue.held()),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`."""
        spec = config["labeller"]
        return cls(**{**config, "labeller": None if spec is None else labeller_from_spec(spec, encoder)})

    def _labeller(self) -> Labeller:
        if self.labeller is None:
            raise CheckpointError(
                "This win rate was saved without its labeller, which cannot be described in a file; call "
                "reward.attach(labeller) before it is asked."
            )
        labeller: Labeller = self.labeller
        return labeller

    def _seen(self, clips: Tensor, state: Mapping[str, Tensor]) -> Segments:
        told = {key: state[key].detach().float() for key in self.state_keys}
        if not self._labeller().sees_frames:
            if not told:
                raise ComparisonError(f"{type(self.labeller).__name__} reads neither frames nor state.")
            return Segments(None, told)
        pixels = clips if clips.dtype == torch.uint8 else (to_float(clips) * 255).round().to(torch.uint8)
        if self.frames is None:
            return Segments(pixels, told)
        rows = torch.tensor(sample_indices(clips.shape[1], self.frames), device=clips.device)
        return Segments(pixels[:, rows], {key: values[:, rows] for key, values in told.items()})


def same_length(one: Segments, other: Segments) -> tuple[Segments, Segments]:
    """Let the shorter go on as it ended, so that both can be compared frame by frame.

    Its last frame and state values are repeated, but for ``env_reward``: an episode that is over earns nothing.
    """
    longest = max(one.length, other.length)
    return _prolonged(one, longest), _prolonged(other, longest)


def _prolonged(segments: Segments, length: int) -> Segments:
    more = length - segments.length
    if not more:
        return segments
    frames = segments.frames
    if frames is not None:
        frames = torch.cat([frames, frames[:, -1:].expand(-1, more, -1, -1, -1)], dim=1)
    state = {
        key: functional.pad(values, (0, more))
        if key == EARNED
        else torch.cat([values, values[:, -1:].expand(-1, more)], 1)
        for key, values in segments.state.items()
    }
    return Segments(frames, state)


def _frames(segments: Segments) -> Tensor:
    assert segments.frames is not None  # the queue always holds some, if only blank ones
    return segments.frames
