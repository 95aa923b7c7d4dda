"""Clips whose frames carry their own number, made by ffmpeg, and what ffmpeg itself reads from them."""

import subprocess

import imageio_ffmpeg
import numpy as np

ROWS, COLUMNS = 2, 4  # one block per bit


def ffmpeg(*arguments, data=None):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def pictures(count, height=64, width=64):
    """``(count, height, width, 3)`` uint8; picture n shows n in binary."""
    bits = np.arange(count)[:, None] >> np.arange(ROWS * COLUMNS) & 1
    codes = np.where(bits, 235, 20).astype(np.uint8).reshape(count, ROWS, COLUMNS)
    rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    out = codes[:, rows][:, :, columns][..., None].repeat(3, axis=-1)
    out[..., 1] = out[..., 1] // 2 + 60  # colour, to notice swapped channels
    return out


def numbers(frames):
    """Read the numbers back from ``(T, 3, H, W)``."""
    height, width = frames.shape[-2:]
    rows = [(2 * row + 1) * height // (2 * ROWS) for row in range(ROWS)]
    columns = [(2 * column + 1) * width // (2 * COLUMNS) for column in range(COLUMNS)]
    bits = (frames[:, 0][:, rows][:, :, columns] > 127).reshape(len(frames), -1)
    return [sum(2**b for b, bit in enumerate(row) if bit) for row in bits.tolist()]


def encode(path, *options, count=60, size=(64, 64), fps=30):
    height, width = size
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps, "-i", "-")
    ffmpeg(*source, *options, path, data=pictures(count, height, width).tobytes())
    return path


def truth(path, height, width):
    """Every frame as ffmpeg reads it: ``(N, 3, height, width)``."""
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3).transpose(0, 3, 1, 2)
