"""Samples as pictures and films: a row for each prompt, the prompt beside it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vrm.frames import check_frames, from_hwc
from vrm.pictures.style import INK, NEUTRAL, PAPER, font, images, save_png
from vrm.video import sample_indices, write_video

GAP, MARGIN, LETTERS, LINE = 4, 8, 13, 17
WORDS = 190  # pixels for the prompt


def sample_sheet(
    path: str | os.PathLike[str],
    rows: Sequence[tuple[str, str, Tensor]],
    columns: int = 8,
    height: int = 96,
) -> Path:
    """Lay clips out as rows of evenly spaced frames; rows of one prompt that follow each other share its text.

    Args:
        path: where the PNG goes.
        rows: prompt, a word on the row such as "before" (or ""), and frames ``(T, 3, H, W)`` of each clip.
        columns: frames shown of a clip; of a shorter clip all.
        height: of a shown frame, in pixels.

    Returns:
        The path written.

    Raises:
        FrameError: if frames break the contract.
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("A sheet of samples needs at least one row.")
    strips = []
    for index, (prompt, word, frames) in enumerate(rows):
        count = min(columns, len(check_frames(frames, 4)))
        shown = images(frames[sample_indices(len(frames), count)], height)
        is_new = index == 0 or rows[index - 1][0] != prompt
        strip = Image.new("RGB", (WORDS + count * (shown[0].width + GAP) + MARGIN, height + GAP), PAPER)
        _write(strip, prompt if is_new else "", word, height)
        for column, picture in enumerate(shown):
            strip.paste(picture, (WORDS + column * (picture.width + GAP), 0))
        strips.append((strip, MARGIN if is_new and index else 0))
    sheet = Image.new("RGB", (max(s.width for s, _ in strips), sum(s.height + room for s, room in strips)), PAPER)
    top = 0
    for strip, room in strips:
        sheet.paste(strip, (0, top + room))
        top += strip.height + room
    return save_png(path, sheet.save)


def sample_film(
    path: str | os.PathLike[str], prompts: Sequence[str], videos: Tensor, fps: float = 8, height: int = 128
) -> Path:
    """Write all samples playing at once: a row for each prompt, its text on the left.

    Args:
        path: where the mp4 goes.
        prompts: ``P`` prompts.
        videos: ``(P, S, T, 3, H, W)`` uint8 or float in [0, 1], ``S`` samples of each prompt.
        fps: frames per second.
        height: of a shown frame, in pixels.

    Returns:
        The path written.

    Raises:
        ValueError: if there is not one row of samples for each prompt.
    """
    if len(prompts) != len(videos) or not len(videos):
        raise ValueError(f"A film of samples needs one row for each prompt, got {len(videos)} for {len(prompts)}.")
    check_frames(videos.flatten(0, 1), 5)
    width = max(round(videos.shape[-1] * height / videos.shape[-2]), 1)
    samples, total = videos.shape[1:3]
    paper = Image.new("RGB", (WORDS + samples * (width + GAP), len(prompts) * (height + GAP)), PAPER)
    for row, prompt in enumerate(prompts):
        strip = Image.new("RGB", (WORDS, height), PAPER)
        _write(strip, prompt, "", height)
        paper.paste(strip, (0, row * (height + GAP)))
    film = []
    for time in range(total):
        page = paper.copy()
        for place, picture in enumerate(images(videos[:, :, time].flatten(0, 1), height)):
            row, column = divmod(place, samples)
            page.paste(picture, (WORDS + column * (width + GAP), row * (height + GAP)))
        film.append(from_hwc(np.asarray(page)))
    return write_video(path, torch.stack(film), fps=fps)


def _write(strip: Image.Image, prompt: str, word: str, height: int) -> None:
    """Write the prompt in lines at the top left, and a word on the row below, right."""
    pen = ImageDraw.Draw(strip)
    most = max((height - LINE) // LINE, 1)
    lines = textwrap.wrap(prompt, width=25, max_lines=most, placeholder=" …")
    for line, text in enumerate(lines):
        pen.text((MARGIN, 2 + line * LINE), text, INK, font(LETTERS, bold=True))
    pen.text((WORDS - MARGIN, height - 4), word, NEUTRAL, font(LETTERS), anchor="rs")
