"""Folders of scores to report on: real clips of moving shapes, with numbers that tests can predict."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from vrm.scoring.schema import ROW
from vrm.video import write_video

FPS, FRAMES = 12.0, 24
DURATION = FRAMES / FPS


def clip_of_a_square(place: int) -> Tensor:
    """Frames ``(24, 3, 64, 96)`` in which a bright square crosses at its own height over its own colour."""
    frames = torch.zeros(FRAMES, 3, 64, 96, dtype=torch.uint8)
    frames[:, place % 3] = 60 + 10 * (place % 8)
    for t in range(FRAMES):
        top, left = 4 + 4 * (place % 10), 3 * t
        frames[t, :, top : top + 16, left : left + 16] = torch.tensor([250, 220 - 12 * place, 90], dtype=torch.uint8)[
            :, None, None
        ]
    return frames


def write_clips(folder: Path, count: int) -> list[Path]:
    return [write_video(folder / f"clip {place}.mp4", clip_of_a_square(place), FPS) for place in range(count)]


def row(index: int, path: str | Path, score: float | None, **changes: object) -> dict[str, object]:
    """One row with a score and a rising curve, or with an error where ``score`` is None."""
    values = None if score is None else [score + 0.2 * math.sin(t / 2) for t in range(8)]
    facts = dict.fromkeys(ROW.names) | {
        "index": index,
        "id": f"item {index}",
        "path": str(path),
        "prompt": f"a square that moves, version {index // 2}",
        "reward": "goal",
        "score": score,
        "values": values,
        "sampler": "uniform:8",
        "encoder": "vrm-sim",
        "prompt_truncated": False,
        "prompt_tokens": 9,
        "prompt_tokens_read": 9,
    }
    if score is None:
        facts |= {"error_kind": "truncated", "error": f"{path} is cut off after 3 frames."}
    else:
        indices = [round(t * (FRAMES - 1) / 7) for t in range(8)]
        facts |= {
            "dimensions": [("smoothness", score / 2), ("subject", 1 - score)],
            "frame_indices": indices,
            "frame_times": [i / FPS for i in indices],
            "frames": FRAMES,
            "fps": FPS,
            "height": 64,
            "width": 96,
            "duration": DURATION,
            "codec": "h264",
            "backend": "av 16.0" if index % 3 else "decord 0.6",
        }
    return facts | changes


def write_scores(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text('{"identity": {"encoder": "vrm-sim"}, "versions": {"torch": "2"}}')
    pq.write_table(pa.Table.from_pylist(rows, ROW), folder / "scores.parquet")
    return folder
