"""The report page: what is in the file, and what a real browser makes of it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scored import DURATION, row, write_clips, write_scores

from vrm.scoring.dataset import StoreError
from vrm.scoring.report import write_report
from vrm.scoring.strips import StripBook

HOSTILE = "<img src=x onerror=document.title='owned'> & </script><script>document.title='owned'</script> ⟨立方体⟩ 🎲"
KNEELING = Path(__file__).parents[2] / "videos" / "kneeling.mp4"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_VALUE = "\N{EN DASH}"


def embedded(page: Path):
    """The data inside a page, read as strictly as a browser does."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0], parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def clips(folder):
    return write_clips(folder / "videos # 100%", 12)


@pytest.fixture(scope="module")
def first(folder, clips):
    rows = [row(i, path, 0.05 * i) for i, path in enumerate(clips)]
    rows[3]["prompt"] = HOSTILE
    rows[4]["warning"] = "static"
    curve = {"values": [t / 100 for t in range(101)], "frame_times": [t / 30 for t in range(101)], "duration": 101 / 30}
    rows.append(row(12, KNEELING, 0.9, prompt="a humanoid kneeling on both knees", **curve))
    rows.append(row(13, folder / "gone.mp4", 0.8))
    rows += [row(i, folder / f"broken {i}.mp4", None) for i in (14, 15)]
    rows.append(row(16, folder / "text.mp4", None, error_kind="not_video", error="text.mp4 is not a video."))
    rows += [row(17 + i, path, 20 + i, reward="other", id=f"item {i}") for i, path in enumerate(clips)]
    return write_scores(folder / "first", rows)


@pytest.fixture(scope="module")
def second(folder, clips):
    return write_scores(
        folder / "second", [row(i, path, 0.05 * i + 0.1 - 0.3 * (i == 5)) for i, path in enumerate(clips)]
    )


@pytest.fixture(scope="module")
def report(first):
    return write_report([first])


@pytest.fixture(scope="module")
def both(folder, first, second):
    return write_report([first, second], folder / "pages" / "both.html")


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
def visit(browser):
    """Opens a page; in the end nothing may have gone wrong or gone out."""
    contexts, complaints, addresses = [], [], []

    def open_page(path: Path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {address.split(":")[0] for address in addresses} <= {"file", "data"}


def column(page, name):
    heads = page.locator(".rows thead th").all_inner_texts()
    place = next(i for i, head in enumerate(heads) if head.split(" ")[0] == name)
    return page.locator(f".rows tbody tr td:nth-child({place + 1})").all_inner_texts()


def test_the_page_stands_alone_and_its_data_is_strict_json(report):
    text = report.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert "https://" not in text
    assert text.count("http://") == text.count("http://www.w3.org/2000/svg")
    assert text.lower().count("</script>") == 2
    data = embedded(report)
    assert HOSTILE in data["strings"]
    assert len(data["columns"]["score"]) == 29


def test_the_same_scores_give_the_same_bytes(first, folder):
    one, other = (write_report([first], folder / name).read_bytes() for name in ("one.html", "other.html"))
    assert one == other


def test_videos_are_linked_relative_to_the_page(report, both, clips):
    name = "videos%20%23%20100%25/clip%200.mp4"
    assert f"../{name}" in embedded(report)["strings"]
    assert f"../{name}" in embedded(both)["strings"]
    assert report.parent.parent == both.parent.parent == clips[0].parent.parent


def test_numbers_that_are_not_finite_become_null(tmp_path):
    folder = write_scores(tmp_path, [row(0, "a.mp4", math.nan), row(1, "b.mp4", math.inf), row(2, "c.mp4", 0.5)])
    data = embedded(write_report([folder]))
    assert data["columns"]["score"] == [None, None, 0.5]
    assert data["curves"]["0"][0] == [None] * 8
    assert [entry["runs"][0]["mean"] for entry in data["histograms"]] == [0.5, 0.25, 0.5]


def test_histograms_of_several_runs_share_their_bins(both):
    scores = next(entry for entry in embedded(both)["histograms"] if entry["reward"] == "goal")
    assert [sum(run["counts"]) for run in scores["runs"]] == [14, 12]
    assert scores["runs"][1]["mean"] == pytest.approx(0.35)
    other = next(entry for entry in embedded(both)["histograms"] if entry["reward"] == "other")
    assert other["runs"][1] is None


@pytest.mark.parametrize("scores", [[0.0] * 3, [0.3, 0.1 + 0.2, 0.3], [1e9, 1e9 + 1e-7], [-5.0], [1e-12, 2e-12]])
def test_scores_that_hardly_differ_still_fall_into_bins(tmp_path, scores):
    folder = write_scores(tmp_path, [row(i, "a.mp4", score) for i, score in enumerate(scores)])
    for entry in embedded(write_report([folder]))["histograms"]:
        assert sum(entry["runs"][0]["counts"]) == len(scores)
        assert entry["edges"] == sorted(set(entry["edges"]))


def test_no_clip_is_among_the_best_and_the_worst(tmp_path):
    folder = write_scores(tmp_path, [row(i, "a.mp4", score) for i, score in enumerate((0.1, 0.5, 0.3, 0.2, 0.4))])
    assert embedded(write_report([folder]))["gallery"] == [
        {"run": 0, "reward": "goal", "best": [1, 4, 2], "worst": [0, 3]}
    ]


def test_pictures_stop_at_the_size_limit(clips):
    book = StripBook(max_bytes=1)
    places = [book.add(path) for path in (clips[0], clips[1], clips[0])]
    assert places == [0, 1, 0]
    assert len(book.strips[0]["images"]) == len(book.strips[0]["times"]) == 8
    assert "size limit" in book.strips[1]["note"]


def test_a_broken_file_leaves_a_note_in_place_of_its_frames(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    book = StripBook()
    book.add(tmp_path / "text.mp4")
    assert "cannot be read" in book.strips[0]["note"]


def test_ten_thousand_rows_stay_below_ten_megabytes(ten_thousand):
    assert ten_thousand.stat().st_size < 10_000_000


@pytest.fixture(scope="module")
def ten_thousand(folder, clips):
    rows = [row(i, clips[i % 12], math.sin(i), prompt=f"prompt {i % 500}") for i in range(10_000)]
    return write_report([write_scores(folder / "many", rows)])


def test_bad_calls_are_told_off(tmp_path, first):
    with pytest.raises(ValueError, match="at least one folder"):
        write_report([])
    with pytest.raises(ValueError, match=r"must end in \.html"):
        write_report([first], tmp_path / "report.pdf")
    with pytest.raises(StoreError):
        write_report([tmp_path / "nothing"])
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [write_scores(tmp_path / name / "scores", [row(0, "a.mp4", 0.5)]) for name in ("old", "new")]
    runs = embedded(write_report([*folders, folders[0]]))["runs"]
    assert [run["name"] for run in runs] == ["old/scores", "new/scores", "old/scores (2)"]


def test_the_header_states_the_facts_of_the_run(visit, report):
    page = visit(report)
    tiles = [" ".join(text.split()) for text in page.locator(".tiles li").all_inner_texts()]
    assert tiles == ["17 clips", "17 prompts", "2 rewards", "29 rows", "3 errors"]
    facts = page.locator("#runs .facts").inner_text()
    assert "vrm-sim" in facts
    assert "uniform:8" in facts
    assert re.search(r"av 16\.0 \(\d\d %\), decord 0\.6 \(\d\d %\)", facts)
    assert page.locator("#comparison").is_hidden()


def test_prompts_with_markup_are_shown_as_text(visit, report):
    page = visit(report)
    assert page.title() == "Scores of first"
    assert HOSTILE in page.locator(".rows").inner_text()
    assert page.locator("img[src=x]").count() == 0


def test_a_click_on_a_column_sorts_by_number_with_errors_last(visit, report):
    page = visit(report)
    page.locator(".rows th button", has_text="Score").click()
    falling = column(page, "Score")
    assert falling[:2] == ["31.00", "30.00"]
    assert falling[-3:] == [NO_VALUE] * 3
    page.locator(".rows th button", has_text="Score").click()
    rising = column(page, "Score")
    assert rising[:3] == ["0.000", "0.050", "0.100"]
    assert rising[-3:] == [NO_VALUE] * 3
    page.locator(".rows th button", has_text="Id").click()
    assert column(page, "Id")[::2][:4] == ["item 0", "item 1", "item 2", "item 3"]
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Id")


def test_rows_are_filtered_by_words_reward_and_error(visit, report):
    page = visit(report)
    page.get_by_role("searchbox").fill("kneeling HUMANOID")
    assert column(page, "Id") == ["item 12"]
    page.get_by_role("searchbox").fill("no such row")
    assert page.locator(".rows tbody").inner_text() == "No row matches the filter."
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Only errors").check()
    assert column(page, "Status") == ["truncated", "truncated", "not_video"]
    page.get_by_label("Only errors").uncheck()
    page.get_by_role("combobox", name="Reward").select_option("other")
    assert set(column(page, "Reward")) == {"other"}
    assert column(page, "smoothness")[0] == "10.00"
    assert page.get_by_role("status").inner_text() == "12 rows of 29"


def test_the_best_and_worst_clips_show_their_frames_and_curves(visit, report):
    page = visit(report)
    cards = page.locator("#clips .clip")
    assert [card.split("\n")[2] for card in cards.all_inner_texts()][:2] == ["0.900", "0.800"]
    assert cards.nth(0).locator("h4").inner_text() == "a humanoid kneeling on both knees"
    loaded = (
        cards.nth(0).locator(".strip img").evaluate_all("images => images.map((i) => i.complete && i.naturalHeight)")
    )
    assert loaded == [96] * 8
    assert "not where it was scored" in cards.nth(1).inner_text()
    assert cards.nth(1).locator("video").count() == 0
    assert cards.nth(0).locator(".curve").count() == 1
    page.locator("#clips .tabs button", has_text="other").click()
    assert page.locator("#clips .clip .score").first.inner_text() == "31.00"


def test_a_click_on_the_curve_seeks_the_video(visit, report):
    page = visit(report)
    card = page.locator("#clips .clip[data-row='11']")
    curve = card.locator(".seekable")
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    curve.click(position={"x": box["width"] * (44 + 0.75 * 308) / 360, "y": box["height"] / 2})
    page.wait_for_function("() => document.querySelector(\"[data-row='11'] video\").currentTime > 0")
    assert card.locator("video").evaluate("video => video.currentTime") == pytest.approx(0.75 * DURATION, abs=0.03)
    assert "1.50 s" in card.locator(".readout").inner_text()
    card.locator(".strip button").nth(7).click()
    assert card.locator("video").evaluate("video => video.currentTime") == pytest.approx(23 / 12, abs=0.01)
    curve.press("Home")
    assert card.locator("video").evaluate("video => video.currentTime") == 0
    curve.press("ArrowRight")
    assert card.locator("video").evaluate("video => video.currentTime") == pytest.approx(3 / 12, abs=0.01)


def test_the_cursor_follows_the_playing_video(visit, report):
    page = visit(report)
    card = page.locator("#clips .clip[data-row='12']")
    card.locator("video").evaluate("video => { video.currentTime = 2; }")
    page.wait_for_function(
        "() => document.querySelector(\"[data-row='12'] .seekable\").getAttribute('aria-valuenow') === '2.000'"
    )
    assert card.locator(".readout").inner_text() == "2.00 s · reward 0.600"
    assert float(card.locator(".cursor").get_attribute("x1")) == pytest.approx(44 + 308 * 2 / (101 / 30), abs=0.1)
    assert card.locator(".strip button.now").get_attribute("aria-label") == "Go to 1.90 s"
    card.locator("video").evaluate("video => video.play()")
    page.wait_for_function(
        "() => document.querySelector(\"[data-row='12'] .seekable\").getAttribute('aria-valuenow') > 2.2"
    )


def test_a_row_opens_with_all_its_facts_and_closes_again(visit, report):
    page = visit(report)
    page.locator(".rows .link", has_text="item 16").click()
    dialog = page.locator("dialog")
    assert "text.mp4 is not a video." in dialog.inner_text()
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    page.locator(".rows tbody tr").nth(2).click()
    assert dialog.locator("video").count() == 1
    assert "h264" in dialog.locator(".facts").inner_text()
    dialog.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()


def test_errors_are_grouped_by_kind_with_their_sentences(visit, report):
    page = visit(report)
    assert page.locator(".problem summary").all_inner_texts() == ["truncated2", "not video1", "warning1"]
    assert "broken 14.mp4 is cut off after 3 frames." in page.locator("[data-kind=truncated]").inner_text()
    assert "static" in page.locator("[data-kind=warning]").inner_text()


def test_two_runs_are_compared(visit, both):
    page = visit(both)
    first_line = page.locator(".compare tbody tr").first.inner_text()
    assert first_line.startswith("goal\t11 of 17\t0.286\t0.359\t+0.073 [")
    assert "90.9 %" in first_line
    assert "10 / 0 / 1" in first_line
    assert page.locator(".pair").count() == 11
    assert page.locator(".changes li").count() == 6
    page.locator(".changes .link", has_text="item 5").click()
    assert page.locator("dialog .clip .score").all_inner_texts() == ["0.250", "0.050"]
    page.keyboard.press("Escape")
    page.locator("#comparison .tabs button", has_text="goal: subject").click()
    assert page.locator(".changes .link").first.inner_text() == "item 5"
    page.get_by_role("combobox", name="Run").select_option("second")
    assert set(column(page, "Run")) == {"second"}


def test_every_later_run_is_compared_with_the_first(visit, folder, first, second, clips):
    third = write_scores(folder / "third", [row(i, path, 0.05 * i) for i, path in enumerate(clips)])
    page = visit(write_report([first, second, third], folder / "three.html"))
    page.get_by_role("button", name="third against first").click()
    assert "0 / 11 / 0" in page.locator(".compare tbody tr").first.inner_text()
    assert page.locator("#clips .tabs button").count() == 4


def test_runs_that_share_nothing_say_why(visit, folder, first):
    stranger = write_scores(folder / "stranger", [row(0, "x.mp4", 0.5, id="stranger")])
    page = visit(write_report([first, stranger], folder / "strangers.html"))
    assert "nothing can be paired" in page.locator("#comparison").inner_text()


@pytest.mark.parametrize("name", ["one row", "only errors", "nothing"])
def test_small_and_sad_runs_are_shown_too(visit, folder, clips, name):
    rows = {
        "one row": [row(0, clips[0], 0.5, values=[0.5], frame_times=[0.0])],
        "only errors": [row(i, "x.mp4", None) for i in range(3)],
        "nothing": [],
    }[name]
    page = visit(write_report([write_scores(folder / name, rows)]))
    assert page.get_by_role("status").inner_text() == f"{len(rows)} row{'s' * (len(rows) != 1)} of {len(rows)}"
    assert page.locator("#clips .clip").count() == (name == "one row")


def test_ten_thousand_rows_sort_and_filter_without_delay(visit, ten_thousand):
    page = visit(ten_thousand)
    assert page.locator(".rows tbody tr").count() == 50
    taken = page.evaluate("""() => {
        const start = performance.now();
        document.querySelectorAll(".rows th button")[1].click();
        const box = document.querySelector("input[type=search]");
        box.value = "prompt 499";
        box.dispatchEvent(new Event("input"));
        return performance.now() - start;
    }""")
    assert page.get_by_role("status").inner_text() == "29 rows of 10,000"
    assert taken < 3000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes_and_fits_a_phone(visit, both, scheme):
    page = visit(both, color_scheme=scheme, viewport={"width": 390, "height": 844})
    ink, paper = page.evaluate(
        "() => ['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name])"
    )
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in (ink, paper))
    assert (ink < 60 and paper > 230) if scheme == "light" else (ink > 220 and paper < 40)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
