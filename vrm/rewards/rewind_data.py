"""Training clips for progress models: random spans of demonstrations, rewound, and told with the wrong text.

ReWiND (Zhang et al. 2025, arXiv 2505.10911) makes failures out of successes: a clip that runs forward and then back
again shows work undone, and a clip beside another task's text shows no progress at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from vrm.rewards.told import mismatch_texts

Origin = Literal["demo", "clip"]


@dataclass(frozen=True)
class Spans:
    """Clips as numbers of frames; ``N`` clips of ``n`` places.

    Attributes:
        indices: ``(N, n)`` int64 frame of the demonstration at each place; places beyond a clip's end repeat its last.
        targets: ``(N, n)`` float32 progress at each place, in [0, 1].
        valid: ``(N, n)`` bool, False beyond a clip's end.
    """

    indices: Tensor
    targets: Tensor
    valid: Tensor


def spread_places(totals: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Choose up to ``frames`` of the first ``totals`` places, evenly spread, the first and the last among them.

    Args:
        totals: ``(N,)`` int64 number of places there are, each at least 1.
        frames: number ``n`` of places wanted, at least 1; where fewer exist, all are taken and the last is repeated.

    Returns:
        Places ``(N, n)`` int64 in [0, total), and how many of them are no repetition ``(N,)``. With ``frames = 1`` the
        place is the last one.

    Example:
        >>> spread_places(torch.tensor([9, 2]), 3)
        (tensor([[0, 4, 8],
                [0, 1, 1]]), tensor([3, 2]))
    """
    if frames == 1:
        return totals[:, None] - 1, torch.ones_like(totals)
    counts = totals.clamp(max=frames)
    gaps = (counts - 1).clamp(min=1)[:, None]
    steps = torch.arange(frames, device=totals.device)
    places = (2 * steps * (totals[:, None] - 1) + gaps) // (2 * gaps)  # rounds halves up
    return torch.minimum(places, totals[:, None] - 1), counts


def history_places(total: int, frames: int, window: int) -> tuple[Tensor, Tensor]:
    """For each frame of a clip, the frames that a model with this window is shown to judge it.

    Args:
        total: number ``T`` of frames of the clip.
        frames: number ``n`` of frames the model is shown at most.
        window: number of frames, the judged one included, out of which they are spread evenly.

    Returns:
        Frames ``(T, n)`` int64, which end with the judged one, repeated if fewer exist; and its first place ``(T,)``.
    """
    now = torch.arange(total)
    spans = (now + 1).clamp(max=window)
    places, counts = spread_places(spans, frames)
    return places + (now + 1 - spans)[:, None], counts - 1


def sample_spans(
    lengths: Tensor, frames: int, window: int, generator: Generator, rewind: float = 0.8, origin: Origin = "demo"
) -> Spans:
    """Draw one training clip from each demonstration given (ReWiND, section 3; the released code's sampling).

    A span of 3 to ``window`` frames starts anywhere. With probability ``rewind`` it then runs back over 1 to all of
    its frames, with the falling targets of those frames. The last ``window`` frames are kept, and of these ``frames``,
    evenly spread.

    Args:
        lengths: ``(N,)`` int64 number of frames of the demonstration behind each clip, each at least 2.
        frames: number ``n`` of places per clip.
        window: longest history, at least 2.
        generator: draws everything.
        rewind: probability of running back.
        origin: ``"demo"`` makes the target of frame ``i`` of ``T`` its place ``i / (T - 1)``; ``"clip"``, as published,
            counts from the first frame shown, ``(i - f) / (T - 1 - f)``, and is 0 before it.
    """
    draws = torch.rand(4, len(lengths), generator=generator)
    least = lengths.clamp(max=min(3, window))
    start = (draws[0] * (lengths - least + 1)).long()
    longest = (lengths - start).clamp(max=window)
    span = least + (draws[1] * (longest - least + 1)).long()
    back = torch.where(draws[2] < rewind, 1 + (draws[3] * (span - 1)).long(), 0)
    turn = span - 1  # the place where a rewound clip turns round
    shown = (span + back).clamp(max=window)
    places, counts = spread_places(shown, frames)
    places = places + (span + back - shown)[:, None]
    indices = start[:, None] + turn[:, None] - (turn[:, None] - places).abs()
    first = indices[:, :1] if origin == "clip" else torch.zeros_like(indices[:, :1])
    targets = (indices - first).clamp(min=0) / (lengths[:, None] - 1 - first).clamp(min=1)
    return Spans(indices, targets.float(), torch.arange(frames) < counts[:, None])


@dataclass(frozen=True)
class ClipSampler:
    """Draws training clips from the features of demonstrations.

    Attributes:
        features: per demonstration ``(T, D)`` frame features.
        told: ``(M, D)`` text features.
        own: ``(N,)`` int64 number of each demonstration's text.
        wrong: per text of a demonstration, the numbers of the wrong ones.
        frames: number ``n`` of frames per clip.
        window: longest history.
        rewind: share of clips that run back.
        mismatch: share of clips with a wrong text.
        origin: where progress counts from, as in :func:`sample_spans`.

    Raises:
        ValueError: if ``origin`` is unknown or a share is outside [0, 1], or ``origin`` is ``"clip"`` with one frame.
    """

    features: Sequence[Tensor]
    told: Tensor
    own: Tensor
    wrong: Sequence[Tensor]
    frames: int
    window: int
    rewind: float
    mismatch: float
    origin: Origin

    def __post_init__(self) -> None:
        """Check the options."""
        if self.origin not in ("demo", "clip"):
            raise ValueError(f"origin must be 'demo' or 'clip', got {self.origin!r}.")
        if self.origin == "clip" and self.frames < 2:
            raise ValueError("origin='clip' counts progress from the first of several frames, so frames must be >= 2.")
        if not (0 <= self.rewind <= 1 and 0 <= self.mismatch <= 1):
            raise ValueError(
                f"rewind and mismatch are shares in [0, 1], got rewind={self.rewind} and mismatch={self.mismatch}."
            )

    def sample(self, numbers: Sequence[int], count: int, generator: Generator) -> tuple[Tensor, Tensor, Spans]:
        """Draw ``count`` clips of the demonstrations with these ``numbers``.

        Returns:
            Frames ``(count, n, D)``, texts ``(count, D)``, and targets with the places where they count: 0 all over
            where the text is wrong, and not counted at the first frame, which is always 0, if ``origin`` is ``"clip"``.
        """
        chosen = torch.tensor(numbers)[torch.randint(len(numbers), (count,), generator=generator)]
        lengths = torch.tensor([len(self.features[i]) for i in chosen.tolist()])
        spans = sample_spans(lengths, self.frames, self.window, generator, self.rewind, self.origin)
        texts = mismatch_texts(self.own[chosen], self.wrong, generator, self.mismatch)
        spans.targets[texts != self.own[chosen]] = 0
        spans.valid[:, 0] &= self.origin == "demo"
        shown = torch.stack([self.features[i][row] for i, row in zip(chosen.tolist(), spans.indices, strict=True)])
        return shown, self.told[texts], spans
