"""The extraction engine: manifest, decoding processes, batches across videos, encoder, feature cache."""

from __future__ import annotations

import io
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.errors import StepclipError
from ..cache.files import write_json
from ..cache.fingerprint import SCHEMA, Fingerprint
from ..cache.layout import read_failures
from ..cache.manifest import Manifest, VideoRow
from ..cache.source import Source
from ..cache.store import Failure
from ..cache.writer import FeatureWriter
from .decoders import get_decoder
from .decoders.base import Sampling
from .encoders import Encoder, load_encoder
from .paragraphs import JOIN, OverLong, encode_paragraphs, find_over_long
from .pool import Chunk, DecodePool, Done, Failed, Job, Plan, usable_cores

BATCH = 256  # frames that are encoded together, whichever videos they are of
TIMEOUT = 600.0  # seconds of decoding per video


@dataclass
class ExtractionReport:
    """What an extraction did; `inputs == done + failed + skipped` videos. seconds, frames: of this run."""

    inputs: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    over_long: list[OverLong] = field(default_factory=list)
    seconds: float = 0.0
    frames: int = 0
    texts: int = 0
    damaged: dict[str, int] = field(default_factory=dict)  # video id -> damaged packets passed over
    stale: dict[str, str] = field(default_factory=dict)  # video id -> how its file changed; done again
    run: str = ""  # device, precision, encoder, decoder
    fingerprint: str = ""

    def reasons(self) -> dict[str, int]:
        """How many videos failed for each reason, most frequent first."""
        return dict(Counter(failure.reason for failure in self.failures).most_common())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as JSON, atomically."""
        write_json(path, {**asdict(self), "reasons": self.reasons()})
        return Path(path)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=110).print(self)
        return text.getvalue().rstrip()

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        table = Table(title="Extraction", title_justify="left")
        for column in ("inputs", "done", "failed", "skipped", "frames", "texts", "seconds", "frames/s"):
            table.add_column(column, justify="right")
        counts = (self.inputs, self.done, self.failed, self.skipped, self.frames, self.texts)
        table.add_row(
            *map(str, counts), f"{self.seconds:.1f}", f"{self.frames / max(self.seconds, 1e-9):.0f}"
        )
        parts: list[Any] = [table]
        if self.failures:
            failures = Table(title="Failed (tried again in the next run)", title_justify="left")
            for column in ("reason", "videos", "such as"):
                failures.add_column(column)
            for reason, count in self.reasons().items():
                detail = next(each.detail for each in self.failures if each.reason == reason)
                failures.add_row(reason, str(count), escape(detail.splitlines()[0] if detail else ""))
            parts.append(failures)
        if self.stale:
            some = ", ".join(f"{name} ({why})" for name, why in list(self.stale.items())[:3])
            parts.append(escape(f"done again, for their file changed, {len(self.stale)} videos: {some}"))
        if self.damaged:
            some = ", ".join(f"{name} ({count})" for name, count in list(self.damaged.items())[:3])
            parts.append(escape(f"damaged packets passed over in {len(self.damaged)} videos: {some}"))
        if self.over_long:
            most = max(each.tokens for each in self.over_long)
            parts.append(
                f"{len(self.over_long)} scripts are longer than the encoder's context, up to {most} tokens"
            )
        return Group(*parts)


def fingerprint_of(
    encoder: Encoder,
    decoder: str = "pyav",
    sampling: Sampling | None = None,
    paragraph_mode: str = "chunks",
    dtype: str = "float16",
) -> Fingerprint:
    """The fingerprint of features made in this way; `FeatureStore.open(path, expect=...)` compares it."""
    fields = encoder.fields()
    return Fingerprint(
        {
            **fields,
            **(sampling or Sampling()).fields(),
            "decoder.name": decoder,
            "decoder.size": decoded_size(encoder),
            "text.paragraphs": paragraph_mode,
            "dtype": dtype,
            "schema": SCHEMA,
        }
    )


def extract(
    manifest: Manifest,
    out: str | os.PathLike[str],
    *,
    encoder: Encoder | str = "embedded",
    decoder: str = "pyav",
    sampling: Sampling | None = None,
    paragraph_mode: str = "chunks",
    dtype: str = "float16",
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> ExtractionReport:
    """Extract features of all videos and texts of `manifest` into the cache folder `out`.

    Videos that are in the cache are skipped, unless their file changed since; those that failed before are
    tried again. A video that cannot be
    decoded is listed with its reason, and the rest goes on. sampling: 4 frames a second unless told; workers:
    decoding processes (one per core but one); timeout: seconds of decoding per video, after which its process
    is killed. Raises StepclipError for an empty manifest, a decoder or encoder that cannot be used, and a
    cache of another fingerprint. Ctrl-C commits what is finished, then KeyboardInterrupt goes on.
    """
    if not len(manifest):
        raise StepclipError("the manifest has no videos", "one video or more")
    if workers is not None and workers < 1:
        raise StepclipError(f"{workers} decoding workers", "1 or more")
    started = time.monotonic()
    version = get_decoder(decoder).version  # a decoder that cannot be used is told before anything is made
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    sampling = sampling or Sampling()
    fingerprint = fingerprint_of(encoder, decoder, sampling, paragraph_mode, dtype)
    report = ExtractionReport(inputs=len(manifest), fingerprint=fingerprint.digest)
    with FeatureWriter(out, fingerprint, dim=encoder.dim, dtype=dtype) as writer:
        done = writer.done()
        report.stale = {row.video_id: why for row in manifest if (why := _changed(writer, row, done))}
        todo = [row for row in manifest if row.video_id not in done or row.video_id in report.stale]
        report.skipped = len(manifest) - len(todo)
        workers = max(1, min(workers or usable_cores() - 1, len(todo)))
        report.run = (
            f"device {encoder.device}, precision {encoder.precision}, encoder {encoder.name}, "
            f"decoder {decoder} {version}, {_shown(sampling)}, {workers} decoding"
        )
        with _Display(len(manifest), report, progress) as display:
            _add_texts(writer, encoder, manifest, paragraph_mode, report)
            if todo:
                size = decoded_size(encoder)
                plan = Plan(decoder, sampling, size, square=size == encoder.image_size)
                jobs = [Job(index, row.path, row.start, row.end) for index, row in enumerate(todo)]
                with DecodePool(jobs, plan, workers=workers, timeout=timeout) as pool:
                    _Run(todo, writer, encoder, report, display).consume(pool)
    report.seconds = time.monotonic() - started
    if report.inputs != report.done + report.failed + report.skipped:
        raise AssertionError(
            f"{report.inputs} inputs are not "
            f"{report.done} done + {report.failed} failed + {report.skipped} skipped"
        )
    return report


def _changed(writer: FeatureWriter, row: VideoRow, done: set[str]) -> str:
    """How the file of a video that is done differs from what it was then, in words; "" when it does not."""
    source = writer.source(row.video_id) if row.video_id in done else None
    return source.changed(row.path, row.start, row.end) if source else ""


class _Run:
    """Takes what the decoders send, encodes it in batches across videos, writes each video once whole."""

    def __init__(
        self,
        rows: Sequence[VideoRow],
        writer: FeatureWriter,
        encoder: Encoder,
        report: ExtractionReport,
        display: _Display,
    ) -> None:
        self.rows, self.writer, self.encoder, self.report, self.display = (
            rows,
            writer,
            encoder,
            report,
            display,
        )
        self.open: dict[int, _Video] = {}
        self.waiting: dict[
            tuple[int, ...], list[Chunk]
        ] = {}  # by the shape of a frame: only alike frames stack
        self.attempts = {failure.video_id: failure.attempts for failure in read_failures(writer.path)}

    def consume(self, pool: DecodePool) -> None:
        for event in pool:
            if isinstance(event, Chunk):
                self._video(event.index).times.append(event.times)
                self.waiting.setdefault(event.images.shape[1:], []).append(event)
                self._encode_full()
            elif isinstance(event, Done):
                video = self._video(event.index)
                video.duration, video.bad = event.end.duration, event.end.bad
                self._finish(event.index)
            else:
                self._fail(event)
        for shape in list(self.waiting):
            self._encode(shape)

    def _video(self, index: int) -> _Video:
        """The video on its way; its file is noted as it is now, at its first frames."""
        if index not in self.open:
            row = self.rows[index]
            self.open[index] = _Video(Source.of(row.path, row.start, row.end))
        return self.open[index]

    def _encode_full(self) -> None:
        counts = {shape: sum(len(c.images) for c in chunks) for shape, chunks in self.waiting.items()}
        shape = max(counts, key=lambda each: counts[each])
        # frames of many sizes shall not pile up: then the largest heap goes, although it is no full batch
        if counts[shape] >= BATCH or sum(counts.values()) >= 4 * BATCH:
            self._encode(shape)

    def _encode(self, shape: tuple[int, ...]) -> None:
        chunks = [chunk for chunk in self.waiting.pop(shape) if chunk.index in self.open]
        if not chunks:
            return
        features = self.encoder.encode_images(np.concatenate([chunk.images for chunk in chunks]))
        self.display.advance_frames(len(features))
        place = 0
        for chunk in chunks:
            self.open[chunk.index].features.append(features[place : place + len(chunk.images)])
            place += len(chunk.images)
        for index in dict.fromkeys(chunk.index for chunk in chunks):
            self._finish(index)

    def _finish(self, index: int) -> None:
        """Write the video if its end is known and all of its frames are encoded."""
        video, row = self.open[index], self.rows[index]
        if video.duration is None or len(video.features) < len(video.times):
            return
        del self.open[index]
        features, times = np.concatenate(video.features), np.concatenate(video.times)
        try:
            self.writer.add(row.video_id, features, times, video.duration, source=video.source, replace=True)
        except StepclipError as error:
            # only what is wrong with this video's numbers is its own failure; a full disk is the run's
            if not error.found.startswith("the features of"):
                raise
            self._note(Failure(row.video_id, row.path, "bad-features", str(error)))
            return
        self.report.done += 1
        self.report.frames += len(times)
        if video.bad:
            self.report.damaged[row.video_id] = video.bad
        self.display.advance()

    def _fail(self, event: Failed) -> None:
        self.open.pop(event.index, None)
        row = self.rows[event.index]
        self._note(Failure(row.video_id, row.path, event.reason, event.detail))

    def _note(self, failure: Failure) -> None:
        attempts = self.attempts.get(failure.video_id, 0) + 1
        failure = Failure(failure.video_id, failure.path, failure.reason, failure.detail, attempts)
        self.writer.fail(failure)
        self.report.failed += 1
        self.report.failures.append(failure)
        self.display.advance()


@dataclass
class _Video:
    """A video on its way: what has come of it so far."""

    source: Source | None
    times: list[np.ndarray] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    duration: float | None = None
    bad: int = 0


def _add_texts(
    writer: FeatureWriter, encoder: Encoder, manifest: Manifest, mode: str, report: ExtractionReport
) -> None:
    """Every distinct step and paragraph that the cache lacks, encoded once."""
    scripts = {JOIN.join(row.steps): row.steps for row in manifest}
    report.over_long = find_over_long(encoder, list(scripts.values()), mode).over_long
    if steps := writer.missing_text(manifest.steps(), "step"):
        writer.add_text(steps, encoder.encode_texts(steps), "step")
    if paragraphs := writer.missing_text(manifest.paragraphs(), "paragraph"):
        features, _ = encode_paragraphs(encoder, [scripts[text] for text in paragraphs], mode)
        writer.add_text(paragraphs, features, "paragraph")
    report.texts = len(steps) + len(paragraphs)


def decoded_size(encoder: Encoder) -> int:
    """The short side to which frames are brought while decoded: the one that the encoder resizes to."""
    return int(encoder.fields().get("preprocess.size", encoder.image_size))


def _shown(sampling: Sampling) -> str:
    if sampling.fps is not None:
        return f"{sampling.fps:g} frames/s"
    return f"{sampling.frames} frames" if sampling.frames is not None else f"every {sampling.every}. frame"


class _Display:
    """The status: first what runs on what, then a bar with rates and the time left; on standard error."""

    def __init__(self, total: int, report: ExtractionReport, progress: bool) -> None:
        self.total, self.report, self.progress = total, report, progress
        self.bar: Any = None

    def __enter__(self) -> _Display:
        if not self.progress:
            return self
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        console.print(self.report.run, markup=False, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("extract"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task("extract", total=self.total, completed=self.report.skipped, rate="")
        self.frames, self.since = 0, time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update(self.task, advance=1, rate=self._rate())

    def advance_frames(self, frames: int) -> None:
        if self.bar is not None:
            self.frames += frames
            self.bar.update(self.task, rate=self._rate())

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self.since, 1e-9)
        videos = self.report.done + self.report.failed
        failed = f", {self.report.failed} failed" if self.report.failed else ""
        return f"{videos / seconds:.1f} videos/s, {self.frames / seconds:.0f} frames/s{failed}"
