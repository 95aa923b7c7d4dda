"""A search over many prompts as a folder: what is there already is not searched again."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from vrm.diffusion.search.base import Budget, Searcher, SearchResult
from vrm.diffusion.search.pictures import Comparison, comparison_film, comparison_sheet
from vrm.errors import CheckpointError
from vrm.video import read_video, replacing, write_video

SETTINGS, RESULT, RESULTS, CANDIDATES = "search.json", "result.json", "results.csv", "candidates.csv"
PLAIN, BEST = "plain.mp4", "best.mp4"
SHOWN = 12  # prompts in the pictures of all


class SearchFolder:
    """Results of one search by prompt.

    Each prompt has a folder ``000``, ``001`` … with ``best.mp4``, ``plain.mp4`` (the generator's own sample of the same
    seed), ``comparison.png``, ``comparison.mp4`` and ``result.json``, which is written last. Beside them
    ``results.csv`` has a row per prompt, ``candidates.csv`` one for every candidate that was judged, and
    ``comparison.png`` and ``comparison.mp4`` show all prompts (the first 12).

    Args:
        out: the folder, new or one of a search with the same settings.
        settings: JSON values that results depend on, without the prompts.
        fps: of the videos written.

    Raises:
        CheckpointError: if the folder holds a search with other settings, or cannot be read.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], fps: float = 8) -> None:
        """Open the folder, or make it."""
        self.out = out
        self.fps = fps
        given = json.loads(json.dumps(dict(settings)))
        known = _read(out / SETTINGS) if (out / SETTINGS).exists() else given
        for key in sorted({*known, *given}):
            if known.get(key) != given.get(key):
                raise CheckpointError(
                    f"{out} holds a search with {key}={known.get(key)!r}, not {given.get(key)!r}; give another --out."
                )
        _write(out / SETTINGS, given)

    def run(self, searcher: Searcher, prompts: Sequence[str], budget: Budget, seed: int, method: str) -> list[Any]:
        """Search for the prompts that have no result yet, and write the tables and pictures of all.

        Args:
            searcher: as the settings say.
            prompts: in the order of earlier runs; there may be more of them now.
            budget: for each prompt.
            seed: of the first prompt's plain sample; the others follow.
            method: its name in pictures.

        Returns:
            ``result.json`` of each prompt.

        Raises:
            BudgetError: if the budget is too small.
            CheckpointError: if a folder holds the result of another prompt.
        """
        cost = searcher.cost(searcher.affordable(budget))
        missing = [number for number, prompt in enumerate(prompts) if not self._has(number, prompt)]
        chain = searcher.sampling.steps * searcher.rows
        with _progress(searcher, len(missing) * (cost.nfe + chain)):
            for number in missing:
                plain = _plain(searcher, prompts[number], seed + number)
                found = searcher.sample([prompts[number]], budget, seed + number)
                self._save(number, prompts[number], seed + number, plain, found, searcher, method)
        results = [_read(self._folder(number) / RESULT) for number in range(len(prompts))]
        self._report(results, method)
        return results

    def _folder(self, number: int) -> Path:
        return self.out / f"{number:03d}"

    def _has(self, number: int, prompt: str) -> bool:
        """Whether there is a result for this prompt."""
        path = self._folder(number) / RESULT
        if not path.exists():
            return False
        if (known := _read(path)["prompt"]) != prompt:
            raise CheckpointError(f"{path.parent} holds a result for {known!r}, not {prompt!r}; give another --out.")
        return True

    def _save(
        self,
        number: int,
        prompt: str,
        seed: int,
        plain: tuple[Tensor, dict[str, float], float],
        found: SearchResult,
        searcher: Searcher,
        method: str,
    ) -> None:
        """Write videos and pictures of one prompt, then the result that says they are there."""
        folder = self._folder(number)
        video, rewards, score = plain
        best = (found.videos[0] * 255).round().byte().cpu()
        write_video(folder / PLAIN, video, self.fps)
        write_video(folder / BEST, best, self.fps)
        rows = [Comparison(prompt, video, best, (score, float(found.scores[0])))]
        comparison_sheet(folder / "comparison.png", rows, method)
        comparison_film(folder / "comparison.mp4", rows, method, self.fps)
        result = {
            "prompt": prompt,
            "seed": seed,
            "score": float(found.scores[0]),
            "rewards": {name: float(values[0]) for name, values in found.rewards.items()},
            "plain_score": score,
            "plain_rewards": rewards,
            "nfe": found.nfe[0],
            "reward_calls": found.reward_calls[0],
            "plain_nfe": searcher.sampling.steps * searcher.rows,
            "candidates": [asdict(candidate) for candidate in found.candidates[0]],
        }
        _write(folder / RESULT, result)

    def _report(self, results: Sequence[Mapping[str, Any]], method: str) -> None:
        """Write tables and pictures of all prompts."""
        names = list(results[0]["rewards"])
        header = [
            "prompt",
            "seed",
            "plain_score",
            "score",
            *(f"plain_{n}" for n in names),
            *names,
            "nfe",
            "reward_calls",
        ]
        rows = [
            [r["prompt"], r["seed"], r["plain_score"], r["score"], *r["plain_rewards"].values(), *r["rewards"].values(),
             r["nfe"], r["reward_calls"]]
            for r in results
        ]  # fmt: skip
        _table(self.out / RESULTS, header, rows)
        judged = [(r["prompt"], c) for r in results for c in r["candidates"]]
        columns = list(dict.fromkeys(name for _, c in judged for name in c["rewards"]))
        header = ["prompt", "stage", "candidate", "kept", "score", *columns]
        cells = [
            [
                prompt,
                c["stage"],
                c["candidate"],
                int(c["kept"]),
                c["score"],
                *(c["rewards"].get(n, "") for n in columns),
            ]
            for prompt, c in judged
        ]
        _table(self.out / CANDIDATES, header, cells)
        shown = []
        for number, r in enumerate(results[:SHOWN]):
            plain, best = (read_video(self._folder(number) / name) for name in (PLAIN, BEST))
            shown.append(Comparison(r["prompt"], plain, best, (r["plain_score"], r["score"])))
        comparison_sheet(self.out / "comparison.png", shown, method)
        comparison_film(self.out / "comparison.mp4", shown, method, self.fps, height=128)


def _plain(searcher: Searcher, prompt: str, seed: int) -> tuple[Tensor, dict[str, float], float]:
    """The generator's own sample ``(T, 3, H, W)`` uint8, its rewards and their weighted sum."""
    sampling = searcher.sampling
    videos = searcher.generator.sample([prompt], steps=sampling.steps, guidance=sampling.guidance, seed=seed)
    rewards = searcher.objective.score(videos, [prompt])
    score = float(searcher.objective.total(rewards)[0])
    frames = (videos[0] * 255).round().byte().cpu()
    return frames, {name: float(values[0]) for name, values in rewards.items()}, score


@contextmanager
def _progress(searcher: Searcher, total: int) -> Iterator[None]:
    """Show a bar of model calls."""
    denoiser = searcher.generator.denoiser
    before = denoiser.nfe
    with tqdm(total=total, desc="searching", unit=" calls", leave=False, disable=not total) as bar:
        hook = denoiser.model.register_forward_pre_hook(lambda *_: bar.update(denoiser.nfe - before - bar.n) and None)
        try:
            yield
        finally:
            hook.remove()


def _table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path, ".csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    with replacing(path, ".json") as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to search again.") from error
    return content
