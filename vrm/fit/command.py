"""``vrm fit``: arguments to one fitted reward, its report and its picture."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vrm.data import Demo, DemoError, load_demos
from vrm.encoders import Encoder, load_encoder
from vrm.errors import VrmError
from vrm.fit.held_out import Fit, HeldOut, cross_validate, score_demos
from vrm.fit.kinds import KINDS, check_kind, defaults, make_fit, parse_options
from vrm.fit.report import EXPLAINED, FitReport

SETTING = re.compile(r"[A-Za-z_]\w*=")
ABOUT = """\
Fit a reward to demonstrations and say what it is worth on ones it has not seen: each is held out in turn (in 5 groups
if there are more than 8), a reward is fitted to the rest, and scores it. VOC is the rank correlation of reward and
time; reversed is that of the demonstration played backwards. Then the reward is fitted to all of them.
"""
EPILOG = """\
examples:
  vrm fit progress demos --out progress.safetensors
  vrm fit perceptual demos --out steps.safetensors --fps 10 steps=3
  vrm fit matching demos --out ot.safetensors --failed failed "matcher={name: sinkhorn, eps: 0.02}"

Beside FILE.safetensors come FILE.json, the report, and FILE.png, the demonstrations with their rewards. Demonstrations
that a recording says have failed are not learned from and count as --failed. progress, rank2reward, rewind and critic
themselves hold demonstrations out of those they are given, to choose when training was best.

options of each kind, and their defaults:
"""


def fit_command(arguments: list[str]) -> int:
    """Fit the reward that the command line names, report on it and write it.

    Raises:
        VrmError: if it cannot be carried out; nothing is written then.
    """
    if arguments[:1] == ["preference"]:  # from answers about pairs, not from demonstrations
        from vrm.fit.preferences import preference_command

        return preference_command(arguments[1:])
    parser = _parser()
    given = parser.parse_intermixed_args(arguments)
    if given.out.suffix != ".safetensors" or given.out.is_dir():
        parser.error(f"--out must be a file whose name ends in .safetensors, got {str(given.out)!r}")
    words = [*given.words, *given.failed]  # a setting may stand behind any of them
    settings = [word for word in words if SETTING.match(word) and not Path(word).exists()]
    given.words, given.failed = ([w for w in part if w not in settings] for part in (given.words, given.failed))
    kind = check_kind(given.kind)
    options = parse_options(kind, settings)
    demos, failed, notes = _demonstrations(given)
    fit = make_fit(kind, options)
    with _one_sentence(kind):
        encoder = load_encoder(given.encoder, device=given.device)
        reward = fit(encoder, demos, seed=given.seed)
        held, why = _held_out(fit, encoder, demos, failed, given)
    if held is None:
        held = HeldOut(score_demos(reward, encoder, demos, failed))
    notes += [*why, *([EXPLAINED[kind]] if kind in EXPLAINED else [])]
    report = FitReport(kind, reward, encoder, demos, failed, held, notes, {**defaults(kind), **options}, given.seed)
    report.print()
    print("written:", *report.save(given.out))
    return 0


def _demonstrations(given: argparse.Namespace) -> tuple[list[Demo], list[Demo], list[str]]:
    """Read what succeeded, what failed, and what is to be said about it."""
    reading: dict[str, Any] = {"fps": given.fps, "text": given.text, "camera": given.camera}
    everything = load_demos(given.words, **reading)
    failed = load_demos(given.failed, **reading) if given.failed else []
    demos = [demo for demo in everything if demo.success is not False]
    if not demos:
        raise DemoError(f"All {len(everything)} demonstrations end without success; there is nothing to learn from.")
    notes = []
    if len(demos) < len(everything):
        failed += [demo for demo in everything if demo.success is False]
        notes.append(
            f"{len(everything) - len(demos)} of {len(everything)} demonstrations end without success: "
            "they are not learned from and count as failed."
        )
    return demos, failed, notes


def _held_out(
    fit: Fit, encoder: Encoder, demos: Sequence[Demo], failed: Sequence[Demo], given: argparse.Namespace
) -> tuple[HeldOut | None, list[str]]:
    """Hold demonstrations out if that can be done; else None, and why."""
    if given.no_holdout:
        return None, ["Nothing was held out: these are figures of what was trained on."]
    if len(demos) == 1:
        return None, ["One demonstration cannot be held out: these are figures of what was trained on."]
    try:
        return cross_validate(fit, encoder, demos, given.seed, failed), []
    except DemoError as error:  # all of them can be learned from, but not those of a fold
        return None, [f"Nothing could be held out, so these are figures of what was trained on. {error}"]


@contextmanager
def _one_sentence(kind: str) -> Iterator[None]:
    """Let a number that is out of its range end as every error of the command does."""
    try:
        yield
    except VrmError:
        raise
    except ValueError as error:
        raise VrmError(f"A {kind} reward cannot be fitted: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vrm fit",
        usage="vrm fit KIND DEMO [DEMO ...] --out FILE [KEY=VALUE ...] [options]",
        description=ABOUT,
        epilog=EPILOG + "".join(f"{_listed(kind)}\n" for kind in KINDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    sources = "video, folder, recording or dataset"
    add("kind", metavar="KIND", help=", ".join(KINDS))
    add("words", nargs="+", metavar="DEMO", help=f"{sources}; KEY=VALUE is an option of the kind")
    add("--out", type=Path, required=True, metavar="FILE", help="the reward, .safetensors")
    add("--encoder", default="vrm-sim", metavar="NAME", help="what load_encoder takes (%(default)s)")
    add("--fps", type=float, help="sample demonstrations at so many frames per second (default: every frame)")
    add("--text", help="what is done in the demonstrations, instead of what they say")
    add("--camera", help="which camera of a dataset that has several")
    add(
        "--failed",
        nargs="+",
        default=[],
        metavar="CLIP",
        help=f"clips that fail ({sources}), to be told from the others",
    )
    add("--no-holdout", action="store_true", help="fit once; all figures are then of what was trained on")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="where the encoder runs (%(default)s)")
    return parser


def _listed(kind: str) -> str:
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults(kind).items()}
    said = [f"{name}={'null' if value is None else value}" for name, value in values.items()]
    words = [f"{kind}:", *said, *(["and those of the objective"] if kind == "progress" else [])]
    return textwrap.fill(" ".join(words), 116, initial_indent="  ", subsequent_indent="    ")
