"""``vrm label SOURCE``: serve the page on this machine until Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
import socket
import webbrowser
from pathlib import Path
from urllib.parse import quote

from vrm.errors import MissingExtraError, VrmError
from vrm.label.questions import answer_path, open_source

LOCAL = ("127.0.0.1", "localhost")


def label_command(arguments: list[str]) -> int:
    """Parse, serve, and say where the answers are."""
    parser = argparse.ArgumentParser(
        "vrm label",
        description="Compare clips side by side in a browser. Keys: left, right, down (tie), space (skip), u (undo).",
    )
    parser.add_argument(
        "source", type=Path, help="folder of clips, run folder, folder of queries, or table with two columns of clips"
    )
    parser.add_argument("--answers", type=Path, metavar="FILE", help="default: answers.jsonl in the source's folder")
    parser.add_argument("--goal", default="", help="the sentence that decides, where the source has none")
    parser.add_argument("--pairs", type=int, default=200, help="the most pairs that are drawn (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and the order")
    parser.add_argument("--annotator", default="", help="name in the address that is printed; the page asks otherwise")
    parser.add_argument("--host", default=LOCAL[0], help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--open", action="store_true", help="open a browser")
    given = parser.parse_args(arguments)
    if not 0 <= given.port < 65536:
        parser.error(f"--port must lie in [0, 65535], got {given.port}")
    answers = given.answers or answer_path(given.source)
    if answers.suffix != ".jsonl":
        parser.error(f"--answers must end in .jsonl, got {str(answers)!r}")
    source = open_source(given.source, answers, given.pairs, given.seed, given.goal)
    try:
        import uvicorn

        from vrm.label.page import LabelPage, build_app
    except ImportError as error:
        raise MissingExtraError(str(error.name), "label", "The page for labels") from error
    from vrm.label.book import AnswerBook
    from vrm.label.clips import ClipShelf

    book = AnswerBook(answers)
    before = len(book.answers())  # a file that holds something else is told now
    listening = _listen(given.host, given.port)
    token, port = secrets.token_urlsafe(16), listening.getsockname()[1]
    hosts = ["*"] if given.host in ("0.0.0.0", "::") else [*LOCAL, given.host]
    app = build_app(LabelPage(source, book, ClipShelf(answers.parent / ".label")), token, hosts)
    name = f"?annotator={quote(given.annotator)}" if given.annotator else ""
    address = f"http://{given.host}:{port}/{token}/{name}"
    count = len(source.questions())
    print(f"{count} pairs{' so far' if source.live else ''}, {before} answers in {answers}")
    print(f"open {address}  (Ctrl-C ends)", flush=True)
    if given.open:
        webbrowser.open(address)
    try:
        uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
    print(f"{len(book.answers())} answers in {answers}")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise VrmError(
            f"The page cannot listen on {host}:{port} ({error}); choose another --port or --host."
        ) from error
    listening.set_inheritable(True)
    return listening
