"""``vrm pretrain --evaluate``: an encoder by name to a table, files and pictures of what it knows."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from vrm.encoders import Encoder, load_encoder
from vrm.envs import FAMILIES
from vrm.errors import MissingExtraError, UnknownNameError, VrmError
from vrm.pictures.encoder import fact_chart
from vrm.pretrain.evaluate import FactScore, FamilyScore, family_prompts, score_family, shuffled, summarise
from vrm.pretrain.gallery import Seen, draw, see
from vrm.pretrain.held_out import HeldOutFrames, held_out_shards, load_held_out, render_held_out
from vrm.video import replacing

ABOUT = """\
Measure what an encoder knows of the environments that come with the library: on states, cameras and textures drawn
apart from those of any pre-training, by prompts in words that no caption uses. Each fact's score is the mean cosine to
its prompts; beside the encoder stands one with the same weights in random order, which knows nothing.
"""
EPILOG = """\
the table, one row a family, means over its facts (- where too few frames are true or false, or nothing applies):
  AUC         area under the ROC curve of a fact's score for its truth; states of truth between 0.3 and 0.7 left out
  caption     the same with the words of captions, which pre-training has seen
  left/right  AUC of facts about left or right; one/both: about one or both limbs
  apart       AUC between the states of a fact and of its mirror image
  miss        AUC of prompts about something else that is near; should be at most 0.5
  fooled      share of true states nearer to those prompts than to the right ones
  agree       rank correlation between the scores of two prompts that say the same
  graded      rank correlation of score and graded truth, where the truth takes many values
  others      share of true facts that outscore a prompt about another environment

DIR gets scores.json (everything), facts.csv and prompts.csv, facts.png (AUC of every fact), scores.png (frames with
their scores), map.png (principal components of the frames) and retrievals.png (best and worst frames for ten texts).
"""
COLUMNS = (
    ("caption", "caption_auc"),
    ("left/right", "auc_left_right"),
    ("one/both", "auc_one_both"),
    ("apart", "told_apart"),
    ("miss", "near_miss_auc"),
    ("fooled", "near_miss_above"),
    ("agree", "agreement"),
    ("graded", "graded"),
    ("others", "own_above_others"),
)
FACT_COLUMNS = ["encoder", "family", *(field.name for field in fields(FactScore) if field.name != "prompts")]
PROMPT_COLUMNS = ["encoder", "family", "fact", "kind", "prompt", "auc"]
WEAKEST = 8  # facts named below the table
Scores = Mapping[str, Sequence[FamilyScore]]


def evaluate_command(arguments: list[str]) -> int:
    """Measure the encoder that the command line names, print a table and write files and pictures.

    Raises:
        VrmError: if an encoder or family cannot be had; nothing is written then.
    """
    given = _parser().parse_args(arguments)
    families = _renderable(given.families)
    first = load_encoder(given.encoder, device=given.device)
    others = [name for name in dict.fromkeys(given.against) if name != given.encoder]
    encoders = [first, shuffled(first), *(load_encoder(name, device=given.device) for name in others)]
    scores, seen = _measure(encoders, families, given)
    for line in table(scores):
        print(line)
    written = [*_save(scores, given), *draw(first, seen, given.out, given.seed)]
    print("written:", *written)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vrm pretrain --evaluate",
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", default="vrm-sim", metavar="NAME", help="what vrm.load_encoder takes")
    parser.add_argument("--against", nargs="+", default=[], metavar="NAME", help="encoders to compare with")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--frames", type=_count, default=1000, metavar="N", help="of each family (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the states and of how they look")
    parser.add_argument("--workers", type=_positive, default=2, metavar="N", help="processes that render")
    parser.add_argument("--device", default="cpu", help="where the encoders run")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate"), metavar="DIR", help="folder for the results")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 20:
        raise argparse.ArgumentTypeError(f"fewer than 20 frames measure nothing, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"at least one process must render, got {text!r}")
    return int(text)


def _renderable(names: Sequence[str]) -> list[str]:
    """Check families, and say which are left out because an extra is not installed."""
    families = []
    for name in dict.fromkeys(names):
        if name not in FAMILIES:
            raise UnknownNameError("environment family", name, FAMILIES)
        try:
            FAMILIES[name].make(render_mode=None).close()
            families.append(name)
        except MissingExtraError as error:
            print(f"vrm: {name} is left out. {error}", file=sys.stderr)
    if not families:
        raise VrmError("None of the families can be rendered here; install what the lines above name.")
    return families


def _measure(
    encoders: Sequence[Encoder], families: Sequence[str], given: argparse.Namespace
) -> tuple[dict[str, list[FamilyScore]], list[Seen]]:
    """Score every family with every encoder, each on the same states rendered at the size that it wants."""
    sizes = [max(encoder.preprocess.size) for encoder in encoders]
    scores: dict[str, list[FamilyScore]] = {encoder.name: [] for encoder in encoders}
    seen = []
    shards = {
        (family, size): held_out_shards(family, given.frames, size, given.seed)
        for family in families
        for size in dict.fromkeys(sizes)
    }
    with TemporaryDirectory(prefix="vrm-evaluate-") as folder:
        render_held_out([shard for some in shards.values() for shard in some], Path(folder), given.workers)
        for family in tqdm(families, desc="measure", unit="family"):
            for encoder, size in zip(encoders, sizes, strict=True):
                held_out = load_held_out(shards[family, size], Path(folder))
                score, view = _look(encoder, held_out)
                scores[encoder.name].append(score)
                if encoder is encoders[0]:
                    seen.append(view)
    return scores, seen


def _look(encoder: Encoder, held_out: HeldOutFrames) -> tuple[FamilyScore, Seen]:
    with torch.no_grad():
        image = encoder.encode_image(held_out.frames)
    return score_family(encoder, held_out, image), see(held_out.family, held_out.frames, held_out.truths, image)


def table(scores: Scores) -> list[str]:
    """Lines of the table: families, then all of them, then the facts that the first encoder knows least."""
    names = list(scores)
    width = max(len(name) for name in [*FAMILIES, "worst family"])
    head = ["AUC", *(f"#{i + 1}" for i in range(1, len(names))), *(title for title, _ in COLUMNS)]
    lines = [f"AUC: {names[0]}" + "".join(f", #{i + 1}: {name}" for i, name in enumerate(names[1:], 1)), ""]
    lines.append(" ".join([" " * width, *(f"{title:>{max(6, len(title))}}" for title in head)]))
    rows = {score.family: [[by[index]] for by in scores.values()] for index, score in enumerate(scores[names[0]])}
    rows["all"] = [list(by) for by in scores.values()]
    for label, groups in rows.items():
        said = [summarise(group) for group in groups]
        values = [one["auc"] for one in said] + [said[0][key] for _, key in COLUMNS]
        lines.append(_row(label, width, head, values))
    lines.append(_row("worst family", width, head, [summarise(by)["auc_worst_family"] for by in scores.values()]))
    return [*lines, "", *_remarks(scores[names[0]])]


def _row(label: str, width: int, head: Sequence[str], values: Sequence[float]) -> str:
    cells = [
        f"{'-' if math.isnan(value) else format(value, '.3f'):>{max(6, len(title))}}"
        for title, value in zip(head, values, strict=False)
    ]
    return " ".join([f"{label:{width}}", *cells])


def _remarks(scores: Sequence[FamilyScore]) -> list[str]:
    """Name the weakest facts, and count those that were not measured."""
    facts = [(f"{score.family} {fact.fact}", fact.auc) for score in scores for fact in score.facts]
    known = sorted((auc, name) for name, auc in facts if not math.isnan(auc))
    lines = ["weakest: " + ", ".join(f"{name} {auc:.2f}" for auc, name in known[:WEAKEST])] if known else []
    if len(known) < len(facts):
        lines.append(
            f"{len(facts) - len(known)} of {len(facts)} facts are true or false of too few frames to be measured; "
            "render more with --frames."
        )
    return lines


def _save(scores: Scores, given: argparse.Namespace) -> list[Path]:
    """Write all numbers as JSON, one line a fact as CSV, and the chart of facts."""
    out: Path = given.out
    report = {
        "settings": {"families": [s.family for s in next(iter(scores.values()))], "frames": given.frames,
                     "seed": given.seed},
        "encoders": {name: {"summary": summarise(by), "families": [_family(s) for s in by]}
                     for name, by in scores.items()},
    }  # fmt: skip
    with replacing(out / "scores.json", ".json") as partial:
        partial.write_text(json.dumps(_plain(report), indent=1, allow_nan=False), encoding="utf-8")
    _write_rows(out / "facts.csv", FACT_COLUMNS, _fact_rows(scores))
    _write_rows(out / "prompts.csv", PROMPT_COLUMNS, _prompt_rows(scores))
    first, *_ = scores.values()
    curves = {
        score.family: {
            fact.fact: [by[index].facts[row].auc for by in scores.values()] for row, fact in enumerate(score.facts)
        }
        for index, score in enumerate(first)
    }
    chart = fact_chart(out / "facts.png", curves, list(scores))
    return [out / "scores.json", out / "facts.csv", out / "prompts.csv", chart]


def _write_rows(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path, ".csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([_plain(value, "") for value in row] for row in rows)


def _fact_rows(scores: Scores) -> Iterator[list[Any]]:
    for encoder, by in scores.items():
        for score in by:
            for fact in score.facts:
                values = asdict(fact) | {"groups": " ".join(fact.groups)}
                yield [encoder, score.family, *(values[name] for name in FACT_COLUMNS[2:])]


def _prompt_rows(scores: Scores) -> Iterator[list[Any]]:
    for encoder, by in scores.items():
        for score in by:
            for fact, entry in zip(score.facts, family_prompts(score.family).values(), strict=True):
                kinds = [(text, "means") for text in entry.means] + [(text, "near miss") for text in entry.near_misses]
                for (text, kind), auc in zip(kinds, fact.prompts, strict=True):
                    yield [encoder, score.family, fact.fact, kind, text, auc]


def _family(score: FamilyScore) -> dict[str, Any]:
    return {"family": score.family, **summarise([score]), "facts": [asdict(fact) for fact in score.facts]}


def _plain(value: Any, missing: str | None = None) -> Any:
    """Replace nan, which JSON does not have, and shorten numbers."""
    if isinstance(value, Mapping):
        return {key: _plain(entry, missing) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, missing) for entry in value]
    if isinstance(value, float):
        return missing if math.isnan(value) else round(value, 4)
    return value
