"""A run: what is planned and not yet there is scored, and kept."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import torch
from tqdm import tqdm

from vrm.errors import UnknownNameError, VrmError
from vrm.rewards import RewardModel
from vrm.scoring.dataset import Row, choose_folder, read_keys, read_scores
from vrm.scoring.inputs import Inputs
from vrm.scoring.judge import Judge, Task
from vrm.scoring.pipeline import Pipeline, Settings, Video
from vrm.scoring.plan import Plan, PromptSource, make_plan
from vrm.scoring.replaced import replaced_videos
from vrm.scoring.store import ScoreStore
from vrm.video import FrameSampler

Engine = Literal["local", "ray"]
Rewards = RewardModel | str | Sequence[str] | Mapping[str, RewardModel]
DEFAULT_CACHE = Path("~/.cache/vrm/features")
PACKAGES = ("vrm", "torch", "numpy", "av", "decord", "pyarrow", "open_clip_torch", "transformers")


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        folder: where the scores are; not always where they were asked for, see :func:`score_plan`.
        rows: planned rows that exist now, those of other shards included.
        errors: how many of them tell of an error.
        complete: whether ``scores.parquet`` holds them all; False while other shards are to come.
    """

    folder: Path
    rows: int
    errors: int
    complete: bool


class TooManyErrorsError(VrmError, RuntimeError):
    """More videos failed than the run was told to put up with."""


def score(
    inputs: Inputs,
    reward: Rewards = "goal",
    prompts: str | Sequence[str] | None = None,
    *,
    matrix: bool = False,
    prompt_from: PromptSource | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    encoder: str = "vrm-sim",
    retry_errors: bool = False,
    engine: Engine = "local",
    **settings: Any,
) -> pa.Table:
    """Score videos by one reward or several.

    One row per video, prompt and reward; a video that cannot be read is a row with an error. The numbers depend on
    video, prompt, reward, sampler and decoder only, not on batches, workers, or what else is scored.

    Args:
        inputs: video files, globs, folders or manifests, one or a list: see :func:`vrm.scoring.inputs.find_videos`.
        reward: a reward, several by name, or names: of ``configs/reward`` or of ``.safetensors`` files. Rewards are
            asked with each row's prompt as the goal; without prompts, they use their own.
        prompts: one for all videos or one per video; None for a manifest's.
        matrix: score every video under every prompt.
        prompt_from: "sidecar" or "filename", see :func:`vrm.scoring.plan.make_plan`.
        out: folder of the dataset, which a later call continues; None keeps nothing.
        cache: folder of the feature cache; None for none.
        encoder: what rewards given by name of ``configs/reward`` are built on.
        retry_errors: score rows again that exist with an error.
        engine: "ray" scores on a Ray cluster, see :mod:`vrm.scoring.ray_engine`.
        settings: fields of :class:`vrm.scoring.pipeline.Settings`: ``frames="segments:8"``, ``backend``, ``workers``
            (0: decode here), ``timeout``, ``batch_size``.

    Returns:
        The planned rows, in order: a table of :data:`vrm.scoring.schema.ROW`.

    Raises:
        InputError: if there is nothing to score or prompts do not fit.
        VrmError: if a reward, sampler or folder cannot be used.

    Example:
        >>> table = score("gen/*.mp4", "goal", "a robot kneels", workers=4)  # doctest: +SKIP
        >>> table.to_pandas().sort_values("score")  # doctest: +SKIP
    """
    plan = make_plan(inputs, prompts, matrix=matrix, prompt_from=prompt_from)
    found = _named_rewards(reward, encoder, plan.has_prompts)
    options = Settings(cache=None if cache is None else Path(cache).expanduser(), **settings)
    place: AbstractContextManager[Any] = tempfile.TemporaryDirectory() if out is None else nullcontext(out)
    with place as folder:
        target = Path(folder, "scores") if out is None else Path(folder)
        outcome = score_plan(plan, found, options, target, retry_errors=retry_errors, engine=engine)
        return read_scores(outcome.folder).slice(0, len(plan) * len(found))


def score_plan(
    plan: Plan,
    rewards: Mapping[str, RewardModel],
    settings: Settings,
    out: Path,
    *,
    shard: tuple[int, int] = (1, 1),
    retry_errors: bool = False,
    max_errors: int | None = None,
    rows_per_part: int = 512,
    engine: Engine = "local",
    progress: bool = False,
) -> Outcome:
    """Score what is planned and not yet in ``out``.

    Args:
        plan: videos and prompts.
        rewards: by the names that go into the rows.
        settings: how videos become features.
        out: folder of the dataset. If it holds scores of other rewards, encoders or samplers, a sibling
            ``out-<8 hex digits>`` is used instead.
        shard: ``(i, n)``: score the ``i``-th of ``n`` shares; whoever finishes last merges them.
        retry_errors: score rows again that exist with an error.
        max_errors: stop at the first error beyond this many; None never stops.
        rows_per_part: how many rows are committed at once.
        engine: "local" or "ray".
        progress: whether to show a bar.

    Raises:
        TooManyErrorsError: if ``max_errors`` is exceeded; what was scored is kept.
        StoreError: if ``out`` cannot be used or is being written.
    """
    if engine not in ("local", "ray"):
        raise UnknownNameError("engine", engine, ("local", "ray"))
    FrameSampler.parse(settings.frames)
    judge = Judge(rewards)
    identity = {"rewards": judge.identity(), **settings.identity()}
    folder = choose_folder(out, identity)
    if folder != Path(os.path.abspath(out)) and progress:
        print(f"{out} holds scores of other rewards or settings; these go to {folder}.")
    with ScoreStore(folder, identity, _facts(), shard, rows_per_part) as store:
        total = pc.count_distinct(plan.entries["path"]).as_py() // shard[1]
        replaced = replaced_videos(folder, (path for path, _ in plan.videos(shard)))
        with tqdm(total=total, unit="clip", disable=not progress) as bar:
            videos = _open_videos(plan, store.done(retry_errors), replaced, judge.names, shard, bar)
            failed = 0
            with closing(_produce(engine)(judge, settings, videos)) as scored:
                for rows in scored:
                    store.add(rows)
                    failed += sum(row.get("error_kind") is not None for row in rows)
                    bar.set_postfix(errors=failed, refresh=False)
                    bar.update(len({row["path"] for row in rows}))
                    if max_errors is not None and failed > max_errors:
                        raise TooManyErrorsError(f"Stopped after {failed} errors, {max_errors} allowed; see {folder}.")
        complete = store.finish(plan.items(), judge.names)
    return _outcome(plan, judge.names, folder, complete)


def _produce(engine: Engine) -> Callable[[Judge, Settings, Iterator[Video]], Generator[list[Row]]]:
    if engine == "ray":
        from vrm.scoring.ray_engine import score_on_ray

        return score_on_ray
    return _score_here


def _score_here(judge: Judge, settings: Settings, videos: Iterator[Video]) -> Generator[list[Row]]:
    with Pipeline(judge, settings) as pipeline:
        yield from pipeline.run(videos)


def _open_videos(
    plan: Plan, done: set[bytes], replaced: set[str], names: Sequence[str], shard: tuple[int, int], bar: tqdm[None]
) -> Iterator[Video]:
    """Yield the videos of which some row is not there or out of date, with those rows; count the others as done."""
    for path, items in plan.videos(shard):
        known = done if path not in replaced else ()
        tasks: list[Task] = [(i, place) for i in items for place, name in enumerate(names) if i.key(name) not in known]
        if tasks:
            yield path, tasks
        else:
            bar.update()


def _outcome(plan: Plan, names: Sequence[str], folder: Path, complete: bool) -> Outcome:
    kinds = read_keys(folder)
    planned = {item.key(name) for item in plan.items() for name in names}
    found = [kind for key, kind in kinds.items() if key in planned]
    return Outcome(folder, len(found), sum(kind is not None for kind in found), complete)


def _named_rewards(reward: Rewards, encoder: str, has_prompts: bool) -> Mapping[str, RewardModel]:
    """Give every reward a name, and load those that are only named."""
    if isinstance(reward, RewardModel):
        return {type(reward).__name__: reward}
    if isinstance(reward, Mapping):
        return reward
    from vrm.configuration import build_rewards

    return build_rewards([reward] if isinstance(reward, str) else reward, encoder, has_prompts=has_prompts)


def _facts() -> dict[str, Any]:
    """Note what made the scores, apart from what their identity says."""
    found = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": found}
