"""Rated videos: numbers that people gave to single clips."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vrm.data.pairs import ID_COLUMNS, PROMPT_COLUMNS
from vrm.data.records import OVERALL, BenchmarkError, RatedVideo, RatingSet
from vrm.data.tables import Places, Table, number, plain, text

VIDEOFEEDBACK_DIMENSIONS = (
    "visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment", "factual consistency",
)  # fmt: skip
VIDEO_COLUMNS = ("path", "video", "video_path", "video_link", "file", "file_name", "filename")
OVERALL_COLUMNS = ("score", "rating", "mos", "overall")
MODEL_COLUMNS = ("model", "generator")

_DIMENSION = re.compile(r"(?:score|rating|mos)_(.+)")
_FEEDBACK = {plain(name): name for name in VIDEOFEEDBACK_DIMENSIONS}
_CONVERSATION = "conversations"
_QUOTED_PROMPT = re.compile(r'text prompt is "(.*?)",?\s*\n', re.DOTALL)
_ANSWER = re.compile(r"^\W*([a-z -]+?)\s*:\s*(\d+(?:\.\d+)?)", re.MULTILINE)


def rating_columns(table: Table) -> dict[str, str]:
    """Map each rated dimension to its column, as written."""
    found = {}
    for name, column in table.columns.items():
        if name in OVERALL_COLUMNS:
            found[OVERALL] = column
        elif name in _FEEDBACK:
            found[_FEEDBACK[name]] = column
        elif match := _DIMENSION.fullmatch(name):
            found[match[1]] = column
    return found


def is_videofeedback(table: Table) -> bool:
    """Whether the table has VideoFeedback's five dimensions, in columns or inside conversations."""
    return set(_FEEDBACK) <= set(table.columns) or bool(_conversation_ratings(table.rows[0] if table.rows else {}))


def read_rating_table(table: Table, places: Places, name: str) -> RatingSet:
    """Read one rated video per row.

    VideoFeedback and VideoScore-Bench name no file: the video is then ``ID.mp4``, and where the five ratings and the
    prompt stand inside a conversation they are taken from there.

    Args:
        table: with a column of videos or ids, ratings (``score``, ``mos``, ``score_NAME``, or VideoFeedback's five) and
            perhaps a prompt.
        places: finds the videos.
        name: of the format, for the result.

    Raises:
        BenchmarkError: if it has no column of videos or no ratings.
    """
    columns, key = rating_columns(table), table.find(*ID_COLUMNS)
    video, prompt, model = table.find(*VIDEO_COLUMNS), table.find(*PROMPT_COLUMNS), table.find(*MODEL_COLUMNS)
    if (video or key) is None or not (columns or is_videofeedback(table)):
        raise BenchmarkError(
            f"{str(table)!r} needs a column of videos ({', '.join(VIDEO_COLUMNS)}) and ratings "
            f"({', '.join(OVERALL_COLUMNS)}, score_NAME); its columns are {', '.join(table.columns.values())}."
        )
    used = {video, key, prompt, model, _CONVERSATION, *columns.values()}
    dropped: Counter[str] = Counter()
    videos = []
    for index, row in enumerate(table.rows):
        given = text(row.get(key)) if key else ""
        file = (text(row.get(video)) if video else "") or (f"{given}.mp4" if given else "")
        ratings = {dim: number(row.get(column)) for dim, column in columns.items()} | _conversation_ratings(row)
        ratings = {dim: value for dim, value in ratings.items() if math.isfinite(value)}
        if not file or not ratings:
            dropped["no rating" if file else "no video named"] += 1
            continue
        said = (text(row.get(prompt)) if prompt else "") or _conversation_prompt(row)
        maker = (text(row.get(model)) if model else "") or None
        videos.append(
            RatedVideo(
                given or f"#{index}", said or None, places.locate(file), ratings, maker, table.rest(row, used)
            )
        )  # fmt: skip
    return RatingSet(name, places.roots[0], tuple(videos), dict(dropped))


def read_genai_ratings(file: Path, places: Places, name: str) -> RatingSet:
    """Read GenAI-Bench's ``genai_video.json``: prompts, and one to five points by several people for each model.

    The videos are ``MODEL/PROMPT_INDEX.mp4`` under the root (Li et al. 2024, arXiv 2406.13743).

    Raises:
        BenchmarkError: if the file has another layout.
    """
    dropped: Counter[str] = Counter()
    videos = []
    for index, prompt, model, points in _genai_ratings(file):
        given = [value for value in map(number, points) if math.isfinite(value)]
        if not given:
            dropped["no rating"] += 1
            continue
        meta = {"raters": str(len(given))}
        mean = {OVERALL: math.fsum(given) / len(given)}
        path = places.locate(f"{model}/{index}.mp4")
        videos.append(RatedVideo(f"{index}/{model}", prompt, path, mean, model, meta))
    return RatingSet(name, places.roots[0], tuple(videos), dict(dropped))


def _genai_ratings(file: Path) -> Iterator[tuple[str, str | None, str, list[Any]]]:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            found = json.load(opened)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{str(file)!r} cannot be read as json ({error}).") from error
    for index, entry in found.items() if isinstance(found, dict) else [("", found)]:
        models = entry.get("models") if isinstance(entry, Mapping) else None
        if not isinstance(models, Mapping):
            raise BenchmarkError(
                f"{str(file)!r} must map each prompt's number to an object with 'prompt' and 'models' (a list of "
                f"ratings by model), got {entry!r:.60}."
            )
        for model, points in models.items():
            listed = points if isinstance(points, list) else [points]
            yield str(index), text(entry.get("prompt")) or None, str(model), listed


def _conversation_ratings(row: Mapping[str, Any]) -> dict[str, float]:
    """Ratings that stand as "visual quality: 3" lines in the answer of a conversation."""
    turns = _turns(row)
    answers = _ANSWER.findall(turns[-1].casefold()) if len(turns) > 1 else []
    return {_FEEDBACK[plain(name)]: float(value) for name, value in answers if plain(name) in _FEEDBACK}


def _conversation_prompt(row: Mapping[str, Any]) -> str:
    match = _QUOTED_PROMPT.search("\n".join(_turns(row)))
    return match[1].strip() if match else ""


def _turns(row: Mapping[str, Any]) -> list[str]:
    turns = row.get(_CONVERSATION)
    return [text(turn.get("value")) for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
