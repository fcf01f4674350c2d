"""The import of one video after the other: read, checked, written; its labels become steps."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import StepclipError
from ..files import locked
from ..layout import LOCK, Failure, read_failures, write_failures
from ..manifest import VideoRow
from ..rows import procedure_of
from ..source import Source
from ..writer import FeatureWriter
from .arrays import ForeignFault
from .foreign import Foreign
from .importreport import ImportReport
from .labels import LabelNames
from .matching import Job, cut
from .recordings import Recording

ZERO_ROWS = ("refuse", "drop")


class ImportRun:
    """Takes one video after the other from its file into the cache; `rows`: theirs, for the manifest."""

    def __init__(
        self,
        foreign: Foreign,
        jobs: Sequence[Job],
        writer: FeatureWriter,
        report: ImportReport,
        names: LabelNames,
        fps: float | None,
        zero_rows: str,
    ) -> None:
        self.foreign, self.jobs, self.writer, self.report = foreign, jobs, writer, report
        self.names, self.fps, self.zero_rows = names, fps, zero_rows
        self.rows: list[VideoRow] = []
        self.sources: dict[Path, Source | None] = {}  # one file may be that of many videos
        self.attempts = {failure.video_id: failure.attempts for failure in read_failures(writer.path)}
        self.tally: Counter[str] = Counter()
        self.labelled = False
        self.fresh: dict[str, Failure] = {}  # written together in the end: a folder may fail as a whole

    def all(self, progress: bool) -> None:
        report, done = self.report, self.writer.done()
        report.inputs = len(self.jobs)
        with self._noting(), progress_bar("import", len(self.jobs), progress) as advance:
            for job in self.jobs:
                start, end = (job.row.start, job.row.end) if job.row and job.cut else (None, None)
                before = self.writer.source(job.video_id) if job.video_id in done else None
                why = before.changed(job.entry.path, start, end) if before else ""
                if why:
                    report.stale[job.video_id] = why
                try:
                    _check_name(job)
                    if job.video_id in done and not why:
                        self._pass_over(job)
                    else:
                        self._take(job, self._source(job.entry.path, start, end))
                except ForeignFault as fault:
                    self._fail(job, fault)
                advance(f"{report.failed} failed" if report.failed else "")
        if self.labelled:
            report.notes.append(self.names.note())
        for what, count in (+self.tally).items():  # those over 0
            report.notes.append(f"{count} {what}")

    def _source(self, path: Path, start: float | None, end: float | None) -> Source | None:
        if path not in self.sources:
            self.sources = {path: Source.of(path)}
        source = self.sources[path]
        return None if source is None else replace(source, start=start, end=end)

    def _take(self, job: Job, source: Source | None) -> None:
        recording = self.foreign.read(job.entry)
        times, duration = recording.clock(self.fps)
        row = self._row(job, recording, times, duration)
        features, keep = self._checked(recording)
        features, times = features[keep], times[keep]
        if job.cut and job.row is not None:
            features, times, duration = cut(features, times, duration, job.row)
        try:
            self.writer.add(job.video_id, features, times, duration, source=source, replace=True)
        except StepclipError as error:
            # only what is wrong with this video's numbers is its own failure; a full disk is the run's
            if not error.found.startswith("the features of"):
                raise
            raise ForeignFault("bad-features", error.found, error.expected) from error
        if self.fps and recording.times is not None:
            self.tally["videos have times of their own, which count, not --fps"] += 1
        elif self.fps and recording.fps not in (None, self.fps):
            self.tally["videos say another rate in their file than --fps, which counts"] += 1
        self.report.done += 1
        self.report.frames += len(times)
        self.rows.append(row)

    def _checked(self, recording: Recording) -> tuple[np.ndarray, np.ndarray]:
        """The features (T, D) in the cache's dtype, and which rows (T,) to keep.

        Raises ForeignFault for another dimension, for numbers that the cache cannot keep, and for zero rows.
        """
        given, writer = recording.features, self.writer
        assert given is not None
        if recording.dim != writer.dim:
            raise ForeignFault(
                "wrong-dimension",
                f"features of {recording.dim} numbers",
                f"{writer.dim}, as the other videos'",
            )
        finite = np.isfinite(given).all(axis=1)
        if not finite.all():
            raise ForeignFault(
                "not-finite",
                f"{np.sum(~finite)} rows hold NaN or infinity, first: row {np.argmin(finite)}",
                "finite numbers",
            )
        with np.errstate(over="ignore"):
            features = given.astype(writer.dtype)
        if not np.isfinite(features).all():
            raise ForeignFault(
                f"beyond-{writer.dtype}",
                f"a value of {np.abs(given).max():g}",
                f"up to {np.finfo(writer.dtype).max:g}, the largest {writer.dtype}",
                "--dtype float32" if writer.dtype == "float16" else "",
            )
        keep = np.any(features, axis=1)
        lost = int(np.sum(~keep))
        if lost and (self.zero_rows == "refuse" or lost == len(keep)):
            first = int(np.argmin(keep))
            small = bool(given[first].any())
            raise ForeignFault(
                "zero-rows",
                f"{lost} rows are all zero{f' as {writer.dtype}' if small else ''}, first: row {first}",
                "features of a frame in every row",
                "--dtype float32" if small else "--zero-rows drop, to leave such rows out",
            )
        self.tally["all-zero rows, left out"] += lost
        return features, keep

    def _pass_over(self, job: Job) -> None:
        """A video that is there already: only its row is made again."""
        self.report.skipped += 1
        row = job.row
        if row is None:
            try:
                recording = self.foreign.read(job.entry, features=False)
                row = self._row(job, recording, *recording.clock(self.fps))
            except ForeignFault as fault:  # its features are there, healthy
                row = VideoRow(job.video_id, str(job.entry.path))
                self.tally[f"videos whose steps cannot be read again ({fault.found})"] += 1
        self.rows.append(row)

    def _row(self, job: Job, recording: Recording, times: np.ndarray, duration: float) -> VideoRow:
        """The video's row, with the steps that its labels say, where no manifest has one."""
        if job.row is not None:
            return job.row
        row = VideoRow(
            job.video_id, str(job.entry.path), split=self.foreign.splits.get(job.entry.video_id, "")
        )
        if recording.labels is None:
            return row
        self.labelled = True
        steps, starts, ends = self.names.steps(recording.labels, times, duration)
        if not steps:
            self.tally["videos that are background throughout, and have no steps"] += 1
            return row
        return replace(row, procedure=procedure_of(steps), steps=steps, step_start=starts, step_end=ends)

    def _fail(self, job: Job, fault: ForeignFault) -> None:
        name = job.video_id.encode("utf-8", "backslashreplace").decode()
        attempts = self.attempts.get(name, 0) + 1
        failure = Failure(name, str(job.entry.path), fault.reason, str(fault), attempts)
        self.fresh[name] = failure
        self.report.failed += 1
        self.report.failures.append(failure)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """The failures come into failed.jsonl, also when the run is stopped."""
        try:
            yield
        finally:
            note_failures(self.writer.path, self.fresh)


def note_failures(folder: Path, fresh: Mapping[str, Failure]) -> None:
    """Failures by video id into failed.jsonl in one go, in place of what was noted of these videos before."""
    if fresh:
        with locked(folder / LOCK):
            others = [failure for failure in read_failures(folder) if failure.video_id not in fresh]
            write_failures(folder, [*others, *fresh.values()])


def _check_name(job: Job) -> None:
    """Names with broken bytes in them cannot be kept. Raises ForeignFault."""
    for what, text in (("name", job.video_id), ("path", str(job.entry.path))):
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ForeignFault(
                "bad-name", f"its {what} {text!r:.120} is no text", "a name in UTF-8, without NUL"
            )


@contextmanager
def progress_bar(what: str, total: int, shown: bool) -> Iterator[Callable[..., None]]:
    """A bar with rate and time left, on standard error; what it gives is called once per video."""
    if not shown:
        yield lambda note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    began = time.monotonic()
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(note: str = "") -> None:
            rate = (bar.tasks[0].completed + 1) / max(time.monotonic() - began, 1e-3)
            bar.update(task, advance=1, rate=f"{rate:,.0f} videos/s" + (f", {note}" if note else ""))

        yield advance
