"""What the server gives and refuses, asked directly."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx
import pytest
from served import Process, Thread, write_clip, write_clips

from vrm.data.comparisons import AnswerFile, ComparisonError
from vrm.errors import VrmError
from vrm.label.command import label_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_clips(folder / "clips", 3)
    return folder


@pytest.fixture
def client(folder):
    served = Thread(folder / "clips")
    with httpx.Client(base_url=served.address) as client:
        yield client
    served.stop()
    (folder / "clips" / "answers.jsonl").unlink(missing_ok=True)


def state(client, annotator="ann"):
    return client.get("state", params={"annotator": annotator}).json()


def test_clips_come_whole_and_in_ranges(client, folder):
    question = state(client)["question"]
    address = f"clip/{question['id']}/first"
    whole = client.get(address)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(address, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == whole.content[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"


def test_nothing_is_given_without_the_token(client):
    origin = f"{client.base_url.scheme}://{client.base_url.netloc.decode()}"
    question = state(client)["question"]["id"]
    for path in ("/", "/state?annotator=ann", f"/clip/{question}/first", f"/wrong/clip/{question}/first", "/wrong/"):
        assert httpx.get(origin + path).status_code == 404


def test_other_sites_cannot_lead_here_by_their_names(client):
    assert client.get("state?annotator=ann", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "path", ["assets/../page.py", "assets/..%2fpage.py", "clip/..%2f..%2fetc/passwd", "assets/answers.jsonl", "clips"]
)
def test_paths_lead_nowhere_else(client, path):
    assert httpx.get(f"{client.base_url}{path}").status_code == 404


def test_a_clip_that_became_a_link_to_elsewhere_is_refused(client, folder, tmp_path):
    secret = write_clip(tmp_path / "secret.mp4")
    clip = folder / "clips" / "clip 0 #%.mp4"
    kept = clip.read_bytes()
    question = next(place for place in sides(client, folder) if "clip 0" in place[1])
    clip.unlink()
    clip.symlink_to(secret)
    try:
        refused = client.get(f"clip/{question[0]}/{question[2]}")
        assert refused.status_code == 422
        assert "only what is inside can be shown" in refused.json()["error"]
    finally:
        clip.unlink()
        clip.write_bytes(kept)


def sides(client, folder):
    """Every question's id, with the name and the side of each clip in it."""
    answers = AnswerFile(folder / "clips" / "answers.jsonl")
    while question := state(client, "scout")["question"]:
        client.post("answer", json={"annotator": "scout", "question": question["id"], "choice": "skip"})
        answer = answers.read()[-1]
        yield question["id"], answer.first, "first"
        yield question["id"], answer.second, "second"


@pytest.mark.parametrize(
    ("path", "body", "code", "part"),
    [
        ("answer", {"annotator": "ann", "question": "none", "choice": "left"}, 404, "gone"),
        ("answer", {"annotator": "", "question": "none", "choice": "left"}, 400, "name has 1 to 60"),
        ("answer", {"annotator": "x" * 61}, 400, "name has 1 to 60"),
        ("answer", {"annotator": "a\x00b"}, 400, "printable"),
        ("answer", ["left"], 400, "JSON object"),
        ("answer", {"annotator": "x" * 5000}, 413, "at most 4096 bytes"),
        ("undo", {}, 400, "name has"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(client, path, body, code, part):
    found = client.post(path, json=body)
    assert found.status_code == code
    assert part in found.json()["error"]


def test_an_unknown_choice_writes_nothing_and_a_repeated_answer_is_kept_once(client, folder):
    question = state(client)["question"]["id"]
    wrong = client.post("answer", json={"annotator": "ann", "question": question, "choice": "both"})
    assert wrong.status_code == 400
    for choice in ("left", "right"):
        client.post("answer", json={"annotator": "ann", "question": question, "choice": choice})
    answers = AnswerFile(folder / "clips" / "answers.jsonl").read()
    assert len(answers) == 1


def test_sides_change_among_questions_and_labels_follow_them(client, folder):
    lefts = set()
    for number in range(12):
        name = f"annotator {number}"
        question = state(client, name)["question"]
        lefts.add(question["left"])
        client.post("answer", json={"annotator": name, "question": question["id"], "choice": "left"})
        answer = AnswerFile(folder / "clips" / "answers.jsonl").read()[-1]
        assert answer.label == float(question["left"] == "first")
    assert lefts == {"first", "second"}


def test_the_command_listens_on_this_machine_only_says_where_and_ends_clean(folder):
    served = Process(folder / "clips", "--annotator", "ann lee")
    try:
        address = urlsplit(served.address)
        assert address.hostname == "127.0.0.1"
        assert len(address.path.strip("/")) >= 20
        assert address.query == "annotator=ann%20lee"
        assert served.said.startswith("3 pairs, 0 answers in ")
        assert httpx.get(served.address).status_code == 200
    finally:
        served.stop()
    assert served.process.returncode in (0, -15)


def test_bad_arguments_are_sentences(folder, tmp_path, capsys):
    with pytest.raises(ComparisonError, match="There is no folder or table of pairs"):
        label_command([str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        label_command([str(folder / "clips"), "--answers", "answers.csv"])
    assert "--answers must end in .jsonl" in capsys.readouterr().err
    bad = tmp_path / "answers.jsonl"
    bad.write_text('{"what": 1}\n')
    with pytest.raises(ComparisonError, match=r"Line 1 of .* is no answer"):
        label_command([str(folder / "clips"), "--answers", str(bad)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(VrmError, match=f"cannot listen on 127.0.0.1:{port}"):
            label_command([str(folder / "clips"), "--port", str(port)])
