"""Which videos an extraction works on: not those that are done, and not in vain on those that fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..cache.errors import StepclipError, nearest
from ..cache.layout import Failure, read_failures
from ..cache.manifest import Manifest, VideoRow
from ..cache.source import Source
from ..cache.writer import FeatureWriter

QUARANTINE = 3  # attempts after which a video is left alone, unless its reason is asked for by name


@dataclass(frozen=True)
class Retry:
    """Which failed videos to try again: none, all that are not quarantined, or those of these reasons.

    One whose file changed since, or is there now, is always tried. attempts: that many make a quarantine.
    """

    every: bool = False
    reasons: tuple[str, ...] = ()
    attempts: int = QUARANTINE

    def wanted(self, failure: Failure, row: VideoRow) -> bool:
        if failure.reason in self.reasons or changed_since(failure, row):
            return True
        return self.every and failure.attempts < self.attempts


@dataclass
class Todo:
    """rows: to work on; left: failures that are not tried again; stale: id -> how its file changed."""

    rows: list[VideoRow] = field(default_factory=list)
    skipped: int = 0
    stale: dict[str, str] = field(default_factory=dict)
    left: list[Failure] = field(default_factory=list)


def choose(manifest: Manifest, writer: FeatureWriter, retry: Retry) -> Todo:
    """What is to be done of the manifest. StepclipError for a reason that no video failed for."""
    done = writer.done()
    failures = {failure.video_id: failure for failure in read_failures(writer.path)}
    known = {failure.reason for failure in failures.values()}
    if strangers := [reason for reason in retry.reasons if reason not in known]:
        raise StepclipError(
            f"no video failed for the reason '{strangers[0]}'{nearest(strangers[0], known)}",
            f"one of {', '.join(sorted(known))}" if known else "a reason (nothing has failed)",
        )
    todo = Todo()
    for row in manifest:
        failure = failures.get(row.video_id)
        if row.video_id in done:
            source = writer.source(row.video_id)
            why = source.changed(row.path, row.start, row.end) if source else ""
            if not why:
                todo.skipped += 1
                continue
            todo.stale[row.video_id] = why
        if failure is not None and not retry.wanted(failure, row):
            todo.stale.pop(row.video_id, None)
            todo.left.append(failure)
            continue
        todo.rows.append(row)
    return todo


def changed_since(failure: Failure, row: VideoRow) -> bool:
    """Whether a failed video's file is another than the one that failed: mended, put there, trimmed anew."""
    if failure.path != row.path:
        return True
    if not failure.source:
        return Source.of(row.path) is not None  # it was missing, or no file
    try:
        return bool(Source.from_json(failure.source).changed(row.path, row.start, row.end))
    except (TypeError, ValueError):
        return True


def quarantined(failures: Sequence[Failure], attempts: int) -> int:
    return sum(failure.attempts >= attempts for failure in failures)
