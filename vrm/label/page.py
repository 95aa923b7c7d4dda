"""The page's server: one question at a time, answers on disk before they are confirmed, nothing outside the source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from vrm.errors import VrmError
from vrm.label.book import AnswerBook
from vrm.label.clips import PLAYED, ClipShelf
from vrm.label.questions import Question, Source, inside

Side = Literal["first", "second"]
ASSETS = {"label.css": "text/css", "label.js": "text/javascript", "player.js": "text/javascript"}
MAX_NAME = 60  # characters of an annotator's name
MAX_BODY = 4096  # bytes of a request
_PRIVATE = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
}
_POLICY = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"}


class LabelPage:
    """Answers the page's requests.

    Args:
        source: of questions.
        book: of answers.
        shelf: of clips that browsers play.
    """

    def __init__(self, source: Source, book: AnswerBook, shelf: ClipShelf) -> None:
        """Keep the three."""
        self.source, self.book, self.shelf = source, book, shelf

    def state(self, annotator: str) -> dict[str, Any]:
        """What the page shows to one annotator: the next question, and how far they are."""
        questions = self.source.questions()
        mine = self.book.by(annotator)
        open_ones = [question for question in questions if question.names not in mine]
        given = [mine[question.names] for question in questions if question.names in mine]
        asked = {question.names for question in questions}
        everyone: dict[str, int] = {}
        for answer in self.book.answers():
            if (answer.first, answer.second) in asked:
                everyone[answer.annotator] = everyone.get(answer.annotator, 0) + 1
        return {
            "question": _shown(open_ones[0], annotator) if open_ones else None,
            "next": _shown(open_ones[1], annotator) if len(open_ones) > 1 else None,
            "answered": len(given),
            "skipped": sum(answer.label is None for answer in given),
            "total": len(questions),
            "live": self.source.live,
            "annotators": everyone,
            "agreement": [
                {"annotators": a.annotators, "shared": a.shared, "same": a.same, "kappa": a.kappa}
                for a in self.book.agreements(questions)
            ],
        }

    def answer(self, annotator: str, number: str, choice: str) -> dict[str, Any]:
        """Write one answer and go on.

        Args:
            annotator: who answers.
            number: of the question.
            choice: ``"left"``, ``"right"``, ``"tie"`` or ``"skip"``, as the clips were shown to this annotator.
        """
        question = self.find(number)
        left = _shown(question, annotator)["left"] == "first"
        labels = {"left": float(left), "right": float(not left), "tie": 0.5, "skip": None}
        if choice not in labels:
            raise HTTPException(400, f"An answer is one of {', '.join(labels)}, got {choice!r:.40}.")
        self.book.give(question, annotator, labels[choice])
        return self.state(annotator)

    def undo(self, annotator: str) -> dict[str, Any]:
        """Take back the annotator's newest answer and show its question again."""
        self.book.undo(self.source.questions(), annotator)
        return self.state(annotator)

    def clip(self, number: str, side: str) -> Response:
        """One clip of a question, whole or the range that the browser asks for."""
        question = self.find(number)
        if side not in ("first", "second"):
            raise HTTPException(404, f"A question has a first and a second clip, not {side!r:.40}.")
        file = inside(self.source.root, question.first if side == "first" else question.second)
        playable = self.shelf.playable(file)
        headers = {**_PRIVATE, "Cache-Control": "private, max-age=3600"}
        return FileResponse(playable, media_type=PLAYED[playable.suffix.lower()], headers=headers)

    def find(self, number: str) -> Question:
        """The question of that id."""
        for question in self.source.questions():
            if question.id == number:
                return question
        raise HTTPException(404, "This question is gone; it may have been withdrawn. Reload the page.")


def build_app(page: LabelPage, token: str, hosts: Sequence[str]) -> Starlette:
    """Put the page behind ``/TOKEN/``; every other address is unknown.

    Args:
        page: what answers.
        token: secret part of the address.
        hosts: names under which the server may be asked, so that no other site's name can be made to lead here.
    """
    routes = [
        Route("/", _start),
        Route("/assets/{name}", _asset),
        Route("/state", _asked(lambda body: page.state(_annotator(body)))),
        Route(
            "/answer",
            _asked(lambda body: page.answer(_annotator(body), str(body.get("question")), str(body.get("choice")))),
            methods=["POST"],
        ),
        Route("/undo", _asked(lambda body: page.undo(_annotator(body))), methods=["POST"]),
        Route("/clip/{number}/{side}", _clip(page)),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={HTTPException: _refused, VrmError: _failed},
    )


def _start(request: Request) -> Response:
    return Response(_read("label.html"), media_type="text/html", headers={**_PRIVATE, **_POLICY})


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        raise HTTPException(404, "There is no such file.")
    return Response(_read(name), media_type=ASSETS[name], headers=_PRIVATE)


def _read(name: str) -> bytes:
    return (files("vrm.label") / "assets" / name).read_bytes()


def _asked(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
    """Answer a request, whose parameters stand in the address or, posted, in a JSON object."""

    async def respond(request: Request) -> Response:
        body = dict(request.query_params) if request.method == "GET" else await _posted(request)
        return JSONResponse(await run_in_threadpool(handle, body), headers=_PRIVATE)

    return respond


async def _posted(request: Request) -> dict[str, Any]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"A request holds at most {MAX_BODY} bytes.")
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HTTPException(400, "A request must be a JSON object.")
    return found


def _clip(page: LabelPage) -> Callable[[Request], Any]:
    def respond(request: Request) -> Response:
        return page.clip(request.path_params["number"], request.path_params["side"])

    return respond


def _annotator(body: dict[str, Any]) -> str:
    name = " ".join(str(body.get("annotator", "")).split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise HTTPException(400, f"An annotator's name has 1 to {MAX_NAME} printable characters.")
    return name


def _shown(question: Question, annotator: str) -> dict[str, Any]:
    """A question as one annotator sees it; for about half of them the second clip is on the left."""
    swapped = hashlib.blake2b(f"{question.id}/{annotator}".encode(), digest_size=1).digest()[0] % 2
    sides: tuple[Side, Side] = ("second", "first") if swapped else ("first", "second")
    return {"id": question.id, "goal": question.goal, "left": sides[0], "right": sides[1]}


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=_PRIVATE)


def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422, headers=_PRIVATE)
