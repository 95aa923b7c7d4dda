"""From a number and its marks to an item."""

from __future__ import annotations

import math

from vrm.audit.items import Item, Verdict


def graded(
    name: str, value: float, marks: tuple[float, float], criterion: str, catches: str, note: str = "", unknown: str = ""
) -> Item:
    """Grade a number: pass from the first mark on, warn from the second, else fail.

    Args:
        name: of the item.
        value: the number; nan is not applicable, for the reason in ``unknown``.
        marks: the pass and the warn mark. Larger is better where the pass mark is the higher one (or both are equal);
            use :func:`graded_below` where smaller is better.
        criterion: what passes.
        catches: what failing means.
        note: more about the number.
        unknown: why there may be no number.
    """
    if math.isnan(value):
        return skipped(name, criterion, catches, unknown)
    verdict: Verdict = "pass" if value >= marks[0] else "warn" if value >= marks[1] else "fail"
    return Item(name, verdict, value, criterion, catches, note)


def graded_below(
    name: str, value: float, marks: tuple[float, float], criterion: str, catches: str, note: str = "", unknown: str = ""
) -> Item:
    """Grade a number that passes up to the first mark and warns up to the second; arguments as in :func:`graded`."""
    if math.isnan(value):
        return skipped(name, criterion, catches, unknown)
    verdict: Verdict = "pass" if value <= marks[0] else "warn" if value <= marks[1] else "fail"
    return Item(name, verdict, value, criterion, catches, note)


def skipped(name: str, criterion: str, catches: str, reason: str) -> Item:
    """Say why an item is not applicable."""
    return Item(name, "not applicable", None, criterion, catches, reason)
