"""The report: self-contained, escaped, the same twice, and whole when parts are missing."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from stepclip.cache.errors import StepclipError
from stepclip.cache.layout import Failure
from stepclip.cache.manifest import Manifest, VideoRow
from stepclip.evaluate import evaluate, write_report
from stepclip.evaluate.curves import roc_band
from stepclip.evaluate.figures import Picture
from stepclip.evaluate.results import Details
from stepclip.evaluate.timelines import Stills, timelines

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
        path == tmp_path / "report.html" and page.tags.count("img") == 9
    )  # ROC, distances, kinds, training, pseudo-labels, two alignments, timelines, map
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
    assert "script" not in page.tags and page.tags.count("img") == 9
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
    assert page.tags.count("img") == 1, "the map of the videos needs no truth"
    for words in ("no pairs were verified", "no log.jsonl", "no video with true step times"):
        assert words in page.words
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe nonsense\n[1]\n")
    assert "holds no losses" in Page(write_report(tmp_path, poor).read_text()).words
    with pytest.raises(StepclipError, match="no run folder"):
        write_report(tmp_path / "nowhere", results)


def test_frames_lie_over_the_timelines(world: World, results) -> None:  # type: ignore[no-untyped-def]
    asked: dict[str, list[float]] = {}

    def stills(video: VideoRow, seconds: Sequence[float]) -> list[np.ndarray]:
        asked.setdefault(video.video_id, []).extend(seconds)
        return [np.full((30, 40, 3), 200, np.uint8) for _ in seconds]

    def picture(given: Stills | None) -> bytes:
        made = timelines(results, world.manifest, given)
        assert isinstance(made, Picture)
        return base64.b64decode(made.source.split(",", 1)[1])

    without, with_them = picture(None), picture(stills)
    assert with_them.count(b"<image") - without.count(b"<image") == len(asked) == 4, "a strip for each video"
    for video_id, times in asked.items():
        strip, end = (
            times[1:],
            float(results.details.trained.durations[results.details.trained.row(video_id)]),
        )
        assert strip == sorted(strip) and strip[0] > 0 and strip[-1] < end and len(strip) >= 3
    assert picture(lambda video, seconds: []) == without, "files that cannot be read"


def test_failed_extractions_are_listed(world: World, results, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from .conftest import build_world

    bare, lacking = replace(results, details=Details()), build_world()
    assert "No video failed; 36 have" in write_report(tmp_path, bare, world.store, world.manifest).read_text()
    for n, video_id in enumerate(list(lacking.store.frames)[:12]):
        del lacking.store.frames[video_id]
        lacking.store.failed.append(Failure(video_id, "x.mp4", "truncated" if n else EVIL))
    lacking.store.failed.append(Failure("not in the manifest", "x.mp4", "missing-file"))
    text = write_report(tmp_path, bare, lacking.store, lacking.manifest).read_text()
    rows = re.findall(r"<tr><td>(.*?)</td><td>(\d+)</td><td>(.*?)</td></tr>", text)
    assert rows[0][:2] == ("truncated", "11") and len(rows) == 2
    assert rows[0][2].count(", ") == 8 and rows[0][2].endswith(", ...")
    assert "script" not in Page(text).tags and "missing-file" not in text


def test_the_band_of_a_roc_curve() -> None:
    """Against the quantiles of curves drawn by hand: thresholds one by one, on the same resamples."""
    rng = np.random.default_rng(1)
    unmatched = np.arange(60) < 25
    distances = rng.normal(size=60) + unmatched
    at = np.linspace(0, 1, 11)
    low, high = roc_band(unmatched, distances, at, resamples=40, seed=3)
    draws = np.random.default_rng(3)
    far, near = np.flatnonzero(unmatched), np.flatnonzero(~unmatched)
    curves = []
    for _ in range(40):
        a, b = distances[draws.choice(far, 25)], distances[draws.choice(near, 35)]
        points = [(0.0, 0.0)]
        points += [((b >= t).mean(), (a >= t).mean()) for t in sorted({*a, *b}, reverse=True)]
        curves.append(np.interp(at, *np.array(points).T))
    assert low == pytest.approx(np.quantile(curves, 0.025, axis=0), abs=1e-9)
    assert high == pytest.approx(np.quantile(curves, 0.975, axis=0), abs=1e-9)
    assert (low <= high).all() and high[0] < 1 and low[-1] == 1


def test_the_map_puts_what_is_alike_together(world: World, results) -> None:  # type: ignore[no-untyped-def]
    from stepclip.evaluate.maps import _flat, embedding_map

    rng = np.random.default_rng(0)
    heaps = np.repeat(np.eye(8)[:4], 12, axis=0) + 0.05 * rng.normal(size=(48, 8))
    points = _flat(heaps.astype(np.float32))
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(48)
    assert (apart.argmin(1) // 12 == np.arange(48) // 12).mean() > 0.95
    assert np.isfinite(_flat(np.ones((9, 4), np.float32))).all()
    made = embedding_map(results, world.manifest)
    assert isinstance(made, Picture) and made == embedding_map(results, world.manifest)
    assert "task" in made.caption and "step" in made.caption
    assert isinstance(embedding_map(results, None), str)
