"""What an import did: every video accounted for, what did not fit, and what to run next."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_json
from ..layout import Failure
from ..manifest import Manifest


@dataclass
class ImportReport:
    """What an import did; `inputs == done + failed + skipped` videos. seconds, frames, texts: of this run.

    manifest: the videos and their steps, to be written beside the cache; missing: its videos that have no
    features here; without_row: features that the user's manifest does not name; missing_texts: steps and
    paragraphs without features; ignored: files or arrays that are no features, by kind.
    """

    source: str
    out: str
    inputs: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    manifest: Manifest = field(default_factory=lambda: Manifest(()))
    missing: list[str] = field(default_factory=list)
    without_row: list[str] = field(default_factory=list)
    missing_texts: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)  # video id -> how its file changed; imported anew
    frames: int = 0
    texts: int = 0
    seconds: float = 0.0
    fingerprint: str = ""

    def reasons(self) -> dict[str, int]:
        """How many videos failed for each reason, most frequent first."""
        return dict(Counter(failure.reason for failure in self.failures).most_common())

    def check(self) -> None:
        """The promise that no video is lost from sight."""
        if self.inputs != self.done + self.failed + self.skipped:
            parts = f"{self.done} done + {self.failed} failed + {self.skipped} skipped"
            raise AssertionError(f"{self.inputs} inputs are not {parts}")

    @property
    def next(self) -> str:
        """What to run now."""
        out = Path(self.out)
        name = out.parent.name if out.name == "features" and out.parent.name else "NAME"
        if not any(row.steps for row in self.manifest):
            return "training wants the steps of each video: the same again with --manifest FILE (video,steps)"
        if self.missing_texts:
            return (
                "training wants text features too: the same under another name, with --texts FILE "
                "or --encoder ENCODER"
            )
        return f"stepclip train --dataset {name}"

    def to_dict(self) -> dict[str, Any]:
        said = {key: value for key, value in self.__dict__.items() if key not in ("manifest", "failures")}
        failures = [asdict(failure) for failure in self.failures]
        return {**said, "failures": failures, "reasons": self.reasons(), "next": self.next}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it but the manifest as JSON, atomically."""
        write_json(path, self.to_dict())
        return Path(path)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=110).print(self)
        return text.getvalue().rstrip()

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"Import of {self.source}"), title_justify="left")
        for column in ("inputs", "done", "failed", "skipped", "frames", "texts", "seconds"):
            table.add_column(column, justify="right")
        counts = (self.inputs, self.done, self.failed, self.skipped, self.frames, self.texts)
        table.add_row(*map(str, counts), f"{self.seconds:.1f}")
        parts: list[Any] = [table]
        if self.failures:
            failures = Table(title="Failed (tried again in the next run)", title_justify="left")
            for column in ("reason", "videos", "such as"):
                failures.add_column(column)
            for reason, count in self.reasons().items():
                one = next(each for each in self.failures if each.reason == reason)
                said = (one.detail.splitlines() or [""])[0]
                failures.add_row(reason, str(count), Text(f"{one.video_id}: {said}"))
            parts.append(failures)
        for what, names in (
            ("imported anew, for their file changed", list(self.stale)),
            ("in the manifest, without features", self.missing),
            ("features without a row in the manifest", self.without_row),
            ("texts without features", self.missing_texts),
            ("passed over, no features", [f"{count} {kind}" for kind, count in self.ignored.items()]),
        ):
            if names:
                parts.append(Text(f"{what}: {_some(names)}"))
        parts += [Text(f"note: {note}") for note in self.notes]
        parts.append(Text(f"next: {self.next}"))
        return Group(*parts)


def _some(names: Sequence[str], count: int = 4) -> str:
    shown = "; ".join(names[:count])
    return shown + (f"; ... ({len(names)} in all)" if len(names) > count else "")
