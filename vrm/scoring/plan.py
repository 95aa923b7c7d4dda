"""Which videos are scored under which prompts: a compact table, and the order of its rows."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from vrm.errors import UnknownNameError
from vrm.scoring.inputs import Entry, InputError, Inputs, find_videos

PromptSource = Literal["sidecar", "filename"]
_COLUMNS = pa.schema(
    [
        ("path", pa.string()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("meta", pa.map_(pa.string(), pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class Item:
    """A video under a prompt.

    Attributes:
        index: place in the plan, from 0.
        id: of the video as the user knows it.
        path: of the video, absolute.
        prompt: what it should show, or None.
        meta: further columns of the manifest.
    """

    index: int
    id: str
    path: str
    prompt: str | None
    meta: tuple[tuple[str, str], ...]

    def key(self, reward: str) -> bytes:
        """Sixteen bytes that name this item's row for ``reward`` in any plan, whatever its place there."""
        text = json.dumps([self.path, self.id, self.prompt, self.meta, reward])
        return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Plan:
    """All items of a run, as an Arrow table of videos and, for a full matrix, the prompts that each is scored under."""

    entries: pa.Table
    prompts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Count the items."""
        return len(self.entries) * (1 if self.prompts is None else len(self.prompts))

    @property
    def has_prompts(self) -> bool:
        """Whether every item has a prompt; otherwise none has."""
        return self.prompts is not None or self.entries["prompt"].null_count == 0

    def items(self) -> Iterator[Item]:
        """Yield all items, in order."""
        for place, row in enumerate(row for batch in self.entries.to_batches(1000) for row in batch.to_pylist()):
            yield from self._items_of(place, row)

    def videos(self, shard: tuple[int, int] = (1, 1)) -> Iterator[tuple[str, list[Item]]]:
        """Yield every distinct video once with its items, in order of first appearance.

        Args:
            shard: ``(i, n)`` keeps the ``i``-th of ``n`` shares, counted from 1; a video's share depends on its path
                alone.
        """
        if not len(self.entries):
            return
        codes = self.entries["path"].combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        rows = (row for batch in self.entries.take(order).to_batches(1000) for row in batch.to_pylist())
        for path, group in groupby(zip(order.tolist(), rows, strict=True), key=lambda found: str(found[1]["path"])):
            if _share(path, shard[1]) == shard[0]:
                yield path, [item for place, row in group for item in self._items_of(place, row)]

    def _items_of(self, place: int, row: dict[str, Any]) -> Iterator[Item]:
        prompts = (row["prompt"],) if self.prompts is None else self.prompts
        for column, prompt in enumerate(prompts):
            meta = tuple(row["meta"] or ())
            yield Item(place * len(prompts) + column, row["id"], row["path"], prompt, meta)


def make_plan(
    inputs: Inputs,
    prompts: str | Sequence[str] | None = None,
    *,
    matrix: bool = False,
    prompt_from: PromptSource | None = None,
) -> Plan:
    """Decide which videos are scored under which prompts.

    Args:
        inputs: as for :func:`vrm.scoring.inputs.find_videos`; a video named twice in the same way counts once.
        prompts: one for all videos, or one per video in their order; either takes the place of a manifest's column.
            None takes the manifest's column, and no prompts where there is none.
        matrix: score every video under every one of ``prompts`` instead of pairing them.
        prompt_from: ``"sidecar"`` reads ``clip.txt`` beside ``clip.mp4``; ``"filename"`` takes the name without suffix
            and sample number, underscores as spaces: ``a_robot_kneels-3.mp4`` shows "a robot kneels".

    Raises:
        InputError: if there are no videos, prompts and videos differ in number, or a video lacks a prompt.
        UnknownNameError: if ``prompt_from`` is unknown.
    """
    if prompt_from is not None and prompt_from not in get_args(PromptSource):
        raise UnknownNameError("prompt_from", prompt_from, get_args(PromptSource))
    if prompts is not None and prompt_from is not None:
        raise InputError(f"Prompts are given and also to be taken from {prompt_from!r}; choose one.")
    texts = [prompts] if isinstance(prompts, str) else None if prompts is None else list(prompts)
    if matrix and not texts:
        raise InputError("A matrix needs prompts to score every video under; give one or more.")
    if texts is not None and (not texts or not all(isinstance(text, str) and text.strip() for text in texts)):
        raise InputError(f"Prompts must be non-empty sentences, got {texts!r:.200}.")
    entries = find_videos(inputs)
    if matrix:
        assert texts is not None
        return Plan(_table(entry._replace(prompt=None) for entry in entries), tuple(dict.fromkeys(texts)))
    if texts is not None:
        entries = _paired(entries, texts)
    elif prompt_from is not None:
        read = _sidecar if prompt_from == "sidecar" else _filename
        entries = (entry._replace(prompt=read(entry.path)) for entry in entries)
    return _complete(Plan(_table(entries)))


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Read prompts from a text file, one a line.

    Raises:
        InputError: if the file cannot be read or a line before the end is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Prompts cannot be read from {os.fspath(path)!r} ({error}).") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"Line {number} of {os.fspath(path)!r} is empty; the file needs one prompt a line.")
    return [line.strip() for line in lines]


def parse_shard(text: str) -> tuple[int, int]:
    """Read ``"i/n"``: the ``i``-th of ``n`` shares, counted from 1.

    Raises:
        InputError: if it is not of that form.

    Example:
        >>> parse_shard("2/8")
        (2, 8)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= shard[0] <= shard[1]:
        raise InputError(f"A shard is i/n with 1 <= i <= n, such as 1/4, got {text!r}.")
    return shard


def _share(path: str, shards: int) -> int:
    digest = hashlib.blake2b(path.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % shards + 1


def _table(entries: Iterable[Entry]) -> pa.Table:
    unique = iter(_distinct(entries))
    batches = []
    while rows := list(islice(unique, 10_000)):
        columns = [[row.path for row in rows], [row.id for row in rows], [row.prompt for row in rows]]
        meta = [sorted(row.meta.items()) for row in rows]
        try:
            arrays = [pa.array(v, f.type) for v, f in zip([*columns, meta], _COLUMNS, strict=True)]
        except UnicodeEncodeError as error:
            raise InputError(f"The file name {error.object!r} is not UTF-8; rename the file.") from error
        batches.append(pa.record_batch(arrays, schema=_COLUMNS))
    return pa.Table.from_batches(batches, _COLUMNS).combine_chunks()


def _distinct(entries: Iterable[Entry]) -> Iterator[Entry]:
    seen: set[bytes] = set()
    for entry in entries:
        key = Item(0, entry.id, entry.path, entry.prompt, tuple(sorted(entry.meta.items()))).key("")
        if key not in seen:
            seen.add(key)
            yield entry


def _paired(entries: Iterator[Entry], prompts: list[str]) -> Iterator[Entry]:
    if len(prompts) == 1:
        yield from (entry._replace(prompt=prompts[0]) for entry in entries)
        return
    videos = list(entries)
    if len(videos) != len(prompts):
        raise InputError(
            f"There are {len(videos)} videos and {len(prompts)} prompts; give one prompt per video, a single one, or "
            "ask for the full matrix."
        )
    yield from (video._replace(prompt=prompt) for video, prompt in zip(videos, prompts, strict=True))


def _complete(plan: Plan) -> Plan:
    """Refuse a plan in which some videos have prompts and others none."""
    missing = plan.entries["prompt"].null_count
    if 0 < missing < len(plan.entries):
        first = next(item for item in plan.items() if item.prompt is None)
        raise InputError(
            f"{missing} of {len(plan.entries)} videos have no prompt, first {first.id!r}; give one to all."
        )
    return plan


def _sidecar(path: str) -> str:
    file = Path(path).with_suffix(".txt")
    try:
        text = " ".join(file.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompt of {path!r} cannot be read from {str(file)!r} ({error}).") from error
    if not text:
        raise InputError(f"The prompt file {str(file)!r} is empty; write one sentence.")
    return text


def _filename(path: str) -> str:
    words = re.sub(r"-\d+$", "", Path(path).stem).replace("_", " ").split()
    if not words:
        raise InputError(f"The name of {path!r} holds no prompt; rename it or pass prompts.")
    return " ".join(words)
