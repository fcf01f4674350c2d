"""Restoring a cache from a folder that `export` wrote: fingerprint, frames, texts, sources, failures."""

from __future__ import annotations

from pathlib import Path

from ..catalogue import Catalogue
from ..errors import StepclipError
from ..layout import Failure
from ..manifest import Manifest, VideoRow
from ..shard import ShardRows, Video, checksum
from ..writer import FeatureWriter
from .exported import MANIFEST, read_export
from .importreport import ImportReport
from .importrun import note_failures, progress_bar


def restore(folder: Path, report: ImportReport, given: Manifest | None, progress: bool) -> None:
    """Bring the videos and texts of an export into the cache `report.out`, and say so in `report`.

    Those that are there with the same content are skipped. `given`: a manifest in place of the rows that the
    export holds. Raises StepclipError for what is no export, and a cache of another fingerprint.
    """
    exported = read_export(folder)
    about = exported.about
    report.inputs, report.fingerprint = len(exported), about.fingerprint.digest
    report.notes += exported.problems
    paths: dict[str, str] = {}
    with FeatureWriter(
        report.out, about.fingerprint, dim=about.dim, dtype=about.dtype, views=about.views
    ) as writer:
        done = writer.done()
        there = Catalogue(writer.path, about.fingerprint.digest).where
        with progress_bar("restore", len(exported), progress) as advance:
            for video in exported.videos():
                if isinstance(video, Failure) and video.video_id not in done:
                    report.failed += 1
                    report.failures.append(video)
                elif isinstance(video, Failure) or (video.video_id in done and _same(video, there)):
                    report.skipped += 1
                else:
                    _add(writer, video)
                    report.done += 1
                    report.frames += len(video.times)
                if isinstance(video, Video) and video.source:
                    paths[video.video_id] = video.source.path
                advance()
        for kind, table in exported.texts.items():
            fresh = writer.missing_text(table.index, kind)
            writer.add_text(fresh, table.features[[table.index[text] for text in fresh]], kind)
            report.texts += len(fresh)
        writer.commit()
        done = writer.done()
        failures = [each for each in (*exported.failures, *report.failures) if each.video_id not in done]
        note_failures(writer.path, {failure.video_id: failure for failure in failures})
        manifest = given or _rows(folder, report)
        if given is None:  # a row for every video, also for those that nobody described
            bare = (video_id for video_id in exported.video_ids if video_id not in manifest)
            rows = [VideoRow(video_id, paths.get(video_id, "")) for video_id in bare]
            manifest = Manifest((*manifest.videos, *rows), manifest.pairs, manifest.matching, manifest.name)
        report.manifest = manifest
        report.missing = [row.video_id for row in manifest if row.video_id not in done]
        report.without_row = [video_id for video_id in exported.video_ids if video_id not in manifest]
        report.missing_texts = [
            *writer.missing_text(manifest.steps(), "step"),
            *writer.missing_text((text for text in manifest.paragraphs() if text), "paragraph"),
        ]


def _same(video: Video, there: dict[str, tuple[ShardRows, int]]) -> bool:
    rows, row = there[video.video_id]
    return rows.crc32[row] == checksum(video.features, video.times, video.views) and (
        rows.durations[row] == video.duration
    )


def _add(writer: FeatureWriter, video: Video) -> None:
    writer.add(
        video.video_id,
        video.features,
        video.times,
        video.duration,
        views=video.views,
        source=video.source,
        replace=True,
    )


def _rows(folder: Path, report: ImportReport) -> Manifest:
    """The rows that went along with the export, if any did."""
    if (folder / MANIFEST).is_dir():
        try:
            return Manifest.read(folder / MANIFEST)
        except StepclipError as error:
            report.notes.append(f"the export's rows are left out: {error.found}")
    return Manifest(())
