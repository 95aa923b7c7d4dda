"""``vrm fit preference``: answers about pairs of videos to one fitted reward and its report."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import vrm
from vrm.data.comparisons import Answer, AnswerFile, ComparisonError, Comparisons
from vrm.encoders import Encoder, load_encoder
from vrm.errors import VrmError
from vrm.rewards import Findings
from vrm.rewards.base import RewardModel, to_spec
from vrm.rewards.preference import PreferenceReward
from vrm.rewards.preference_losses import LINKS
from vrm.rewards.preference_networks import small_frames
from vrm.rewards.preference_users import IdealPointReward
from vrm.rewards.preference_variational import VariationalReward
from vrm.video import read_video, replacing

USERS: dict[str, type[IdealPointReward] | type[VariationalReward]] = {
    "ideal_point": IdealPointReward,
    "variational": VariationalReward,
}
ABOUT = """\
Fit a reward to answers about which of two videos is better, and say how well it foretells answers to questions that it
has not seen. An answer is a line such as {"first": "a.mp4", "second": "b.mp4", "label": 1.0}: 1 for the first, 0 for
the second, 0.5 for a tie, null for no answer; paths are relative to the file.
"""
EPILOG = """\
examples:
  vrm fit preference answers.jsonl --out taste.safetensors
  vrm fit preference answers.jsonl --out taste.safetensors --link davidson --members 5
  vrm fit preference a.jsonl b.jsonl --out tastes.safetensors --users variational

Beside FILE.safetensors comes FILE.json, the report.
"""


@dataclass(frozen=True)
class Answers:
    """What answer files come to.

    Attributes:
        comparisons: of what was seen of each video.
        annotators: names, in the order of the numbers in ``comparisons.users``.
        notes: what was left out.
    """

    comparisons: Comparisons
    annotators: list[str]
    notes: list[str]


def load_answers(files: Sequence[Path], see: Callable[[Tensor], Tensor], frames: int) -> Answers:
    """Read answers about videos, and each video once.

    Args:
        files: ``.jsonl`` files of :class:`~vrm.data.comparisons.AnswerFile`.
        see: what is kept of a video, from ``(L, 3, H, W)`` uint8 to ``(L, ...)``.
        frames: ``L``, taken evenly from each video.

    Raises:
        ComparisonError: if a file or video is missing, a line is no answer, or nothing is answered.
        DecodeError: if a video is damaged.
    """
    told = [(path.parent, answer) for path in files for answer in _read(path)]
    kept = [(place, answer) for place, answer in told if answer.label is not None and answer.first != answer.second]
    skipped = sum(answer.label is None for _, answer in told)
    notes = [f"{skipped} of {len(told)} questions have no answer and are left out."] if skipped else []
    if same := len(told) - skipped - len(kept):
        notes.append(f"{same} of {len(told)} answers compare a video with itself and are left out.")
    if not kept:
        names = ", ".join(repr(str(path)) for path in files)
        raise ComparisonError(f"There is no answer in {names} to learn from; label some pairs first.")
    pairs = [((place / answer.first).resolve(), (place / answer.second).resolve()) for place, answer in kept]
    paths = list(dict.fromkeys(path for pair in pairs for path in pair))
    if missing := [path for path in paths if not path.is_file()]:
        raise ComparisonError(
            f"{len(missing)} of {len(paths)} videos do not exist, the first is {str(missing[0])!r}; paths in an answer "
            "file are relative to the file."
        )
    seen = {path: see(read_video(path, frames)) for path in tqdm(paths, desc="videos", disable=None, leave=False)}
    annotators = sorted({answer.annotator for _, answer in kept})
    comparisons = Comparisons.of(
        torch.stack([seen[first] for first, _ in pairs]),
        torch.stack([seen[second] for _, second in pairs]),
        [float(answer.label or 0) for _, answer in kept],
        torch.tensor([annotators.index(answer.annotator) for _, answer in kept]),
    )
    return Answers(comparisons, annotators, notes)


def preference_command(arguments: list[str]) -> int:
    """Fit the reward that the command line names, report on it and write it.

    Raises:
        VrmError: if it cannot be carried out; nothing is written then.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.out.suffix != ".safetensors" or given.out.is_dir():
        parser.error(f"--out must be a file whose name ends in .safetensors, got {str(given.out)!r}")
    if given.frames < 1:
        parser.error(f"--frames must be at least 1, got {given.frames}")
    settings = {name: value for name in _SETTINGS if (value := getattr(given, name)) is not None}
    if given.users and settings:
        flags = ", ".join(f"--{name}".replace("_", "-") for name in settings)
        parser.error(f"{flags}: these are for one taste and cannot be combined with --users")
    encoder = None if given.input == "pixels" else load_encoder(given.encoder, device=given.device)
    answers = load_answers(given.answers, _eyes(encoder), given.frames)
    try:
        reward, found = _fit(encoder, answers, given, settings)
    except VrmError:
        raise
    except ValueError as error:
        raise VrmError(f"A preference reward cannot be fitted: {error}") from error
    found.notes[:0] = [*answers.notes, *_who(answers, given.users)]
    for line in found.notes:
        print(line)
    width = max(map(len, found.figures))
    for name, value in found.figures.items():
        print(f"  {name:{width}}  {value:.4g}")
    print("written:", *_save(reward, found, answers, given, settings))
    return 0


_SETTINGS: dict[str, dict[str, Any]] = {
    "input": {"choices": ("features", "pixels"), "help": "what networks see (features)"},
    "link": {"choices": LINKS, "help": "what scores say about answers (bradley_terry); two of them know ties"},
    "members": {"type": int, "help": "networks in the ensemble (3)"},
    "noise": {"type": float, "help": "share of answers taken to be given at random (0)"},
    "caution": {"type": float, "help": "standard deviations over members that are subtracted (0)"},
    "anchor": {"type": float, "help": "mean reward over all frames compared (0)"},
    "epochs": {"type": int, "help": "the most (200)"},
    "shuffles": {"type": int, "help": "measure the answers' strength on so many shuffles and treat them by it (0)"},
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vrm fit preference", description=ABOUT, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("answers", nargs="+", type=Path, metavar="ANSWERS", help="file of answers, .jsonl")
    add("--out", type=Path, required=True, metavar="FILE", help="the reward, .safetensors")
    add("--encoder", default="vrm-sim", metavar="NAME", help="what load_encoder takes (%(default)s)")
    add("--frames", type=int, default=16, help="taken evenly from each video (%(default)s)")
    add("--users", choices=list(USERS), help="a taste for each annotator, instead of one for all")
    for name, how in _SETTINGS.items():
        add(f"--{name}", **how)
    add("--held-out", type=float, default=0.2, help="share of the questions held out for figures (%(default)s)")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="where the encoder runs (%(default)s)")
    return parser


def _read(path: Path) -> list[Answer]:
    if not path.is_file():
        raise ComparisonError(f"There is no answer file {str(path)!r}; check the path.")
    return AnswerFile(path).read()


def _eyes(encoder: Encoder | None) -> Callable[[Tensor], Tensor]:
    """What is kept of a video: features, or pictures of the size that networks see."""
    if encoder is None:
        return lambda frames: small_frames(frames, PreferenceReward(input="pixels").settings["size"])
    return lambda frames: encoder.encode_image(frames).cpu()


def _fit(
    encoder: Encoder | None, answers: Answers, given: argparse.Namespace, settings: dict[str, Any]
) -> tuple[RewardModel, Findings]:
    how: dict[str, Any] = {"seed": given.seed, "held_out": given.held_out}
    if given.users and encoder is not None:
        users = USERS[given.users].fit(encoder, answers.comparisons, **how)
        return users, users.found
    reward = PreferenceReward.fit(encoder, answers.comparisons, **how, **settings)
    return reward, reward.found


def _who(answers: Answers, users: str | None) -> list[str]:
    """Say which number stands for which annotator, or that several were taken for one."""
    if users:
        return [f"User {number} is {name or 'unnamed'!r}." for number, name in enumerate(answers.annotators)]
    if len(answers.annotators) > 1:
        return [f"{len(answers.annotators)} annotators count as one taste; --users tells them apart."]
    return []


def _save(
    reward: RewardModel, found: Findings, answers: Answers, given: argparse.Namespace, settings: dict[str, Any]
) -> list[Path]:
    reward.save(given.out)
    report = given.out.with_suffix(".json")
    told = {
        "file": given.out.name,
        "sha256": hashlib.sha256(given.out.read_bytes()).hexdigest(),
        "kind": "preference",
        "options": {**settings, "users": given.users, "frames": given.frames, "held_out": given.held_out},
        "seed": given.seed,
        "reward": to_spec(reward),
        "answer_files": [str(path) for path in given.answers],
        "annotators": answers.annotators,
        "versions": {"vrm": vrm.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "notes": found.notes,
        "figures": found.figures,
    }
    with replacing(report, ".json") as partial:
        text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    return [given.out, report]
