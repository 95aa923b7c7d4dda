"""Any server that speaks the OpenAI chat protocol as a judge: vLLM, llama.cpp, Ollama, a cloud."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from PIL import Image
from torch import Tensor

from vrm.errors import MissingExtraError
from vrm.judges.base import Fault, FaultKind, Judge, JudgeError, Question, Reply, normalised

try:
    import httpx
except ImportError as missing:
    raise MissingExtraError("httpx", "judge", "A judge behind HTTP") from missing

ImageFormat = Literal["png", "jpeg"]
TOP_LOGPROBS = (20, 5, 0)  # what is asked for first, and what where a server wants less
USELESS = {401: "refuses the key", 403: "refuses access", 404: "knows no such address or model"}


class HTTPJudge(Judge):
    """Asks one question per request of ``POST URL/chat/completions``, several requests at once.

    Probabilities come from the first written word's ``top_logprobs`` where the server gives them; otherwise the text is
    taken. A request field that the server refuses by name (``logprobs``, ``temperature``, ``seed``, ``max_tokens``) is
    left out or renamed from then on.

    Args:
        url: up to and including ``/v1``.
        model: its name on the server.
        api_key_env: environment variable that holds the key; it is read when asking and goes nowhere but into the
            request's header.
        timeout: seconds for one request.
        concurrency: requests under way at once.
        image_format: ``"png"`` is exact, ``"jpeg"`` smaller.
        logprobs: whether token probabilities are asked for.
        answer_tokens: longest answer to a question with choices; a model that thinks first needs room to do so.

    Raises:
        ValueError: if ``url`` is no http address, or holds a password.

    Example:
        >>> judge = HTTPJudge("http://localhost:8000/v1", "Qwen/Qwen3-VL-8B-Instruct")
        >>> judge.settings()["model"]
        'Qwen/Qwen3-VL-8B-Instruct'
    """

    backend = "http"

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        concurrency: int = 8,
        image_format: ImageFormat = "png",
        logprobs: bool = True,
        answer_tokens: int = 8,
    ) -> None:
        """Check the address; nothing is sent."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(
                f"url must read like 'http://localhost:8000/v1', without password or query, got host "
                f"{parts.hostname!r}; put a key into an environment variable and name it in api_key_env."
            )
        if image_format not in ("png", "jpeg") or not timeout > 0 or concurrency < 1 or answer_tokens < 1:
            raise ValueError(
                "HTTPJudge needs image_format 'png' or 'jpeg', timeout > 0, concurrency >= 1 and answer_tokens >= 1, "
                f"got {image_format!r}, {timeout}, {concurrency} and {answer_tokens}."
            )
        self.url, self.model, self.api_key_env = url.rstrip("/"), model, api_key_env
        self.timeout, self.concurrency = timeout, concurrency
        self.image_format, self.logprobs, self.answer_tokens = image_format, logprobs, answer_tokens
        self._top = TOP_LOGPROBS[0] if logprobs else 0
        self._left_out: set[str] = set()
        self._client: httpx.AsyncClient | None = None

    def settings(self) -> dict[str, Any]:
        """Constructor arguments; the name of the key's variable, never the key."""
        return {
            "url": self.url, "model": self.model, "api_key_env": self.api_key_env, "timeout": self.timeout,
            "concurrency": self.concurrency, "image_format": self.image_format, "logprobs": self.logprobs,
            "answer_tokens": self.answer_tokens,
        }  # fmt: skip

    def identity(self) -> str:
        """The model's name and what is asked of it; not the address, so that a server may move."""
        return json.dumps(["http", self.model, self.image_format, self.logprobs, self.answer_tokens])

    async def __aenter__(self) -> Self:
        """Open the connections.

        Raises:
            JudgeError: if the key's variable is not set.
        """
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        self._client = httpx.AsyncClient(headers=headers, timeout=self.timeout, limits=limits)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Ask one after the other; the runner sends one at a time, and many such calls at once."""
        return [await self._one(question) for question in questions]

    async def _one(self, question: Question) -> Reply:
        assert self._client is not None, "answer() needs `async with judge`"
        body = self._body(question)
        try:
            response = await self._client.post(f"{self.url}/chat/completions", json=body)
        except httpx.TimeoutException:
            return _failed("timeout", f"{self.url} did not answer within {self.timeout:g} s.")
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            return _failed("connection", f"The judge at {self.url} cannot be reached ({reason}); is the server up?")
        if response.status_code != httpx.codes.OK:
            return self._refusal(response, body)
        return self._read(response, question)

    def _body(self, question: Question) -> dict[str, Any]:
        content = [self._content(part) for part in question.parts]
        length = self.answer_tokens if question.choices else question.max_tokens
        body: dict[str, Any] = {
            "model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0, "seed": 0,
        }  # fmt: skip
        body["max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"] = length
        if question.choices and self._top:
            body |= {"logprobs": True, "top_logprobs": self._top}
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _content(self, part: str | Tensor) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        buffer = io.BytesIO()
        Image.fromarray(part.permute(1, 2, 0).cpu().numpy()).save(buffer, self.image_format, quality=95)
        data = base64.b64encode(buffer.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/{self.image_format};base64,{data}"}}

    def _refusal(self, response: httpx.Response, body: dict[str, Any]) -> Reply:
        status, said = response.status_code, self._said(response)
        if status in USELESS:
            key = f"the key in {self.api_key_env}" if self.api_key_env else "api_key_env, which names no key"
            raise JudgeError(
                f"The judge at {self.url} {USELESS[status]} (HTTP {status}: {said}); check the address, model "
                f"{self.model!r} and {key}."
            )
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return _failed("rate", f"{self.url} asks to slow down (HTTP 429: {said}).", _retry_after(response))
        if status >= 500 or status == httpx.codes.REQUEST_TIMEOUT:
            return _failed("server", f"{self.url} failed (HTTP {status}: {said}).", _retry_after(response))
        if self._adapt(said, body):
            return _failed("adapted", f"{self.url} takes another form of request (HTTP {status}: {said}).")
        return _failed("refused", f"{self.url} refused a question (HTTP {status}: {said}).")

    def _adapt(self, said: str, body: dict[str, Any]) -> bool:
        """Change what is sent if a field that was sent is named in the refusal."""
        if "logprobs" in said and "logprobs" in body:
            if self._top == body["top_logprobs"]:  # else another request under way has learned it already
                self._top = TOP_LOGPROBS[TOP_LOGPROBS.index(self._top) + 1]
            return True
        for name in ("max_tokens", "temperature", "seed"):
            if name in said and name in body:
                self._left_out.add(name)
                return True
        return False

    def _read(self, response: httpx.Response, question: Question) -> Reply:
        try:
            answer = response.json()
            choice = answer["choices"][0]
            text = choice["message"]["content"] or ""
            usage = (answer.get("usage") or {}).get("total_tokens") or 0
            if not isinstance(text, str) or not isinstance(usage, int):
                raise TypeError("text or usage has another type")
            positions = (choice.get("logprobs") or {}).get("content") or []
            found, mass = choice_probabilities(positions, question.choices) if question.choices else (None, None)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return _failed(
                "malformed", f"{self.url} answered in no OpenAI form ({type(error).__name__}: {str(error)[:80]})."
            )
        return Reply(found, text, mass, usage)

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise JudgeError(
                f"The judge's key is read from the environment variable {self.api_key_env!r}, which is not set; export "
                "it, or leave api_key_env out for a server without key."
            )
        return key

    def _said(self, response: httpx.Response) -> str:
        """The start of the server's explanation, without the key that some of them repeat."""
        text = " ".join(response.text.split())
        key = self._key()
        return (text.replace(key, "***") if key else text)[:200]


def choice_probabilities(
    positions: Sequence[dict[str, Any]], choices: Sequence[str]
) -> tuple[tuple[float, ...] | None, float | None]:
    """Read probabilities of the choices off the first written word's alternatives.

    A token counts for a choice if it is the choice, or begins no other; case and spaces around are ignored.

    Args:
        positions: ``logprobs.content`` of the protocol, one entry per written token.
        choices: the answers.

    Returns:
        Probabilities that sum to 1 and the share that they have of all; None and None where there are no alternatives,
        None and 0 where no choice is among them or tokens do not tell the choices apart.

    Example:
        >>> alternatives = [{"token": "Yes", "logprob": -0.5}, {"token": "no", "logprob": -2}]
        >>> first = {"token": "Yes", "top_logprobs": alternatives}
        >>> [round(p, 4) for p in choice_probabilities([first], ["yes", "no"])[0]]
        [0.8176, 0.1824]
    """
    plain = [choice.strip().casefold() for choice in choices]
    for entry in positions:
        if not str(entry["token"]).strip():
            continue  # a space or line break before the answer
        alternatives = entry.get("top_logprobs") or []
        if not alternatives:
            return None, None
        masses = [0.0] * len(plain)
        for other in alternatives:
            token, mass = str(other["token"]).strip().casefold(), math.exp(min(float(other["logprob"]), 0.0))
            begun = [i for i, choice in enumerate(plain) if token and choice.startswith(token)]
            if len(begun) > 1:
                return None, 0.0
            for i in begun:
                masses[i] += mass
        return normalised(masses)
    return None, None


def _failed(kind: FaultKind, message: str, wait: float = 0.0) -> Reply:
    return Reply(error=Fault(kind, message, wait))


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(max(float(response.headers.get("retry-after", "0")), 0.0), 600.0)
    except ValueError:
        return 0.0
