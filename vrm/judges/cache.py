"""Replies on disk, one small file each, named by what was asked of whom."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

from vrm.judges.base import Reply

IN_MEMORY = 65536


class ReplyCache:
    """Keeps replies by key, in memory and, given a folder, on disk.

    A file appears whole or not at all, so that a killed process leaves only good ones, and several processes may share
    a folder. A damaged file counts as absent.

    Args:
        folder: where files go; None to remember within this process only.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Create nothing yet."""
        self.folder = None if folder is None else Path(folder)
        self._recent: OrderedDict[str, Reply] = OrderedDict()

    def get(self, key: str) -> Reply | None:
        """The reply under ``key``, if there is one."""
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        if self.folder is None:
            return None
        try:
            row = json.loads(self._path(self.folder, key).read_text(encoding="utf-8"))
            reply = _reply(row)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self._remember(key, reply)
        return reply

    def put(self, key: str, reply: Reply) -> None:
        """Keep ``reply``; it is on disk when this returns."""
        self._remember(key, reply)
        if self.folder is None:
            return
        path = self._path(self.folder, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{key}.{uuid.uuid4().hex}.partial")
        row = {name: value for name, value in asdict(reply).items() if name != "error"}
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                json.dump(row, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _remember(self, key: str, reply: Reply) -> None:
        self._recent[key] = reply
        if len(self._recent) > IN_MEMORY:
            self._recent.popitem(last=False)

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.json"


def _reply(row: dict[str, object]) -> Reply:
    given = row["probabilities"]
    probabilities = None
    if given is not None:
        if not isinstance(given, list):
            raise TypeError("probabilities are no list")
        probabilities = tuple(float(p) for p in given)
        if not all(0 <= p <= 1 for p in probabilities) or not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
            raise ValueError("probabilities do not sum to one")
    mass = row["mass"]
    return Reply(probabilities, str(row["text"]), None if mass is None else float(str(mass)), int(str(row["tokens"])))
