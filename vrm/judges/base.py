"""The judge contract: batches of questions about pictures to probabilities over answers, or to text."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from vrm.errors import FrameError, VrmError

Kind = Literal["prefer", "describe", "conclude", "holds", "rate", "change", "progress"]
FaultKind = Literal["timeout", "rate", "server", "connection", "malformed", "adapted", "refused"]


class JudgeError(VrmError, RuntimeError):
    """A judge that cannot be asked, or gave no answer to any question."""


class BudgetError(JudgeError):
    """The limit on requests or tokens is reached; every answer so far is kept."""


@dataclass(frozen=True)
class Meaning:
    """What a question asks, for a judge that reads no prose.

    ==============  ===================================================================================================
    kind            the images, and the order of the choices
    ==============  ===================================================================================================
    ``"prefer"``    the first half shows one piece of behaviour, the second another; first, second, no difference
    ``"describe"``  as ``"prefer"``, answered in free text
    ``"conclude"``  none, the text holds the answer to ``"describe"``; choices as in ``"prefer"``
    ``"holds"``     one piece of behaviour; yes, no
    ``"rate"``      one piece of behaviour; from worst to best
    ``"change"``    before and after; from all undone, over no change in the middle, to all done
    ``"progress"``  frames of one episode, the first one first, others in any order; percentages of those others
    ==============  ===================================================================================================

    Attributes:
        kind: as above.
        goal: the sentence that the answer is about.
    """

    kind: Kind
    goal: str


@dataclass(frozen=True, eq=False)
class Question:
    """One thing to ask.

    Attributes:
        parts: text and images ``(3, H, W)`` uint8 RGB, in the order in which they are read.
        choices: the answers to choose from, each a word or a number; none for free text.
        meaning: the same in a form that needs no reading.
        max_tokens: the longest free text wanted.
    """

    parts: tuple[str | Tensor, ...]
    choices: tuple[str, ...] = ()
    meaning: Meaning | None = None
    max_tokens: int = 512

    def __post_init__(self) -> None:
        """Check parts and choices.

        Raises:
            FrameError: if an image is not ``(3, H, W)`` uint8.
            ValueError: if there is one choice only, an empty one, or two that differ in case or spaces only.
        """
        for part in self.parts:
            if isinstance(part, Tensor) and (part.dtype != torch.uint8 or part.ndim != 3 or part.shape[0] != 3):
                raise FrameError(
                    f"Images in a question must be uint8 (3, H, W), got {part.dtype} {tuple(part.shape)}; "
                    "convert float frames with (frames * 255).round().to(torch.uint8)."
                )
        plain = {" ".join(choice.split()).casefold() for choice in self.choices}
        if len(self.choices) == 1 or "" in plain or len(plain) != len(self.choices):
            raise ValueError(f"Choices must be two or more different words, got {list(self.choices)}.")

    @property
    def images(self) -> list[Tensor]:
        """The images in order, each ``(3, H, W)`` uint8."""
        return [part for part in self.parts if isinstance(part, Tensor)]

    @property
    def text(self) -> str:
        """The text without the images."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    def digest(self) -> str:
        """SHA-256 of everything that the answer depends on, as hex digits."""
        found = hashlib.sha256(repr((self.choices, self.meaning, self.max_tokens)).encode())
        for part in self.parts:
            body = part.encode() if isinstance(part, str) else image_bytes(part)
            kind = "text" if isinstance(part, str) else f"image {tuple(part.shape)}"
            found.update(f"|{kind} {len(body)}|".encode())
            found.update(body)
        return found.hexdigest()


@dataclass(frozen=True)
class Fault:
    """Why a request brought no answer.

    Attributes:
        kind: in a word; all but ``"refused"`` may pass if tried again. ``"adapted"`` means that the judge learned from
            the refusal and will ask in another form.
        message: one sentence.
        wait: seconds that the server asked to wait for.
    """

    kind: FaultKind
    message: str
    wait: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What came back for one question.

    Attributes:
        probabilities: of the choices in order, summing to 1; None where the judge gives text only.
        text: what the judge wrote; may be empty where there are probabilities.
        mass: share of all possible next words that the choices have together; a small one says that the judge wanted
            to answer something else. None if unknown.
        tokens: read and written, as the judge counts them.
        error: why there is no answer.
    """

    probabilities: tuple[float, ...] | None = None
    text: str = ""
    mass: float | None = None
    tokens: int = 0
    error: Fault | None = None


class Judge(ABC):
    """Answers questions; the runner around it (:class:`vrm.judges.JudgeRunner`) caches, limits and retries.

    Attributes:
        backend: the name that :func:`vrm.judges.make_judge` takes.
        batch: how many questions one call of :meth:`answer` takes at most.
        concurrency: how many calls may run at once.
    """

    backend: str
    batch: int = 1
    concurrency: int = 1

    @abstractmethod
    async def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer up to :attr:`batch` questions, in order; a question that failed has an error in its reply.

        Raises:
            JudgeError: if no question could ever be answered: wrong key, unknown model.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Constructor arguments as JSON values, an encoder as its name; never a secret."""

    @abstractmethod
    def identity(self) -> str:
        """Everything that answers depend on besides the question: what the cache tells judges apart by."""

    async def __aenter__(self) -> Self:
        """Open connections for one round of questions."""
        return self

    async def __aexit__(self, *_: object) -> None:  # noqa: B027 (most judges have nothing to close)
        """Close them."""


@dataclass
class Counts:
    """What the questions cost, and what became of them.

    Attributes:
        asked: questions put to the runner.
        cached: answered without the judge: from disk, from memory, or as twins of others in the same call.
        requests: questions sent to the judge, repeats included.
        retried: repeats among them.
        failed: questions without an answer after all repeats.
        unparsable: answers that are none of the choices, or not in the form asked for.
        tokens: read and written by the judge.
    """

    asked: int = 0
    cached: int = 0
    requests: int = 0
    retried: int = 0
    failed: int = 0
    unparsable: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        """One line for people."""
        parts = (
            f"{self.asked} asked", f"{self.cached} cached", f"{self.requests} requests ({self.retried} retries)",
            f"{self.failed} failed", f"{self.unparsable} unparsable", f"{self.tokens} tokens",
        )  # fmt: skip
        return ", ".join(parts)


def image_bytes(image: Tensor) -> bytes:
    """The pixels of an image ``(3, H, W)`` uint8 as bytes."""
    return image.detach().cpu().contiguous().numpy().tobytes()


def normalised(masses: Sequence[float]) -> tuple[tuple[float, ...] | None, float]:
    """Probabilities that sum to one, from what each choice has of the whole; and how much they have together."""
    total = math.fsum(masses)
    if not total > 0:
        return None, 0.0
    return tuple(mass / total for mass in masses), total
