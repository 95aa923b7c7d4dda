"""From an encoder and sources to an adapted encoder on disk and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vrm.adapt.data import AdaptError, Captioned, Question, Rows, Source
from vrm.adapt.measure import Exam, Standing, embed, embed_frames, embed_texts, forgetting, make_exam, measure
from vrm.adapt.report import SHOWN, STRIPS, AdaptReport, Top
from vrm.adapt.train import Settings, Trainer
from vrm.encoders import Encoder, load_encoder
from vrm.encoders.openclip import OpenCLIPEncoder, save_folder


def adapt(
    encoder: Encoder,
    sources: Sequence[Source],
    out: Path,
    settings: Settings | None = None,
    retain: Sequence[Captioned] = (),
) -> AdaptReport:
    """Fine-tune an OpenCLIP encoder and compare it with the original on what it was not trained on.

    The adapted encoder is written to ``out/encoder``, for :func:`vrm.load_encoder`, and measured as loaded from there.
    A call that was cut off goes on when it is repeated.

    Args:
        encoder: in float32; it is the adapted one afterwards.
        sources: what to learn.
        out: folder for the encoder, the report and the checkpoint.
        settings: how; None for the defaults.
        retain: what to keep in mind: half of it holds the encoder in place, half is measured.

    Returns:
        The report, also saved as ``out/report.json`` and ``out/report.png``.

    Raises:
        AdaptError: if the encoder is none of OpenCLIP, there are no sources, one cannot be split, or ``out`` holds a
            finished adaptation or one of other settings.
    """
    settings = settings or Settings()
    model, target = _checked(encoder, sources, out), out / "encoder"
    splits = [(source, source.split(settings.held_out, settings.seed)) for source in sources]
    seed = settings.seed
    before = [measure(model, source, split.test, held_out=True, seed=seed) for source, split in splits]
    shown = _to_show(splits[0][0], splits[0][1].test, before[0])
    top_before = _top(model, shown, splits[0][0], splits[0][1].test)
    held, asked = _retention(retain, seed)
    old = embed(model, asked) if asked else None
    trainer = Trainer(model, splits, held, settings, out)
    counts = trainer.trained.counts
    trainer.run()
    save_folder(model, target)
    adapted = load_encoder(str(target), device=model.device)
    assert isinstance(adapted, OpenCLIPEncoder)
    after = [measure(adapted, source, split.test, held_out=True, seed=seed) for source, split in splits]
    top_after = _top(adapted, shown, splits[0][0], splits[0][1].test)
    report = AdaptReport(
        encoder=encoder.name,
        out=str(target),
        settings=asdict(settings) | {"lr": settings.rate},
        frames={s.name: (len(split.train), len(split.choose), len(split.test)) for s, split in splits},
        trained=counts,
        best_step=trainer.progress.best_step,
        sources={s.name: pair for (s, _), *pair in zip(splits, before, after, strict=True)},  # type: ignore[misc]
        forgetting=forgetting(old, embed(adapted, asked), asked) if old and asked else None,
        curve=trainer.progress.curve,
        top=[Top(q.text, b, a) for q, b, a in zip(shown, top_before, top_after, strict=True)],
    )
    report.save(out)
    (out / "checkpoint.pt").unlink(missing_ok=True)
    return report


def _checked(encoder: Encoder, sources: Sequence[Source], out: Path) -> OpenCLIPEncoder:
    if not isinstance(encoder, OpenCLIPEncoder) or encoder.config is None:
        raise AdaptError(
            f"Only OpenCLIP encoders can be adapted, and {encoder.name!r} is a {type(encoder).__name__}; "
            "name a folder, ARCH/TAG or ARCH:/path instead."
        )
    if encoder.dtype != torch.float32:
        raise AdaptError(f"Encoder {encoder.name!r} is in {encoder.dtype}; load it in float32 to train it.")
    if not sources:
        raise AdaptError("There is nothing to adapt on; give captions, labels, a family or a run.")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise AdaptError(f"Two sources have one name in {names}; give each once.")
    if (out / "report.json").is_file():
        raise AdaptError(f"{str(out)!r} holds a finished adaptation; choose another --out or remove it.")
    return encoder


def _retention(sources: Sequence[Captioned], seed: int) -> tuple[Exam | None, Exam | None]:
    """Halve every retention source by its episodes or files: to hold on to, and to ask about."""
    if not sources:
        return None, None
    rng = np.random.default_rng(seed)
    halves: tuple[list[Exam], list[Exam]] = ([], [])
    for source in sources:
        count = int(source.groups.max()) + 1
        if count < 2:
            raise AdaptError(f"Retention set {source.name!r} has one episode or file; it takes at least two.")
        held = np.isin(source.groups, rng.permutation(count)[: count // 2])
        for exams, rows in zip(halves, (np.flatnonzero(held), np.flatnonzero(~held)), strict=True):
            exams.append(make_exam(source, rows, seed))
    return _together(halves[0]), _together(halves[1])


def _together(exams: Sequence[Exam]) -> Exam:
    """Join exams; captions of one are false of the frames of the others, unless the words coincide."""
    texts = list(dict.fromkeys(text for exam in exams for text in exam.texts))
    truth = torch.zeros(sum(len(exam.frames) for exam in exams), len(texts))
    start = 0
    for exam in exams:
        columns = [texts.index(text) for text in exam.texts]
        truth[start : start + len(exam.frames), columns] = exam.truth
        start += len(exam.frames)
    return Exam(torch.cat([exam.frames for exam in exams]), texts, truth)


def _to_show(source: Source, rows: Rows, before: Standing) -> list[Question]:
    """The questions that the original answers worst."""
    questions = source.questions(rows, held_out=True)
    worst = sorted(range(len(questions)), key=lambda i: before.answers[i].auc)
    return [questions[i] for i in worst[:STRIPS]]


def _top(
    encoder: OpenCLIPEncoder, questions: Sequence[Question], source: Source, rows: Rows
) -> list[tuple[Tensor, np.ndarray[tuple[int], np.dtype[np.float32]]]]:
    """The frames of highest cosine for every question, with their truth."""
    if not questions:
        return []
    cosines = embed_frames(encoder, source.frames[torch.from_numpy(rows)])
    found = []
    for question, text in zip(questions, embed_texts(encoder, [q.text for q in questions]), strict=True):
        known = np.flatnonzero(~np.isnan(question.label))
        best = known[np.argsort(-(cosines @ text).numpy()[known], kind="stable")[:SHOWN]]
        found.append((source.frames[torch.from_numpy(rows[best])], question.label[best]))
    return found
