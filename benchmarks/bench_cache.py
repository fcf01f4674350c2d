"""The feature cache against other ways to keep the same features, and against the disk.

    python benchmarks/bench_cache.py [--root DIR] [--out DIR] [--rounds 5] [--quick]

In one process, the layouts in turn, round by round, the page cache warm, one thread: random batches and a
full load, in processor time, as neighbours on a machine lengthen all other time. Then writing against the
disk, in wall time; and, in processes of their own, opening a cache of 100,000 videos and memory while a cache
of 20 GB is read. Writes cache.json, cache.md and cache.svg into OUT (beside this script). What it makes under
ROOT, 20 GB at a time at most, it removes. --quick: 1 GB in place of 20, a fifth of the videos to open, 3
rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cache_layouts import BATCH, LAYOUTS, Data, Layout, add_videos, open_writer
from cache_report import LARGE, PLAIN, checks, markdown, save
from machine import machine
from rounds import in_turn, measured

from stepclip.cache import FeatureWriter

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Sizes:
    """How much of everything. seconds: of one layout in one round of batches; written, large: bytes."""

    rounds: int = 5
    videos: int = 2000
    frames: int = 129
    dim: int = 512
    seconds: float = 0.4
    many: int = 100_000
    written: int = 1 << 29
    large: int = 20_000_000_000
    quick: bool = False


QUICK = Sizes(rounds=3, many=20_000, written=1 << 28, large=1_000_000_000, quick=True)


def touch_memory(size: int) -> None:
    """Use and free memory: in a virtual machine, what nobody used for a while is slow at its first use."""
    np.ones(size // 8)


# ---- reading


def time_batches(layout: Layout, seconds: float) -> float:
    """Videos per second of processor time, in random batches."""
    pick, done = random.Random(0), 0
    videos = range(len(layout.data))
    batches = [pick.sample(videos, min(BATCH, len(videos))) for _ in range(2000)]
    began = time.process_time()
    for batch in batches:
        layout.batch(batch)
        done += len(batch)
        if time.process_time() - began > seconds:
            break
    return done / (time.process_time() - began)


def time_load(layout: Layout) -> float:
    """GB per second of processor time, all features into fresh memory."""
    touch_memory(layout.data.features.nbytes)
    began = time.process_time()
    layout.load()
    return layout.data.features.nbytes / 1e9 / (time.process_time() - began)


def reading(root: Path, sizes: Sizes) -> dict[str, Any]:
    data = Data.random(sizes.videos, sizes.frames, sizes.dim)
    layouts = [layout(data, root) for layout in LAYOUTS]
    for layout in layouts:
        layout.write()
    for layout in layouts:
        layout.open()
        if layout.whole:
            np.testing.assert_array_equal(layout.load(), data.features)  # and the page cache is warm
        if not layout.sequential:
            np.testing.assert_array_equal(
                layout.batch([3, 1]), np.concatenate([data.video(3), data.video(1)])
            )
    batches = {
        layout.name: lambda layout=layout: time_batches(layout, sizes.seconds)
        for layout in layouts
        if not layout.sequential
    }
    loads = {layout.name: lambda layout=layout: time_load(layout) for layout in layouts if layout.whole}
    per_batch, per_load = in_turn(sizes.rounds, batches), in_turn(sizes.rounds, loads)

    def share(found: dict[str, list[float]], name: str) -> dict[str, Any]:
        first = found[LAYOUTS[0].name]
        return measured([mine / raw for mine, raw in zip(found[name], first, strict=True)])

    rows = []
    for layout in layouts:
        row: dict[str, Any] = {"name": layout.name, "kind": layout.kind}
        if layout.name in per_batch:
            row |= {"videos_per_s": measured(per_batch[layout.name])}
            row |= {"batches_share": share(per_batch, layout.name)}
        if layout.whole:
            row |= {"load_gb_per_s": measured(per_load[layout.name])}
            row |= {"load_share": share(per_load, layout.name)}
        rows.append(row)
    return {"gb": round(data.features.nbytes / 1e9, 3), "layouts": rows}


# ---- in a process of its own


OPEN = """
import json, sys, time
began = time.perf_counter()
from stepclip.cache import FeatureStore
imported = time.perf_counter()
store = FeatureStore.open(sys.argv[1])
cold = time.perf_counter() - imported
assert len(store) == int(sys.argv[2])
store[store.video_ids[-1]].features.sum()
again = time.perf_counter()
FeatureStore.open(sys.argv[1])
print(json.dumps({"cold": cold, "warm": time.perf_counter() - again, "import": imported - began}))
"""

MEMORY = """
import json, random, sys, time
import torch
from stepclip.cache import FeatureStore
import h5py, pyarrow.parquet  # what is loaded once is no part of what reading takes

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

start = peak = anonymous()
began = time.perf_counter()
store = FeatureStore.open(sys.argv[1])
opened, pick, read = anonymous() - start, random.Random(0), 0
for number, video_id in enumerate(store):
    features = store[video_id].features
    features.max()
    read += features.nbytes
    if number % 100 == 0:
        peak = max(peak, anonymous())
mapped = store.mapped()
for _ in range(int(sys.argv[2])):
    videos = [mapped.rows(i) for i in pick.sample(range(len(store)), min(16, len(store)))]
    read += mapped.gather(torch.cat([torch.arange(rows.start, rows.stop) for rows in videos])).nbytes
    peak = max(peak, anonymous())
seconds = time.perf_counter() - began
print(json.dumps({"growth": peak - start, "opened": opened, "read": read, "seconds": seconds}))
"""


def child(code: str, *given: object) -> dict[str, Any]:
    command = [sys.executable, "-c", code, *map(str, given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def opening(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Seconds to open a cache of many short videos, in the writer's own shards of 64 videos."""
    data = Data.random(sizes.many, 4, 16)
    with open_writer(root / "many", data, 64) as writer:
        add_videos(writer, data)
    rounds = [child(OPEN, root / "many", sizes.many) for _ in range(sizes.rounds)]
    shutil.rmtree(root / "many")
    return {"videos": sizes.many} | {
        key: measured([found[key] for found in rounds]) for key in ("cold", "warm", "import")
    }


def memory(root: Path, sizes: Sizes) -> dict[str, Any]:
    """GB that a process grows by, beside what the system keeps of files, while it reads a large cache."""
    block = Data.random(max(1, sizes.videos // 4), sizes.frames, sizes.dim, seed=1)
    repeats = max(1, round(sizes.large / block.features.nbytes))
    with open_writer(root / "large", block) as writer:
        add_videos(writer, block, repeats)
    found = child(MEMORY, root / "large", 500)
    shutil.rmtree(root / "large")
    return {
        "gb": round(repeats * block.features.nbytes / 1e9, 2),
        "videos": repeats * len(block),
        "read_gb": round(found["read"] / 1e9, 2),
        "seconds": round(found["seconds"], 1),
        "growth_gb": round(found["growth"] / 1e9, 4),
        "opened_gb": round(found["opened"] / 1e9, 4),
    }


# ---- writing


def writing(root: Path, sizes: Sizes) -> dict[str, Any]:
    """MB per second of wall time, to the end of the last fsync; new files, one folder, writers long open."""
    data = Data.random(sizes.videos, sizes.frames, sizes.dim)
    repeats = max(1, round(sizes.written / data.features.nbytes))
    size, whole = repeats * data.features.nbytes, memoryview(data.features).cast("B")
    step = 64 << 20

    def plain() -> None:
        with tempfile.NamedTemporaryFile(dir=root, delete=False) as file:
            for first in (first for _ in range(repeats) for first in range(0, len(whole), step)):
                file.write(whole[first : first + step])
            file.flush()
            os.fsync(file.fileno())

    def ours(writer: FeatureWriter) -> Callable[[], None]:
        added = itertools.count(0, repeats * len(data))

        def write() -> None:
            add_videos(writer, data, repeats, next(added))
            writer.commit()

        return write

    def timed(write: Callable[[], None]) -> float:
        touch_memory(4 * size)
        began = time.perf_counter()
        write()
        return size / 1e6 / (time.perf_counter() - began)

    with open_writer(root / "large", data) as large, open_writer(root / "usual", data, 64) as usual:
        ways = {PLAIN: plain, LARGE: ours(large), "FeatureWriter, shards of 64 videos": ours(usual)}
        found = in_turn(sizes.rounds, {name: lambda way=way: timed(way) for name, way in ways.items()})
    shares = {
        name: [a / b for a, b in zip(rounds, found[PLAIN], strict=True)] for name, rounds in found.items()
    }
    return {
        "gb": round(size / 1e9, 2),
        "ways": [
            {"name": name, "mb_per_s": measured(rounds), "share": measured(shares[name])}
            for name, rounds in found.items()
        ],
    }


# ---- what comes out


def run(root: Path, sizes: Sizes) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    root.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "what": asdict(sizes),
        "machine": machine("torch", "numpy", "h5py", "pyarrow", "safetensors", "webdataset"),
    }
    seconds = {}
    for part in (reading, opening, writing, memory):
        folder = Path(tempfile.mkdtemp(prefix=part.__name__, dir=root))
        began = time.perf_counter()
        try:
            result[part.__name__] = part(folder, sizes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        seconds[part.__name__] = round(time.perf_counter() - began, 1)
        print(f"{part.__name__}: {seconds[part.__name__]} s", file=sys.stderr)
    return {**result, "asked": checks(result), "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("build/bench"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    chosen = asdict(QUICK if given.quick else Sizes())
    found = run(given.root, Sizes(**chosen | ({"rounds": given.rounds} if given.rounds else {})))
    save(found, given.out)
    print(markdown(found))
