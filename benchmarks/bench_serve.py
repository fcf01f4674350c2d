"""How fast the web page answers: `stepclip serve` over many videos, asked by many clients at once.

    .venv/bin/python benchmarks/bench_serve.py            # 100,000 videos of 10 moments, 20 clients; 3 GB
    .venv/bin/python benchmarks/bench_serve.py --quick    # a tenth, for a look

They are searched exactly, and by an approximate index (ivf). The vectors are made, each after the
sentence that its moment shows; the sentences are encoded by the embedded encoder; everything between is the
real command: HTTP, search, answers. Each client asks again when it was answered, with no pause.
serve.json, .md and .svg: milliseconds at the median, the 95th and the 99th percentile, by kind of request;
and the server's processor time per request, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from machine import machine
from made_index import Directions, unit, write_made

from stepclip.cache.files import write_json
from stepclip.cache.manifest import Manifest, VideoRow
from stepclip.evaluate.search.kinds import make_level
from stepclip.extract.encoders import load_encoder

HERE = Path(__file__).parent
TARGET = 200.0  # milliseconds at the 95th percentile
VERBS = ("stir", "pour", "take up", "put down", "shake", "cool", "wipe", "cover", "label", "heat")
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "white", "black")
THINGS = ("flask", "beaker", "cylinder", "bowl", "jar", "bottle", "test tube", "dropper", "rod", "spoon")
SENTENCES = [f"{verb} the {colour} {thing}" for verb in VERBS for colour in COLOURS for thing in THINGS]


def make_root(root: Path, videos: int, moments: int, kind: str = "exact", seed: int = 0) -> Path:
    """A root whose manifest and index hold `videos` that do not exist; the index's folder."""
    encoder = load_encoder("embedded", device="cpu")
    dim = len(encoder.encode_texts(["stir"])[0])
    rng = np.random.default_rng(seed)
    scripts = [rng.choice(len(SENTENCES), 8) for _ in range(500)]
    texts = unit(np.asarray(encoder.encode_texts(SENTENCES), np.float32))
    meant = unit(texts - texts.mean(0))
    # as features of videos are: a common offset, what is shown, the video, the frame; variances fall as 1 / k
    directions = Directions(rng, dim)
    offset, at = 1.2 * unit(rng.normal(size=dim)), np.arange(moments) * 8 // moments
    x = np.empty((videos * moments, dim), np.float32)
    for first in range(0, videos, 5000):
        last = min(videos, first + 5000)
        shown = np.stack([meant[scripts[i % 500][at]] for i in range(first, last)])
        noise = directions.drawn(last - first, moments + 1)
        frames = shown + (0.5 * noise[:, :1] + 0.3 * noise[:, 1:]) @ directions.turn
        x[first * moments : last * moments] = unit(offset + frames.reshape(-1, dim))
    rows = tuple(
        VideoRow(
            f"{i % 500}/{i:07d}",
            f"/nowhere/{i}.mp4",
            str(i % 50),
            str(i % 500),
            "test",
            steps=tuple(SENTENCES[k] for k in scripts[i % 500]),
        )
        for i in range(videos)
    )
    manifest = Manifest(rows, name="made")
    manifest.write(root / "data" / "made" / "manifest")
    write_json(root / "data" / "made" / "extraction.json", {"encoder": "embedded", "precision": "fp32"})
    write_json(root / "runs" / "made" / "source.json", {"dataset": "made"})
    (root / "runs" / "made" / "checkpoints").mkdir()
    queries = None if kind == "exact" else texts
    levels = {
        "videos": make_level(unit(x.reshape(videos, moments, dim).mean(1)), kind, queries),
        "windows": make_level(x, kind, queries),
        "steps": make_level(np.zeros((0, dim), np.float32), "exact"),
    }
    return write_made(
        root / "indexes" / "made", [row.video_id for row in rows], moments, 1.0, levels,
        manifest=manifest, fingerprint=encoder.fields(), labels=at,
    )  # fmt: skip


def ask(port: int, until: float, seed: int, kinds: dict[str, Any], out: list[tuple[str, float, int]]) -> None:
    """One client: asks without a pause until then; (kind, milliseconds, status) of each."""
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while time.monotonic() < until:
        kind = rng.choice(list(kinds))
        path, params = kinds[kind](rng)
        began = time.perf_counter()
        connection.request("GET", f"{path}?{urlencode(params)}")
        answer = connection.getresponse()
        answer.read()
        out.append((kind, 1000 * (time.perf_counter() - began), answer.status))
    connection.close()


def processor_seconds(pid: int) -> float:
    """Of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(
    root: Path, videos: int, moments: int, clients: int, seconds: float, kind: str = "exact"
) -> dict[str, Any]:
    """Serve the made videos and ask; the result, as saved."""
    folder = make_root(root, videos, moments, kind)
    program = Path(sys.executable).with_name("stepclip")
    log = root / "log.txt"
    command = [
        str(program),
        "serve",
        "--root",
        str(root),
        "--index",
        str(folder),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    with open(log, "wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 300
        while "http://" not in log.read_text():
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.2)
        port = int(
            next(word for word in log.read_text().split() if word.startswith("http")).rpartition(":")[2]
        )
        kinds: dict[str, Any] = {
            "a moment": lambda rng: ("/api/search", {"q": rng.choice(SENTENCES), "top": 24}),
            "a whole video": lambda rng: (
                "/api/search",
                {"q": rng.choice(SENTENCES), "by": "video", "top": 24},
            ),
            "one video's steps": lambda rng: (
                "/api/video",
                {"id": f"{(i := rng.randrange(videos)) % 500}/{i:07d}"},
            ),
            "a list of videos": lambda rng: ("/api/videos", {"q": rng.randrange(500), "count": 30}),
        }
        found: list[tuple[str, float, int]] = []
        for warm in (True, False):
            found.clear()
            until = time.monotonic() + (2 if warm else seconds)
            threads = [
                threading.Thread(target=ask, args=(port, until, n, kinds, found)) for n in range(clients)
            ]
            load, before = os.getloadavg()[0], processor_seconds(server.pid)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        spent = processor_seconds(server.pid) - before
        memory = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        server.terminate()
        server.wait(60)
    wrong = [status for _, _, status in found if status != 200]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(found)} were not answered: {sorted(set(wrong))}")

    def figures(taken: list[float]) -> dict[str, float]:
        return {f"p{p}": round(float(np.percentile(taken, p)), 1) for p in (50, 95, 99)} | {
            "count": len(taken)
        }

    return {
        "kind": kind, "videos": videos, "moments": videos * moments, "clients": clients, "seconds": seconds,
        "requests_per_second": round(len(found) / seconds, 1), "memory_gib": round(memory / 2**30, 2),
        "processor_ms_per_request": round(1000 * spent / len(found), 1),
        "all": figures([taken for _, taken, _ in found]), "target_p95": TARGET, "load_before": round(load, 1),
        "kinds": {kind: figures([t for k, t, _ in found if k == kind]) for kind in kinds},
        "machine": machine("fastapi", "uvicorn", "numpy"),
    }  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    lines = [
        "| index | videos | moments | requests/s | median, ms | 95 % | 99 % | processor, ms each "
        "| memory, GiB |",
        "|---|" + 8 * "---:|",
    ]
    for kind, r in results.items():
        every = r["all"]
        lines.append(
            f"| {kind} | {r['videos']:,} | {r['moments']:,} | {r['requests_per_second']:.0f} "
            f"| {every['p50']:.0f} | {every['p95']:.0f} | {every['p99']:.0f} "
            f"| {r['processor_ms_per_request']:.1f} | {r['memory_gib']:.1f} |"
        )
    lines += ["", "| median / 95 %, ms | " + " | ".join(results) + " |", "|---|" + len(results) * "---:|"]
    for name in next(iter(results.values()))["kinds"]:
        cells = (f"{r['kinds'][name]['p50']:.0f} / {r['kinds'][name]['p95']:.0f}" for r in results.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    first = next(iter(results.values()))
    lines += [
        "",
        f"{first['clients']} clients without a pause, {first['seconds']:g} s, {first['machine']['cpu']}, "
        f"{first['machine']['cores']} cores, which the clients share. Asked: {TARGET:g} ms at 95 %.",
    ]
    return "\n".join(lines) + "\n"


def chart(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3), constrained_layout=True)
    names = ["all", *next(iter(results.values()))["kinds"]]
    for n, ((kind, r), colour) in enumerate(
        zip(results.items(), ("#0072B2", "#E69F00", "#009E73"), strict=False)
    ):
        rows = [r["all"], *r["kinds"].values()]
        at = [i + 0.4 * n for i in range(len(rows))]
        axis.barh(at, [row["p95"] for row in rows], 0.35, color=colour, alpha=0.45, label=f"{kind}, 95 %")
        axis.barh(at, [row["p50"] for row in rows], 0.35, color=colour, label=f"{kind}, median")
    axis.axvline(TARGET, color="black", linewidth=0.8, linestyle="--")
    axis.set_yticks([i + 0.2 * (len(results) - 1) for i in range(len(names))], names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds, by kind of request (dashed: asked at 95 %)", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def save(results: dict[str, Any], out: Path) -> None:
    write_json(out / "serve.json", results)
    (out / "serve.md").write_text(markdown(results))
    chart(results, out / "serve.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--kind", default="exact,ivf", help="of the index: exact, ivf, hnsw or pq")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    videos = given.videos // 10 if given.quick else given.videos
    results = {}
    for kind in given.kind.split(","):
        root = Path(tempfile.mkdtemp(prefix="stepclip-bench-serve-"))
        try:
            results[kind] = run(root, videos, given.moments, given.clients, given.seconds, kind)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        print(json.dumps(results[kind], indent=2), flush=True)
        save(results, given.out)


if __name__ == "__main__":
    main()
