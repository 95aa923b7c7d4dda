"""Found videos beside the plain samples of the same seeds, each with a bar for its score."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vrm.frames import check_frames, from_hwc
from vrm.pictures.style import FAINT, INK, NEUTRAL, PAPER, REWARD, font, images, save_png
from vrm.video import sample_indices, write_video

WORDS, BARS, GAP, MARGIN = 190, 210, 4, 8  # pixels for the prompt and for the bars, between frames, at the edges
LINE, LETTERS, BAR = 17, 13, 14


@dataclass(frozen=True)
class Comparison:
    """Two videos for one prompt.

    Attributes:
        prompt: what they should show.
        plain: ``(T, 3, H, W)`` the generator's own sample.
        found: ``(T, 3, H, W)`` what a search made of the same seed.
        scores: of the two, in this order.
    """

    prompt: str
    plain: Tensor
    found: Tensor
    scores: tuple[float, float]


def comparison_sheet(
    path: str | os.PathLike[str], rows: Sequence[Comparison], method: str, columns: int = 8, height: int = 96
) -> Path:
    """Lay out evenly spaced frames, plain above found, with their scores as bars on one scale that contains zero.

    Args:
        path: where the PNG goes.
        rows: one for each prompt.
        method: what the found videos are called.
        columns: frames shown of a video; of a shorter one all.
        height: of a shown frame, in pixels.

    Returns:
        The path written.

    Raises:
        FrameError: if frames break the contract.
        ValueError: if there is no row.
    """
    low, high = _scale(rows)
    strips = []
    for row in rows:
        for which, frames in enumerate((row.plain, row.found)):
            shown = images(frames[sample_indices(len(check_frames(frames, 4)), min(columns, len(frames)))], height)
            film = len(shown) * (shown[0].width + GAP)
            strip = Image.new("RGB", (WORDS + film + BARS, height + GAP + (MARGIN if which else 0)), PAPER)
            _write(strip, "" if which else row.prompt, method if which else "plain sample", height)
            for column, picture in enumerate(shown):
                strip.paste(picture, (WORDS + column * (picture.width + GAP), 0))
            area = (WORDS + film + MARGIN, 0, WORDS + film + BARS, height)
            _bar(strip, area, row.scores[which], low, high, REWARD if which else NEUTRAL)
            strips.append(strip)
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return save_png(path, sheet.save)


def comparison_film(
    path: str | os.PathLike[str], rows: Sequence[Comparison], method: str, fps: float = 8, height: int = 192
) -> Path:
    """Play plain and found videos side by side, a row for each prompt; arguments as for :func:`comparison_sheet`.

    A video that is shorter than another stays on its last frame.

    Raises:
        FrameError: if frames break the contract.
        ValueError: if there is no row.
    """
    low, high = _scale(rows)
    clips = [[images(check_frames(frames, 4), height) for frames in (row.plain, row.found)] for row in rows]
    width = max(clip[0].width for pair in clips for clip in pair)
    block = height + 3 * LINE + MARGIN
    paper = Image.new("RGB", (2 * (width + GAP), len(rows) * block), PAPER)
    pen = ImageDraw.Draw(paper)
    for index, row in enumerate(rows):
        pen.text((MARGIN, index * block + 2), _cut(row.prompt, 2 * width), INK, font(LETTERS, bold=True))
        for which, score in enumerate(row.scores):
            left, top = which * (width + GAP), index * block + LINE + height
            name, colour = (method, REWARD) if which else ("plain", NEUTRAL)
            pen.text((left + MARGIN, top + 2), name, colour, font(LETTERS, bold=True))
            _bar(paper, (left + MARGIN, top + LINE, left + width, top + 2 * LINE), score, low, high, colour)
    film = []
    for time in range(max(len(clip) for pair in clips for clip in pair)):
        page = paper.copy()
        for index, pair in enumerate(clips):
            for which, clip in enumerate(pair):
                page.paste(clip[min(time, len(clip) - 1)], (which * (width + GAP), index * block + LINE))
        film.append(from_hwc(np.asarray(page)))
    return write_video(path, torch.stack(film), fps=fps)


def _scale(rows: Sequence[Comparison]) -> tuple[float, float]:
    """Lowest and highest end of the bars; zero is between them."""
    if not rows:
        raise ValueError("A comparison needs at least one prompt.")
    values = [0.0, *(score for row in rows for score in row.scores)]
    return min(values), max(max(values), min(values) + 1e-9)


def _bar(
    picture: Image.Image, area: tuple[int, int, int, int], score: float, low: float, high: float, colour: str
) -> None:
    """Draw a score from zero to its length, and write it."""
    left, top, right, bottom = area
    pen, room = ImageDraw.Draw(picture), 60
    middle = (top + bottom) // 2
    zero, end = (left + (right - left - room) * (value - low) / (high - low) for value in (0.0, score))
    upper, lower = middle - BAR // 2, middle + BAR // 2 - 1
    pen.rectangle((left, upper, right - room, lower), FAINT)
    pen.rectangle((min(zero, end), upper, max(zero, end), lower), colour)
    pen.text((right - room + GAP, middle), f"{score:.3g}", INK, font(LETTERS), anchor="lm")


def _write(strip: Image.Image, prompt: str, word: str, height: int) -> None:
    """Write the prompt in lines at the top left, and what the row is at its foot, right."""
    pen = ImageDraw.Draw(strip)
    for line, text in enumerate(textwrap.wrap(prompt, 22, max_lines=max((height - LINE) // LINE, 1), placeholder=" …")):
        pen.text((MARGIN, 2 + line * LINE), text, INK, font(LETTERS, bold=True))
    pen.text((WORDS - MARGIN, height - 4), word, NEUTRAL, font(LETTERS), anchor="rs")


def _cut(text: str, room: int) -> str:
    """Shorten a line that would not fit."""
    while len(text) > 1 and font(LETTERS, bold=True).getlength(text) > room - 2 * MARGIN:
        text = text[:-2].rstrip() + "…"
    return text
