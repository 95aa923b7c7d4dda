"""What a fit came to: on the screen, as JSON, and as a picture."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import vrm
from vrm.data.demos import Demo
from vrm.encoders import Encoder
from vrm.fit.held_out import DemoScore, HeldOut
from vrm.pictures import DemoRow, demo_sheet
from vrm.rewards import Findings, RewardModel
from vrm.rewards.base import to_spec
from vrm.video import replacing

MOST_ROWS = 24  # of the picture
CURVE = re.compile(r"_loss_\d+$")  # figures of a training curve, which are for the JSON file
EXPLAINED = {
    "matching": "A matching reward says how well frames match, not how far the task has come: look at reversed and at "
    "failed clips rather than at VOC.",
    "critic": "VOC is of the value composed from the critic's deltas; first and last are its reward.",
}
COLUMNS = {
    "VOC": "voc",
    "reversed": "voc_reversed",
    "overlap": "step_overlap",
    "AUROC last": "beats_final",
    "AUROC score": "beats_score",
}


@dataclass(frozen=True)
class FitReport:
    """A fitted reward and how it does.

    Attributes:
        kind: of reward.
        reward: fitted to all demonstrations.
        encoder: of the reward.
        demos: those it was fitted to.
        failed: clips that it should score lower.
        held: scores of the demonstrations.
        notes: what happened on the way.
        options: of the fit, all of them.
        seed: of the fit.
    """

    kind: str
    reward: RewardModel
    encoder: Encoder
    demos: Sequence[Demo]
    failed: Sequence[Demo]
    held: HeldOut
    notes: Sequence[str]
    options: Mapping[str, Any]
    seed: int

    @property
    def found(self) -> Findings:
        """What the fit itself has to tell."""
        found: Findings = self.reward.found  # type: ignore[assignment]  # every kind sets it
        return found

    @property
    def figures(self) -> dict[str, float]:
        """The figures that fit on a screen: no training curves, and none of single demonstrations."""
        own = {name for name in self.found.figures if any(name.endswith(f"/{demo.name}") for demo in self.demos)}
        return {name: x for name, x in self.found.figures.items() if name not in own and not CURVE.search(name)}

    def print(self) -> None:
        """Write tables and notes to standard output."""
        for line in (*self._table(), "", *self.notes, *self.found.notes):
            print(line)
        width = max(map(len, self.figures), default=0)
        for name, value in self.figures.items():
            print(f"  {name:{width}}  {value:.4g}")

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; what is undefined is None."""
        return {
            "kind": self.kind,
            "options": dict(self.options),
            "seed": self.seed,
            "reward": to_spec(self.reward),
            "encoder": {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint},
            "versions": {"vrm": vrm.__version__, "torch": torch.__version__, "python": platform.python_version()},
            "folds": self.held.folds,
            "demos": [_described(demo, score) for demo, score in zip(self.demos, self.held.scores, strict=True)],
            "steps": None if self.found.steps is None else [cuts.tolist() for cuts in self.found.steps],
            "failed": [clip.name for clip in self.failed],
            "means": {name: _plain(self.held.mean(name)) for name in COLUMNS.values()},
            "notes": [*self.notes, *self.found.notes],
            "figures": dict(self.found.figures),
        }

    def save(self, out: Path) -> list[Path]:
        """Write the reward to ``out``, and beside it its report as JSON and its picture, each complete or not at all.

        Returns:
            The three paths.
        """
        data, picture = out.with_suffix(".json"), out.with_suffix(".png")
        self.reward.save(out)
        digest = {"file": out.name, "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}
        with replacing(data, ".json") as partial:
            text = json.dumps({**digest, **self.as_dict()}, indent=1, ensure_ascii=False, allow_nan=False)
            partial.write_text(text + "\n", encoding="utf-8")
        self.draw(picture)
        return [out, data, picture]

    def draw(self, path: Path) -> Path:
        """Draw the demonstrations with their rewards; of very many, those with the lowest VOC."""
        places = range(len(self.demos))
        shown = sorted(sorted(places, key=lambda i: self.held.scores[i].voc)[:MOST_ROWS])
        some = "" if len(shown) == len(places) else f", the {len(shown)} of {len(places)} with the lowest VOC"
        steps = "" if self.found.steps is None else ", the steps found and their rewards in the colours of the bands"
        return demo_sheet(
            path, [self._row(i) for i in shown], f"{self.kind} on {self.encoder.name}{some}: reward in blue{steps}"
        )

    def _row(self, place: int) -> DemoRow:
        score, steps = self.held.scores[place], self.found.steps
        cuts = None if steps is None else steps[place]
        fits = cuts is not None and score.step_rewards is not None and len(score.step_rewards) == len(cuts) + 1
        order = "" if math.isnan(score.voc) else f", VOC {score.voc:.2f}"
        return DemoRow(
            score.name + order,
            self.demos[place].frames,
            score.rewards,
            cuts,
            score.held_out,
            score.step_rewards if fits else None,
        )

    def _table(self) -> list[str]:
        scores = self.held.scores
        columns = {head: name for head, name in COLUMNS.items() if not math.isnan(self.held.mean(name))}
        what = "held out" if self.held.folds else "training"
        rows = [[f"demonstration ({what})", *columns, "first", "last"]]
        for score in scores:
            ends = (f"{score.rewards[place]:.3g}" for place in (0, -1))
            rows.append([score.name, *(_number(getattr(score, name)) for name in columns.values()), *ends])
        if len(scores) > 1:
            rows.append(["mean", *(_number(self.held.mean(name)) for name in columns.values()), "", ""])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]


def _described(demo: Demo, score: DemoScore) -> dict[str, Any]:
    return {
        "name": demo.name,
        "frames": len(demo),
        "fps": demo.fps,
        "text": demo.text,
        "held_out": score.held_out,
        **{name: _plain(getattr(score, name)) for name in COLUMNS.values()},
        "rewards": score.rewards.round(6).tolist(),
    }


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
