"""Extraction by several processes, GPUs or machines: dask hands out groups of videos.

`--dask local:2` starts two workers here (with several GPUs, each takes one); `--device cuda:0,cuda:2` one for
each of these devices; `--dask tcp://HOST:PORT` uses a scheduler that is there. A worker that is killed costs
its group's second try: what it had committed is skipped.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from ..cache.catalogue import Catalogue
from ..cache.errors import StepclipError
from ..cache.layout import Failure, read_failures
from ..cache.manifest import Manifest, VideoRow
from ..cache.writer import FeatureWriter
from .display import Display
from .encoders import Encoder, load_encoder
from .encoders.base import resolve_device
from .engine import add_texts, described, extract, fingerprint_of
from .pool import usable_cores
from .report import ExtractionReport
from .run import TooManyFailures
from .todo import Retry, choose, quarantined

GROUP = 32  # videos of one task, at most: what a killed worker costs
LOST = "worker-lost"
_encoders: dict[tuple[Any, ...], Encoder] = {}  # of a worker process: loaded once
_turn = threading.Lock()  # a worker with several threads still works on one group at a time


@dataclass(frozen=True)
class EncoderSpec:
    """What `load_encoder` is called with on each worker; several devices (`cuda:0,cuda:1`) are one each."""

    name: str = "embedded"
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False

    @property
    def devices(self) -> list[str]:
        """What the workers share out among them: the listed ones; for `auto` and `cuda` every GPU."""
        if self.device in ("auto", "cuda"):
            return [f"cuda:{number}" for number in range(_gpus())] if _gpus() > 1 else [self.device]
        return self.device.split(",")

    def load(self, place: int = 0) -> Encoder:
        """The encoder, once per process; of several devices, worker number `place` takes its own."""
        device = self.devices[place % len(self.devices)]
        key = (self.name, device, self.precision, self.compile)
        if key not in _encoders:
            _encoders[key] = load_encoder(*key)
        return _encoders[key]

    def here(self, cluster: str) -> Encoder:
        """The encoder of the one that hands out the work; it encodes the texts.

        The devices of `cluster` are its own where that is local, else it takes what is there. StepclipError
        for a device that is not here.
        """
        if not is_local(cluster):
            return replace(self, device="auto", compile=False).load()
        for device in self.devices:
            resolve_device(device)
        return replace(self, compile=False).load()


@dataclass(frozen=True)
class Task:
    """A group of videos and how to extract them; `options` are those of `extract`."""

    rows: tuple[VideoRow, ...]
    out: str
    encoder: EncoderSpec
    options: dict[str, Any] = field(default_factory=dict)


def extract_on_dask(
    manifest: Manifest,
    out: str | os.PathLike[str],
    cluster: str,
    *,
    encoder: EncoderSpec | None = None,
    retry: Retry | None = None,
    max_failures: int | None = None,
    progress: bool = True,
    group: int = GROUP,
    **options: Any,
) -> ExtractionReport:
    """As `extract`, by the workers of `cluster`: `local`, `local:N`, or a scheduler's address.

    All of them see the same files under the same paths. `options` are those of `extract` (decoder, sampling,
    paragraph_mode, dtype, views, workers, timeout). Raises StepclipError for a scheduler that does not
    answer, workers that may not start processes, and what `extract` raises.
    """
    if not len(manifest):
        raise StepclipError("the manifest has no videos", "one video or more")
    started = time.monotonic()
    spec, retry = encoder or EncoderSpec(), retry or Retry()
    loaded = spec.here(cluster)
    spec = replace(spec, precision=loaded.precision)  # of all alike, whatever `auto` means there
    fingerprint = fingerprint_of(loaded, **{key: options[key] for key in _MAKING if key in options})
    report = ExtractionReport(inputs=len(manifest), fingerprint=fingerprint.digest)
    shape = {"dtype": options.get("dtype", "float16"), "views": options.get("views", 0)}
    with FeatureWriter(out, fingerprint, dim=loaded.dim, **shape) as writer:
        todo = choose(manifest, writer, retry)
        add_texts(writer, loaded, manifest, options.get("paragraph_mode", "chunks"), report)
    report.skipped, report.stale = todo.skipped, todo.stale
    report.failures, report.failed, report.not_tried = list(todo.left), len(todo.left), len(todo.left)
    report.quarantined = quarantined(todo.left, retry.attempts)
    before = Catalogue(writer.path, fingerprint.digest).newest()
    if todo.rows:
        with connected(cluster, len(spec.devices)) as client:
            count = len(client.scheduler_info(n_workers=-1)["workers"])
            if is_local(cluster) and not options.get("workers"):
                options["workers"] = max(1, usable_cores() // count)  # of each: they share these cores
            report.run = f"{described(loaded, options)}, {count} dask workers ({cluster})"
            size = max(1, min(group, math.ceil(len(todo.rows) / (2 * max(count, 1)))))
            given = [todo.rows[place : place + size] for place in range(0, len(todo.rows), size)]
            tasks = [Task(tuple(rows), os.path.abspath(out), spec, options) for rows in given]
            with Display(report, progress) as display:
                _collect(client, tasks, report, display, max_failures)
    _account(report, todo.rows, writer, before)
    report.seconds = time.monotonic() - started
    report.check()
    return report


_MAKING = ("decoder", "sampling", "paragraph_mode", "dtype", "views")


def extract_group(task: Task) -> ExtractionReport:
    """One task, on a worker."""
    if multiprocessing.current_process().daemon:
        raise StepclipError(
            "the dask workers are daemons, which may not start the processes that decode",
            "workers that may",
            "DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker SCHEDULER, on each machine",
        )
    # chosen already by the coordinator: to be tried, whatever happened to them before
    retry = Retry(every=True, attempts=10**9)
    manifest = Manifest(task.rows)
    with _turn:
        encoder = task.encoder.load(place_of_worker())
        return extract(manifest, task.out, encoder=encoder, retry=retry, progress=False, **task.options)


@cache
def place_of_worker() -> int:
    """Which one this dask worker is: by the number in its name, else among those of its machine."""
    from distributed import get_client, get_worker

    worker = get_worker()
    if "://" not in str(worker.name):
        return int(digits[-1]) if (digits := re.findall(r"\d+", str(worker.name))) else 0
    machine = worker.address.rsplit(":", 1)[0]
    known = get_client().scheduler_info(n_workers=-1)["workers"]
    return sorted(each for each in known if each.rsplit(":", 1)[0] == machine).index(worker.address)


def is_local(cluster: str) -> bool:
    return re.fullmatch(r"local(:\d+)?", cluster) is not None


@contextmanager
def connected(cluster: str, devices: int = 1) -> Iterator[Any]:
    """A dask client: of a cluster started here for the block, or of a scheduler that is there.

    devices: how many workers `local` starts, without a number of its own; 2 where that is one.
    """
    import dask
    from distributed import Client, LocalCluster

    local = re.fullmatch(r"local(?::(\d+))?", cluster)
    if local:
        workers = int(local[1] or 0) or (devices if devices > 1 else 2)
        # children that decode; a worker's processes must not be daemons
        with (
            dask.config.set({"distributed.worker.daemon": False}),
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=":0", memory_limit=0
            ) as started,
            Client(started) as client,
        ):
            yield client
        return
    try:
        client = Client(cluster, timeout=15)
    except (OSError, ValueError) as error:
        raise StepclipError(
            f"no dask scheduler answers at {cluster}: {error}",
            "local, local:N, or the address of a scheduler, such as tcp://10.0.0.1:8786",
            "dask scheduler, and on each machine dask worker tcp://HOST:8786",
        ) from error
    try:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise StepclipError(
                f"the scheduler at {cluster} has no workers",
                "one worker or more",
                f"DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker {cluster}, on each machine",
            )
        yield client
    finally:
        client.close()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _collect(
    client: Any, tasks: Sequence[Task], report: ExtractionReport, display: Display, max_failures: int | None
) -> None:
    """Run the tasks; a group whose workers died again and again is told as lost, and the rest goes on."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    futures = client.map(extract_group, tasks, pure=False)
    failed_now = 0
    busy: set[str] = set()
    try:
        for future in as_completed(futures):
            try:
                part: ExtractionReport = future.result()
            except KilledWorker:
                continue
            report.done += part.done + part.skipped  # skipped: committed by a worker that was killed
            report.failed += part.failed
            report.frames += part.frames
            report.damaged |= part.damaged
            _add_stages(report, part)
            failed_now += part.failed
            busy |= set(client.scheduler_info(n_workers=-1)["workers"])
            report.stages.encoders = max(len(busy), 1)
            report.stages.workers = part.stages.workers * report.stages.encoders
            display.show(f"{sum(each.status == 'pending' for each in futures)} groups left")
            if max_failures is not None and failed_now > max_failures:
                raise TooManyFailures(
                    f"{failed_now} videos failed, more than --max-failures {max_failures}",
                    "videos that decode; what is done is kept, failed.jsonl has each reason",
                    "mend what is wrong, then the same again; or a larger --max-failures",
                )
    finally:
        client.cancel(futures)


def _add_stages(report: ExtractionReport, part: ExtractionReport) -> None:
    ours, theirs = report.stages, part.stages
    for name in ("decoding", "decoded", "encoding", "encoded", "texts", "writing", "kept", "written"):
        setattr(ours, name, getattr(ours, name) + getattr(theirs, name))


def _account(report: ExtractionReport, rows: Sequence[VideoRow], writer: FeatureWriter, before: int) -> None:
    """Count by what the cache holds, not by what workers told: a worker may die after it committed."""
    catalogue = Catalogue(writer.path, report.fingerprint)
    failures = {failure.video_id: failure for failure in read_failures(writer.path)}
    done = {name for name, (shard, _) in catalogue.where.items() if shard.committed > before}
    report.done = sum(row.video_id in done for row in rows)
    for row in rows:
        if row.video_id in done:
            continue
        failure = failures.get(row.video_id)
        if failure is None:
            failure = Failure(row.video_id, row.path, LOST, "the workers that had its group died")
            with FeatureWriter(
                writer.path, writer.fingerprint, dim=writer.dim, dtype=writer.dtype, views=writer.views
            ) as noting:
                noting.fail(failure)
        report.failures.append(replace(failure))
    report.failed = len(report.failures)
