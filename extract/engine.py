"""The extraction engine: manifest, decoding processes, batches across videos, encoder, feature cache."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

from ..cache.errors import StepclipError
from ..cache.fingerprint import SCHEMA, Fingerprint
from ..cache.manifest import Manifest
from ..cache.writer import FeatureWriter
from .decoders import get_decoder
from .decoders.base import Sampling
from .display import Display
from .encoders import Encoder, load_encoder
from .paragraphs import JOIN, encode_paragraphs, find_over_long
from .pool import DecodePool, Job, Plan, usable_cores
from .report import ExtractionReport
from .run import Run
from .todo import Retry, choose, quarantined
from .views import fields as view_fields

__all__ = ["ExtractionReport", "Retry", "extract", "fingerprint_of"]

TIMEOUT = 600.0  # seconds of decoding per video


def fingerprint_of(
    encoder: Encoder,
    decoder: str = "pyav",
    sampling: Sampling | None = None,
    paragraph_mode: str = "chunks",
    dtype: str = "float16",
    views: int = 0,
) -> Fingerprint:
    """The fingerprint of features made in this way; `FeatureStore.open(path, expect=...)` compares it.

    StepclipError for an encoder of texts alone.
    """
    if not encoder.image_size:
        raise StepclipError(
            f"the encoder {encoder.name}, which knows texts alone",
            "an encoder of images, or features that are there already",
            f"stepclip cache import FILES --dataset NAME --encoder {encoder.name}",
        )
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
            **(view_fields() | {"views.count": views} if views else {}),
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
    views: int = 0,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    retry: Retry | None = None,
    max_failures: int | None = None,
    progress: bool = True,
) -> ExtractionReport:
    """Extract features of all videos and texts of `manifest` into the cache folder `out`.

    Videos that are in the cache are skipped unless their file changed since. A video that cannot be decoded
    is listed with its reason, and the rest goes on; in the next run it is left alone while its file is the
    same, unless `retry` asks for it. sampling: 4 frames a second unless told; views: augmented copies of
    every frame, one draw per video and view; workers: decoding processes (one per core; where the encoder has
    a GPU one fewer); timeout: seconds of decoding per video, after which its process is killed; max_failures:
    stop when more fail in this run. Raises StepclipError for an empty manifest, a decoder or encoder that
    cannot be used, a cache of another fingerprint, too many failures. Ctrl-C commits what is finished, then
    KeyboardInterrupt goes on.
    """
    if not len(manifest):
        raise StepclipError("the manifest has no videos", "one video or more")
    if workers is not None and workers < 1:
        raise StepclipError(f"{workers} decoding workers", "1 or more")
    started = time.monotonic()
    get_decoder(decoder)  # a decoder that cannot be used is told before anything is made
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    sampling, retry = sampling or Sampling(), retry or Retry()
    fingerprint = fingerprint_of(encoder, decoder, sampling, paragraph_mode, dtype, views)
    report = ExtractionReport(inputs=len(manifest), fingerprint=fingerprint.digest)
    with FeatureWriter(out, fingerprint, dim=encoder.dim, dtype=dtype, views=views) as writer:
        todo = choose(manifest, writer, retry)
        report.skipped, report.stale = todo.skipped, todo.stale
        report.failures, report.failed, report.not_tried = list(todo.left), len(todo.left), len(todo.left)
        report.quarantined = quarantined(todo.left, retry.attempts)
        # an encoder on the CPU shares all cores with the decoders; else one is left to feed it
        spare = encoder.device != "cpu"
        workers = max(1, min(workers or usable_cores() - spare, len(todo.rows)))
        report.stages.workers = workers
        making = {"decoder": decoder, "sampling": sampling, "views": views}
        report.run = f"{described(encoder, making)}, {workers} decoding"
        with Display(report, progress) as display:
            if not todo.rows:
                add_texts(writer, encoder, manifest, paragraph_mode, report)
            else:
                size = decoded_size(encoder)
                threads = math.ceil(usable_cores() / workers)
                plan = Plan(decoder, sampling, size, size == encoder.image_size, threads)
                jobs = [Job(index, row.path, row.start, row.end) for index, row in enumerate(todo.rows)]
                run = Run(todo.rows, writer, encoder, report, display, max_failures=max_failures)
                with DecodePool(jobs, plan, workers=workers, timeout=timeout) as pool:
                    add_texts(writer, encoder, manifest, paragraph_mode, report)  # while the first decode
                    run.consume(pool)
    report.seconds = time.monotonic() - started
    report.check()
    return report


def add_texts(
    writer: FeatureWriter, encoder: Encoder, manifest: Manifest, mode: str, report: ExtractionReport
) -> None:
    """Every distinct step and paragraph that the cache lacks, encoded once."""
    began = time.monotonic()
    scripts = {JOIN.join(row.steps): row.steps for row in manifest}
    report.over_long = find_over_long(encoder, list(scripts.values()), mode).over_long
    if steps := writer.missing_text(manifest.steps(), "step"):
        writer.add_text(steps, encoder.encode_texts(steps), "step")
    if paragraphs := writer.missing_text(manifest.paragraphs(), "paragraph"):
        features, _ = encode_paragraphs(encoder, [scripts[text] for text in paragraphs], mode)
        writer.add_text(paragraphs, features, "paragraph")
    report.texts = len(steps) + len(paragraphs)
    report.stages.texts += time.monotonic() - began


def decoded_size(encoder: Encoder) -> int:
    """The short side to which frames are brought while decoded: the one that the encoder resizes to."""
    return int(encoder.fields().get("preprocess.size", encoder.image_size))


def described(encoder: Encoder, options: Mapping[str, Any]) -> str:
    """The first line of a run: device, precision, encoder, decoder, sampling; `options` as of `extract`."""
    decoder, views = options.get("decoder", "pyav"), options.get("views", 0)
    return (
        f"device {encoder.device}, precision {encoder.precision}, encoder {encoder.name}, decoder {decoder} "
        f"{get_decoder(decoder).version}, {options.get('sampling') or Sampling()}"
        + (f" and {views} views" if views else "")
    )
