"""What an audit says: one item per question, with its number, its criterion and its verdict."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vrm.metrics.inputs import Floats
from vrm.pictures.audit import audit_sheet
from vrm.video import replacing

Verdict = Literal["pass", "warn", "fail", "not applicable"]


@dataclass(frozen=True)
class Item:
    """The answer to one question about a reward.

    Attributes:
        name: short and the same in every audit.
        verdict: "not applicable" where the question makes no sense for this reward or nothing was given to answer it.
        value: the number; None where there is none.
        criterion: what passes, in words.
        catches: what a reward that fails does wrong, in a sentence.
        note: what else there is to know about the number, or why the item is not applicable.
    """

    name: str
    verdict: Verdict
    value: float | None
    criterion: str
    catches: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Audit:
    """All items of one reward, and the curves behind them.

    Attributes:
        reward: its name.
        items: in the order they were asked.
        curves: rewards ``(T - 1,)`` of the frames after the first of every clip, by kind of clip.
        means: mean reward of each kind of clip.
        frames: clips ``(T, 3, H, W)`` that the picture shows, by kind.
    """

    reward: str
    items: Sequence[Item]
    curves: Mapping[str, Sequence[Floats]] = field(repr=False)
    means: Mapping[str, float] = field(repr=False)
    frames: Mapping[str, Tensor] = field(repr=False)

    @property
    def failed(self) -> list[str]:
        """Names of the items that failed."""
        return [item.name for item in self.items if item.verdict == "fail"]

    def __getitem__(self, name: str) -> Item:
        """The item of that name.

        Raises:
            KeyError: if there is none.
        """
        return {item.name: item for item in self.items}[name]

    def print(self) -> None:
        """Write one line per item to standard output, and a second one where it did not pass."""
        width = max(len(item.name) for item in self.items)
        for item in self.items:
            number = "" if item.value is None else f"{item.value:.3f}"
            tail = item.note if item.verdict == "not applicable" else f"{item.criterion}; {item.note}".strip("; ")
            mark = "n/a" if item.verdict == "not applicable" else item.verdict
            print(f"{mark:4}  {item.name:{width}}  {number:>8}  {tail}")
            if item.verdict in ("warn", "fail"):
                print(f"{'':4}  {'':{width}}  {'':8}  -> {item.catches}")
        print(self.summary())

    def summary(self) -> str:
        """Say how many items have each verdict."""
        kinds = ("pass", "warn", "fail", "not applicable")
        counts = {kind: sum(item.verdict == kind for item in self.items) for kind in kinds}
        return f"{self.reward}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON values, without pictures; what is undefined is None."""
        return {
            "reward": self.reward,
            "items": [{**asdict(item), "value": _plain(item.value)} for item in self.items],
            "means": {kind: _plain(mean) for kind, mean in self.means.items()},
            "curves": {kind: [curve.round(6).tolist() for curve in curves] for kind, curves in self.curves.items()},
        }

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write ``audit.json`` and ``audit.png`` into ``folder``, each complete or not at all; returns their paths."""
        data, picture = Path(folder) / "audit.json", Path(folder) / "audit.png"
        with replacing(data, ".json") as partial:
            partial.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        rows = [(item.verdict, item.name, item.value, item.note or item.criterion) for item in self.items]
        audit_sheet(picture, self.summary(), rows, self.curves, self.means, list(self.frames.items()))
        return data, picture


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
