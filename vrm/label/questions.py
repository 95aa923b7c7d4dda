"""What a person is asked: pairs drawn from a folder, listed in a table, or arriving in a queue."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from vrm.data.comparisons import ComparisonError
from vrm.data.pairs import VIDEO_COLUMNS
from vrm.data.tables import SUFFIXES, Places, Table, text

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
ANSWERS = "answers.jsonl"  # in the source's folder, unless another file is named
QUEUE = "queries"  # folder of a run in which it asks people
_COLUMNS = (("first", "second"), *VIDEO_COLUMNS)


@dataclass(frozen=True)
class Question:
    """Two clips to compare.

    Attributes:
        id: short, of letters and digits, the same for the same two names.
        first: the file, inside the source's folder.
        second: likewise.
        names: both as the answer file calls them: paths relative to its folder.
        goal: the sentence that decides; may be empty.
    """

    id: str
    first: Path
    second: Path
    names: tuple[str, str]
    goal: str = ""


class Source(Protocol):
    """Where questions come from.

    Attributes:
        root: the folder outside of which nothing is ever shown.
        live: whether questions may still arrive.
    """

    root: Path
    live: bool

    def questions(self) -> Sequence[Question]:
        """All of them, in the order in which they are asked."""


class Listed:
    """Questions that are known from the start."""

    live = False

    def __init__(self, root: Path, questions: Sequence[Question]) -> None:
        """Keep them."""
        self.root, self._questions = root, tuple(questions)

    def questions(self) -> Sequence[Question]:
        """All of them, in the order in which they are asked."""
        return self._questions


class Queue:
    """Questions that arrive in a folder, each as ``QUERY.json`` with the names of two clips beside it.

    The file holds ``{"first": "a.mp4", "second": "b.mp4", "goal": "a sentence", "time": 1700000000.0}``. It must be
    moved there when its clips are complete. Older questions come first; a file that names clips outside the folder or
    missing ones is passed over.

    Args:
        root: the folder, made if it is missing.
        answers: the answer file that will name the clips.
    """

    live = True

    def __init__(self, root: Path, answers: Path) -> None:
        """Look at nothing yet."""
        self.root, self._answers = root, answers
        self._known: dict[str, tuple[float, Question] | None] = {}

    def questions(self) -> Sequence[Question]:
        """Those there now, oldest first."""
        self.root.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in os.scandir(self.root) if entry.name.endswith(".json") and entry.name[0] != "."}
        self._known = {name: self._known[name] if name in self._known else self._read(name) for name in names}
        found = sorted(filter(None, self._known.values()), key=lambda entry: (entry[0], entry[1].names))
        return [question for _, question in found]

    def _read(self, name: str) -> tuple[float, Question] | None:
        try:
            row = json.loads((self.root / name).read_text(encoding="utf-8"))
            first, second = (inside(self.root, self.root / str(row[side])) for side in ("first", "second"))
            asked = float(row.get("time", 0.0))
            return asked, question(first, second, self._answers, str(row.get("goal", "")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def open_source(path: Path, answers: Path | None = None, pairs: int = 200, seed: int = 0, goal: str = "") -> Source:
    """Find out what ``path`` is.

    ===================  ===========================================================================================
    path                 questions
    ===================  ===========================================================================================
    a run of vrm         those in its ``queries/`` as they arrive, if it asks people; else pairs drawn among its
                         ``videos/`` and ``segments/``, with its goal
    ``queries``          a folder of that name, or one that holds only questions: those in it, as they arrive
    another folder       pairs drawn among all clips in it: videos, and rollouts (``.npz`` with ``frames``)
    a table              its rows, two columns of clips inside the table's folder, such as ``first`` and ``second``, and
                         perhaps ``prompt``
    ===================  ===========================================================================================

    Args:
        path: the source.
        answers: the file that answers go to; :func:`answer_path` by default.
        pairs: how many are drawn at most.
        seed: of the draw, and of the order.
        goal: the sentence that decides, where the source has none of its own.

    Raises:
        ComparisonError: if there is nothing to compare.
    """
    if pairs < 1:
        raise ComparisonError(f"At least 1 pair must be drawn, got pairs={pairs}.")
    file = answer_path(path) if answers is None else answers
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise ComparisonError(f"{str(path)!r} is no folder and no table of pairs ({', '.join(SUFFIXES)}).")
        return Listed(path.parent, _table_pairs(path, file, goal))
    if not path.is_dir() and path.name != QUEUE:
        raise ComparisonError(f"There is no folder or table of pairs {str(path)!r}.")
    root = _folder(path)
    if root.name == QUEUE or _holds_questions(root):
        return Queue(root, file)
    clips = _clips(root)
    if len(clips) < 2:
        raise ComparisonError(
            f"{str(path)!r} holds {len(clips)} clips, but comparing needs two: videos ({', '.join(VIDEOS)}) or .npz "
            "files with 'frames'."
        )
    return Listed(root, _drawn(root, clips, file, pairs, seed, goal or _run_goal(root)))


def answer_path(path: Path) -> Path:
    """Where answers about a source go by default: ``answers.jsonl`` in its folder."""
    return (path.parent if path.is_file() else _folder(path)) / ANSWERS


def question(first: Path, second: Path, answers: Path, goal: str = "") -> Question:
    """The question about two files, as an answer file at ``answers`` will name them."""
    folder = os.path.realpath(answers.parent)
    names = [Path(os.path.relpath(os.path.realpath(file), folder)).as_posix() for file in (first, second)]
    digest = hashlib.blake2b(json.dumps(names).encode(), digest_size=8).hexdigest()
    return Question(digest, first, second, (names[0], names[1]), goal)


def inside(root: Path, file: Path) -> Path:
    """Return the real path of ``file`` if it is a file under ``root``, links followed.

    Raises:
        ComparisonError: if it is not.
    """
    real = Path(os.path.realpath(file))
    if not real.is_relative_to(os.path.realpath(root)):
        raise ComparisonError(f"Clip {str(file)!r} lies outside {str(root)!r}; only what is inside can be shown.")
    if not real.is_file():
        raise ComparisonError(f"There is no clip {str(file)!r}.")
    return real


def _folder(path: Path) -> Path:
    """The queue of a run that has one; else the folder itself."""
    return path / QUEUE if (path / "config.yaml").is_file() and (path / QUEUE).is_dir() else path


def _holds_questions(root: Path) -> bool:
    for file in sorted(root.glob("*.json"))[:3]:
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(row, dict) and {"first", "second"} <= row.keys():
            return True
    return False


def _clips(root: Path) -> list[Path]:
    run = (root / "config.yaml").is_file()
    places = [root / name for name in ("videos", "segments")] if run else [root]
    found = (file for place in places for file in place.rglob("*") if file.suffix.lower() in (*VIDEOS, ".npz"))
    shown = (file for file in found if not any(part.startswith(".") for part in file.relative_to(root).parts))
    real = os.path.realpath(root)
    return sorted(f for f in shown if f.is_file() and Path(os.path.realpath(f)).is_relative_to(real))


def _drawn(root: Path, clips: list[Path], answers: Path, pairs: int, seed: int, goal: str) -> list[Question]:
    total = math.comb(len(clips), 2)
    chance = random.Random(seed)
    asked = []
    for number in chance.sample(range(total), min(pairs, total)):
        later = (1 + math.isqrt(1 + 8 * number)) // 2  # pairs in the order (0, 1), (0, 2), (1, 2), (0, 3), …
        both = [number - math.comb(later, 2), later]
        chance.shuffle(both)
        first, second = (inside(root, clips[i]) for i in both)
        asked.append(question(first, second, answers, goal))
    return asked


def _table_pairs(path: Path, answers: Path, goal: str) -> list[Question]:
    table = Table(path)
    columns = [(first, second) for first, second in _found(table) if first and second]
    if not columns:
        wanted = ", ".join("/".join(pair) for pair in _COLUMNS)
        raise ComparisonError(f"{str(path)!r} needs two columns of clips, one of: {wanted}.")
    places, prompt = Places(path.parent), table.find("goal", "prompt", "caption", "text")
    asked: dict[str, Question] = {}
    for row in table.rows:
        first, second = (inside(path.parent, Path(places.locate(text(row.get(column))))) for column in columns[0])
        one = question(first, second, answers, (text(row.get(prompt)) if prompt else "") or goal)
        asked.setdefault(one.id, one)
    if not asked:
        raise ComparisonError(f"{str(path)!r} lists no pairs.")
    return list(asked.values())


def _found(table: Table) -> list[tuple[str | None, str | None]]:
    return [(table.find(first), table.find(second)) for first, second in _COLUMNS]


def _run_goal(root: Path) -> str:
    file = root / "config.yaml"
    if not file.is_file():
        return ""
    try:
        config: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        goal = config["task"]["goal"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return ""
    return str(goal[0]) if isinstance(goal, list) and goal else str(goal)
