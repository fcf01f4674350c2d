"""Search at size: exact against bare FAISS, approximate against exact, the ordered re-ranking of scripts.

    python benchmarks/bench_search.py [--root DIR] [--out DIR] [--count 1000000] [--rounds 5] [--quick]

An index of COUNT moments of 512 numbers, 100 to a video, as `stepclip index build` writes it and `stepclip
search` opens it. The vectors are made for it, after what features of videos look like (`made_vectors`). One
thread, processor time, contenders in turn, median of the rounds. Two sorts of queries: moments, which lie
where the indexed vectors lie; and sentences, far from them as texts are from pictures in CLIP (another
offset, cosines of about 0.25 with what they mean). Writes search.json, search.md and search.svg into OUT
(beside this script); what it makes under ROOT, some 9 GB, it removes. --quick: 50,000 vectors.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from made_index import Directions, unit, write_made
from rounds import in_turn, measured
from search_report import save

from stepclip.evaluate.search import SearchIndex, load_faiss
from stepclip.evaluate.search.kinds import Level, make_level, recall, tune
from stepclip.evaluate.search.ordered import CHUNK, WINDOWS, Windows, coarse, script_order

HERE = Path(__file__).parent
PER_VIDEO, STEPS = 100, 8
BATCHES = (1, 16, 256)


@dataclass(frozen=True)
class Sizes:
    count: int = 1_000_000
    dim: int = 512
    clusters: int = 16_000  # steps of all procedures
    queries: int = 1000  # of each sort, for recall
    rounds: int = 5
    candidates: int = 1000
    steps: int = 12
    kinds: tuple[str, ...] = ("ivf", "hnsw", "pq")
    quick: bool = False


def made_vectors(sizes: Sizes, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Unit vectors (N, D) of videos of 100 frames each, and unit queries (Q, D) by sort.

    As features of videos are: a common offset (two random frames have a cosine of about 0.54), directions
    whose variances fall as 1 / k, tasks, procedures of them, 8 steps of each, videos, frames that wander.
    """
    rng = np.random.default_rng(seed)
    directions = Directions(rng, sizes.dim)
    drawn, turn = directions.drawn, directions.turn
    procedures = sizes.clusters // STEPS
    tasks = 0.6 * drawn(max(1, procedures // 10))
    steps = (tasks[rng.integers(len(tasks), size=procedures)] + 0.4 * drawn(procedures))[:, None]
    steps = steps + 0.6 * drawn(procedures, STEPS)
    pictures, words = 1.2 * unit(rng.normal(size=(2, sizes.dim)))
    x = np.empty((sizes.count // PER_VIDEO * PER_VIDEO, sizes.dim), np.float32)
    at = np.arange(PER_VIDEO) * STEPS // PER_VIDEO
    for first in range(0, len(x), 500 * PER_VIDEO):
        videos = min(500, (len(x) - first) // PER_VIDEO)
        noise = 0.3 * drawn(videos, PER_VIDEO)
        for t in range(1, PER_VIDEO):
            noise[:, t] = 0.9 * noise[:, t - 1] + (1 - 0.81) ** 0.5 * noise[:, t]
        frames = steps[rng.integers(procedures, size=videos)][:, at] + 0.5 * drawn(videos)[:, None] + noise
        x[first : first + videos * PER_VIDEO] = unit(pictures + frames.reshape(-1, sizes.dim) @ turn)
    meant = steps.reshape(-1, sizes.dim)[rng.integers(procedures * STEPS, size=sizes.queries)]
    return x, {
        "moments": unit(x[rng.integers(len(x), size=sizes.queries)] + 0.15 * drawn(sizes.queries) @ turn),
        "sentences": unit(words + (0.6 * meant + 0.3 * drawn(sizes.queries)) @ turn),
    }


def write_index(folder: Path, level: Level, sizes: Sizes) -> Path:
    """An index whose moments are `level`, as build_index writes it."""
    videos = len(level) // PER_VIDEO
    small = make_level(np.ones((1, sizes.dim), np.float32) / sizes.dim**0.5, "exact")
    none = make_level(np.zeros((0, sizes.dim), np.float32), "exact")
    whole = make_level(np.repeat(small.vectors(slice(0, 1)), videos, 0), "exact")
    levels = {"videos": whole, "windows": level, "steps": none}
    return write_made(folder, [f"v{i:07d}" for i in range(videos)], PER_VIDEO, 0.5, levels)


def per_second(search: Callable[[np.ndarray], Any], queries: np.ndarray, batch: int, least: float) -> float:
    """Queries per second of processor time, in batches, for at least `least` seconds."""
    done = at = 0
    began = time.process_time()
    while True:
        part = np.take(queries, range(at, at + batch), axis=0, mode="wrap")
        search(part)
        done, at = done + batch, at + batch
        if time.process_time() - began > least:
            return done / (time.process_time() - began)


def exact_search(index: SearchIndex, x: np.ndarray, queries: np.ndarray, sizes: Sizes) -> dict[str, Any]:
    """Ours against bare FAISS, with and without its small-batch trap."""
    faiss = load_faiss()
    bare = faiss.IndexFlatIP(sizes.dim)
    bare.add(x)
    least = 0.1 if sizes.quick else 1.0

    def trapped(part: np.ndarray) -> Any:
        faiss.cvar.distance_compute_blas_threshold = 20
        try:
            return bare.search(part, 10)
        finally:
            faiss.cvar.distance_compute_blas_threshold = 1

    searches = {
        "stepclip": lambda q: index.search_vectors("windows", q, 10),
        "bare FAISS": lambda q: bare.search(q, 10),
        "bare FAISS as it comes": trapped,
    }
    rows = []
    for batch in BATCHES:
        found = speeds(searches, queries, batch, least, sizes.rounds)
        share = [a / b for a, b in zip(found["stepclip"], found["bare FAISS"], strict=True)]
        rows.append(
            {"batch": batch, "share": measured(share)} | {name: measured(v) for name, v in found.items()}
        )
    ours, theirs = (searches[name](queries[:50])[1] for name in ("stepclip", "bare FAISS"))
    assert np.array_equal(ours, theirs), "not the same answers"
    return {"batches": rows}


def speeds(
    searches: dict[str, Callable[[np.ndarray], Any]],
    queries: np.ndarray,
    batch: int,
    least: float,
    rounds: int,
) -> dict[str, list[float]]:
    """Queries per second of each search, round by round."""

    def one(search: Callable[[np.ndarray], Any]) -> Callable[[], float]:
        return lambda: per_second(search, queries, batch, least)

    return in_turn(rounds, {name: one(search) for name, search in searches.items()})


def approximate(
    kind: str, x: np.ndarray, queries: dict[str, np.ndarray], exact: SearchIndex, root: Path, sizes: Sizes
) -> dict[str, Any]:
    """Built, tuned on each sort of queries by the half that is not measured, then measured."""
    began = time.process_time()
    level = make_level(x, kind, queries["moments"][:100])
    built = time.process_time() - began
    folder = write_index(root / kind, level, sizes)
    size = sum(p.stat().st_size for p in folder.rglob("windows.*"))
    memory = (folder / "parts" / "0000" / "windows.faiss").stat().st_size
    found: dict[str, Any] = {"kind": kind, "build_s": round(built, 1), "bytes": size, "memory_bytes": memory}
    del level
    index = SearchIndex.open(folder)
    mapped = index.parts[0].levels["windows"]
    for sort, every in queries.items():
        half = len(every) // 2
        tune(mapped, x, every[:half])
        _, truth = exact.search_vectors("windows", every[half:], 10)
        reached = recall(mapped, every[half:], truth)
        rows = {}
        searches = {
            "approximate": lambda q: index.search_vectors("windows", q, 10),
            "exact": lambda q: exact.search_vectors("windows", q, 10),
        }
        for batch in BATCHES:
            least = 0.1 if sizes.quick else 0.5
            speed = speeds(searches, every[half:], batch, least, max(2, sizes.rounds - 2))
            times = [a / b for a, b in zip(speed["approximate"], speed["exact"], strict=True)]
            rows[str(batch)] = {
                "queries_per_s": measured(speed["approximate"]),
                "times_exact": measured(times),
            }
        found[sort] = {"recall": round(reached, 4), "effort": mapped.effort, "refine": mapped.refine, **rows}
    shutil.rmtree(folder)
    return found


def re_ranking(sizes: Sizes) -> dict[str, Any]:
    """1,000 candidates of 64 windows against a script of 12 steps, both passes, one core."""
    rng = torch.Generator().manual_seed(0)
    videos = 4 * sizes.candidates
    rows = torch.nn.functional.normalize(torch.randn(videos * WINDOWS, sizes.dim, generator=rng), dim=-1)
    windows = Windows(rows.to(torch.bfloat16), np.arange(videos + 1) * WINDOWS)
    steps = torch.nn.functional.normalize(torch.randn(sizes.steps, sizes.dim, generator=rng), dim=-1)
    chosen = np.sort(np.random.default_rng(0).permutation(videos)[: sizes.candidates])

    def timed(action: Callable[[], Any]) -> float:
        began = time.process_time()
        action()
        return 1e3 * (time.process_time() - began)

    blocks, place = windows.rows.view(videos, -1), torch.as_tensor(chosen)
    buffer = torch.empty(CHUNK, blocks.shape[1], dtype=torch.bfloat16)

    size = chosen.size * WINDOWS * sizes.dim * 2 / 1e6

    def read() -> None:
        for first in range(0, len(place), CHUNK):
            part = place[first : first + CHUNK]
            torch.index_select(blocks, 0, part, out=buffer[: len(part)])

    found = in_turn(
        2 * sizes.rounds + 1,
        {
            f"reading their windows alone, {size:.0f} MB": lambda: timed(read),
            "all candidates, bfloat16": lambda: timed(lambda: coarse(windows, chosen, steps)),
            "and the best 16 again, float32": lambda: timed(lambda: script_order(windows, chosen, steps, 5)),
        },
    )
    return {
        "candidates": sizes.candidates, "windows": WINDOWS, "steps": sizes.steps,
        "ms": {name: measured(values) for name, values in found.items()},
    }  # fmt: skip


def run(root: Path, sizes: Sizes, keep: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """Everything in turn; `keep` is given what is there after each part."""
    torch.set_num_threads(1)
    load_faiss().omp_set_num_threads(1)
    root.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"what": asdict(sizes), "machine": machine("faiss-cpu", "torch", "numpy")}
    print("re-ranking", flush=True)
    result["re_ranking"] = re_ranking(sizes)
    print(result["re_ranking"], flush=True)
    x, queries = made_vectors(sizes)
    try:
        began = time.process_time()
        level = make_level(x, "exact")
        built = time.process_time() - began
        folder = write_index(root / "exact", level, sizes)
        del level
        began = time.perf_counter()
        exact = SearchIndex.open(folder)
        opened = time.perf_counter() - began
        result["exact"] = {
            "build_s": round(built, 2), "open_s": round(opened, 4),
            "bytes": (folder / "parts" / "0000" / "windows.faiss").stat().st_size,
            **exact_search(exact, x, queries["moments"], sizes),
        }  # fmt: skip
        print(result["exact"], flush=True)
        result["approximate"] = []
        keep(result)
        for kind in sizes.kinds:
            result["approximate"].append(approximate(kind, x, queries, exact, root, sizes))
            print(result["approximate"][-1], flush=True)
            keep(result)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "stepclip-bench-search")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--count", type=int, default=Sizes.count)
    parser.add_argument("--rounds", type=int, default=Sizes.rounds)
    parser.add_argument("--kinds", default=",".join(Sizes.kinds))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    count = 50_000 if given.quick else given.count
    sizes = Sizes(
        count, clusters=max(10, count // 50), rounds=given.rounds, quick=given.quick,
        kinds=tuple(filter(None, given.kinds.split(","))),
    )  # fmt: skip
    run(given.root, sizes, lambda result: save(result, given.out))


if __name__ == "__main__":
    main()
