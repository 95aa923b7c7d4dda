"""What an encoder knows: questions answered, captions retrieved, and how far it has moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vrm.adapt.data import Captioned, Rows, Source
from vrm.adapt.loss import drift
from vrm.encoders.openclip import OpenCLIPEncoder
from vrm.metrics import epic_distance, roc_auc

BATCH = 128
EXAM = 500  # frames of which captions are retrieved; with more, one of many true captions is nearest almost by chance


@dataclass(frozen=True)
class Answer:
    """How well cosines to a sentence agree with its truth.

    Attributes:
        text: the sentence.
        auc: area under the ROC curve, 0.5 for knowing nothing.
        epic: EPIC distance of the cosine to the 0/1 truth, 0 best, about 0.707 for unrelated.
    """

    text: str
    auc: float
    epic: float


@dataclass(frozen=True)
class Retrieval:
    """Recall at 1: how often the nearest is one of those that are true; nan where there is nothing to retrieve."""

    text_of_image: float
    image_of_text: float


@dataclass(frozen=True)
class Exam:
    """Frames ``(N, 3, H, W)``, texts ``(M,)`` and the truth ``(N, M)`` of every pair, fixed for before and after."""

    frames: Tensor
    texts: list[str]
    truth: Tensor


@dataclass(frozen=True)
class Standing:
    """All that is measured of one source."""

    answers: list[Answer]
    retrieval: Retrieval | None

    @property
    def auc(self) -> float:
        """Mean AUC of the questions; nan if there are none."""
        return float(np.mean([answer.auc for answer in self.answers])) if self.answers else math.nan

    @property
    def level(self) -> float:
        """One number to choose a checkpoint by: the mean of the AUC and both recalls, as far as they exist."""
        recalls = [self.retrieval.text_of_image, self.retrieval.image_of_text] if self.retrieval else []
        known = [value for value in (self.auc, *recalls) if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan


@torch.no_grad()
def embed_frames(encoder: OpenCLIPEncoder, frames: Tensor) -> Tensor:
    """Embed ``(N, 3, H, W)`` to unit vectors ``(N, D)`` on the CPU, at mixed precision on CUDA."""
    with mixed(encoder):
        return torch.cat([encoder.encode_image(part).cpu() for part in torch.split(frames, BATCH)])


@torch.no_grad()
def embed_texts(encoder: OpenCLIPEncoder, texts: Sequence[str]) -> Tensor:
    """Embed texts to unit vectors ``(M, D)`` on the CPU; unlike ``encode_text`` it remembers nothing."""
    parts = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    with mixed(encoder):
        return torch.cat([functional.normalize(encoder.text_features(p).float(), dim=-1).cpu() for p in parts])


def mixed(encoder: OpenCLIPEncoder) -> torch.autocast:
    """Run in bfloat16 where that is faster, on CUDA."""
    return torch.autocast(encoder.device.type, torch.bfloat16, enabled=encoder.device.type == "cuda")


def make_exam(source: Captioned, rows: Rows, seed: int) -> Exam:
    """Caption at most :data:`EXAM` of ``rows``."""
    rng = np.random.default_rng(seed)
    if len(rows) > EXAM:
        rows = np.sort(rng.choice(rows, EXAM, replace=False))
    texts, truth = source.draw(rows, rng)
    return Exam(source.frames[torch.from_numpy(rows)], texts, truth)


def measure(encoder: OpenCLIPEncoder, source: Source, rows: Rows, *, held_out: bool, seed: int) -> Standing:
    """Ask about ``rows`` of a source, and retrieve their captions if it has some."""
    questions = source.questions(rows, held_out=held_out)
    answers = []
    if questions:
        image = embed_frames(encoder, source.frames[torch.from_numpy(rows)])
        for question, column in zip(questions, embed_texts(encoder, [q.text for q in questions]), strict=True):
            known = ~np.isnan(question.label)
            score = (image @ column).numpy()[known]
            label = question.label[known]
            answers.append(Answer(question.text, roc_auc(score, label), epic_distance(score, label)))
    exam = make_exam(source, rows, seed) if isinstance(source, Captioned) else None
    return Standing(answers, retrieve(*embed(encoder, exam), exam.truth) if exam else None)


def embed(encoder: OpenCLIPEncoder, exam: Exam) -> tuple[Tensor, Tensor]:
    """Embed the frames and the texts of an exam."""
    return embed_frames(encoder, exam.frames), embed_texts(encoder, exam.texts)


def retrieve(image: Tensor, text: Tensor, truth: Tensor) -> Retrieval:
    """Recall at 1 both ways.

    Args:
        image: ``(N, D)`` unit vectors.
        text: ``(M, D)`` unit vectors.
        truth: ``(N, M)``; a pair counts as true above one half, and a row or column without any counts for nothing.
    """
    cosines, true = image @ text.T, truth > 0.5
    return Retrieval(_recall(cosines, true), _recall(cosines.T, true.T))


def _recall(cosines: Tensor, true: Tensor) -> float:
    hit = true.gather(1, cosines.argmax(1, keepdim=True))[:, 0][true.any(1)]
    return float(hit.float().mean()) if len(hit) else math.nan


@dataclass(frozen=True)
class Forgetting:
    """What became of what the encoder knew before.

    Attributes:
        before, after: recall at 1 on the part of the retention set that nothing was trained on.
        image_drift, text_drift: mean of one minus the cosine between old and new embeddings.
    """

    before: Retrieval
    after: Retrieval
    image_drift: float
    text_drift: float


def forgetting(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], exam: Exam) -> Forgetting:
    """Compare embeddings of the same exam by the old and the new encoder."""
    before, after = retrieve(*old, exam.truth), retrieve(*new, exam.truth)
    return Forgetting(before, after, drift(new[0], old[0]).item(), drift(new[1], old[1]).item())
