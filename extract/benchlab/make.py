"""Makes a bench: recordings, manifest, verification pairs, matching lists; the same in CSV's own files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ...cache.errors import StepclipError
from ...cache.files import read_json, write_atomically, write_json
from ...cache.manifest import Manifest, MatchRow, Pair, VideoRow
from .fanout import in_processes
from .people import make_person
from .procedures import FIRST_SEED, PROCEDURES, TEST_TASKS, TRAIN_TASKS, Task, difference, make_tasks
from .render import FPS, SIZE, Recording, record

VERSION = 1  # of what is rendered: raise it when the same seed gives other videos
MAX_PAIRS = 500  # matched, and as many unmatched, as in CSV
MAX_TRAIN_PAIRS = 8500
MATCHING_LISTS = 32  # per query procedure, as in CSV-Matching
SETTINGS = "bench.json"
KINDS = ("matched", "order", "deletion", "addition")


@dataclass(frozen=True)
class _Job:
    """One recording to make."""

    task: int
    procedure: int
    person: str
    split: str
    seed: int
    path: Path

    @property
    def label(self) -> str:
        return f"{self.task}.{self.procedure}"

    @property
    def video_id(self) -> str:
        return f"{self.label}/{self.person}"


def make_benchlab(
    out: str | os.PathLike[str],
    people: int = 5,
    seed: int = 0,
    *,
    workers: int | None = None,
    progress: bool = True,
    size: tuple[int, int] = SIZE,
    fps: int = FPS,
) -> Manifest:
    """Render the bench into `out`: `people` people perform the 45 training procedures, as many others the 25
    of the test; `videos/<procedure>/<person>.mp4`, `manifest/`, `annotations/` (as the CSV release has them).

    Deterministic for a seed. Videos that are there already are kept, so a broken-off call is finished by the
    next. `size` (width, height) in pixels, even; `fps` frames a second; `workers` processes (one per core).
    Raises StepclipError for values out of range, or a folder that holds another bench.
    """
    if people < 2:
        raise StepclipError(f"people = {people}", "2 or more: matched pairs are of different people")
    if not 0 <= seed < FIRST_SEED:
        raise StepclipError(
            f"seed = {seed}", f"0 to {FIRST_SEED - 1}: the embedded encoder has seen the rest"
        )
    if min(size) < 16 or any(side % 2 for side in size) or fps < 1:
        raise StepclipError(f"size = {size}, fps = {fps}", "even sides of 16 pixels or more, 1 fps or more")
    out = Path(out)
    settings = {"version": VERSION, "seed": seed, "people": people, "size": list(size), "fps": fps}
    _check(out, settings)
    tasks = {task.number: task for task in make_tasks(seed)}
    jobs = [
        _Job(task, procedure, person, split, seed, out / "videos" / f"{task}.{procedure}" / f"{person}.mp4")
        for split, numbers in (("train", TRAIN_TASKS), ("test", TEST_TASKS))
        for task in numbers
        for procedure in range(1, PROCEDURES + 1)
        for person in people_of(split, people)
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETTINGS, settings)
    recordings = in_processes(
        _record_one,
        [(job, tasks[job.task], size, fps) for job in jobs],
        lambda made: made.frames,
        workers=workers or os.cpu_count() or 1,
        progress=progress,
    )
    rows = tuple(
        VideoRow(
            job.video_id,
            str(job.path),
            str(job.task),
            job.label,
            job.split,
            steps=tasks[job.task].sentences(job.procedure),
            step_start=made.step_start,
            step_end=made.step_end,
        )
        for job, made in zip(jobs, recordings, strict=True)
    )
    manifest = Manifest(rows, tuple(_pairs(jobs, seed)), tuple(_matching(jobs, seed)), "benchlab")
    manifest.write(out / "manifest")
    _write_release(out / "annotations", manifest)
    return manifest


def people_of(split: str, count: int) -> list[str]:
    """Names of the people of a split; nobody is in two."""
    return [f"{split}{i:02d}" for i in range(count)]


def _check(out: Path, settings: dict) -> None:
    """Refuses a folder that holds another bench, or videos of something else."""
    if not (out / SETTINGS).is_file():
        if (out / "videos").exists():
            raise StepclipError(
                f"{out / 'videos'} exists and is no bench's",
                "a new folder, or that of a bench",
                "another --out",
            )
        return
    found = read_json(out / SETTINGS)
    differing = [f"{k}: {found.get(k)} there, {v} asked" for k, v in settings.items() if found.get(k) != v]
    if differing:
        raise StepclipError(
            f"{out} holds another bench ({'; '.join(differing)})", "one bench to a folder", "another --out"
        )


def _record_one(job: tuple[_Job, Task, tuple[int, int], int]) -> Recording:
    what, task, size, fps = job
    person = make_person(what.person, np.random.default_rng([what.seed, *what.person.encode()]))
    return record(task, what.procedure, person, what.seed, what.path, size=size, fps=fps)


def _pairs(jobs: Sequence[_Job], seed: int) -> Iterator[Pair]:
    """Pairs of different people in a task: matched, and for the test as many that differ, in equal parts."""
    for split, most in (("train", MAX_TRAIN_PAIRS), ("test", MAX_PAIRS)):
        rng = np.random.default_rng([seed, 77, len(split)])
        kinds: dict[str, list[tuple[_Job, _Job]]] = {kind: [] for kind in KINDS}
        of_split = [job for job in jobs if job.split == split]
        for a, b in combinations(of_split, 2):
            if a.task == b.task and a.person != b.person:
                kinds[difference(a.procedure, b.procedure)].append((a, b))
        count = min(most, len(kinds["matched"]))
        for kind in KINDS[:1] if split == "train" else KINDS:
            share = count if kind == "matched" else -(-count // 3)
            for i in sorted(rng.permutation(len(kinds[kind]))[:share]):
                a, b = kinds[kind][i]
                yield Pair(a.video_id, b.video_id, kind == "matched", kind, split)


def _matching(jobs: Sequence[_Job], seed: int) -> Iterator[MatchRow]:
    """For each test procedure, lists of five videos, one of each procedure of its task (weaksvr.md 5.3)."""
    rng = np.random.default_rng([seed, 78])
    for task in TEST_TASKS:
        by_procedure = {
            p: [j.video_id for j in jobs if j.task == task and j.procedure == p]
            for p in range(1, PROCEDURES + 1)
        }
        for p in by_procedure:
            lists = {
                tuple(ids[int(rng.integers(len(ids)))] for ids in by_procedure.values())
                for _ in range(MATCHING_LISTS)
            }
            for candidates in sorted(lists):
                yield MatchRow(f"{task}.{p}", candidates, p - 1, "test")


def _write_release(folder: Path, manifest: Manifest) -> None:
    """The same lists in the formats of the CSV release (weaksvr.md 1.1)."""
    bank = {row.procedure: list(row.steps) for row in manifest}
    labels = {row.video_id: row.procedure for row in manifest}
    lines: dict[str, list[str]] = {"label_bank.json": [json.dumps(bank, indent=4)]}
    for split in ("train", "test"):
        rows = [row for row in manifest if row.split == split]
        lines[f"{split}_split.txt"] = [f"{Path(row.path).name} {row.procedure}" for row in rows]
        lines[f"{split}_pairs.txt"] = [
            f"{p.video_a} {labels[p.video_a]} {p.video_b} {labels[p.video_b]}"
            for p in manifest.pairs
            if p.split == split
        ]
    lines["splits/train.txt"] = [
        f"{row.video_id}\t{row.procedure}" for row in manifest if row.split == "train"
    ]
    lists = [f"{row.procedure} {' '.join(row.candidates)}" for row in manifest.matching]
    lines["splits/text_matching.txt"] = lists
    first: dict[str, list[str]] = {}
    for line in lists:
        first.setdefault(line.split()[0], []).append(line)
    lines["splits/text_retrieval.txt"] = [line for some in first.values() for line in some[:5]]
    for name, text in lines.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(folder / name) as file:
            file.write(("\n".join(text) + "\n").encode())
