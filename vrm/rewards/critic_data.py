"""Training pairs for a progress critic: near, far, still, irrelevant and told with the wrong text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from vrm.frames import to_float
from vrm.rewards.told import mismatch_texts

SIDE = 64  # of the pictures in which pixels are compared
SAME = 8 / 255  # luma differences up to this are compression noise
CHUNK = 64  # frames shrunk at once
NOT_DONE, DONE = 0.8, 0.95  # places in a demonstration before and after which "done" is labelled


@dataclass(frozen=True)
class Pairs:
    """``N`` pairs of frames, and as many single frames, with what they teach.

    Attributes:
        before: ``(N, D)`` features of the first frames.
        after: ``(N, D)`` of the second.
        text: ``(N, D)`` text features.
        delta: ``(N,)`` signed fraction of the remaining task, in [-1, 1].
        frame: ``(N, D)`` features of the single frames.
        done: ``(N,)`` 1 where the task is done at the single frame under the text, else 0.
    """

    before: Tensor
    after: Tensor
    text: Tensor
    delta: Tensor
    frame: Tensor
    done: Tensor


def signed_fraction(i: Tensor, j: Tensor, last: Tensor) -> Tensor:
    """Fraction of the task remaining at the earlier of two frames that lies between them, negative if ``j < i``.

    VLAC labels a step forward ``(j - i) / (last - i)``. Its formula has no lower bound for a step back; here that is
    the negative of its swap, ``-(i - j) / (last - j)``, as in VLAC's evaluation of swapped pairs.

    Args:
        i: ``(...)`` number of the first frame.
        j: ``(...)`` number of the second.
        last: ``(...)`` number of the demonstration's last frame, at least both.

    Returns:
        ``(...)`` float32 in [-1, 1]; 0 for a frame beside itself.

    Example:
        >>> signed_fraction(torch.tensor([0, 5, 9]), torch.tensor([5, 0, 10]), torch.tensor(10))
        tensor([ 0.5000, -0.5000,  1.0000])
    """
    return (j - i).float() / (last - torch.minimum(i, j)).clamp(min=1)


@dataclass(frozen=True)
class PairSampler:
    """Draws training pairs from demonstrations of success (VLAC, arXiv 2509.15937; Zhai et al. 2025).

    Attributes:
        features: per demonstration ``(T, D)`` frame features.
        thumbnails: per demonstration ``(T, P)`` luma of the frames, from :func:`grey_thumbnails`.
        told: ``(M, D)`` text features.
        own: ``(N,)`` int64 number of each demonstration's text.
        wrong: per text of a demonstration, the numbers of the wrong ones.
        interval: frames between the two of a near pair.
        still: pairs of which less than this share of pixels differ have delta 0.
        mismatch: share of pairs with a wrong text.
        irrelevant: share of pairs whose second frame shows another task, if there is one.

    Raises:
        ValueError: if a share is outside [0, 1].
    """

    features: Sequence[Tensor]
    thumbnails: Sequence[Tensor]
    told: Tensor
    own: Tensor
    wrong: Sequence[Tensor]
    interval: int
    still: float
    mismatch: float
    irrelevant: float

    def __post_init__(self) -> None:
        """Check the shares."""
        for name in ("still", "mismatch", "irrelevant"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], got {getattr(self, name)}.")

    def sample(self, numbers: Sequence[int], count: int, generator: Generator) -> Pairs:
        """Draw ``count`` pairs from the demonstrations with these ``numbers``, the first frame always the earlier.

        Half of the pairs are ``interval`` apart, half any distance; half of the single frames are done. The swapped
        pairs would teach nothing new to a critic that is antisymmetric.
        """
        chosen = torch.tensor(numbers)[torch.randint(len(numbers), (count,), generator=generator)]
        last = torch.tensor([len(self.features[i]) - 1 for i in chosen.tolist()])
        draws = torch.rand(5, count, generator=generator)
        near = self.interval * (draws[0] < 0.5)
        first = (draws[1] * (last + 1 - near).clamp(min=1)).long()
        second = torch.where(near > 0, (first + near).minimum(last), (draws[2] * (last + 1)).long())
        first, second = torch.minimum(first, second), torch.maximum(first, second)
        delta = signed_fraction(first, second, last)
        delta[self._share_changed(chosen, first, second) < self.still] = 0

        other, at = self._elsewhere(chosen, second, numbers, generator)
        delta[other != chosen] = 0
        texts = mismatch_texts(self.own[chosen], self.wrong, generator, self.mismatch)
        delta[texts != self.own[chosen]] = 0

        is_end = draws[3] < 0.5
        ends = (DONE * last).floor().long() + 1
        early = (draws[4] * (NOT_DONE * last).ceil()).long()
        late = ends + (draws[4] * (last + 1 - ends)).long()
        single = torch.where(is_end, late, early)
        return Pairs(
            before=self._rows(chosen, first),
            after=self._rows(other, at),
            text=self.told[texts],
            delta=delta,
            frame=self._rows(chosen, single),
            done=(is_end & (texts == self.own[chosen])).float(),
        )

    def _rows(self, demos: Tensor, frames: Tensor) -> Tensor:
        return torch.stack([self.features[d][t] for d, t in zip(demos.tolist(), frames.tolist(), strict=True)])

    def _share_changed(self, demos: Tensor, first: Tensor, second: Tensor) -> Tensor:
        numbers = zip(demos.tolist(), first.tolist(), second.tolist(), strict=True)
        changes = torch.stack([self.thumbnails[d][a] - self.thumbnails[d][b] for d, a, b in numbers])
        return (changes.abs() > SAME).float().mean(dim=1)

    def _elsewhere(
        self, chosen: Tensor, frames: Tensor, numbers: Sequence[int], generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """For a share of the pairs, a frame of a demonstration with another text; else what is given."""
        draws = torch.rand(3, len(chosen), generator=generator).T.tolist()
        found = []
        for demo, frame, (whether, which, where) in zip(chosen.tolist(), frames.tolist(), draws, strict=True):
            others = [n for n in numbers if self.own[n] != self.own[demo]] if whether < self.irrelevant else []
            if others:
                demo = others[int(which * len(others))]
                frame = int(where * len(self.features[demo]))
            found.append((demo, frame))
        demos, places = torch.tensor(found).T
        return demos, places


def grey_thumbnails(frames: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) of frames ``(T, 3, H, W)`` shrunk to 64 x 64: ``(T, 4096)`` in [0, 1]."""
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    shrunk = []
    for chunk in torch.split(frames, CHUNK):
        luma = (to_float(chunk) * weights).sum(dim=1, keepdim=True)
        shrunk.append(functional.adaptive_avg_pool2d(luma, SIDE).flatten(1))
    return torch.cat(shrunk)
