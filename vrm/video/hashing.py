"""What a file is, whatever its name: a hash of its bytes."""

from __future__ import annotations

import hashlib
import os

from vrm.video.opening import checked_file


def file_hash(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes with BLAKE2b, a block at a time.

    Returns:
        32 hexadecimal digits.

    Raises:
        DecodeError: if the file is missing or empty.
    """
    with open(checked_file(path), "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
