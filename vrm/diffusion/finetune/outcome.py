"""What a run shows for itself: films and sheets of samples, the guard's page, the trade-off, and a summary."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vrm.agents.run import write_atomically
from vrm.diffusion.finetune.examiner import Examiner
from vrm.diffusion.finetune.guard import Guard, warnings
from vrm.diffusion.finetune.pictures import guard_picture, tradeoff_picture
from vrm.diffusion.finetune.settings import FinetuneSettings
from vrm.diffusion.finetune.sheets import sample_film, sample_sheet

Rows = Sequence[Mapping[str, Any]]
CLIPS = 3  # prompts on the guard's page


class Outcome:
    """Writes into a run's folder what people look at.

    Args:
        folder: of the run.
        examiner: whose held-out prompts and base videos are shown.
        settings: of the run.
    """

    def __init__(self, folder: Path, examiner: Examiner, settings: FinetuneSettings) -> None:
        """Write nothing yet."""
        self.folder, self.examiner, self.settings = folder, examiner, settings

    def film(self, name: str, videos: Tensor) -> None:
        """Write ``samples/NAME.mp4`` and ``.png`` of the videos of an exam."""
        samples = self.settings.samples
        grid = videos.reshape(-1, samples, *videos.shape[1:])[: self.settings.shown]
        prompts = self.examiner.prompts[::samples][: self.settings.shown]
        sample_film(self.folder / "samples" / f"{name}.mp4", prompts, grid, self.settings.fps)
        rows = [(prompt, "", clip) for prompt, clips in zip(prompts, grid, strict=True) for clip in clips]
        sample_sheet(self.folder / "samples" / f"{name}.png", rows)

    def summarise(
        self, guard: Guard, evaluations: Rows, stopped: int | None, *, finished: bool, tradeoff: Rows = ()
    ) -> dict[str, Any]:
        """Write ``summary.json`` and return what it says.

        Args:
            guard: with all evaluations.
            evaluations: rows of ``evaluations.csv``.
            stopped: update after which the guard stopped, if it did.
            finished: whether there will be no more.
            tradeoff: rows of ``tradeoff.csv``, written here too.
        """
        by_step = {int(row["step"]): {**row, "step": int(row["step"])} for row in evaluations}
        first, kept, last = (by_step[step] for step in (guard.history[0].step, guard.best.step, guard.history[-1].step))
        summary = {
            "finished": finished,
            "stopped_by_guard": stopped,
            "sentence": sentence(guard, stopped, self.settings),
            "rule": f"stop after {guard.patience} evaluations in a row at which the held-out judge is more than "
            f"{guard.margin:g} standard errors below its highest while the trained reward is above its value there",
            "before": first,
            "kept": kept,
            "last": last,
            "warnings": {"kept": warnings(first, kept), "last": warnings(first, last)},
            "verdicts": [
                {"step": seen.step, "state": verdict.state, "reason": verdict.reason}
                for seen, verdict in zip(guard.history, guard.verdicts, strict=True)
            ],
        }
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        if tradeoff:
            write_atomically(self.folder / "tradeoff.csv", _table(tradeoff))
        return summary

    def draw(
        self,
        guard: Guard,
        evaluations: Rows,
        stopped: int | None,
        kept: Tensor,
        last: Tensor,
        tradeoff: Rows,
    ) -> None:
        """Write ``guard.png``, ``before_after.png`` and ``tradeoff.png``.

        Args:
            guard: with all evaluations.
            evaluations: rows of ``evaluations.csv``.
            stopped: update after which the guard stopped, if it did.
            kept: videos of the kept weights, uint8, ``samples`` of each prompt.
            last: those of the last weights.
            tradeoff: measures at each scale.
        """
        best, end, samples = guard.best.step, guard.history[-1].step, self.settings.samples
        stages = {"before": self.examiner.base(), f"kept, step {best}": kept, f"last, step {end}": last}
        if best == end:
            del stages[f"last, step {end}"]
        shown = self.examiner.prompts[::samples][: self.settings.shown]
        rows = [(p, word, videos[k * samples]) for k, p in enumerate(shown) for word, videos in stages.items()]
        sample_sheet(self.folder / "before_after.png", rows)
        clips = [(f"{word}: {prompt}", frames) for prompt, word, frames in rows[: CLIPS * len(stages)]]
        said = sentence(guard, stopped, self.settings)
        guard_picture(self.folder / "guard.png", evaluations, best, stopped, said, clips)
        if tradeoff:
            title = f"The tuning of step {end}, scaled: 0 is the base model, 1 the tuned one"
            tradeoff_picture(self.folder / "tradeoff.png", tradeoff, title)


def sentence(guard: Guard, stopped: int | None, settings: FinetuneSettings) -> str:
    """Say in words how the run went and which weights are kept."""
    first, best, last = guard.history[0], guard.best, guard.history[-1]
    kept = (
        f"kept: step {best.step}, trained reward {first.trained_mean:.4f} to {best.trained_mean:.4f}, held-out judge "
        f"{first.held_out_mean:.4f} to {best.held_out_mean:.4f}."
    )
    state, reason = guard.verdicts[-1].state, guard.verdicts[-1].reason
    if stopped is not None:
        return f"Stopped at step {stopped} for reward hacking: {reason}; {kept}"
    if state in ("hacking", "stop"):
        off = "" if settings.guard.enabled else " and the guard is off"
        return f"Reward hacking at step {last.step}{off}: {reason}; {kept}"
    return f"No reward hacking up to step {last.step}: {reason}; {kept}"


def _table(rows: Rows) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:g}" for name, value in row.items()} for row in rows)
    return file.getvalue()
