"""The page's API in this process: answers, refusals, nothing outside the manifest, nothing left behind."""

from __future__ import annotations

import json
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from .conftest import EVIL, EVIL_STEP, EVIL_TASK, PATH_ID, ROWS


def leftovers() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("stepclip-uploads-*/*"))


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Uploads of a test lie in a folder of its own."""
    (tmp_path / "uploads").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "uploads"))


def test_what_is_served(client: Any) -> None:
    about = client.get("/api/about").json()
    assert (about["videos"], about["indexed"], about["most_upload"]) == (6, 4, 200_000)
    assert about["tasks"] == ["8", EVIL_TASK]
    found = client.get("/api/videos", params={"q": "passwd"}).json()
    assert [v["video_id"] for v in found["videos"]] == [PATH_ID] and found["count"] == 1
    assert client.get("/api/videos", params={"first": 4}).json()["count"] == 6
    known = [f"{v.video_id} {v.task} {v.procedure}".lower() for v in client.app.state.served.library.manifest]
    for asked in (
        "",
        "AN",
        "lost 8",
        "8 big lost",
        "\0",
        "8 o",
        "etc 8",
        "\n",
        "a",
        "p 8 a",
        "nothing like it",
    ):
        words = asked.lower().replace("\0", " ").split()
        expected = [
            name for name, text in zip(ROWS, known, strict=True) if all(word in text for word in words)
        ]
        listed = client.get("/api/videos", params={"q": asked}).json()
        assert [v["video_id"] for v in listed["videos"]] == expected and listed["count"] == len(expected), (
            asked
        )
    assert client.get("/health").json() == {"status": "ok", "videos": 4}


def test_search_answers_as_the_command_line_does(client: Any, web_root: Path) -> None:
    from stepclip.pipelines.paths import Layout
    from stepclip.pipelines.searching import search_stage

    layout = Layout(web_root)
    found = client.get("/api/search", params={"q": "pour the water", "top": 4}).json()["answers"]
    for answer, same in zip(found, search_stage(layout, "pour the water", top=4, device="cpu"), strict=True):
        assert answer["video_id"] == same.video_id and answer["score"] == pytest.approx(same.score, abs=1e-5)
        assert answer["start"] <= answer["peak"] <= answer["end"] and "path" not in answer
    script = {"script": "1. take up the flask\n2. stir\n", "top": 2, "task": "8"}
    found = client.post("/api/search/script", json=script).json()["answers"]
    assert {answer["video_id"] for answer in found} == {EVIL, PATH_ID}
    assert [step["step"] for step in found[0]["steps"]] == ["take up the flask", "stir"]
    moment = client.get("/api/search/moment", params={"id": PATH_ID, "at": 1}).json()["answers"]
    assert {answer["video_id"] for answer in moment} == {"anna", "ben", EVIL}
    assert len(client.get("/api/search/video", params={"id": "anna", "top": 2}).json()["answers"]) == 2


def test_a_video_and_its_steps(client: Any) -> None:
    for video_id, (_, task, steps) in ROWS.items():
        video = client.get("/api/video", params={"id": video_id}).json()
        assert video["task"] == task and [s["step"] for s in video["script"]] == steps
        there = [s for s in video["script"] if s["start"] is not None]
        assert bool(there) == video["indexed"] == (video_id not in ("lost", "big"))
        assert video["playable"] == (video_id != "lost")
        assert all(0 <= s["start"] < s["end"] <= video["duration"] + 0.01 for s in there)


@pytest.mark.parametrize(
    "asked", ["../root/runs", "/etc/passwd", "..", "anna/../ben", "anna\x00", "%2e%2e/etc/passwd", "lost "]
)
def test_only_ids_of_the_manifest_are_opened(client: Any, asked: str) -> None:
    for path in ("/api/video", "/media/video", "/media/still", "/api/search/video"):
        answer = client.get(path, params={"id": asked})
        assert answer.status_code == 404 and "root" not in answer.text.replace(asked, ""), path
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"):
        assert client.get(path).status_code == 404


def test_an_id_that_looks_like_a_path_is_its_own_file(client: Any, web_root: Path) -> None:
    sent = client.get("/media/video", params={"id": PATH_ID})
    assert sent.content == (web_root.parent / "videos" / ROWS[PATH_ID][0]).read_bytes()
    assert sent.headers["content-type"] == "video/mp4"
    lost = client.get("/media/video", params={"id": "lost"})
    assert lost.status_code == 404 and str(web_root.parent) not in lost.text


def test_ranges(client: Any, web_root: Path) -> None:
    whole = (web_root.parent / "videos" / "anna.mp4").read_bytes()

    def ask(ranges: str) -> Any:
        return client.get("/media/video", params={"id": "anna"}, headers={"range": ranges})

    part = ask("bytes=100-199")
    assert part.status_code == 206 and part.content == whole[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    assert ask("bytes=-50").content == whole[-50:] and ask("bytes=1000-").content == whole[1000:]
    assert ask(f"bytes={len(whole)}-").status_code == 416 and ask("bytes=9-3").status_code in (400, 416)
    several = ask("bytes=0-9,20-29")
    assert several.status_code == 206 and several.headers["content-type"].startswith("multipart/byteranges")
    head = client.head("/media/video", params={"id": "anna"})
    assert head.headers["content-length"] == str(len(whole)) and head.headers["accept-ranges"] == "bytes"


def test_stills(client: Any) -> None:
    import io

    from PIL import Image

    sizes = set()
    for at in (0, 1.2, 500):
        answer = client.get("/media/still", params={"id": EVIL, "at": at, "height": 24})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
        sizes.add(Image.open(io.BytesIO(answer.content)).size)
    assert sizes == {(32, 24)}
    assert client.get("/media/still", params={"id": EVIL, "at": "nan"}).status_code == 422
    assert client.get("/media/still", params={"id": EVIL, "height": 10**9}).status_code == 422


def test_every_answer_forbids_what_is_not_ours(client: Any) -> None:
    for path in ("/", "/docs", "/static/main.js", "/api/about", "/nowhere", "/media/video?id=anna"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_other_sites_get_nothing(client: Any) -> None:
    assert client.get("/api/about", headers={"host": "evil.example"}).status_code == 400
    script = {"script": "stir"}
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert client.post("/api/search/script", json=script, headers=headers).status_code == 403
        sent = client.post("/api/uploads", content=b"x", headers=headers)
        assert sent.status_code == 403 and not leftovers()
    ours = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert client.post("/api/search/script", json=script, headers=ours).status_code == 200


def test_uploads_come_and_go(client: Any, web_root: Path) -> None:
    video = (web_root.parent / "videos" / "anna.mp4").read_bytes()
    sent = client.post("/api/uploads", params={"name": "../../" + EVIL + ".mp4"}, content=video)
    assert sent.status_code == 201 and sent.json()["bytes"] == len(video)
    token = sent.json()["upload"]
    (kept,) = leftovers()
    assert kept.read_bytes() == video and kept.name == f"{token}.mp4", "a name of our own"
    part = client.get("/media/upload", params={"upload": token}, headers={"range": "bytes=0-3"})
    assert part.status_code == 206 and part.content == video[:4]
    assert client.delete("/api/uploads", params={"upload": token}).status_code == 204
    assert not leftovers()
    assert client.get("/media/upload", params={"upload": token}).status_code == 404
    client.app.state.served.uploads.count = 2
    tokens = [client.post("/api/uploads", content=video).json()["upload"] for _ in range(3)]
    assert {path.stem for path in leftovers()} == set(tokens[1:]), "the oldest makes room"


def test_oversized_and_empty_uploads(client: Any) -> None:
    told = client.post("/api/uploads", content=b"x" * 200_001)
    assert told.status_code == 413

    def untold() -> Any:
        for _ in range(50):
            yield b"x" * 8192

    assert client.post("/api/uploads", content=untold()).status_code == 413, "no length was told"
    assert client.post("/api/uploads", content=b"").status_code == 422
    assert client.post("/api/search/script", content=b"[" * (2 << 20)).status_code == 413
    assert client.post("/api/search/script", content=b'{"script":' + b"[" * 9000).status_code == 422
    assert not leftovers()


def test_bogus_uploads(client: Any, make_audio: Any, tmp_path: Path) -> None:
    sound = make_audio(tmp_path / "sound.mp4").read_bytes()
    for sent in (b"<html><script>alert(1)</script>", b"\x00" * 5000, sound):
        answer = client.post("/api/uploads", params={"name": "a.mp4"}, content=sent)
        assert answer.status_code == 422 and answer.json()["expected"] == "a video file"
        assert tempfile.gettempdir() not in answer.text and not leftovers()


def test_too_long_an_upload(client: Any, web_root: Path) -> None:
    client.app.state.served.most_minutes = 0.01
    video = (web_root.parent / "videos" / "anna.mp4").read_bytes()
    answer = client.post("/api/uploads", content=video)
    assert answer.status_code == 422 and "minutes" in answer.json()["detail"] and not leftovers()


def test_nothing_is_left_when_it_stops(
    library: Any, web_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fastapi.testclient import TestClient

    from stepclip.pipelines.web.app import create_app

    video = (web_root.parent / "videos" / "anna.mp4").read_bytes()
    with TestClient(create_app(library), base_url="http://localhost") as client:
        assert client.post("/api/uploads", content=video).status_code == 201
        assert leftovers()
    assert not list((tmp_path / "uploads").iterdir())
    with TestClient(create_app(library, most_upload=0), base_url="http://localhost") as client:
        assert client.post("/api/uploads", content=b"abc").status_code in (413, 422)
        assert client.get("/api/about").json()["most_upload"] == 0


def test_metrics_count(client: Any) -> None:
    before = client.get("/metrics").text
    client.get("/api/search", params={"q": "stir"})
    client.get("/wp-admin.php")
    after = client.get("/metrics").text
    searched = 'stepclip_requests_total{method="GET",route="/api/search",status="200"} 1.0'
    assert searched in after and searched not in before
    assert 'route="other",status="404"} 1.0' in after and "wp-admin" not in after
    assert "stepclip_videos 4.0" in after and "stepclip_requests_in_progress 1.0" in after


class Addresses(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]


def test_the_pages_need_nothing_from_elsewhere(client: Any) -> None:
    for path in ("/", "/docs"):
        page = Addresses(client.get(path).text)
        assert page.found and all(each.startswith(("/", "#")) for each in page.found) and not page.inline
        for each in page.found:
            if each.startswith("/static"):
                assert client.get(each).status_code == 200, each
    docs = client.get("/docs").text
    for path in client.get("/api/openapi.json").json()["paths"]:
        assert path in docs


def test_what_breaks_inside_is_told_without_paths(client: Any, web_root: Path) -> None:
    bad = client.get("/api/search", params={"q": "stir", "by": "mement"})
    assert bad.status_code == 422 and set(bad.json()) == {"detail", "expected", "run"}
    far = client.get("/api/search/moment", params={"id": "anna", "at": 999})
    assert far.status_code == 422 and "a moment from" in far.json()["expected"]
    assert client.get("/api/search", params={"q": "  "}).status_code == 422
    assert json.loads(client.get("/api/search", params={"q": EVIL_STEP}).text)["answers"]


def test_a_port_that_is_taken(web_root: Path, cli: Any) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("serve", "--root", web_root, "--port", port)
    assert done.code == 2 and f"port {port}" in done.err and "--port 0" in done.err


def test_check(client: Any, web_root: Path) -> None:
    own = client.post("/api/check", json={"video": "anna"}).json()
    assert [s["step"] for s in own["steps"]] == ROWS["anna"][2] and 0 <= own["wrong"] <= 1
    for step in own["steps"]:
        assert step["status"] in ("done", "missing", "moved") and 0 <= step["sure"] <= 1
        assert step["start"] is None or 0 <= step["start"] < step["end"] <= own["duration"] + 0.01
    script = {"script": "1. stir\n2. take up the flask"}
    asked = client.post("/api/check", json={"video": "ben", **script}).json()
    assert [s["step"] for s in asked["steps"]] == ["stir", "take up the flask"]
    video = (web_root.parent / "videos" / "ben.mp4").read_bytes()
    sent = client.post("/api/uploads", params={"name": "b.mp4"}, content=video).json()
    again = client.post("/api/check", json={"upload": sent["upload"], **script}).json()
    assert again["duration"] == asked["duration"] == pytest.approx(sent["duration"], abs=0.2)
    compared = {"a": {"upload": sent["upload"]}, "b": {"video": "ben"}}
    same = client.post("/api/compare", json=compared).json()
    assert same["distance"] < 1e-3 and all(abs(a - b) < 1e-6 for a, b in same["path"])
    other = client.post("/api/compare", json={"a": {"video": "anna"}, "b": {"video": PATH_ID}}).json()
    assert other["distance"] > same["distance"] and other["path"] == sorted(other["path"])
    assert client.post("/api/check", json={"upload": sent["upload"]}).status_code == 422, "no script"


def test_an_id_is_never_opened_as_a_file(
    client: Any, web_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What checks a video takes ids and files; the page must let no id through that names a file."""
    shutil.copy(web_root.parent / "videos" / "anna.mp4", tmp_path / "lost")
    monkeypatch.chdir(tmp_path)
    answer = client.post("/api/check", json={"video": "lost"})
    assert answer.status_code == 422 and "no features" in answer.json()["detail"]
    for asked in (str(tmp_path / "lost"), "./lost", "nobody"):
        assert client.post("/api/check", json={"video": asked, "script": "stir"}).status_code == 404
        compared = {"a": {"video": "anna"}, "b": {"video": asked}}
        assert client.post("/api/compare", json=compared).status_code == 404
    for wrong in ({}, {"video": "anna", "upload": "x"}, {"upload": "../lost", "script": "stir"}):
        assert client.post("/api/check", json=wrong).status_code in (404, 422)
    long = {"video": "anna", "script": "stir\n" * 201}
    assert client.post("/api/check", json=long).status_code == 422
