"""The page in a real browser: keys, undo, two annotators, a killed server, clips in step."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from itertools import pairwise

import pytest
import torch
from served import Process, Thread, write_clip, write_clips

from vrm.data.comparisons import AnswerFile, Segments
from vrm.label.human import HumanLabeller

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
GOAL = "<b>a robot</b> & its ⟨立方体⟩"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    paths = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    working = [path for path in paths if not subprocess.run([path, "--version"], capture_output=True).returncode]
    if not working:
        pytest.skip("no Chromium on this machine (`make test` installs it where it may)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=working[0], args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def serve():
    servers = []

    def start(*arguments, kind=Thread, **settings):
        servers.append(kind(*arguments, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def visit(browser):
    """Opens the page; in the end nothing may have gone wrong but what a test expects, and nothing gone out."""
    contexts, complaints, addresses = [], [], []

    def open_page(address, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {re.split(r"[:/]+", address)[1] for address in addresses if address[:4] != "data"} == {"127.0.0.1"}


@pytest.fixture
def folder(tmp_path):
    write_clips(tmp_path / "clips", 4)
    return tmp_path / "clips"


def press(page, key):
    """Press a key and wait until the page shows what comes of it."""
    before = page.get_attribute("html", "data-ready")
    page.keyboard.press(key)
    page.wait_for_function(
        "(old) => document.documentElement.dataset.ready && document.documentElement.dataset.ready !== old", arg=before
    )


def shown(page):
    """Which clips are on the left and on the right: first or second."""
    return page.evaluate("() => ['left', 'right'].map((id) => document.getElementById(id).src.split('/').pop())")


def answers(folder):
    return AnswerFile(folder / "answers.jsonl").read()


def count(page):
    return page.locator("#count").inner_text()


def test_keys_answer_undo_and_skip_and_a_reload_goes_on(serve, visit, folder):
    page = visit(serve(folder, goal=GOAL, pairs=4).address)
    assert page.evaluate("() => document.activeElement.id") == "name"
    page.keyboard.type("ann")
    press(page, "Enter")
    assert page.locator("#goal").inner_text() == GOAL
    assert count(page) == "0 of 4"

    sides = shown(page)
    press(page, "ArrowLeft")
    (answer,) = answers(folder)
    assert answer.label == float(sides[0] == "first")
    assert (answer.annotator, answer.goal, answer.saw) == ("ann", GOAL, "frames")
    assert abs(answer.time - time.time()) < 60
    assert {(folder / answer.first).is_file(), (folder / answer.second).is_file()} == {True}

    sides = shown(page)
    press(page, "ArrowRight")
    assert answers(folder)[1].label == float(sides[1] == "first")
    press(page, "ArrowDown")
    assert answers(folder)[2].label == 0.5
    third = answers(folder)[2]

    press(page, "u")
    assert len(answers(folder)) == 2
    assert count(page) == "2 of 4"
    press(page, "s")
    assert answers(folder)[2].label is None
    assert (answers(folder)[2].first, answers(folder)[2].second) == (third.first, third.second)
    assert count(page) == "3 of 4, 1 skipped"

    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert count(page) == "3 of 4, 1 skipped"
    press(page, "Space")
    assert page.locator("#done h1").inner_text() == "All done"
    assert len(answers(folder)) == 4
    press(page, "u")
    assert count(page) == "3 of 4, 1 skipped"
    assert page.locator("#ask").is_visible()


def test_two_annotators_answer_the_same_pairs_and_see_how_they_agree(serve, visit, folder):
    server = serve(folder, pairs=3)
    one, other = (visit(f"{server.address}?annotator={name}") for name in ("ann", "ben"))
    for key in ("first", "first", "second"):
        press(one, "ArrowLeft" if shown(one)[0] == key else "ArrowRight")
    for key in ("first", "second", "second"):
        press(other, "ArrowLeft" if shown(other)[0] == key else "ArrowRight")
    assert other.locator("#agreement").inner_text() == "ann and ben agree on 2 of 3, κ 0.40"
    given = answers(folder)
    assert [(a.annotator, a.label) for a in given] == [
        ("ann", 1), ("ann", 1), ("ann", 0), ("ben", 1), ("ben", 0), ("ben", 0)
    ]  # fmt: skip
    assert [a.first for a in given[:3]] == [a.first for a in given[3:]]
    press(one, "u")
    assert [a.annotator for a in answers(folder)] == ["ann", "ann", "ben", "ben", "ben"]


def test_a_server_killed_after_an_answer_has_lost_nothing_and_the_page_says_what_is_not_saved(serve, visit, folder):
    server = serve(folder, "--pairs", "5", kind=Process)
    page = visit(f"{server.address}?annotator=ann")
    press(page, "ArrowDown")
    press(page, "ArrowLeft")
    server.process.kill()
    server.process.wait()
    assert len(answers(folder)) == 2
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#said.bad")
    assert page.locator("#said").inner_text().startswith("Not saved. The server does not answer")
    assert len(answers(folder)) == 2
    again = visit(f"{serve(folder, pairs=5).address}?annotator=ann")
    assert count(again) == "2 of 5"
    assert all("net::ERR_" in text for text in visit.complaints)
    visit.complaints.clear()  # the browser's own words about the dead server, a clip cut off midway among them


def test_clips_play_in_step_from_start_to_start(serve, visit, tmp_path):
    write_clip(tmp_path / "short.mp4", frames=20, fps=20)
    write_clip(tmp_path / "long.mp4", frames=45, fps=30)
    page = visit(f"{serve(tmp_path).address}?annotator=ann")
    seen = page.evaluate("""async () => {
        const videos = ["left", "right"].map((id) => document.getElementById(id));
        const seen = [];
        const end = performance.now() + 3500;
        while (performance.now() < end) {
            await new Promise(requestAnimationFrame);
            seen.push(videos.map((v) => [v.currentTime, v.duration, v.paused, v.seeking]));
        }
        return seen;
    }""")
    both = [(a, b) for a, b in seen if not (a[2] or b[2] or a[3] or b[3])]
    assert len(both) > 20
    apart = sorted(abs(a[0] - b[0]) for a, b in both)
    assert apart[int(0.95 * len(apart))] < 0.05  # a frame at 20 per second
    assert {round(a[1], 1) for a, _ in seen} | {round(b[1], 1) for _, b in seen} == {1.0, 1.5}
    starts = sum(later[0][0] < earlier[0][0] for earlier, later in pairwise(seen))
    assert starts >= 1

    page.keyboard.press("p")
    page.wait_for_function("() => ['left', 'right'].every((id) => document.getElementById(id).paused)")
    assert page.locator("#pause").inner_text().endswith("Play")
    page.wait_for_function("() => ['left', 'right'].every((id) => !document.getElementById(id).seeking)")
    times = page.evaluate(
        "() => ['left', 'right'].map((id) => document.getElementById(id)).map((v) => [v.currentTime, v.duration])"
    )
    at = max(time for time, _ in times)
    assert all(time == pytest.approx(min(at, duration), abs=0.02) for time, duration in times)
    page.keyboard.press("p")
    page.wait_for_function("() => ['left', 'right'].some((id) => !document.getElementById(id).paused)")


def test_questions_of_a_labeller_appear_as_they_arrive(serve, visit, tmp_path):
    labeller = HumanLabeller(tmp_path / "queries", goal="the brighter one", wait=False)
    page = visit(f"{serve(tmp_path / 'queries').address}?annotator=ann")
    assert page.locator("#done h1").inner_text() == "Waiting for questions"
    dark, light = (Segments(torch.full((1, 12, 3, 32, 32), level, dtype=torch.uint8)) for level in (30, 220))
    assert labeller.compare(dark, light).isnan().all()
    page.wait_for_selector("#ask:not([hidden])")
    page.wait_for_selector("html[data-ready]:not([data-ready=done])")
    assert page.locator("#goal").inner_text() == "the brighter one"
    press(page, "ArrowLeft" if shown(page)[0] == "second" else "ArrowRight")
    (late,) = labeller.collect()
    assert late.label == 0
    assert torch.equal(late.second.frames, light.frames)
    assert labeller.compare(dark, light).tolist() == [0.0]


def test_a_clip_that_cannot_be_played_says_why_and_can_only_be_skipped(serve, visit, tmp_path):
    write_clip(tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"this is no video" * 100)
    page = visit(f"{serve(tmp_path).address}?annotator=ann")
    page.wait_for_function("() => /damaged or not a video/.test(document.querySelector('.broken p').textContent)")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#said").inner_text() == "Both clips must be seen first."
    assert answers(tmp_path) == []
    press(page, "Space")
    assert [a.label for a in answers(tmp_path)] == [None]
    assert all("422" in text for text in visit.complaints)
    visit.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes_and_fits_a_phone(serve, visit, folder, scheme):
    address = f"{serve(folder).address}?annotator=ann"
    page = visit(address, color_scheme=scheme, viewport={"width": 390, "height": 844})
    ink, paper = page.evaluate(
        "() => ['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name])"
    )
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in (ink, paper))
    assert (ink < 60 and paper > 230) if scheme == "light" else (ink > 220 and paper < 40)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390


def test_all_can_be_reached_with_tab_and_pressed_with_enter(serve, visit, folder):
    page = visit(f"{serve(folder).address}?annotator=ann")
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.dataset.choice || document.activeElement.id"))
        if reached[-1] == "tie":
            before = page.get_attribute("html", "data-ready")
            press(page, "Enter")
            assert page.get_attribute("html", "data-ready") != before
    assert {"me", "left", "tie", "right", "undo", "skip", "pause", "restart"} <= set(reached)
    assert [a.label for a in answers(folder)] == [0.5]


def test_the_file_reads_as_json_lines(serve, visit, folder):
    page = visit(f"{serve(folder).address}?annotator=ann")
    press(page, "ArrowDown")
    press(page, "u")
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [row.get("retracts", False) for row in rows] == [False, True]
