"""``vrm score``: arguments to one call."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vrm.scoring.export import export
from vrm.scoring.plan import make_plan, parse_shard, read_prompts
from vrm.scoring.run import DEFAULT_CACHE, Outcome, score_plan
from vrm.video import Backend, FrameSampler

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
HAS_ERRORS = 3
EPILOG = """\
examples:
  vrm score gen/ --prompt "a robot kneels" --out scores
  vrm score manifest.csv --reward goal,flicker --frames fps:2,max=32 --out scores
  vrm score 'gen/**/*.mp4' --prompts prompts.txt --matrix --encoder ViT-L-14/openai --device cuda --out scores

The same command again scores only what is missing. Exit status: 0, 3 if some rows tell of an error, 2 if the command
cannot be carried out. Settings by KEY=VALUE: reward.KEY for all rewards, NAME.KEY for one, encoder.KEY, task.baseline.
"""


def run(arguments: Sequence[str]) -> int:
    """Score what the command line asks for; returns the exit status.

    Raises:
        VrmError: if it cannot be carried out.
    """
    given = _parser().parse_intermixed_args(arguments)
    overrides = [text for text in given.inputs if OVERRIDE.match(text) and not os.path.exists(text)]
    prompts = given.prompt if given.prompts is None else read_prompts(given.prompts)
    plan = make_plan(
        [text for text in given.inputs if text not in overrides],
        prompts,
        matrix=given.matrix,
        prompt_from=given.prompt_from,
    )
    from vrm.configuration import build_rewards
    from vrm.scoring.pipeline import Settings

    rewards = build_rewards(
        given.reward.split(","), given.encoder, device=given.device, overrides=overrides, has_prompts=plan.has_prompts
    )
    backend: Backend = "av" if given.deterministic else given.backend
    cache = None if given.no_cache else given.cache.expanduser()
    settings = Settings(given.frames, backend, given.workers, given.timeout, given.batch_size, cache)
    outcome = score_plan(
        plan, rewards, settings, given.out, shard=given.shard, retry_errors=given.retry_errors,
        max_errors=given.max_errors, engine=given.engine, progress=True,
    )  # fmt: skip
    forms = [form for form in ("csv", "jsonl") if getattr(given, form)] if outcome.complete else []
    print(_summary(outcome), *(f"also: {export(outcome.folder, form)}" for form in forms), sep="\n")  # type: ignore[arg-type]
    return HAS_ERRORS if outcome.errors else 0


def _summary(outcome: Outcome) -> str:
    state = "" if outcome.complete else "; other shards are to come"
    return f"{outcome.rows} rows, {outcome.errors} with errors{state}: {outcome.folder}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vrm score",
        description="Score videos against prompts, into a folder of Parquet files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="video, glob, folder, manifest (csv, tsv, json, jsonl, parquet), or -",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the scores; continued if it exists")
    prompts = parser.add_argument_group("prompts (default: the manifest's column)").add_mutually_exclusive_group()
    prompts.add_argument("--prompt", metavar="TEXT", help="one for all videos")
    prompts.add_argument("--prompts", metavar="FILE", help="one a line, for the videos in their order")
    prompts.add_argument("--prompt-from", choices=["sidecar", "filename"], help="clip.txt beside clip.mp4, or its name")
    add("--matrix", action="store_true", help="score every video under every prompt")
    add("--reward", default="goal", metavar="NAME[,NAME…]", help="of configs/reward, or .safetensors files")
    add("--encoder", default="vrm-sim", metavar="NAME", help="of configs/encoder, or what load_encoder takes")
    add("--device", help="where the encoder runs")
    frames = _valid(lambda text: str(FrameSampler.parse(text)))
    add("--frames", type=frames, default="segments:8", metavar="SPEC", help="which frames, such as fps:2,max=32")
    add("--backend", choices=["auto", "av", "decord"], default="auto", help="decoder")
    add("--deterministic", action="store_true", help="the same decoder for every file (--backend av)")
    add("--workers", type=_number(0), default=len(os.sched_getaffinity(0)), metavar="N", help="decoding processes")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds to decode a file, plus its own duration")
    add("--batch-size", type=_number(1), default=128, metavar="N", help="frames gathered at once; no effect on scores")
    cache = parser.add_mutually_exclusive_group()
    cache.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="of features (%(default)s)")
    cache.add_argument("--no-cache", action="store_true")
    add("--shard", type=_valid(parse_shard), default=(1, 1), metavar="I/N", help="score the I-th of N shares")
    add("--retry-errors", action="store_true", help="score rows again that tell of an error")
    add("--max-errors", type=_number(0), metavar="N", help="stop after more errors than this")
    add("--engine", choices=["local", "ray"], default="local", help="ray: on a Ray cluster")
    add("--csv", action="store_true", help="also write scores.csv")
    add("--jsonl", action="store_true", help="also write scores.jsonl")
    return parser


def _valid(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the sentence of a ``ValueError``."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _number(least: int) -> Callable[[str], int]:
    """Read an integer not below ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"must be a whole number of at least {least}, got {text!r}")
        return int(text)

    return _valid(parse)
