"""What every reward learned from demonstrations needs: their features, made once, and what a fit tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.data.demos import Demo, DemoError
from vrm.encoders import Encoder
from vrm.errors import PromptError

_FEATURES: WeakKeyDictionary[Demo, dict[str, Tensor]] = WeakKeyDictionary()


@dataclass
class Findings:
    """What a fit wants a person to read.

    Attributes:
        notes: sentences, such as "4 steps by BIC (3: -812.4, 4: -840.1, 5: -833.0)".
        figures: numbers by name, all finite.
        steps: per demonstration in the order given to ``fit``, the first frame of every discovered step after the
            first; None if the method has no steps.
    """

    notes: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    steps: list[NDArray[np.int64]] | None = None


def check_demos(demos: Sequence[Demo], kind: str, at_least: int = 1, frames: int = 2) -> Sequence[Demo]:
    """Return ``demos`` if there is something to learn from.

    Args:
        demos: to check.
        kind: the reward's name, for messages.
        at_least: number of demonstrations needed.
        frames: number of frames needed in each.

    Raises:
        DemoError: if demonstrations are too few, too short, or show nothing but one picture.
    """
    if len(demos) < at_least:
        raise DemoError(f"{kind} needs at least {at_least} demonstrations, got {len(demos)}; record or name more.")
    for demo in demos:
        if len(demo) < frames:
            raise DemoError(
                f"{kind} needs demonstrations of at least {frames} frames, but {demo.name!r} has {len(demo)}; "
                "read it at a higher frame rate or leave it out."
            )
        if bool((demo.frames == demo.frames[:1]).all()):
            raise DemoError(
                f"Demonstration {demo.name!r} shows the same picture in all {len(demo)} frames; leave it out."
            )
    return demos


def refuse_goals(goals: Sequence[str] | None, kind: str) -> None:
    """Refuse texts given to a reward whose goal is what its demonstrations or goal images show.

    Args:
        goals: as given to :meth:`vrm.rewards.RewardModel.terms`, after :func:`vrm.rewards.base.check_call`.
        kind: the reward's name, for messages.

    Raises:
        PromptError: if there are goals.
    """
    if goals is not None:
        raise PromptError(
            f"{kind} reads no text, its goal is what it was made from, but goals {list(goals)!r} are given; leave them "
            "out, or use a reward that compares with a sentence, such as GoalReward."
        )


@torch.no_grad()
def encode_demos(encoder: Encoder, demos: Sequence[Demo]) -> list[Tensor]:
    """Embed every frame of every demonstration: a list of ``(T, D)`` float32 unit vectors on the CPU.

    The features of a :class:`Demo` are made once per encoder, however often it is asked for.
    """
    features = []
    for demo in demos:
        known = _FEATURES.setdefault(demo, {})
        if encoder.fingerprint not in known:
            known[encoder.fingerprint] = encoder.encode_image(demo.frames).cpu()
        features.append(known[encoder.fingerprint])
    return features
