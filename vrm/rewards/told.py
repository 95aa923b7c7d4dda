"""The sentences that rewards learned from demonstrations are told: right ones, wrong ones, and the default."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from vrm.encoders import Encoder
from vrm.errors import PromptError
from vrm.rewards.base import Goals

SHARED_TEXT = "the task of the demonstrations"  # where neither they nor the caller say what it is

UNRELATED = (
    "a robot arm pouring water into a glass",
    "opening the drawer of a cabinet",
    "a dog running along a beach",
    "folding a towel on a table",
    "an aeroplane landing at night",
    "closing the door of a microwave",
    "a person reading a newspaper",
    "stacking red and blue blocks",
    "a fish swimming in a tank",
    "screwing the lid onto a jar",
)
"""What no demonstration is expected to show: the wrong texts where demonstrations have one text only."""


def mismatch_texts(own: Tensor, wrong: Sequence[Tensor], generator: Generator, share: float = 0.2) -> Tensor:
    """Swap the text of about ``share`` of the clips for a wrong one.

    Args:
        own: ``(N,)`` int64 number of each clip's own text.
        wrong: per text, the numbers ``(K,)`` of the texts that are wrong for it, at least one.
        generator: draws which clips, and which texts.
        share: probability of each clip, in [0, 1].

    Returns:
        ``(N,)`` int64 numbers of texts; a clip's text is wrong wherever it differs from ``own``.

    Example:
        >>> wrong = [torch.tensor([1]), torch.tensor([0])]
        >>> mismatch_texts(torch.tensor([0, 1, 1]), wrong, torch.Generator(), share=1.0)
        tensor([1, 0, 0])
    """
    draws = torch.rand(2, len(own), generator=generator)
    swapped = [wrong[i][int(u * len(wrong[i]))] for i, u in zip(own.tolist(), draws[1].tolist(), strict=True)]
    return torch.where(draws[0] < share, torch.stack(swapped), own)


def wrong_texts(texts: Sequence[str], negatives: Sequence[str] | None = None) -> tuple[list[str], list[Tensor]]:
    """Collect the texts of demonstrations, and for each the ones that are wrong for it.

    Args:
        texts: one per demonstration, with repetitions.
        negatives: sentences that are wrong for all; by default none if demonstrations have several texts, else
            :data:`UNRELATED`. One that is also the text of a demonstration is left out.

    Returns:
        The distinct texts of demonstrations followed by the negatives; and per distinct text the numbers of the wrong.

    Raises:
        ValueError: if there is one text and no negative.

    Example:
        >>> wrong_texts(["kneel", "kneel", "fall"])
        (['kneel', 'fall'], [tensor([1]), tensor([0])])
    """
    distinct = list(dict.fromkeys(texts))
    if negatives is None:
        negatives = () if len(distinct) > 1 else UNRELATED
    plain = {_plain(text) for text in distinct}
    known = distinct + [text for text in dict.fromkeys(negatives) if _plain(text) not in plain]
    if len(known) == 1:
        raise ValueError(
            f"All demonstrations have the text {distinct[0]!r} and no other is given to tell it from; name some in "
            "negatives, or leave negatives out."
        )
    others = torch.arange(len(known))
    return known, [others[others != i] for i in range(len(distinct))]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def told(encoder: Encoder, text: str | None, goals: Goals, count: int) -> Tensor:
    """Embed what each of ``count`` clips is told, ``(count, D)``: its goal, or ``text`` where none are given.

    Raises:
        PromptError: if there are neither.
    """
    if goals is not None:
        return encoder.encode_text(goals)
    if text is None:
        raise PromptError(
            "This reward was fitted to demonstrations with several texts, so each call must say which is meant: "
            "pass goals, one per clip, or fit with text=..., the goal by default."
        )
    return encoder.encode_text([text]).expand(count, -1)
