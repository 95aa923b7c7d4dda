"""The same plan on a Ray cluster: actors run the pipeline, rows come back to the one process that keeps them.

Videos are named by path, so every node must see them under the same paths; so must it the feature cache, if any.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import astuple
from itertools import islice

import pyarrow as pa
import torch

from vrm.errors import MissingExtraError
from vrm.scoring.dataset import Row
from vrm.scoring.judge import Judge, Task
from vrm.scoring.pipeline import Pipeline, Settings, Video
from vrm.scoring.plan import Item
from vrm.scoring.schema import ROW

try:
    import ray
    from ray.data import DataContext
except ImportError as error:
    raise MissingExtraError("ray", "ray", "Scoring with engine 'ray'") from error

VIDEOS_PER_JOB = 10_000  # in the memory of the driver at once
VIDEOS_PER_CALL = 64  # to one actor, whose last batch of frames is filled up


def score_on_ray(judge: Judge, settings: Settings, videos: Iterator[Video]) -> Generator[list[Row]]:
    """Score videos with a pool of actors, as many as the cluster has room for.

    An actor takes one CPU and as many more as ``settings.workers``, and a GPU if an encoder is on one. A Ray that is
    already running or that ``RAY_ADDRESS`` names is used, else one is started on this machine.

    Args:
        judge: the rewards; every actor gets a copy.
        settings: how videos become features, for each actor.
        videos: as for :meth:`vrm.scoring.pipeline.Pipeline.run`.

    Yields:
        Rows, in no particular order; the same as without Ray.
    """
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False)
    context = DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        while chunk := list(islice(videos, VIDEOS_PER_JOB)):
            yield from _job(judge, settings, chunk)
    finally:
        context.enable_progress_bars = bars
        if started:
            ray.shutdown()


def _job(judge: Judge, settings: Settings, videos: list[Video]) -> Iterator[list[Row]]:
    on_gpu = any(encoder.device.type == "cuda" for encoder in judge.encoders.values())
    cpus = 1 + settings.workers
    calls = -(-len(videos) // VIDEOS_PER_CALL)
    total = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    scored = ray.data.from_items([{"video": _text(*video)} for video in videos], override_num_blocks=calls).map_batches(
        _Actor,
        fn_constructor_args=(judge, settings, torch.get_num_threads()),
        batch_size=VIDEOS_PER_CALL,
        batch_format="pyarrow",
        num_cpus=min(cpus, total),
        num_gpus=1 if on_gpu else 0,
        concurrency=(1, max(min(total // cpus, calls), 1)),
    )
    for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(batch, pa.Table)
        yield batch.select(ROW.names).to_pylist()


class _Actor:
    """Scores batches of videos on some node."""

    def __init__(self, judge: Judge, settings: Settings, threads: int) -> None:
        torch.set_num_threads(threads)  # as without Ray, which would take one
        self.pipeline = Pipeline(judge, settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        videos = [_video(text) for text in batch["video"].to_pylist()]
        return pa.Table.from_pylist([row for rows in self.pipeline.run(videos) for row in rows], ROW)


def _text(path: str, tasks: list[Task]) -> str:
    return json.dumps([path, [(astuple(item), place) for item, place in tasks]])


def _video(text: str) -> Video:
    path, tasks = json.loads(text)
    return path, [
        (Item(index, name, where, prompt, tuple((key, value) for key, value in meta)), place)
        for (index, name, where, prompt, meta), place in tasks
    ]
