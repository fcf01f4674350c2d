"""A root whose names and sentences are hostile, trained for two steps, and the page over it."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import SMALL

EVIL = '<img src=x onerror="window.hurt=1">'
EVIL_STEP = "</script><script>window.hurt=1</script>"
EVIL_TASK = '"><b onmouseover=alert(1)>7</b>'
PATH_ID = "../../etc/passwd"
# video id -> file, task, steps
ROWS = {
    "anna": ("anna.mp4", EVIL_TASK, ["take up the flask", "pour the water", "stir", "put down the flask"]),
    "ben": ("ben.mp4", EVIL_TASK, ["take up the flask", "stir", "pour the water", "put down the flask"]),
    EVIL: (f"{EVIL}.mp4", "8", ["take up the flask", EVIL_STEP, "put down the flask"]),
    PATH_ID: ("dora 'x'; rm.mp4", "8", ["take up the flask", EVIL_STEP, "put down the flask"]),
    "lost": ("lost.mp4", "8", ["stir", "pour the water"]),
    "big": ("big.mp4", "8", ["stir", "pour the water"]),
}
SLOW = ("--upload-seconds", "4")
BIG = 128 << 20  # bytes of nothing: no video, and more than the buffers between server and client


@pytest.fixture(scope="session")
def web_root(
    tmp_path_factory: pytest.TempPathFactory, make_mp4: Callable[..., Path], tiny_clip: Path
) -> Path:
    """data/mine and a run over it. Read only."""
    from stepclip.pipelines.paths import Layout
    from stepclip.pipelines.stages import extract_stage, train_stage

    folder = tmp_path_factory.mktemp("web")
    for n, (file, _, _) in enumerate(ROWS.values()):
        if file == "big.mp4":
            with open(folder / "videos" / file, "wb") as out:
                out.truncate(BIG)
        elif file != "lost.mp4":
            make_mp4(folder / "videos" / file, seconds=2 + n / 2, shade=n)
    with open(folder / "mine.csv", "w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["video", "video_id", "task", "steps"])
        for video_id, (file, task, steps) in ROWS.items():
            rows.writerow([f"videos/{file}", video_id, task, "|".join(steps)])
    layout = Layout(folder / "root")
    extract_stage(
        layout, manifest=str(folder / "mine.csv"), encoder=str(tiny_clip), device="cpu", workers=1,
        progress=False,
    )  # fmt: skip
    train_stage(layout, "mine", overrides=[*SMALL, "seed=3"], device="cpu", progress=False)
    return folder / "root"


@pytest.fixture(scope="session")
def library(web_root: Path) -> Any:
    from stepclip.pipelines.paths import Layout
    from stepclip.pipelines.web.library import Library

    return Library(Layout(web_root), device="cpu")


@pytest.fixture
def client(library: Any) -> Iterator[Any]:
    """The page in this process; uploads of up to 200 kB."""
    from fastapi.testclient import TestClient

    from stepclip.pipelines.web.app import create_app

    with TestClient(create_app(library, most_upload=200_000), base_url="http://localhost") as made:
        yield made


class Server:
    """`stepclip serve` in a process of its own."""

    def __init__(self, root: Path, log: Path, *words: str) -> None:
        program = Path(sys.executable).with_name("stepclip")
        self.log = log
        command = [str(program), "serve", "--root", str(root), "--port", "0", "--device", "cpu", *words]
        self.folder = log.parent / "tmp"
        self.folder.mkdir()
        variables = {**os.environ, "TMPDIR": str(self.folder)}
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=variables)
        until = time.monotonic() + 90
        while "http://" not in log.read_text():
            assert self.process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        self.address = next(word for word in log.read_text().split() if word.startswith("http://"))
        self.port = int(self.address.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def open_files(self) -> list[str]:
        found = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                found.append(str(link.readlink()))
            except OSError:
                continue
        return found

    def uploads(self) -> list[Path]:
        return list(self.folder.glob("stepclip-uploads-*/*"))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def children(self) -> list[str]:
        """Processes it has started, but Python's own tracker of semaphores, which ends with it."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        pids = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        said = {
            pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in pids if Path(f"/proc/{pid}").exists()
        }
        return [pid for pid, command in said.items() if "resource_tracker" not in command]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(web_root: Path, library: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the slow tests (`library` first: it builds the index)."""
    made = Server(web_root, tmp_path_factory.mktemp("serve") / "log.txt", "--max-upload", "1", *SLOW)
    yield made
    if made.process.poll() is None:
        made.stop()
