"""Whether a Matroska or WebM file is all there, by the size its outermost element states (RFC 8794, RFC 9559)."""

from __future__ import annotations

import os
from typing import BinaryIO

_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067


def cut_off(path: str | os.PathLike[str]) -> bool:
    """Say whether the file ends before its segment does; a live recording states no size and passes."""
    with open(path, "rb") as file:
        if _identifier(file) != _HEADER:
            return False
        header = _size(file)
        if header is None:
            return False
        file.seek(header, os.SEEK_CUR)
        if _identifier(file) != _SEGMENT:
            return False
        segment = _size(file)
        return segment is not None and file.tell() + segment > os.fstat(file.fileno()).st_size


def _identifier(file: BinaryIO) -> int:
    return int.from_bytes(file.read(4), "big")


def _size(file: BinaryIO) -> int | None:
    """Read a variable-length number; all ones mean "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(extra), "big") & ((1 << 7 * (extra + 1)) - 1)
    return None if value == (1 << 7 * (extra + 1)) - 1 else value
