"""A stand-in judge that needs no network and no large model: an encoder's similarities, answered like a judge's.

Its errors can be set, so that whatever learns from judges can be studied: how sure it is (``temperature``), how often
it is wrong (``noise``), how much it likes what it sees first (``position_bias``), how readily it sees no difference
(``tie``).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vrm.encoders import Encoder
from vrm.errors import PromptError
from vrm.judges.base import Judge, Meaning, Question, Reply, image_bytes, normalised

DEGREES = re.compile(r"Image ([12]) shows it to degree (-?\d+\.\d+)\.")


class SimJudge(Judge):
    """Answers from goal-baseline similarity ``c = s . goal - s . baseline``, averaged over the images shown.

    =============  ====================================================================================================
    kind           answer, with ``T = temperature`` and ``p = sigmoid(c / T)``, how well the goal fits
    =============  ====================================================================================================
    prefer         Davidson's ``e^{d/2} : e^{-d/2} : tie`` for first, second, no difference, with
                   ``d = (c_1 - c_2) / T + position_bias``
    holds          ``p : 1 - p``
    rate           binomial over the ratings, whose mean is ``p``
    change         binomial over the choices, whose mean is the fraction of the remaining task
                   ``(p_2 - p_1) / (1 - p_1)``, at least -1
    progress       ``100 p`` of every frame after the first
    =============  ====================================================================================================

    The two-question form is answered too: the description states both similarities, and the conclusion reads them.

    Args:
        encoder: the image-text model.
        baseline: a sentence for the same scene without the goal; without one, ``c = s . goal``.
        temperature: similarity that makes a difference of one logit.
        noise: share of questions answered wrongly: first and second exchanged in both orders alike, yes and no or the
            scale turned round.
        position_bias: logit by which the first of two is favoured.
        tie: weight of no difference; 0 for never.
        seed: of what is answered wrongly.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> judge = SimJudge(vrm.load_encoder("vrm-sim"), "a humanoid robot", noise=0.1)  # doctest: +SKIP

    Paper: Davidson 1970, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison Experiments".
    """

    backend = "sim"
    batch = 64

    def __init__(
        self,
        encoder: Encoder,
        baseline: str | None = None,
        temperature: float = 0.1,
        noise: float = 0.0,
        position_bias: float = 0.0,
        tie: float = 0.2,
        seed: int = 0,
    ) -> None:
        """Check the numbers."""
        if not temperature > 0 or not 0 <= noise <= 1 or not tie >= 0 or not math.isfinite(position_bias):
            raise ValueError(
                "The stand-in judge needs temperature > 0, noise in [0, 1], tie >= 0 and a finite position_bias, got "
                f"{temperature}, {noise}, {tie} and {position_bias}."
            )
        self.encoder = encoder
        self.baseline, self.temperature, self.noise = baseline, float(temperature), float(noise)
        self.position_bias, self.tie, self.seed = float(position_bias), float(tie), seed

    def settings(self) -> dict[str, Any]:
        """Constructor arguments; the encoder by name."""
        return {
            "encoder": self.encoder.name, "baseline": self.baseline, "temperature": self.temperature,
            "noise": self.noise, "position_bias": self.position_bias, "tie": self.tie, "seed": self.seed,
        }  # fmt: skip

    def identity(self) -> str:
        """Settings and the encoder's weights."""
        return json.dumps(["sim", self.settings(), self.encoder.fingerprint])

    async def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer all at once; images of one size are embedded together.

        Raises:
            PromptError: if a question has no meaning to go by.
        """
        features = self._embed([image for question in questions for image in question.images])
        replies, start = [], 0
        for question in questions:
            stop = start + len(question.images)
            replies.append(self._reply(question, features[start:stop]))
            start = stop
        return replies

    @torch.no_grad()
    def _embed(self, images: list[Tensor]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            places = [i for i, image in enumerate(images) if image.shape == shape]
            features = self.encoder.encode_image(torch.stack([images[i] for i in places]))
            found.update(zip(places, features, strict=True))
        return [found[i] for i in range(len(images))]

    def _reply(self, question: Question, features: list[Tensor]) -> Reply:
        meaning = question.meaning
        if meaning is None:
            raise PromptError("The stand-in judge reads no prose: give its questions a vrm.judges.Meaning.")
        fits = [self._fit(x, meaning.goal) for x in features]
        wrong = self._errs(question, meaning)
        if not question.choices:
            text = self._text(meaning, fits, wrong)
            return Reply(text=text, tokens=len(text.split()))
        weights = self._weights(question, meaning, fits)
        if wrong:
            turned = 2 if meaning.kind in ("prefer", "conclude") else len(weights)
            weights[:turned] = weights[:turned][::-1]
        probabilities, _ = normalised(weights)
        return Reply(probabilities, mass=1.0, tokens=1)

    def _weights(self, question: Question, meaning: Meaning, fits: list[float]) -> list[float]:
        if meaning.kind in ("prefer", "conclude"):
            first, second = _halves(fits) if fits else _stated(question.text)
            return self._preference(first - second)
        p = [_sigmoid(fit / self.temperature) for fit in fits]
        if meaning.kind == "change":
            return _binomial(len(question.choices), (1 + _gain(*p)) / 2)
        mean = _sigmoid(math.fsum(fits) / len(fits) / self.temperature)
        return [mean, 1 - mean] if meaning.kind == "holds" else _binomial(len(question.choices), mean)

    def _preference(self, difference: float) -> list[float]:
        d = max(-500.0, min(500.0, difference / self.temperature + self.position_bias))
        return [math.exp(d / 2), math.exp(-d / 2), self.tie]

    def _fit(self, image: Tensor, goal: str) -> float:
        against = self.encoder.encode_text([goal])[0]
        if self.baseline is not None:
            against = against - self.encoder.encode_text([self.baseline])[0]
        return float((image * against).sum())

    def _text(self, meaning: Meaning, fits: list[float], wrong: bool) -> str:
        p = [_sigmoid(fit / self.temperature) for fit in fits]
        if meaning.kind == "describe":
            first, second = reversed(_halves(fits)) if wrong else _halves(fits)
            return f"Image 1 shows it to degree {first:.6f}. Image 2 shows it to degree {second:.6f}."
        if meaning.kind == "change":
            return f"{100 * _gain(*p) * (-1 if wrong else 1):.0f}"
        if meaning.kind == "progress":
            values = [100 * (1 - value if wrong else value) for value in p[1:]]
            return json.dumps(
                [{"frame_number": i, "task_completion_percentage": v} for i, v in enumerate(values, start=1)]
            )
        raise PromptError(f"The stand-in judge answers {meaning.kind!r} by choices only, but the question has none.")

    def _errs(self, question: Question, meaning: Meaning) -> bool:
        """Decide by content alone, whatever the order of the images, so that one pair has one fate."""
        if not self.noise or not question.images:  # a conclusion inherits what was wrong with the description
            return False
        images = sorted(hashlib.sha256(image_bytes(image)).hexdigest() for image in question.images)
        return random.Random(json.dumps([self.seed, meaning.goal, images])).random() < self.noise


def _halves(fits: Sequence[float]) -> tuple[float, float]:
    half = len(fits) // 2
    return math.fsum(fits[:half]) / half, math.fsum(fits[half:]) / (len(fits) - half)


def _stated(text: str) -> tuple[float, float]:
    stated = {number: float(value) for number, value in DEGREES.findall(text)}
    if set(stated) != {"1", "2"}:
        raise PromptError("The stand-in judge concludes only from its own description of both images.")
    return stated["1"], stated["2"]


def _gain(before: float, after: float) -> float:
    """Share of the remaining task that was done; at least -1."""
    return max((after - before) / max(1 - before, 1e-6), -1.0)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, x))))


def _binomial(choices: int, mean: float) -> list[float]:
    last = choices - 1
    return [math.comb(last, k) * mean**k * (1 - mean) ** (last - k) for k in range(choices)]
