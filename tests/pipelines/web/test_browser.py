"""The page in headless Chromium: typed into and clicked, the player stands there; nothing hostile runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import EVIL, EVIL_STEP, Server

pytestmark = pytest.mark.slow
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(names)})")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def page(request: Any, chromium: Any, server: Server) -> Iterator[Any]:
    """A page that fails its test when anything is asked of elsewhere, or a script breaks or is refused."""
    context = chromium.new_context(viewport=request.param, base_url=server.address)
    made = context.new_page()
    made.set_default_timeout(20_000)
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    made.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    made.on(
        "request",
        lambda asked: None if asked.url.startswith(server.address) else wrong.append(f"asks {asked.url}"),
    )
    yield made
    hurt = made.evaluate("window.hurt")
    wide = made.evaluate("document.documentElement.scrollWidth - innerWidth")
    context.close()
    assert not wrong and hurt is None
    assert wide <= 0, "the page scrolls sideways"


def until(page: Any, expression: str, seconds: float = 20.0) -> None:
    """Waits for an expression of the page (playwright's own waiting wants eval, which the page forbids)."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def stands_at(page: Any, seconds: float, which: int = 0) -> None:
    video = f"document.querySelectorAll('.page:not([hidden]) video')[{which}]"
    until(page, f"{video}.readyState >= 2 && Math.abs({video}.currentTime - {seconds}) < 0.05")


def test_type_click_and_the_player_stands_there(page: Any) -> None:
    page.goto("/")
    page.wait_for_selector(".example")
    page.fill("input[name=q]", "pour the water")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    assert page.locator(".card").count() == 4
    answers = page.evaluate("fetch('/api/search?q=pour+the+water&top=24').then(r => r.json())")["answers"]
    first = answers[0]
    page.click(".card >> nth=0")
    stands_at(page, first["peak"])
    video = page.evaluate(
        "id => fetch('/api/video?id=' + encodeURIComponent(id)).then(r => r.json())", first["video_id"]
    )
    place, step = next(
        (i, s) for i, s in reversed(list(enumerate(video["script"]))) if s["start"] is not None
    )
    page.click(f".steps li:nth-child({place + 1}) button")
    stands_at(page, step["start"])
    page.click(".track .bar-step >> nth=0")
    stands_at(page, next(s["start"] for s in video["script"] if s["start"] is not None))
    there = page.url
    page.click("text=Moments like this")
    until(page, "document.querySelectorAll('.card').length === 3")
    page.go_back()
    until(page, "document.querySelectorAll('.card').length === 4")
    assert page.url == there


def test_a_script_and_its_steps(page: Any) -> None:
    page.goto("/#search")
    page.click("text=A whole script instead")
    page.fill("textarea[name=script]", "1. take up the flask\n2. stir")
    page.click(".page:not([hidden]) button.main")
    page.wait_for_selector(".card")
    page.click(".card >> nth=0")
    page.wait_for_selector(".panel .lane >> nth=1")
    names = page.locator(".lane > span").all_inner_texts()
    assert names[:2] == ["asked", "script"]
    assert "take up the flask" in page.inner_text(".steps li:nth-child(1)")


def test_hostile_names_and_steps_are_words(page: Any) -> None:
    from urllib.parse import urlencode

    page.goto("/#search?" + urlencode({"q": EVIL_STEP, "video": EVIL, "t": 1}))
    page.wait_for_selector(".panel video")
    assert page.inner_text(".panel h2") == EVIL
    assert EVIL_STEP in page.inner_text(".steps")
    assert EVIL_STEP in page.inner_text("[role=status] >> nth=0")
    stands_at(page, 1.0)
    assert page.locator("main script, main img[src=x], main b").count() == 0
    page.goto("/docs")
    page.wait_for_selector('code:text-is("/api/search/script")')


def test_check_a_recording(page: Any) -> None:
    page.goto("/#check")
    page.fill("#check input[role=combobox]", "ann")
    page.click("#check [role=option] >> nth=0")
    until(page, "document.querySelector('#check textarea').value.startsWith('take up the flask')")
    page.fill("#check textarea", f"take up the flask\n{EVIL_STEP}\nput down the flask")
    page.click("#check button.main")
    page.wait_for_selector("#check .result .steps li >> nth=2")
    assert EVIL_STEP in page.inner_text("#check .steps")
    assert "script" in page.inner_text("#check .verdict")
    row = page.locator("#check .steps li:not(.absent) button").last
    row.click()
    bar = page.locator("#check .lane .bar-step.now").first
    bar.wait_for()
    assert row.inner_text().split("\n")[1] in (bar.get_attribute("title") or "")


def test_upload_and_compare(page: Any, web_root: Path) -> None:
    page.goto("/#compare?a=anna&b=ben")
    page.wait_for_selector("#compare .map svg")
    until(page, "[...document.querySelectorAll('#compare video')].every(v => v.readyState >= 2)")
    page.click("#compare .player >> nth=0 >> .bar-step >> nth=1")
    start = page.evaluate("document.querySelectorAll('#compare video')[0].currentTime")
    path = page.evaluate(
        "fetch('/api/compare', {method: 'POST', headers: {'content-type': 'application/json'}, "
        "body: JSON.stringify({a: {video: 'anna'}, b: {video: 'ben'}})}).then(r => r.json())"
    )["path"]
    there = [b for a, b in path if abs(a - start) <= 0.26]
    video = "document.querySelectorAll('#compare video')[1].currentTime"
    until(page, f"{video} >= {min(there) - 0.3} && {video} <= {max(there) + 0.3}")
    with page.expect_file_chooser() as chooser:
        page.click("#compare .picker >> nth=1 >> text=Upload…")
    chooser.value.set_files(web_root.parent / "videos" / "anna.mp4")
    page.wait_for_selector("#compare .picker >> nth=1 >> text=was sent")
    page.click("#compare button.main >> nth=0")
    waiting = "document.querySelector('#compare .verdict').textContent.startsWith('Comparing')"
    until(page, f"!{waiting}", 90.0)  # a process that decodes starts first
    said = page.inner_text("#compare .verdict")
    assert "distance 0.00" in said, said
    until(page, "document.querySelectorAll('#compare video')[1].readyState >= 2")


def test_a_file_that_the_browser_cannot_play(chromium: Any, server: Server, tmp_path: Path) -> None:
    page = chromium.new_page(base_url=server.address)
    page.goto("/#search?video=big&t=0")  # a file of zeros
    page.wait_for_selector(".player .instead")
    assert "cannot play" in page.inner_text(".player")
    page.close()
