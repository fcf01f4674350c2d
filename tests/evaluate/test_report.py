"""The report: self-contained, escaped, the same twice, and whole when parts are missing."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import Manifest
from stepclip.evaluate import evaluate, write_report

from .conftest import World
from .test_evaluation import planted

EVIL = '</td><script>alert("x")</script><img src=x onerror=alert(1)> $\\frac{a}$ & \u202e'


class Page(HTMLParser):
    """Every tag, every attribute and all text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def results(world: World):  # type: ignore[no-untyped-def]
    return evaluate(planted(world, "perfect"), world.store, world.manifest, device="cpu", progress=False)


def log(run) -> None:  # type: ignore[no-untyped-def]
    lines = [
        json.dumps({"step": s, "loss": 3 - s / 100, "coarse": 1.0, "fine": 2 - s / 100})
        for s in range(0, 100, 10)
    ]
    (run / "log.jsonl").write_text("\n".join([*lines, '{"step": 100, "lo']))


def test_whole_page(world: World, results, tmp_path) -> None:  # type: ignore[no-untyped-def]
    log(tmp_path)
    path = write_report(tmp_path, results, world.store, world.manifest)
    text = path.read_text()
    page = Page(text)
    assert (
        path == tmp_path / "report.html" and page.tags.count("img") == 8
    )  # ROC, distances, kinds, training, pseudo-labels, two maps, timelines
    assert page.tags.count("table") == 9 and "script" not in page.tags and "link" not in page.tags
    assert "Left out" not in page.words
    for word in (
        "mean-pool",
        "dtw-raw",
        "duration",
        "clock",
        "uniform",
        world.store.fingerprint.digest,
        "torch",
    ):
        assert word in page.words
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith("data:image/svg+xml;base64,")
            ElementTree.fromstring(base64.b64decode(value.split(",", 1)[1]))
    assert not re.search(r"url\(|@import", text)
    assert write_report(tmp_path, results, world.store, world.manifest).read_text() == text
    assert all(v for k, v in page.attributes if k == "alt")


def test_data_are_escaped(world: World, results, tmp_path) -> None:  # type: ignore[no-untyped-def]
    log(tmp_path)
    videos = tuple(
        replace(v, steps=(EVIL, *v.steps[1:])) if v.video_id == "0.0-p0" else v for v in world.manifest.videos
    )
    store = replace_text(world, EVIL)
    evil = replace(results, run=EVIL, dataset=EVIL, notes=[EVIL], about={**results.about, EVIL: EVIL})
    page = Page(write_report(tmp_path, evil, store, Manifest(videos, name=EVIL)).read_text())
    assert "script" not in page.tags and page.tags.count("img") == 8
    assert page.words.count("<script>alert") >= 4
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "<script>" not in evil.to_markdown()


def replace_text(world: World, text: str):  # type: ignore[no-untyped-def]
    from .conftest import build_world

    store = build_world().store
    store.texts[f"step:{text}"] = store.texts["step:task 0 step 0"]
    return store


def test_what_is_missing_is_said(world: World, results, tmp_path) -> None:  # type: ignore[no-untyped-def]
    bare = Manifest(world.manifest.without_truth().videos, name="bare")
    poor = evaluate(planted(world, "perfect"), world.store, bare, device="cpu", progress=False)
    page = Page(write_report(tmp_path, poor, world.store, bare).read_text())
    assert "img" not in page.tags
    for words in ("no pairs were verified", "no log.jsonl", "no video with true step times"):
        assert words in page.words
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe nonsense\n[1]\n")
    assert "holds no losses" in Page(write_report(tmp_path, poor).read_text()).words
    with pytest.raises(StepclipError, match="no run folder"):
        write_report(tmp_path / "nowhere", results)
