"""``vrm adapt``: arguments to one adaptation."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from vrm.adapt.adapt import adapt
from vrm.adapt.data import Captioned, Source
from vrm.adapt.files import read_captions, read_labels
from vrm.adapt.rendered import EPISODES, render_families
from vrm.adapt.train import Settings
from vrm.adapt.tune import FORMS
from vrm.encoders import Preprocess, load_encoder
from vrm.envs import FAMILIES

DESCRIPTION = """\
Fine-tune an OpenCLIP encoder on your own environment, and see on held-out frames what that changed.

Give at least one of --family, --captions, --labels and --from-run; several are learned together. Training, choosing the
checkpoint and reporting use different episodes (column 'episode') or, where there are none, different files: frames of
one video belong to one episode. All frames are held in memory at the size of the encoder (20,000 of 224 pixels: 3 GB).
"""
EPILOG = """\
tables (csv, tsv, json, jsonl, parquet; files are named relative to the table):
  captions   file,caption[,episode]       a row for every caption; in json "captions" may be a list
  labels     file,label[,goal][,episode]  label is good or bad (1 or 0); without the column goal, give --goal

examples:
  vrm adapt --encoder ViT-B-32/openai --family humanoid --frames 20000 --tune lora:16 --out runs/adapted
  vrm adapt --encoder ViT-L-14:/models/l14.pt --captions frames/captions.csv --tune last:4 --grad-checkpointing \\
            --retain photos/ --out runs/adapted
  vrm adapt --labels labels.csv --goal "the drawer is open" --out runs/adapted
  vrm adapt --from-run runs/kneeling --out runs/adapted     # what the agent was paid for wrongly becomes negatives
  vrm train task=humanoid_kneeling encoder.name=runs/adapted/encoder

Writes OUT/encoder (for load_encoder, low-rank weights merged), OUT/report.json and OUT/report.png. A command that was
cut off goes on when it is given again.
"""


def adapt_command(arguments: list[str]) -> int:
    """Adapt as the command line says; returns 0.

    Raises:
        VrmError: if it cannot be carried out.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if not (given.family or given.captions or given.labels or given.from_run):
        parser.error("give something to adapt on: --family, --captions, --labels or --from-run")
    if given.goal is not None and not given.labels:
        parser.error("--goal says what --labels are about; give both")
    if given.ask and not given.family:
        parser.error("--ask is about the facts of a --family; give both")
    settings = Settings(
        tune=given.tune, towers=given.towers, steps=given.steps, batch=given.batch, lr=given.lr,
        weight_decay=given.weight_decay, retain=given.retain_weight, held_out=given.held_out,
        eval_every=given.eval_every, grad_checkpointing=given.grad_checkpointing, seed=given.seed,
    )  # fmt: skip
    encoder = load_encoder(given.encoder or _encoder_of(given.from_run), device=given.device)
    sources, retained = _sources(given, encoder.preprocess)
    report = adapt(encoder, sources, given.out, settings, retained)
    report.print()
    print(f"encoder: {report.out}", f"report: {given.out / 'report.png'}", sep="\n")
    return 0


def _sources(given: argparse.Namespace, preprocess: Preprocess) -> tuple[list[Source], list[Captioned]]:
    """Gather what to learn, and what to keep in mind."""
    learned, kept = dict.fromkeys(given.family or (), given.frames), dict[str, int]()
    if given.retain is None:
        taken = set(learned) | {_family_of(path) for path in given.from_run or ()}
        others = [family.name for family in FAMILIES.values() if family.share and family.name not in taken]
        kept = dict.fromkeys(others, max(EPISODES, given.retain_frames // max(1, len(others))))
    rendered = {}
    if learned or kept:
        rendered = render_families(
            learned | kept, given.out / "frames", preprocess, seed=given.seed, workers=given.workers, asked=given.ask
        )
    sources: list[Source] = [rendered[name] for name in learned]
    sources += [read_captions(path, preprocess) for path in given.captions or ()]
    sources += [read_labels(path, given.goal, preprocess) for path in given.labels or ()]
    for path in given.from_run or ():
        from vrm.adapt.mining import mine_run

        sources.append(mine_run(path, preprocess, episodes=given.episodes, seed=given.seed))
    retained: list[Captioned] = [rendered[name] for name in kept]
    if given.retain not in (None, "none"):
        retained = [read_captions(Path(given.retain), preprocess)]
    return sources, retained


def _family_of(run: Path) -> str:
    from vrm.agents.run import RunFolder
    from vrm.configuration import build_task

    return build_task(RunFolder(run).read_config()).family


def _encoder_of(runs: list[Path] | None) -> str:
    """Name the encoder that paid the run, or the bundled one."""
    if not runs:
        return "vrm-sim"
    from vrm.agents.run import RunFolder

    return str(RunFolder(runs[0]).read_config().get("encoder", {}).get("name", "vrm-sim"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vrm adapt", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = parser.add_argument_group("what to learn")
    add = data.add_argument
    add("--family", action="append", metavar="NAME", help=f"render and caption one of {', '.join(FAMILIES)}")
    add("--frames", type=int, default=20_000, metavar="N", help="to render of each family (%(default)s)")
    add(
        "--ask",
        action="append",
        type=_asked,
        default=[],
        metavar="FACT=SENTENCE",
        help="another sentence for the report",
    )
    add("--captions", action="append", type=Path, metavar="TABLE", help="pictures and what is to be seen on them")
    add("--labels", action="append", type=Path, metavar="TABLE", help="pictures, good or bad for a goal")
    add("--goal", metavar="SENTENCE", help="what --labels are about")
    add("--from-run", action="append", type=Path, metavar="RUN", help="play a trained agent: well-paid frames in which "
        "the task is not done become negatives, those in which it is done positives")  # fmt: skip
    add("--episodes", type=int, default=20, metavar="N", help="of --from-run (%(default)s)")
    how = parser.add_argument_group("how")
    add = how.add_argument
    add("--encoder", metavar="NAME", help="what load_encoder takes (default: that of the run, else vrm-sim)")
    add("--tune", default=Settings.tune, metavar="MODE", help=f"{FORMS} (%(default)s)")
    add("--towers", choices=("both", "image", "text"), default=Settings.towers, help="to train (%(default)s)")
    add("--steps", type=int, default=Settings.steps, metavar="N", help="(%(default)s)")
    add("--batch", type=int, default=Settings.batch, metavar="N", help="frames of each source (%(default)s)")
    add("--lr", type=float, metavar="X", help="peak learning rate (1e-5 for full, 1e-4 for last, 5e-4 for lora)")
    add("--weight-decay", type=float, default=Settings.weight_decay, metavar="X", help="(%(default)s)")
    add("--grad-checkpointing", action="store_true", help="save memory in transformer towers, at a third more time")
    add("--device", default=device, help="cuda trains in mixed precision (%(default)s)")
    add("--seed", type=int, default=0, help="of states, splits and batches")
    add("--workers", type=int, default=2, metavar="N", help="processes that render (%(default)s)")
    keep = parser.add_argument_group("what to keep and to report")
    add = keep.add_argument
    add("--retain", metavar="TABLE", help="captioned pictures not to forget, or none (default: frames of the other "
        "families)")  # fmt: skip
    add("--retain-frames", type=int, default=600, metavar="N", help="of the other families (%(default)s)")
    add("--retain-weight", type=float, default=Settings.retain, metavar="X",
        help="of staying where the original was on the retention set, 0 for not at all (%(default)s)")  # fmt: skip
    add("--held-out", type=float, default=Settings.held_out, metavar="SHARE", help="for the report (%(default)s)")
    add("--eval-every", type=int, default=Settings.eval_every, metavar="N", help="steps to a checkpoint (%(default)s)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the encoder and the report")
    return parser


def _asked(text: str) -> tuple[str, str]:
    fact, equals, sentence = text.partition("=")
    if not equals or not fact.strip() or not sentence.strip():
        raise argparse.ArgumentTypeError(f"must be FACT=SENTENCE, for example upright='the pole stands', got {text!r}")
    return fact.strip(), sentence.strip()
