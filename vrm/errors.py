"""Every error a user of the library can meet: one sentence that names the value, the rule and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal


class VrmError(Exception):
    """Base of all errors raised on purpose by this library."""


class FrameError(VrmError, ValueError):
    """Frames with the wrong layout, dtype or range."""


class PromptError(VrmError, ValueError):
    """Goal or baseline prompts that cannot define a reward."""


class UntaughtError(VrmError, ValueError):
    """A reward that is to pay before it has learned anything."""


class CheckpointError(VrmError, RuntimeError):
    """Weights or run files that are missing, damaged or made for something else."""


DecodeErrorKind = Literal[
    "missing", "empty", "not_video", "no_video_stream", "no_frames", "truncated", "damaged", "too_large", "timeout",
    "crash",
]  # fmt: skip


class DecodeError(VrmError, OSError):
    """A video file that is missing, damaged or not a video.

    Attributes:
        kind: what is wrong, in a word that tables can be grouped by.
    """

    def __init__(self, message: str, kind: DecodeErrorKind = "damaged") -> None:
        """Keep the sentence and the word for it."""
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, DecodeErrorKind]]:
        """Keep the kind on the way out of a worker process."""
        return type(self), (str(self), self.kind)


class NonFiniteError(VrmError, ArithmeticError):
    """A model produced NaN or infinity."""


class RenderingError(VrmError, RuntimeError):
    """Pictures cannot be rendered on this machine or from this environment."""


class MissingExtraError(VrmError, ImportError):
    """An optional dependency is needed but not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """State what ``package`` is needed for and which extra of ``vrm`` brings it."""
        super().__init__(f"{purpose} needs {package}, which is not installed: run `pip install 'vrm[{extra}]'`.")


class UnknownNameError(VrmError, ValueError):
    """A name that is not among the known ones; suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        """Compose "Unknown KIND 'name'. Did you mean …? Known: …"."""
        known = sorted(known)
        close = get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        tail = f" {hint}" if hint else ""
        super().__init__(f"Unknown {kind} {name!r}.{guess} Known: {', '.join(known)}.{tail}")
