"""What people said about generated videos: preferences between two, or ratings of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vrm.errors import VrmError

Label = Literal["a", "b", "tie"]
Vote = Literal["a", "b", "good", "bad"]
OVERALL = "overall"  # the dimension of the undivided judgement

_SPELLINGS: dict[Label, str] = {
    "a": "a|left|leftvote|left_vote|video1|video_1|video 1|video 1 better|model_a|video_a|a>b|first|1",
    "b": "b|right|rightvote|right_vote|video2|video_2|video 2|video 2 better|model_b|video_b|b>a|a<b|second|2|-1",
    "tie": "same|tie|tievote|tie_vote|equal|draw|both|bothgood|bothgood_vote|both_good|both good|neither"
    "|bothbad|bothbad_vote|both_bad|both bad|a=b|a=b=good|a=b=bad|0",
}
_LABELS: dict[str, Label] = {text: label for label, texts in _SPELLINGS.items() for text in texts.split("|")}
_BOTH_BAD = {"bothbad", "bothbad_vote", "both_bad", "both bad", "a=b=bad"}
_ABSTENTIONS = {"", "invalid", "hard to judge", "unsure", "skip", "discard", "none", "null", "nan", "n/a"}


class BenchmarkError(VrmError, ValueError):
    """A folder or file from which no benchmark can be read, or a benchmark that cannot be run as asked."""


@dataclass(frozen=True)
class PreferencePair:
    """Two videos of one prompt, and which one people preferred.

    Attributes:
        id: unique in its set.
        prompt: what both should show, or None.
        video_a: absolute path, whether or not the file is there.
        video_b: likewise.
        label: ``"a"``, ``"b"``, ``"tie"``, or None without a usable overall judgement.
        labels_by_dim: the same for each named dimension.
        label_raw: the overall judgement as written.
        generator_a: which model made ``video_a``, or None.
        generator_b: likewise.
        meta: further columns, as text.
    """

    id: str
    prompt: str | None
    video_a: str
    video_b: str
    label: Label | None
    labels_by_dim: Mapping[str, Label | None] = field(default_factory=dict)
    label_raw: str = ""
    generator_a: str | None = None
    generator_b: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def videos(self) -> tuple[str, str]:
        """Both paths."""
        return self.video_a, self.video_b

    def judgement(self, dimension: str) -> Label | None:
        """The label in ``dimension``, which may be ``"overall"``."""
        return self.label if dimension == OVERALL else self.labels_by_dim.get(dimension)

    @property
    def vote(self) -> Vote | None:
        """The overall label with its tie read as "both good" unless it was written as "both bad"."""
        if self.label != "tie":
            return self.label
        return "bad" if _written(self.label_raw) in _BOTH_BAD else "good"


@dataclass(frozen=True)
class RatedVideo:
    """A video and the numbers people gave it.

    Attributes:
        id: unique in its set.
        prompt: what it should show, or None.
        video: absolute path, whether or not the file is there.
        ratings: mean human rating by dimension, higher is better; ``"overall"`` for an undivided one.
        generator: which model made it, or None.
        meta: further columns, as text.
    """

    id: str
    prompt: str | None
    video: str
    ratings: Mapping[str, float]
    generator: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def videos(self) -> tuple[str]:
        """The path."""
        return (self.video,)


@dataclass(frozen=True)
class PreferenceSet:
    """A benchmark of pairs.

    Attributes:
        format: the layout it was read from.
        root: the folder that relative paths start at.
        pairs: those that could be read, in the order of the file.
        dropped: rows that gave no pair, by reason.
        unknown_labels: judgements that mean nothing to us, as written, and how often; their label is None.
    """

    format: str
    root: Path
    pairs: tuple[PreferencePair, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    unknown_labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions with a usable label anywhere, the overall one first."""
        names = dict.fromkeys(name for pair in self.pairs for name in (OVERALL, *pair.labels_by_dim))
        return tuple(name for name in names if any(pair.judgement(name) for pair in self.pairs))

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of videos that are not there, sorted."""
        return _absent(pair.videos for pair in self.pairs)


@dataclass(frozen=True)
class RatingSet:
    """A benchmark of single rated videos; attributes as those of :class:`PreferenceSet`."""

    format: str
    root: Path
    videos: tuple[RatedVideo, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the rated dimensions, the overall one first."""
        names = dict.fromkeys(name for video in self.videos for name in video.ratings)
        return tuple(sorted(names, key=lambda name: name != OVERALL))

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of videos that are not there, sorted."""
        return _absent(video.videos for video in self.videos)


def read_label(raw: object) -> Label | None:
    """Read a judgement in any of the spellings that published sets use, whatever its case and surrounding blanks.

    Args:
        raw: such as ``"A"``, ``" same "``, ``"leftvote"``, ``"bothbad_vote"`` or ``"Video 1 Better"``; a number counts
            as 1 for the first, 2 or -1 for the second, 0 for neither. None and nan are no judgement.

    Returns:
        The label, or None where people gave none ("Hard to judge", "invalid", an empty cell).

    Raises:
        ValueError: if the judgement has no known meaning.

    Example:
        >>> [read_label(raw) for raw in ("Video 1 Better", " same ", "bothbad_vote", "Hard to judge", 2.0)]
        ['a', 'tie', 'tie', None, 'b']
    """
    text = "" if raw is None else _written(raw)
    if text.removesuffix(".0").lstrip("-").isdigit():
        text = text.removesuffix(".0")
    if text in _ABSTENTIONS:
        return None
    if text not in _LABELS:
        raise ValueError(f"Unknown preference label {raw!r}; write a, b or tie (or leave it empty).")
    return _LABELS[text]


def _written(raw: object) -> str:
    return " ".join(str(raw).casefold().split())


def _absent(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted(path for path in {path for group in groups for path in group} if not Path(path).is_file()))
