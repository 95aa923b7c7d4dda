"""What an encoder is adapted on: frames with captions of known truth, and frames labelled good or bad for a goal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.envs.captions import Caption, Captioner, Fact, caption_truth
from vrm.errors import VrmError

Rows = NDArray[np.intp]
Labels = NDArray[np.float32]
SPLIT_TRIES = 200


class AdaptError(VrmError, ValueError):
    """Frames, captions, labels or settings that an encoder cannot be adapted with."""


@dataclass(frozen=True)
class Question:
    """A sentence and the truth of it in some frames.

    Attributes:
        text: what the encoder is asked.
        label: ``(N,)`` 1 where it is true, 0 where it is false, nan where nobody knows.
    """

    text: str
    label: Labels

    @property
    def has_both(self) -> bool:
        """Whether it is true of some frame and false of another, so that an AUC exists."""
        return bool((self.label == 1).any() and (self.label == 0).any())


@dataclass(frozen=True)
class Split:
    """Rows to train on, to choose the checkpoint by, and to report on; whole episodes or files each."""

    train: Rows
    choose: Rows
    test: Rows


class Source(ABC):
    """Frames of one origin and what is known about them.

    Attributes:
        name: where they come from, for people.
        frames: ``(N, 3, H, W)`` uint8.
        groups: the episode or file of each frame; a split never cuts one.
    """

    def __init__(self, name: str, frames: Tensor, groups: Sequence[Hashable]) -> None:
        """Keep the frames and number the groups."""
        self.name, self.frames = name, frames
        numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        self.groups = np.array([numbers[group] for group in groups], dtype=np.intp)

    @abstractmethod
    def questions(self, rows: Rows, *, held_out: bool) -> list[Question]:
        """What to ask about ``rows``; ``held_out`` in words that training did not use, where there are such."""

    def split(self, share: float, seed: int) -> Split:
        """Set whole groups apart: ``share`` of them to report on, half as many to choose by, at least one each.

        Where that leaves a part without both answers to a question, other and slightly larger parts are tried.

        Raises:
            AdaptError: if there are fewer than three groups, or no split leaves each part both answers to a question.
        """
        count = int(self.groups.max()) + 1
        if count < 3:
            raise AdaptError(
                f"{self.name} has {count} episodes or files, but training, choosing and reporting need one each; "
                "give at least three."
            )
        rng = np.random.default_rng(seed)
        for attempt in range(SPLIT_TRIES):
            more = 3 * attempt // SPLIT_TRIES  # a part of one file can never show both good and bad
            test = min(max(1, round(share * count)) + more, count - 2)
            choose = min(max(1, round(share * count / 2)) + more, count - test - 1)
            parts = np.split(rng.permutation(count), [test, test + choose])
            split = Split(*(np.flatnonzero(np.isin(self.groups, part)) for part in reversed(parts)))
            if self.is_fair(split):
                return split
        raise AdaptError(
            f"{self.name} cannot be split by episode or file so that training, choosing and reporting each see good "
            "and bad frames of every goal; label more of them."
        )

    def is_fair(self, split: Split) -> bool:
        """Whether every part of a split can be used."""
        return True


class Captioned(Source):
    """Frames with captions, from which batches for contrastive learning are drawn."""

    @abstractmethod
    def draw(self, rows: Rows, rng: np.random.Generator) -> tuple[list[str], Tensor]:
        """Caption each frame anew.

        Returns:
            ``M`` different texts, at least one true of every frame, and their truth ``(len(rows), M)`` in [0, 1].
        """


class RenderedFrames(Captioned):
    """Frames of an environment family; the truth of every caption is known of every frame.

    The last phrase of every fact that has several is kept out of training, for the report to ask with.

    Args:
        name: where they come from.
        frames: ``(N, 3, H, W)`` uint8.
        groups: episode of each frame.
        truths: ``(N, K)`` graded truth of the captioner's facts.
        captioner: writes captions.
        asked: more sentences for the report, as pairs of a fact's name and a text.
    """

    def __init__(
        self,
        name: str,
        frames: Tensor,
        groups: Sequence[Hashable],
        truths: Labels,
        captioner: Captioner[Any],
        asked: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Keep phrases out of training."""
        super().__init__(name, frames, groups)
        self.truths = truths
        self.facts = [fact.name for fact in captioner.facts]
        subject = captioner.subjects[0]
        self.known = [(fact.name, f"{subject} {fact.phrases[0]}") for fact in captioner.facts]
        unseen = [(fact.name, f"{subject} {fact.phrases[-1]}") for fact in captioner.facts]
        self.unseen = [*unseen, *asked]
        self.captioner = replace(captioner, facts=tuple(_without_last(fact) for fact in captioner.facts))

    def draw(self, rows: Rows, rng: np.random.Generator) -> tuple[list[str], Tensor]:
        """Compose a caption true of each frame."""
        captions: dict[str, Caption] = {}
        for row in rows:
            caption = self.captioner.compose(rng, self.truths[row])
            captions[caption.text] = caption
        return list(captions), torch.from_numpy(caption_truth(self.truths[rows], list(captions.values())))

    def questions(self, rows: Rows, *, held_out: bool) -> list[Question]:
        """Ask about every fact that is true of some of ``rows`` and false of others."""
        asked = []
        for fact, text in self.unseen if held_out else self.known:
            truth = self.truths[rows, self.facts.index(fact)]
            asked.append(Question(text, (truth > 0.5).astype(np.float32)))
        return [question for question in asked if question.has_both]


class CaptionedFiles(Captioned):
    """Pictures with one or more captions each; captions that coincide are true of all their pictures.

    Args:
        name: where they come from.
        frames: ``(N, 3, H, W)`` uint8.
        groups: episode, or file, of each frame.
        captions: of each frame, at least one.
    """

    def __init__(
        self, name: str, frames: Tensor, groups: Sequence[Hashable], captions: Sequence[Sequence[str]]
    ) -> None:
        """Number the captions."""
        super().__init__(name, frames, groups)
        self.captions = [tuple(dict.fromkeys(texts)) for texts in captions]

    def draw(self, rows: Rows, rng: np.random.Generator) -> tuple[list[str], Tensor]:
        """Take one of each frame's captions."""
        texts = list(dict.fromkeys(str(rng.choice(self.captions[row])) for row in rows))
        truth = [[float(text in self.captions[row]) for text in texts] for row in rows]
        return texts, torch.tensor(truth)

    def questions(self, rows: Rows, *, held_out: bool) -> list[Question]:
        """Ask with every caption that several of ``rows`` bear and others do not."""
        texts = dict.fromkeys(text for row in rows for text in self.captions[row])
        asked = [Question(t, np.array([t in self.captions[row] for row in rows], np.float32)) for t in texts]
        return [question for question in asked if question.has_both and question.label.sum() > 1]


class Labelled(Source):
    """Frames that somebody, or a task's criterion, called good or bad for a goal.

    Args:
        name: where they come from.
        frames: ``(N, 3, H, W)`` uint8.
        groups: episode, or file, of each frame.
        labels: for each goal ``(N,)``: 1 good, 0 bad, nan unknown.

    Raises:
        AdaptError: if a goal has no good or no bad frames.
    """

    def __init__(self, name: str, frames: Tensor, groups: Sequence[Hashable], labels: dict[str, Labels]) -> None:
        """Check that there is something to tell apart."""
        super().__init__(name, frames, groups)
        self.labels = labels
        for goal, label in labels.items():
            for value, word in ((1, "good"), (0, "bad")):
                if not (label == value).any():
                    raise AdaptError(
                        f"{name} holds no frame that is {word} for {goal!r}; an encoder learns a goal only from both."
                    )

    def questions(self, rows: Rows, *, held_out: bool) -> list[Question]:
        """Ask with every goal."""
        asked = [Question(goal, label[rows]) for goal, label in self.labels.items()]
        return [question for question in asked if question.has_both]

    def is_fair(self, split: Split) -> bool:
        """Whether every part has good and bad frames of every goal."""
        return all(
            len(self.questions(rows, held_out=False)) == len(self.labels)
            for rows in (split.train, split.choose, split.test)
        )

    def draw(self, rows: Rows, count: int, rng: np.random.Generator) -> tuple[Rows, Tensor]:
        """Draw up to ``count`` of ``rows``, half of them good, for a goal each in turn.

        Returns:
            The rows drawn and their labels ``(R, G)``, nan where unknown.
        """
        each = max(1, count // (2 * len(self.labels)))
        drawn = [rng.choice(rows[label[rows] == value], each) for label in self.labels.values() for value in (1, 0)]
        chosen: Rows = np.unique(np.concatenate(drawn))
        return chosen, torch.from_numpy(np.stack([label[chosen] for label in self.labels.values()], axis=1))


def _without_last(fact: Fact[Any]) -> Fact[Any]:
    """Leave out the last phrase, also where it is a detail, unless it is the only one."""
    if len(fact.phrases) < 2:
        return fact
    details = tuple(detail for detail in fact.details if fact.phrases[-1] not in detail)
    return replace(fact, phrases=fact.phrases[:-1], details=details)
