"""``vrm search``: better videos from a generator as it is."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml

from vrm.diffusion.generator import load_generator
from vrm.diffusion.objective import RewardObjective
from vrm.diffusion.search import METHODS, Budget, Searcher
from vrm.diffusion.search.session import SearchFolder
from vrm.errors import UnknownNameError, VrmError
from vrm.scoring.plan import read_prompts

SETTING = re.compile(r"[A-Za-z_][\w.]*=")
PREFIX = "method."
# What constructors take that cannot be written on a command line, or has an option of its own.
NOT_SETTINGS = {"self", "generator", "objective", "settings", "kernel", "latent_reward", "steps", "guidance", "batch"}
EPILOG = """\
methods:
  best_of_n  independent samples, the best wins
  dlbs       diffusion latent beam search: branch at every step, look ahead, keep the best
  prune      begin many samples, drop the worst on the way (TTSnap)
  reno       explore seeds, then climb the reward's gradient in the first noise (ReNO, CARINOX)
  nrg        push the sampler up the reward's gradient at every step (Flow-NRG)

examples:
  vrm search --prompt "a humanoid kneels" --method dlbs --budget 800 --out found
  vrm search --prompts prompts.txt --reward goal=1,flicker=0.2 --method prune --budget 800 --out found
  vrm search --prompt "a pole swings" --method dlbs method.candidates=2 method.lookahead=6 --budget 2500 --out found

The budget counts rows through the denoiser for each prompt: a plain sample with guidance costs twice its steps. The
same command again searches only for prompts that have no result. Settings by KEY=VALUE: method.KEY for the method,
reward.KEY for all rewards, NAME.KEY for one, encoder.KEY, task.baseline.
"""


def search_command(arguments: list[str]) -> int:
    """Search as the command line asks for, and say what came of it; returns 0.

    Raises:
        VrmError: if it cannot be carried out.
    """
    given = _parser().parse_intermixed_args(arguments)
    overrides = [text for text in given.settings if not text.startswith(PREFIX)]
    texts = [text.removeprefix(PREFIX) for text in given.settings if text.startswith(PREFIX)]
    prompts = [*(given.prompt or ()), *(read_prompts(given.prompts) if given.prompts else ())]
    if not prompts:
        raise VrmError("A search needs a prompt; pass --prompt TEXT or --prompts FILE.")
    weighted = [_weighted(part) for text in given.reward or ["goal"] for part in text.split(",")]
    from vrm.configuration import build_rewards

    settings = method_settings(given.method, texts)
    budget = Budget(given.budget, given.reward_budget)
    device = _device(given.device)
    rewards = build_rewards([name for name, _ in weighted], given.encoder, device=str(device), overrides=overrides)
    with _one_sentence():
        generator = load_generator(
            given.generator, frames=given.frames, size=given.size, steps=given.steps, guidance=given.guidance
        ).to(device)
    weights = {label: weight for label, (_, weight) in zip(rewards, weighted, strict=True)}
    with _one_sentence():
        objective = RewardObjective({label: reward.to(device) for label, reward in rewards.items()}, weights)
        searcher = METHODS[given.method](generator, objective, batch=given.batch, **settings)
    size = searcher.affordable(budget)
    described = {
        "generator": given.generator, "sampling": asdict(generator.defaults), "reward": weighted,
        "encoder": given.encoder, "overrides": overrides, "method": given.method, "settings": settings,
        "budget": asdict(budget), "seed": given.seed,
    }  # fmt: skip
    cost = searcher.cost(size)
    print(
        f"{given.method}: {size} {searcher.unit}, {cost.nfe} model calls and {cost.reward_calls} reward calls a prompt"
    )
    results = SearchFolder(given.out, described, given.fps).run(searcher, prompts, budget, given.seed, given.method)
    better = sum(result["score"] > result["plain_score"] for result in results)
    before, after = (mean(result[key] for result in results) for key in ("plain_score", "score"))
    print(
        f"score {before:.4g} -> {after:.4g} (plain sample -> found; mean of {len(results)} prompts, {better} better)\n"
        f"videos, pictures, results.csv and candidates.csv: {given.out}"
    )
    return 0


def method_settings(method: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read a method's ``KEY=VALUE`` settings as the types of its defaults.

    Raises:
        UnknownNameError: if the method has no such setting.
        VrmError: if a value is of another type.
    """
    defaults: dict[str, Any] = {}
    for owner in (Searcher, METHODS[method]):
        parameters = inspect.signature(owner).parameters.items()
        defaults |= {name: parameter.default for name, parameter in parameters if name not in NOT_SETTINGS}
    found = {}
    for text in texts:
        key, _, written = text.partition("=")
        if key not in defaults:
            raise UnknownNameError(f"setting of --method {method}", key, defaults)
        found[key] = _typed(key, written, defaults[key])
    return found


def _typed(key: str, written: str, default: Any) -> Any:
    """Read a value as the default's type; whole numbers where there is none."""
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError:
        value = None
    kind = int if default is None else type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, list) and all(isinstance(number, (int, float)) for number in value):
        value = tuple(value)
    if type(value) is not kind:
        example = "a whole number" if default is None else f"like {list(default) if kind is tuple else default}"
        raise VrmError(f"Setting {PREFIX}{key} must be {example}, got {written!r}.")
    return value


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Let the command line end with the sentence of a refused value."""
    try:
        yield
    except VrmError:
        raise
    except ValueError as error:
        raise VrmError(str(error)) from error


def _device(name: str | None) -> torch.device:
    """The device named, or the first GPU, or the CPU."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VrmError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from error
    return device


def _weighted(text: str) -> tuple[str, float]:
    """Read ``NAME`` or ``NAME=WEIGHT``."""
    name, separator, weight = text.partition("=")
    try:
        return name, float(weight) if separator else 1.0
    except ValueError:
        raise VrmError(f"--reward takes NAME or NAME=WEIGHT with a number as weight, got {text!r}.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vrm search",
        description="Find videos that a reward likes better than plain samples; the generator stays as it is.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("settings", nargs="*", type=_setting, metavar="KEY=VALUE", help="see below")
    add("--generator", default="vrm-tiny", metavar="NAME", help="what load_generator takes (%(default)s)")
    add("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    add("--prompts", metavar="FILE", help="prompts, one a line")
    add(
        "--reward", action="append", metavar="NAME[=WEIGHT][,…]", help="of configs/reward, or .safetensors files (goal)"
    )
    add("--encoder", default="vrm-sim", metavar="NAME", help="of configs/encoder, or what load_encoder takes")
    add("--method", choices=METHODS, default="dlbs", help="(%(default)s)")
    add("--budget", type=int, required=True, metavar="N", help="model calls for each prompt")
    add("--reward-budget", type=int, metavar="N", help="reward calls for each prompt (no limit)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results; continued if it exists")
    add("--seed", type=int, default=0, help="of the first prompt; the others follow (%(default)s)")
    add("--steps", type=_count, metavar="N", help="of the sampler (the generator's own)")
    add("--guidance", type=float, metavar="W", help="classifier-free guidance weight (the generator's own)")
    add("--frames", type=_count, metavar="N", help="length of the videos (the generator's own)")
    add("--size", type=_size, metavar="HxW", help="of the frames in pixels (the generator's own)")
    add("--batch", type=int, metavar="N", help="videos computed at once; no effect on results (all)")
    add("--fps", type=_rate, default=8, help="of the videos written (%(default)s)")
    add("--device", help="where to compute (the first GPU, else the CPU)")
    return parser


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return rate


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH such as 480x832, got {text!r}")
    height, width = map(int, text.split("x"))
    return height, width


def _setting(text: str) -> str:
    if not SETTING.match(text):
        raise argparse.ArgumentTypeError(f"settings are KEY=VALUE, got {text!r}")
    return text
