"""Text to answers, strictly: what does not have the form that was asked for is no answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
LABEL = re.compile(r"^(?:final\s+)?answer\s*:\s*", re.IGNORECASE)
EDGES = " \t\r\n.,;:!*_`\"'()[]"


def parse_choice(text: str, choices: Sequence[str]) -> int | None:
    """Find which choice ``text`` is, up to case, quotes, punctuation around it and a leading "Answer:".

    Example:
        >>> parse_choice(" **Yes**.", ["yes", "no"]), parse_choice("Answer: no", ["yes", "no"])
        (0, 1)
        >>> parse_choice("yes and no", ["yes", "no"]) is None
        True
    """
    plain = LABEL.sub("", THOUGHTS.sub("", text).strip(EDGES)).strip(EDGES).casefold()
    matches = [i for i, choice in enumerate(choices) if plain == choice.strip(EDGES).casefold()]
    return matches[0] if len(matches) == 1 else None


def parse_percentages(text: str, count: int) -> Tensor | None:
    """Read what GVL asks for: a JSON list of ``count`` objects with frame number and completion percentage.

    Args:
        text: the reply; prose or a code fence around the list is allowed.
        count: number of frames, numbered from 1 in the order in which they were shown.

    Returns:
        ``(count,)`` float32 fractions in [0, 1]; None unless every frame has exactly one number in [0, 100].

    Example:
        >>> parse_percentages('[{"frame_number": 2, "task_completion_percentage": 50}, '
        ...                   '{"frame_number": 1, "task_completion_percentage": 20}]', 2)
        tensor([0.2000, 0.5000])
    """
    rows = _json_list(THOUGHTS.sub("", text))
    if rows is None or len(rows) != count:
        return None
    found: dict[int, float] = {}
    for row in rows:
        if not isinstance(row, dict):
            return None
        number, value = row.get("frame_number"), row.get("task_completion_percentage")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            return None
        if type(number) is not int:
            return None
        found[number] = value / 100
    return torch.tensor([found[i] for i in range(1, count + 1)]) if set(found) == set(range(1, count + 1)) else None


def parse_signed_percentage(text: str) -> float | None:
    """Read what VLAC asks for: one number from -100 to 100, with or without a percent sign, as a fraction.

    Example:
        >>> parse_signed_percentage("+35%"), parse_signed_percentage("-8"), parse_signed_percentage("about 35")
        (0.35, -0.08, None)
    """
    match = re.fullmatch(r"([+-]?\d{1,3}(?:\.\d+)?)\s*%?", LABEL.sub("", THOUGHTS.sub("", text).strip()).strip(" \n.*"))
    if match is None:
        return None
    value = float(match[1])
    return value / 100 if math.isfinite(value) and abs(value) <= 100 else None


def _json_list(text: str) -> list[object] | None:
    fenced = FENCE.search(text)
    body = fenced[1] if fenced else text
    start, end = body.find("["), body.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        rows = json.loads(body[start : end + 1])
    except ValueError:
        return None
    return rows if isinstance(rows, list) else None
