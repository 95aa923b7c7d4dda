"""The ``vrm`` command: parses, composes the Hydra configuration, calls one function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vrm.errors import UnknownNameError, VrmError

USAGE = """\
usage: vrm COMMAND ...

commands:
  train      train an agent from a sentence:  vrm train task=humanoid_kneeling
             any setting by KEY=VALUE, sweeps with -m, continue with --resume RUN
  evaluate   play a trained agent:            vrm evaluate runs/RUN --episodes 20
  probe      is this sentence a good reward?  vrm probe --task humanoid_kneeling --goal "a robot on its knees"
  demo       all of it on one page, in minutes
  record     film a trained agent's episodes: vrm record runs/RUN --out demos
  fit        a reward from demonstrations:    vrm fit progress demos --out progress.safetensors
             or from answers about pairs:     vrm fit preference answers.jsonl --out taste.safetensors
  label      say which of two clips is better: vrm label videos
  relabel    a reward's labels for a dataset: vrm relabel DATASET --reward R --out COPY
  audit      can this reward be trusted?      vrm audit goal --task humanoid_kneeling
  pretrain   train the bundled encoder anew:  vrm pretrain frames=20000
             what does an encoder know?      vrm pretrain --evaluate
  adapt      teach an encoder your pictures:  vrm adapt --labels frames.csv --goal "a full cup" --out adapted
  score      score videos against prompts:    vrm score gen/ --prompt "a robot kneels" --out scores
  finetune   a video generator by rewards:    vrm finetune aligner=draft reward=segmental
             continue with --resume RUN, draw with --sample RUN --prompt "..."
  search     the best videos it can draw:     vrm search --prompt "a robot kneels" --method dlbs --budget 400
             the bundled generator anew:      vrm pretrain-generator
  report     look at scores in a browser:     vrm report scores
  benchmark  agreement with human choices:    vrm benchmark FORMAT PATH

`vrm COMMAND --help` says more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int | None]] = {
        "train": _train,
        "evaluate": _evaluate,
        "probe": _probe,
        "demo": _demo,
        "record": _record,
        "fit": _fit,
        "label": _label,
        "relabel": _relabel,
        "audit": _audit,
        "pretrain": _pretrain,
        "adapt": _adapt,
        "score": _score,
        "finetune": _finetune,
        "search": _search,
        "pretrain-generator": _pretrain_generator,
        "report": _report,
        "benchmark": _benchmark,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    try:
        if arguments[0] not in commands:
            raise UnknownNameError("command", arguments[0], commands)
        return commands[arguments[0]](arguments[1:]) or 0
    except VrmError as error:
        print(f"vrm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _train(arguments: list[str]) -> None:
    from vrm.configuration import resume, run_hydra, train_from_config

    if "--resume" in arguments:
        parser = argparse.ArgumentParser("vrm train", description="Continue a killed run from its last checkpoint.")
        parser.add_argument("--resume", type=Path, required=True, metavar="RUN", help="folder of the run")
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changed settings")
        given = parser.parse_args(arguments)
        _say_result(resume(given.resume, given.overrides))
        return
    run_hydra("train", arguments, lambda config, out: _say_result(train_from_config(config, out)))


def _evaluate(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("vrm evaluate", description="Play the newest checkpoint of a run.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20_000)
    given = parser.parse_args(arguments)
    from vrm.configuration import evaluate_run

    played = evaluate_run(given.run, episodes=given.episodes, videos=given.videos, seed=given.seed)
    rates = played.per_episode()
    print(f"success rate {played.success_rate:.3f} over {len(rates)} episodes (share of the last fifth of the steps)")
    print(f"episodes above one half: {int((rates > 0.5).sum())} of {len(rates)}")
    print(f"reward return {played.reward.sum(1).mean():.2f}, ground-truth return {played.true.sum(1).mean():.2f}")
    print(f"videos and pictures: {given.run}")


def _probe(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("vrm probe", description="Is this sentence a good reward? Before any training.")
    parser.add_argument("--task", default="humanoid_kneeling")
    parser.add_argument("--goal", action="append", help="a sentence to try; may be given several times")
    parser.add_argument("--encoder", default="vrm-sim")
    parser.add_argument("--alpha", type=float, default=0.0, help="goal-baseline regularisation")
    parser.add_argument("--states", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/probe"), help="folder for the pictures")
    given = parser.parse_args(arguments)
    from vrm import load_encoder
    from vrm.agents import probe
    from vrm.envs import make_task

    findings = probe(
        make_task(given.task), load_encoder(given.encoder), given.goal, given.out,
        states=given.states, alpha=given.alpha, seed=given.seed,
    )  # fmt: skip
    print("  AUC   EPIC    gap   sentence")
    for f in findings:
        print(f"{f.auc:5.3f}  {f.epic:5.3f}  {f.gap:5.2f}   {f.goal}")
    print(f"pictures: {given.out}")


def _demo(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("vrm demo", description="A sentence is probed, trains a humanoid, is scored.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--steps", type=int, help="environment steps instead of the demo's own budget")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    from vrm.demo import demo

    demo(given.out, steps=given.steps, seed=given.seed)


def _record(arguments: list[str]) -> int:
    from vrm.agents.record import record_command

    return record_command(arguments)


def _fit(arguments: list[str]) -> int:
    from vrm.fit import fit_command

    return fit_command(arguments)


def _label(arguments: list[str]) -> int:
    from vrm.label.command import label_command

    return label_command(arguments)


def _relabel(arguments: list[str]) -> int:
    from vrm.data.relabel_command import relabel_command

    return relabel_command(arguments)


def _audit(arguments: list[str]) -> int:
    from vrm.audit.command import audit_command

    return audit_command(arguments)


def _pretrain(arguments: list[str]) -> int | None:
    if "--evaluate" in arguments:
        from vrm.pretrain.evaluate_command import evaluate_command

        return evaluate_command([argument for argument in arguments if argument != "--evaluate"])
    from vrm.configuration import run_hydra

    def start(config: dict[str, Any], out: Path) -> None:
        from vrm.pretrain.recipe import Recipe
        from vrm.pretrain.train import pretrain

        workers, target = config.pop("workers"), Path(config.pop("target"))
        for name, value in pretrain(Recipe(**config), out, target, workers).items():
            print(f"{value:.3f}  {name}")

    run_hydra("pretrain", arguments, start)
    return None


def _adapt(arguments: list[str]) -> int:
    from vrm.adapt.command import adapt_command

    return adapt_command(arguments)


def _score(arguments: list[str]) -> int:
    # Threads that wait for work in a loop would take the cores from the decoding processes; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from vrm.scoring.command import run

    return run(arguments)


def _finetune(arguments: list[str]) -> int:
    from vrm.diffusion.finetune.command import finetune_command

    return finetune_command(arguments)


def _search(arguments: list[str]) -> int:
    from vrm.diffusion.search_command import search_command

    return search_command(arguments)


def _pretrain_generator(arguments: list[str]) -> int:
    from vrm.pretrain_generator.command import pretrain_generator_command

    return pretrain_generator_command(arguments)


def _report(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("vrm report", description="One page about the scores in one or more folders.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="what `vrm score --out DIR` wrote")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the first folder)")
    given = parser.parse_args(arguments)
    if given.out is not None and given.out.suffix != ".html":
        parser.error(f"--out must end in .html, got {str(given.out)!r}")
    from vrm.scoring.report import write_report

    print(f"report: {write_report(given.folders, given.out)}")


def _benchmark(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("vrm benchmark", description="Do scores agree with human choices?")
    parser.add_argument("format", help="layout of the benchmark, or auto; an unknown one lists all")
    parser.add_argument("path", type=Path, help="its local folder or file")
    judge = parser.add_mutually_exclusive_group(required=True)
    judge.add_argument("--reward", metavar="NAME", help="score the videos with this reward")
    judge.add_argument("--scores", metavar="FILE", help="scores made elsewhere")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the figures and scores")
    parser.add_argument("--encoder", default="vrm-sim", metavar="NAME", help="what the reward is built on")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="decoding processes")
    given = parser.parse_args(arguments)
    from vrm.scoring.benchmark import run_benchmark

    settings = {"encoder": given.encoder, "workers": given.workers} if given.reward else {}
    run_benchmark(
        given.format, given.path, reward=given.reward, scores=given.scores, out=given.out, **settings
    ).print()  # fmt: skip


def _say_result(result: dict[str, float]) -> None:
    print(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in result.items()))


if __name__ == "__main__":
    raise SystemExit(main())
