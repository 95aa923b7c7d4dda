"""Clips as pictures: strips of frames, and videos with their reward drawn underneath."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from vrm.frames import check_frames, from_hwc
from vrm.pictures.style import FAINT, INK, NEUTRAL, PAPER, REWARD, SUCCESS, font, images, save_png
from vrm.video import sample_indices

MIN_SIDE = 320  # narrower frames are enlarged, so that the writing fits
SMOOTH = 2  # the curve is drawn this much larger and scaled down, because PIL draws jagged lines


def film_strip(
    path: str | os.PathLike[str],
    rows: Sequence[tuple[str, Tensor]],
    values: Sequence[ArrayLike] | None = None,
    columns: int = 8,
    height: int = 144,
) -> Path:
    """Lay clips out as rows of evenly spaced frames, for example before and after training.

    Args:
        path: where the PNG goes.
        rows: label and ``(T, C, H, W)`` frames (uint8 or float in [0, 1], RGB) of each clip; T may differ.
        values: ``(T,)`` numbers of each clip, written on its frames in blue; the frame number stands on the left.
        columns: frames shown per clip.
        height: of a shown frame, in pixels.

    Returns:
        The path written.

    Raises:
        FrameError: if frames break the contract.
        ValueError: if there is no row, or the values do not fit the frames.
    """
    if not rows or (values is not None and [len(np.asarray(v)) for v in values] != [len(f) for _, f in rows]):
        raise ValueError("A film strip needs at least one row, and values (if given) one per frame of each row.")
    gap, heading = 4, 30
    strips = []
    for index, (label, frames) in enumerate(rows):
        chosen = sample_indices(len(check_frames(frames, 4)), columns)
        shown = images(frames[chosen], height)
        strip = Image.new("RGB", (columns * (shown[0].width + gap) + gap, height + heading + gap), PAPER)
        ImageDraw.Draw(strip).text((gap, heading // 2), label, INK, font(16), anchor="lm")
        for column, (frame, image) in enumerate(zip(chosen, shown, strict=True)):
            _badge(image, str(frame), INK, "left")
            if values is not None:
                _badge(image, f"{np.asarray(values[index])[frame]:.2f}", REWARD, "right")
            strip.paste(image, (gap + column * (image.width + gap), heading))
        strips.append(strip)
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), PAPER)
    for index, strip in enumerate(strips):
        sheet.paste(strip, (0, sum(above.height for above in strips[:index])))
    return save_png(path, sheet.save)


def reward_curve_video(
    frames: Tensor, rewards: ArrayLike, success: ArrayLike | None = None, caption: str = ""
) -> Tensor:
    """Draw the reward under a clip as a curve that grows with time.

    Args:
        frames: ``(T, C, H, W)`` uint8 or float in [0, 1], RGB; those narrower than 320 pixels are enlarged.
        rewards: ``(T,)`` reward of each frame; nan leaves a gap (frame 0 of an episode has none).
        success: ``(T,)`` bool: where the bar under the curve is green. None draws no bar.
        caption: the sentence, above the curve.

    Returns:
        ``(T, C, H', W')`` uint8, RGB, with even sides: ready for :func:`vrm.video.write_video`.

    Raises:
        FrameError: if the frames break the contract.
        ValueError: if the lengths differ or a reward is infinite.
    """
    check_frames(frames, 4)
    values = np.asarray(rewards, np.float64)
    label = None if success is None else np.asarray(success, bool)
    if values.shape != (len(frames),) or (label is not None and label.shape != values.shape):
        raise ValueError(f"rewards and success must be ({len(frames)},) like the frames, got {values.shape}.")
    if np.isinf(values).any():
        raise ValueError("rewards must be finite, or nan where there is none; got infinity.")
    scale = max(math.ceil(MIN_SIDE / frames.shape[-1]), 1)
    height, width = (math.ceil(side * scale / 2) * 2 for side in frames.shape[-2:])
    panel = _CurvePanel(width, values, label, caption)
    video = np.empty((len(frames), height + panel.height, width, 3), np.uint8)
    for index in range(len(frames)):
        picture = images(frames[index : index + 1], height)[0]
        picture = picture if picture.width == width else picture.resize((width, height))
        video[index, :height] = np.asarray(picture)
        video[index, height:] = np.asarray(panel.advance(index))
    return from_hwc(video)


class _CurvePanel:
    """A strip of paper on which the reward curve grows by one frame at a time."""

    def __init__(
        self, width: int, values: NDArray[np.float64], success: NDArray[np.bool_] | None, caption: str
    ) -> None:
        """Lay out the strip: caption, curve, success bar, and a line of what is true of the current frame."""
        self.values, self.success = values, success
        self.size = min(max(width // 32, 11), 20)  # of the letters
        self.line = round(1.6 * self.size)
        self.top = self.line if caption else self.size // 2
        self.left, self.plot_width = 4 * self.size, width - 5 * self.size
        self.plot_height = 5 * self.size
        self.bar = self.top + self.plot_height + self.size // 4
        bar_height = 0 if success is None else self.size // 2
        self.height = math.ceil((self.bar + bar_height + self.line) / 2) * 2
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        self.low, self.high = (low, high) if high > low else (low - 0.5, high + 0.5)
        self.paper = Image.new("RGB", (width, self.height), PAPER)
        self.plot = Image.new("RGB", (self.plot_width * SMOOTH, self.plot_height * SMOOTH), PAPER)
        self._print_labels(caption)

    def advance(self, index: int) -> Image.Image:
        """Return the strip at frame ``index``; call with 0, 1, 2, … in turn."""
        pen = ImageDraw.Draw(self.plot)
        here = self._point(index)
        if index and np.isfinite(self.values[index - 1 : index + 1]).all():
            pen.line([self._point(index - 1), here], REWARD, 2 * SMOOTH + 1, joint="curve")
        plot = self.plot.copy()
        if np.isfinite(self.values[index]):
            ImageDraw.Draw(plot).circle(here, 4.5 * SMOOTH, REWARD, PAPER, SMOOTH)
        if self.success is not None:
            self._fill_bar(index)
        strip = self.paper.copy()
        strip.paste(plot.reduce(SMOOTH), (self.left, self.top))
        self._print_state(ImageDraw.Draw(strip), index)
        return strip

    def _point(self, index: int) -> tuple[float, float]:
        """Place the reward of a frame on the plot, with room for the dot at every edge."""
        room = 6 * SMOOTH
        across, down = self.plot.width - 2 * room, self.plot.height - 2 * room
        share = (self.values[index] - self.low) / (self.high - self.low)
        return room + across * index / max(len(self.values) - 1, 1), room + down * (1 - share)

    def _fill_bar(self, index: int) -> None:
        """Colour the stretch of the success bar that belongs to one frame."""
        assert self.success is not None
        start, end = (self.left + round(self.plot_width * edge / len(self.values)) for edge in (index, index + 1))
        colour = SUCCESS if self.success[index] else NEUTRAL
        ImageDraw.Draw(self.paper).rectangle((start, self.bar, max(end - 1, start), self.bar + self.size // 2), colour)

    def _print_labels(self, caption: str) -> None:
        """Write what never changes: the caption, the range of the reward and the plot's grid."""
        pen, room = ImageDraw.Draw(self.paper), self.paper.width - 2 * self.size
        while len(caption) > 1 and font(self.size).getlength(caption) > room:
            caption = caption[:-2].rstrip() + "…"
        pen.text((self.size, self.line / 2), caption, INK, font(self.size), anchor="lm")
        grid = ImageDraw.Draw(self.plot)
        for value, share in ((self.high, 0), (self.low, 1)):
            y = 6 + (self.plot_height - 12) * share
            grid.line([(0, y * SMOOTH), (self.plot.width, y * SMOOTH)], FAINT, SMOOTH)
            label = f"{value:.2f}"
            pen.text((self.left - self.size / 2, self.top + y), label, INK, font(round(0.8 * self.size)), anchor="rm")
        if self.success is not None:
            pen.rectangle((self.left, self.bar, self.left + self.plot_width - 1, self.bar + self.size // 2), FAINT)

    def _print_state(self, pen: ImageDraw.ImageDraw, index: int) -> None:
        """Write what belongs to one frame: its reward, its number, and whether it is a success."""
        right, foot = self.left + self.plot_width, self.height - self.line / 2
        plain, bold = font(self.size), font(self.size, bold=True)
        value = self.values[index]
        pen.text((self.size, foot), f"{index}/{len(self.values) - 1}", INK, plain, anchor="lm")
        text = f"reward {value:.3f}" if np.isfinite(value) else "no reward"
        pen.text(((self.size + right) / 2, foot), text, REWARD, bold, anchor="mm")
        if self.success is not None and self.success[index]:
            pen.text((right, foot), "success", SUCCESS, bold, anchor="rm")


def _badge(picture: Image.Image, text: str, colour: str, side: Literal["left", "right"]) -> None:
    """Write on a plate in a lower corner of a picture."""
    pen, face = ImageDraw.Draw(picture), font(12)
    width = math.ceil(face.getlength(text)) + 8
    left = 0 if side == "left" else picture.width - width
    pen.rectangle((left, picture.height - 18, left + width - 1, picture.height), colour)
    pen.text((left + 4, picture.height - 9), text, PAPER, face, anchor="lm")
