"""What an extraction did: every video accounted for, the reasons of failures, which stage was the limit."""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..cache.files import write_json
from ..cache.layout import Failure
from .paragraphs import OverLong


@dataclass
class Stages:
    """How long each stage was at work, in seconds, and what it did.

    workers: decoding processes; encoders: processes that encode, of several machines together.
    """

    workers: int = 1
    encoders: int = 1
    decoding: float = 0.0
    decoded: int = 0
    encoding: float = 0.0
    encoded: int = 0
    texts: float = 0.0  # seconds of the encoder, too
    writing: float = 0.0
    kept: int = 0  # frames written
    written: int = 0  # bytes of features

    def rates(self) -> dict[str, float]:
        """Frames/s that each stage could do if it never waited: all its processes together."""
        return {
            "decode": self.decoded * self.workers / self.decoding if self.decoding else 0.0,
            "encode": self.encoded * self.encoders / self.encoding if self.encoding else 0.0,
            "write": self.kept * self.encoders / self.writing if self.writing else 0.0,
        }

    def busy(self, seconds: float) -> dict[str, float]:
        """The share of `seconds` for which each stage was at work and did not wait for another."""
        spent = {
            "decode": self.decoding / self.workers,
            "encode": (self.encoding + self.texts) / self.encoders,
            "write": self.writing / self.encoders,
        }
        return {name: min(each / max(seconds, 1e-9), 1.0) for name, each in spent.items()}

    def limit(self, seconds: float) -> str:
        """The stage that holds the others up, and the share of `seconds` for which it was at work."""
        busy = self.busy(seconds)
        name = max(busy, key=lambda each: busy[each])
        return f"{name} ({busy[name]:.0%} busy)" if busy[name] else ""


@dataclass
class ExtractionReport:
    """What an extraction did; `inputs == done + failed + skipped` videos.

    done: with features since this run; failed: without, whether tried in this run or not; skipped: with
    features since before. seconds, frames, texts, stages: of this run.
    """

    inputs: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    not_tried: int = 0  # of the failures: those of earlier runs, left alone in this one
    quarantined: int = 0  # of these: failed so often that --retry-failed leaves them alone
    over_long: list[OverLong] = field(default_factory=list)
    seconds: float = 0.0
    frames: int = 0
    texts: int = 0
    damaged: dict[str, int] = field(default_factory=dict)  # video id -> damaged packets passed over
    stale: dict[str, str] = field(default_factory=dict)  # video id -> how its file changed; done again
    stages: Stages = field(default_factory=Stages)
    run: str = ""  # device, precision, encoder, decoder
    fingerprint: str = ""

    def reasons(self) -> dict[str, int]:
        """How many videos failed for each reason, most frequent first."""
        return dict(Counter(failure.reason for failure in self.failures).most_common())

    def check(self) -> None:
        """The promise that no video is lost from sight."""
        if self.inputs != self.done + self.failed + self.skipped:
            parts = f"{self.done} done + {self.failed} failed + {self.skipped} skipped"
            raise AssertionError(f"{self.inputs} inputs are not {parts}")

    def to_dict(self) -> dict[str, Any]:
        rates = {f"{stage} frames/s": round(rate, 1) for stage, rate in self.stages.rates().items()}
        limit = self.stages.limit(self.seconds)
        return {**asdict(self), "reasons": self.reasons(), "rates": rates, "limit": limit}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as JSON, atomically."""
        write_json(path, self.to_dict())
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
        if self.frames and (limit := self.stages.limit(self.seconds)):
            rates = ", ".join(f"{stage} {rate:,.0f}" for stage, rate in self.stages.rates().items() if rate)
            parts.append(f"alone, each stage could do (frames/s): {rates}; the limit: {limit}")
        if self.failures:
            failures = Table(title="Failed", title_justify="left")
            for column in ("reason", "videos", "such as"):
                failures.add_column(column)
            for reason, count in self.reasons().items():
                detail = next(each.detail for each in self.failures if each.reason == reason)
                failures.add_row(reason, str(count), escape(detail.splitlines()[0] if detail else ""))
            parts.append(failures)
        if self.not_tried:
            parts.append(
                f"{self.not_tried} of them failed before and their files are the same: not tried again; "
                "to try: --retry-failed"
            )
        if self.quarantined:
            parts.append(
                f"{self.quarantined} have failed so often that --retry-failed leaves them alone; "
                "to try: --retry-failed-for REASON"
            )
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
