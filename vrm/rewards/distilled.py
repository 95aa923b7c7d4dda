"""A fast student in place of a slow reward: it learns from the few frames that its teacher labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Generator, Tensor

from vrm.encoders import Encoder, load_encoder
from vrm.errors import UnknownNameError, VrmError
from vrm.rewards.base import (
    Encoders,
    Goals,
    RewardModel,
    State,
    Terms,
    check_call,
    encode_frames,
    load_reward,
    pick_encoder,
    to_spec,
)
from vrm.rewards.demonstrations import refuse_goals
from vrm.rewards.preference_networks import small_frames
from vrm.rewards.students import CHUNK, Hasher, NetworkStudent, TableStudent, check_form

INPUTS = ("frames", "features")


@dataclass(frozen=True)
class Annotation:
    """How a teacher's labels are collected while an agent trains.

    Attributes:
        fraction: share of the agent's frames that are to be labelled, in (0, 1].
        queue: the most frames that wait; where more come, the oldest are dropped.
        batch: the most frames labelled at once.
        every: steps, summed over environments, between refits of the student.
        first: labels before the first fit.
        capacity: the newest labels, which are kept and learned from.
        holdout: each so manieth label is kept from the student, to test it on.
        synchronous: label in the agent's own process, which then waits: slow, but runs repeat exactly.
        threads: CPU threads of the teacher's process.
    """

    fraction: float = 0.05
    queue: int = 1024
    batch: int = 32
    every: int = 2000
    first: int = 64
    capacity: int = 20_000
    holdout: int = 10
    synchronous: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}.")
        for name in ("queue", "batch", "every", "first", "capacity", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.holdout < 2:
            raise ValueError(f"holdout must be at least 2 (every second label), got {self.holdout}.")


class DistilledReward(RewardModel):
    """Pays what a student has learned that its teacher, another reward, would pay.

    The teacher is not part of the model: a file holds the student, and the teacher's class and config for the record.
    Until it has learned, the student pays 0. A student sees single frames: no history, no state values (those that
    wrappers hand over are single numbers by name, so a vector of observations has no place in them).

    Args:
        encoder: the student's own, for ``input="features"``; not used otherwise.
        teacher: a reward that needs one frame only, or, as in a saved file, its description.
        form: ``"table"``, ``"classifier"``, ``"ranking"`` or ``"regression"``; see :mod:`vrm.rewards.students`.
        input: ``"frames"``, made small, or ``"features"``, cheap ones of ``encoder``.
        size: pixels of the frames that a student sees, at least 53.
        hidden: sizes of the hidden layers of a network on features.
        bins: of the classifier; 2 or more.
        tie: labels closer than so many of their standard deviations are a tie in the ranking.
        cells: squares along a side that a code tells apart, on frames.
        levels: colours that a code tells apart, on frames.
        bits: of a code, on features.
        table: the most codes in the table.
        damping: ``beta``; what lies above the lowest label is divided by ``n ** beta``, where ``n`` counts how often
            the episode's last ``horizon`` frames showed the same code. ONI takes 3 and the whole episode; 0 for none.
        horizon: frames, the present one included.
        steps: of training per :meth:`learn`.
        batch: labels per step.
        lr: learning rate of Adam; ONI takes 1e-4.
        seed: of weights, codes and batches.
        annotate: settings of :class:`Annotation`.

    Raises:
        ValueError: if the teacher looks back or ahead, reads state values, or a number is out of its range.
        UnknownNameError: if there is no such form or input.

    Example:
        >>> reward = DistilledReward(encoder, teacher, form="ranking", input="features")  # doctest: +SKIP
        >>> reward.learn(reward.see(frames), reward.ask(frames))  # doctest: +SKIP
        {'loss': 0.21}

    Papers: Zheng et al., "Online Intrinsic Rewards for Decision Making Agents from LLM Feedback" (ONI), arXiv
    2410.23022; Klissarov et al., "Motif: Intrinsic Motivation from Artificial Intelligence Feedback", arXiv 2310.00166.
    """

    takes_goals = False
    label_mean: Tensor
    label_std: Tensor
    lowest: Tensor
    fits: Tensor

    def __init__(
        self,
        encoder: Encoder | None,
        teacher: RewardModel | Mapping[str, Any],
        *,
        form: str = "regression",
        input: str = "frames",
        size: int = 64,
        hidden: Sequence[int] = (256,),
        bins: int = 8,
        tie: float = 0.0,
        cells: int = 8,
        levels: int = 8,
        bits: int = 24,
        table: int = 20_000,
        damping: float = 0.0,
        horizon: int = 128,
        steps: int = 300,
        batch: int = 128,
        lr: float = 3e-4,
        seed: int = 0,
        annotate: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the teacher and make a student that knows nothing."""
        super().__init__()
        if input not in INPUTS:
            raise UnknownNameError("input", input, INPUTS)
        _check(bins=bins, tie=tie, table=table, damping=damping, horizon=horizon, steps=steps, batch=batch, lr=lr)
        if input == "features" and encoder is None:
            raise ValueError("A student that sees features needs an encoder of its own; use input='frames' without.")
        self.encoder = encoder if input == "features" else None
        self.form, self.input, self.size, self.hidden = check_form(form), input, size, [int(h) for h in hidden]
        self.bins, self.tie, self.cells, self.levels, self.bits, self.table = bins, tie, cells, levels, bits, table
        self.damping, self.horizon, self.steps, self.batch = float(damping), horizon, steps, batch
        self.lr, self.seed, self.annotate = lr, seed, Annotation(**(annotate or {}))
        self._teacher = [check_teacher(teacher)] if isinstance(teacher, RewardModel) else []  # a list: no submodule
        self.teacher_record = _record(teacher) if isinstance(teacher, RewardModel) else dict(teacher)
        self.reads_pixels = self.encoder is None
        self.differentiable = self.form != "table"
        self.window = horizon if damping else 1
        dim = None if self.encoder is None else self.encoder.embed_dim
        self.hasher = Hasher(dim, cells, levels, bits, seed) if damping or self.form == "table" else None
        self.student: TableStudent | NetworkStudent
        if self.form == "table":
            self.student = TableStudent(table)
        else:
            self.student = NetworkStudent(
                dim, self.form, size=size, hidden=hidden, bins=bins, tie=tie, lr=lr, seed=seed
            )  # fmt: skip
        for name in ("label_mean", "label_std", "lowest"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("fits", torch.zeros((), dtype=torch.int64))

    @classmethod
    def of(cls, encoder: Encoder, **arguments: Any) -> Self:
        """Build around the student's ``encoder``.

        An unfinished ``teacher`` gets ``teacher_encoder``, an encoder or the name of one, or else the student's; one
        given by its ``path`` alone is loaded, and brings its own.
        """
        teacher, own = arguments.pop("teacher"), arguments.pop("teacher_encoder", None)
        if isinstance(own, str):
            own = load_encoder(own)
        if isinstance(teacher, partial):
            teacher = teacher(encoder if own is None else own)
        elif isinstance(teacher, Mapping) and set(teacher) == {"path"}:
            teacher = load_reward(teacher["path"], encoder=own)
        return cls(encoder, teacher, **arguments)

    @property
    def teacher(self) -> RewardModel | None:
        """The teacher; None where the student came from a file."""
        return self._teacher[0] if self._teacher else None

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """What the student says as ``"student"``, and with damping how often it was seen as ``"count"``, ``(B, T)``.

        Raises:
            PromptError: if ``goals`` are given, for the teacher's goal is what the student learned.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        seen = clips if self.encoder is None else encode_frames(self.encoder, clips)
        here = seen.to(self.lowest.device)
        if self.hasher is None:
            return {"student": self.student(here).to(clips.device)}
        codes = self.hasher(small_frames(here, self.size) if self.encoder is None else here)
        said = self.student(codes if isinstance(self.student, TableStudent) else here)
        terms: Terms = {"student": said.to(clips.device)}
        if self.damping:
            terms["count"] = recent_counts(codes, self.horizon).to(clips.device, torch.float32)
        return terms

    def combine(self, terms: Terms) -> Tensor:
        """What the student says, damped where it was seen often."""
        said = terms["student"]
        if not self.damping:
            return said
        lowest = self.lowest.to(said.device)
        return lowest + (said - lowest) / terms["count"] ** self.damping

    @torch.no_grad()
    def see(self, frames: Tensor) -> Tensor:
        """What the student is shown of frames ``(N, 3, H, W)``: small uint8 frames or features, to be kept."""
        if self.encoder is None:
            return small_frames(frames, self.size)
        return self.encoder.encode_image(frames).cpu()

    @torch.no_grad()
    def read(self, inputs: Tensor) -> Tensor:
        """What the student says ``(N,)`` of what :meth:`see` gave, without damping."""
        chunks = torch.split(inputs.to(self.lowest.device), CHUNK)
        if isinstance(self.student, TableStudent):
            return torch.cat([self.student(self._codes(chunk)) for chunk in chunks]).cpu()
        return torch.cat([self.student(chunk) for chunk in chunks]).cpu()

    def ask(self, frames: Tensor) -> Tensor:
        """The teacher's labels ``(N,)`` of frames ``(N, 3, H, W)``, at the teacher's pace.

        Raises:
            VrmError: if the student came from a file, which has no teacher.
        """
        if self.teacher is None:
            raise VrmError("This student came from a file, which holds no teacher; load the teacher and ask it.")
        return ask_teacher(self.teacher, frames)

    def learn(self, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Learn from all labels there are; rewards paid before are stale afterwards.

        Networks go on from the weights they have. The same labels in the same order, and the same number of calls
        before, give the same student, but for the state of Adam, which a file does not hold.

        Args:
            inputs: ``(N, ...)`` as :meth:`see` gives them, oldest first.
            labels: ``(N,)`` the teacher's.

        Returns:
            ``loss``, or of a table the number of ``codes``.

        Raises:
            ValueError: if there are no labels, or one is NaN or infinite.
        """
        if not len(labels) or len(inputs) != len(labels) or not torch.isfinite(labels).all():
            raise ValueError(f"One finite label per input is needed, got {len(inputs)} inputs, {len(labels)} labels.")
        device = self.lowest.device
        inputs, labels = inputs.to(device), labels.to(device, torch.float32)
        if self.hasher is not None:
            self.hasher.fit_scale(inputs)
        if isinstance(self.student, TableStudent):
            told = self.student.learn(self._codes(inputs), labels)
        else:
            generator = Generator().manual_seed(self.seed + int(self.fits))
            told = self.student.learn(inputs, labels, self.steps, self.batch, generator)
        self.label_mean.copy_(labels.mean())
        self.label_std.copy_(labels.std(correction=0))
        self.lowest.copy_(labels.min())
        self.fits += 1
        return told

    def _codes(self, inputs: Tensor) -> Tensor:
        assert self.hasher is not None
        codes: Tensor = self.hasher(inputs)
        return codes

    @property
    def taught(self) -> bool:
        """Whether the student was ever fitted."""
        return bool(self.fits)

    def calibrate(self, clips: Tensor | Iterable[Tensor], low: float = 5.0, high: float = 95.0) -> Self:
        """Calibrate the teacher, if that is possible; the student's scale is that of the labels it then gives."""
        calibrate: Any = getattr(self.teacher, "calibrate", None)
        if calibrate is not None:
            calibrate(clips, low, high)
            self.teacher_record = _record(self._teacher[0])
        return self

    def config(self) -> dict[str, Any]:
        """The constructor's arguments; the teacher as class and config, with the device and precision it ran in."""
        names = ("form", "input", "size", "hidden", "bins", "tie", "cells", "levels", "bits", "table", "damping")
        more = ("horizon", "steps", "batch", "lr", "seed")
        return {
            "encoder": None if self.encoder is None else self.encoder.name,
            "teacher": self.teacher_record,
            **{name: getattr(self, name) for name in (*names, *more)},
            "annotate": asdict(self.annotate),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build a student whose weights loading replaces; it has no teacher."""
        name = config["encoder"]
        return cls(**{**config, "encoder": None if name is None else pick_encoder(name, encoder)})


def recent_counts(codes: Tensor, horizon: int) -> Tensor:
    """How often each of ``codes`` ``(B, T)`` stands among the last ``horizon`` up to and with itself, ``(B, T)``.

    Example:
        >>> recent_counts(torch.tensor([[4, 4, 7, 4]]), horizon=3)
        tensor([[1, 2, 1, 2]])
    """
    frames = codes.shape[1]
    same = codes[:, :, None] == codes[:, None, :]
    near = torch.ones(frames, frames, dtype=torch.bool, device=codes.device).tril().triu(1 - horizon)
    return (same & near).sum(dim=-1)


def check_teacher(teacher: RewardModel) -> RewardModel:
    """Return ``teacher`` if single frames are all it needs.

    Raises:
        ValueError: if it looks back or ahead, or reads state values.
    """
    kind = type(teacher).__name__
    if teacher.window > 1 or not teacher.causal or teacher.granularity == "clip":
        raise ValueError(
            f"{kind} judges more than one frame; the teacher of a distilled reward is shown single frames."
        )
    if teacher.state_keys:
        raise ValueError(f"{kind} reads state {list(teacher.state_keys)}, which a distilled reward does not pass on.")
    return teacher


@torch.no_grad()
def ask_teacher(teacher: RewardModel, frames: Tensor) -> Tensor:
    """A teacher's rewards ``(N,)`` of single frames ``(N, 3, H, W)``."""
    rewards: Tensor = teacher(frames[:, None])[:, 0]
    return rewards.cpu()


def load_teacher(path: str | Path, device: str = "cpu", dtype: str = "float32") -> RewardModel:
    """Load a saved reward and move its encoders, as a teacher's process does.

    Args:
        path: what :meth:`RewardModel.save` wrote.
        device: for its encoders.
        dtype: of its encoders, a name in torch such as ``"bfloat16"``.

    Raises:
        CheckpointError: as :func:`load_reward` does.
    """
    teacher = load_reward(path)
    for module in teacher.modules():
        if isinstance(module, Encoder):
            module.to(device=device, dtype=getattr(torch, dtype))
    return check_teacher(teacher)


def _record(teacher: RewardModel) -> dict[str, Any]:
    first = next((module for module in teacher.modules() if isinstance(module, Encoder)), None)
    place = {"device": "cpu", "dtype": "float32"}
    if first is not None:
        place = {"device": str(first.device), "dtype": str(first.dtype).removeprefix("torch.")}
    return {**to_spec(teacher), **place}


def _check(**numbers: float) -> None:
    least = {"bins": 2, "tie": 0, "table": 1, "damping": 0, "horizon": 1, "steps": 1, "batch": 2}
    for name, low in least.items():
        if not numbers[name] >= low:
            raise ValueError(f"{name} must be at least {low}, got {numbers[name]}.")
    if not numbers["lr"] > 0:
        raise ValueError(f"lr must be positive, got {numbers['lr']}.")
