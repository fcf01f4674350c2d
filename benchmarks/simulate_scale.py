"""What a large collection takes: storage, extraction, index, shards, waiting, cost. A plan on paper.

    python benchmarks/simulate_scale.py [--videos 10000000] [--seconds 300] [--fps 1] [--docs]

Arithmetic from stated rates, and two simulations: a fleet that extracts, with workers that are taken away
and videos that fail; and a search that waits for the slowest of its shards. Rates of encoders are published
ones (the source stands beside), that of exact search is measured (benchmarks/search.json), that of pq too
where that file has it, else assumed (500 queries a second of a million vectors on one core). Prices are
assumptions: give yours. --docs writes the tables into docs/scale.md.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "scale.md"
BEGIN, END = "<!-- written by `python benchmarks/simulate_scale.py --docs` -->", "<!-- /tables -->"
# images per second of one GPU, decoding and loading included where said so; source
ENCODERS = {
    "ViT-B/32": (2500, 512, "A100, end to end, clip-retrieval"),
    "ViT-B/16": (1100, 512, "A100, end to end, clip-retrieval"),
    "ViT-L/14": (312, 768, "A100, end to end, clip-retrieval"),
    "ViT-B/16, compiled, bf16": (5008, 512, "RTX PRO 6000, model alone, timm"),
    "ViT-L/14, compiled, bf16": (1189, 768, "RTX PRO 6000, model alone, timm"),
}


@dataclass(frozen=True)
class Plan:
    """What is asked and assumed."""

    videos: int = 10_000_000
    seconds: float = 300.0  # of a video, mean
    fps: float = 1.0  # frames kept a second
    dim: int = 512
    steps: int = 10  # of a script
    source_fps: float = 30.0
    decode: float = 500.0  # source frames that a core decodes a second (360p; bench_decode.py measures yours)
    gpus: int = 16
    cores: int = 256
    fail: float = 0.02  # of the videos, at the first try
    taken: float = 0.01  # of the workers, an hour, and given back an hour later
    group: int = 32  # videos that a lost worker costs at most
    memory: float = 512e9  # bytes of a search machine
    gpu_hour: float = 2.5
    core_hour: float = 0.05
    gigabyte_month: float = 0.02
    machine_hour: float = 4.0

    @property
    def frames(self) -> float:
        return self.videos * self.seconds * self.fps


def storage(plan: Plan) -> list[tuple[str, float, str]]:
    """(what, bytes, how it is reckoned)."""
    n = plan.frames
    return [
        ("features, float16", n * (2 * plan.dim + 8), "per frame 2 x dim, and 8 of its time"),
        ("moments, exact (float32)", n * 4 * plan.dim, "per frame 4 x dim"),
        ("moments, pq: codes in memory", n * (plan.dim / 8 + 8), "per frame dim / 8, and 8 of its id"),
        ("moments, pq: vectors on the disk", n * 2 * plan.dim, "per frame 2 x dim"),
        ("a moment every 4 s, pq: codes in memory", n / plan.fps / 4 * (plan.dim / 8 + 8), "likewise"),
        ("steps, exact", plan.videos * plan.steps * 4.0 * plan.dim, "per step 4 x dim"),
        ("videos, exact", plan.videos * 4.0 * plan.dim, "per video 4 x dim"),
        ("ordered windows, bfloat16", plan.videos * 64 * 2.0 * plan.dim, "per video 64 x 2 x dim"),
    ]


def extraction_hours(plan: Plan, rate: float) -> tuple[float, float, str]:
    """Hours of decoding on the cores, of encoding on the GPUs, and which of them bounds."""
    decode = plan.videos * plan.seconds * plan.source_fps / (plan.decode * plan.cores) / 3600
    encode = plan.frames / (rate * plan.gpus) / 3600
    return decode, encode, "decoding" if decode > encode else "encoding"


def simulate_fleet(plan: Plan, hours: float, seed: int = 0, groups: int = 20_000) -> float:
    """Hours with workers taken away and videos tried twice, against `hours` of an undisturbed fleet.

    Groups of videos go to whichever worker is free; a worker that is taken loses the group in hand, which is
    done again, and comes back an hour later. Simulated with `groups` groups, each of as many videos as it
    takes; lengths are log-normal.
    """
    rng = np.random.default_rng(seed)
    workers = plan.gpus
    mean = hours * workers / groups
    work = rng.lognormal(-0.5 * 0.5**2, 0.5, groups) * mean * (1 + plan.fail)
    free = [(0.0, w) for w in range(workers)]
    heapq.heapify(free)
    lost = plan.group * groups / plan.videos  # of a simulated group, what a lost worker must do again
    end = 0.0
    for size in work:
        at, worker = heapq.heappop(free)
        taken = rng.exponential(1 / plan.taken) if plan.taken else np.inf
        done = at + size if taken > size else at + size + 1.0 + min(1.0, lost) * size
        end = max(end, done)
        heapq.heappush(free, (done, worker))
    return float(end)


def simulate_search(
    shards: int, service: float, load: float, queries: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """Median and 95th percentile, seconds, of queries that wait for all of `shards`.

    Queries arrive at random, `load` of what a shard can do; each shard answers them in turn, in `service`
    seconds give or take a quarter (log-normal).
    """
    rng = np.random.default_rng(seed)
    arrive = np.cumsum(rng.exponential(service / load, queries))
    latest = np.zeros(queries)
    for _ in range(shards):
        need = rng.lognormal(np.log(service) - 0.5 * 0.25**2, 0.25, queries)
        end = 0.0
        for q in range(queries):
            end = max(end, arrive[q]) + need[q]
            latest[q] = max(latest[q], end - arrive[q])
    return float(np.median(latest)), float(np.quantile(latest, 0.95))


def measured_rates() -> dict[str, float]:
    """Bytes a second that one core reads in an exact search, of the last benchmark; queries a second of pq
    over so many vectors, of the same, or assumed where it was not measured."""
    found = {"exact_bytes_per_s": 10e9, "pq_queries_per_s": 500.0, "pq_count": 1e6}
    path = HERE / "search.json"
    if path.is_file():
        read = json.loads(path.read_text(encoding="utf-8"))
        one = next(row for row in read["exact"]["batches"] if row["batch"] == 1)
        size = 4 * read["what"]["count"] * read["what"]["dim"]
        found["exact_bytes_per_s"] = one["bare FAISS"]["median"] * size
        for row in read["approximate"]:
            if row["kind"] == "pq":
                found["pq_queries_per_s"] = row["sentences"]["1"]["queries_per_s"]["median"]
                found["pq_count"] = read["what"]["count"]
    return found


def size(value: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= scale:
            return f"{value / scale:,.3g} {unit}"
    return f"{value:,.0f} B"


def tables(plan: Plan) -> str:
    """The plan as Markdown."""
    rates = measured_rates()
    lines = [
        f"{plan.videos:,} videos of {plan.seconds:g} s, {plan.fps:g} frames a second, {plan.dim} numbers: "
        f"{plan.frames / 1e9:,.3g} billion frames. {plan.gpus} GPUs, {plan.cores} cores that decode "
        f"{plan.decode:g} frames a second each ({plan.source_fps:g} a second in the videos).",
        "",
        "| storage | | reckoned |",
        "|---|---:|---|",
        *(f"| {what} | {size(value)} | {how} |" for what, value, how in storage(plan)),
        "",
        "| extraction | images/s of a GPU | source | decoding, h | encoding, h | bound by "
        f"| with {plan.taken:.0%} of the workers lost an hour, {plan.fail:.0%} tried twice, h | cost |",
        "|---|---:|---|---:|---:|---|---:|---:|",
    ]  # fmt: skip
    for name, (rate, _, source) in ENCODERS.items():
        decode, encode, bound = extraction_hours(plan, rate)
        real = simulate_fleet(plan, max(decode, encode))
        cost = real * (plan.gpus * plan.gpu_hour + plan.cores * plan.core_hour)
        hours = f"{decode:,.0f} | {encode:,.0f} | {bound} | {real:,.0f}"
        lines.append(f"| {name} | {rate:,} | {source} | {hours} | {cost:,.0f} |")
    lines += [
        "",
        "| index of | kind | in memory | machines | a query alone, one core a shard "
        "| 95th percentile, at half load | a month |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    n = plan.frames
    coarse = n / plan.fps / 4
    for what, kind, count in (
        ("videos", "exact", float(plan.videos)),
        ("steps", "exact", float(plan.videos * plan.steps)),
        ("a moment every 4 s", "pq", coarse),
        ("every frame", "pq", n),
        ("every frame", "exact", n),
    ):
        each = 4.0 * plan.dim if kind == "exact" else plan.dim / 8 + 8
        machines = max(1, int(np.ceil(count * each / (0.8 * plan.memory))))
        shards = machines * 16  # as many cores search
        if kind == "exact":
            service = count * each / shards / rates["exact_bytes_per_s"]
        else:  # cells grow with the root of the count: so does what is looked at
            service = (count / shards / rates["pq_count"]) ** 0.5 / rates["pq_queries_per_s"]
        _, slow = simulate_search(min(shards, 64), service, 0.5)
        month = machines * plan.machine_hour * 730
        waits = f"{1e3 * service:,.1f} ms | {1e3 * slow:,.0f} ms"
        lines.append(f"| {what} | {kind} | {size(count * each)} | {machines} | {waits} | {month:,.0f} |")
    on_disk = ("features", "ordered", "moments, pq: v")
    kept = sum(value for what, value, _ in storage(plan) if what.startswith(on_disk))
    lines += ["", f"Kept on disks ({size(kept)}): {kept / 1e9 * plan.gigabyte_month:,.0f} a month."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("videos", "seconds", "fps", "gpus", "cores", "decode", "memory", "gpu_hour", "core_hour"):
        kind = type(getattr(Plan, name))
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=getattr(Plan, name))
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/scale.md")
    given = vars(parser.parse_args())
    docs = given.pop("docs")
    text = tables(Plan(**given))
    print(text)
    if docs:
        old = DOCS.read_text(encoding="utf-8")
        between = f"{re.escape(BEGIN)}.*{re.escape(END)}"
        new = re.sub(between, lambda _: f"{BEGIN}\n{text}\n{END}", old, flags=re.S)
        DOCS.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
