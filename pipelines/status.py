"""What a feature cache holds of its manifest: done, failed and why, missing, stale, damaged."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..cache.files import TEMPORARY, write_json
from .paths import DatasetPaths


@dataclass
class CacheStatus:
    """Every video of the manifest is in one of done, damaged, stale, failed, missing (ids; stale with why).

    other: videos in the cache that the manifest does not name; texts: steps and paragraphs without features;
    problems: what else lies in the folder, in words.
    """

    dataset: str
    folder: str
    fingerprint: str
    inputs: int
    done: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    frames: int = 0
    bytes: int = 0
    imported: bool = False

    @property
    def whole(self) -> bool:
        """Whether every video of the manifest and every text has features that are those of its file."""
        return len(self.done) == self.inputs and not self.texts

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, atomically."""
        write_json(path, self.to_dict())
        return Path(path)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "whole": self.whole}

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        from .tables import add, table

        again = f"stepclip cache import ... --dataset {self.dataset}" if self.imported else ""
        again = again or f"stepclip extract --dataset {self.dataset}"
        shown = table("state", "videos", "what to do, or which")
        add(shown, "done", len(self.done), "")
        if self.damaged:
            add(shown, "damaged", len(self.damaged), f"stepclip cache repair --dataset {self.dataset}")
        if self.stale:
            name, why = next(iter(self.stale.items()))
            add(shown, "stale", len(self.stale), f"{again}   ({name}: {why})")
        for reason, names in sorted(self.failed.items(), key=lambda each: -len(each[1])):
            add(shown, f"failed: {reason}", len(names), _some(names))
        if self.missing:
            add(shown, "not extracted yet", len(self.missing), f"{again}   ({_some(self.missing)})")
        add(shown, "all", self.inputs, "", style="bold")
        title = (
            f"{self.folder}, fingerprint {self.fingerprint}: {self.frames} frames, {self.bytes / 1e6:.1f} MB"
        )
        notes = list(self.problems)
        if self.texts:
            notes.append(f"{len(self.texts)} texts have no features: {_some(self.texts)}; run: {again}")
        if self.other:
            notes.append(
                f"{len(self.other)} videos are in the cache and not in the manifest: {_some(self.other)}"
            )
        if any(TEMPORARY not in problem for problem in self.problems):
            notes.append(f"to put that in order: stepclip cache repair --dataset {self.dataset}")
        return Group(Text(title, style="bold"), shown, *(Text(f"note: {note}") for note in notes))


def cache_status(paths: DatasetPaths) -> CacheStatus:
    """The state of a dataset's cache; reads the manifest, the row files, and each video file's size and time.

    Raises StepclipError when there is no cache or no manifest.
    """
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore

    manifest = Manifest.read(paths.manifest)
    with FeatureStore.open(paths.features) as store:
        imported = store.fingerprint.fields.get("source") == "import"
        status = CacheStatus(
            paths.name, str(paths.features), store.fingerprint.digest, len(manifest), imported=imported
        )
        failures = {failure.video_id: failure for failure in store.failures()}
        for each in manifest:
            name = each.video_id
            source = store.source(name) if name in store else None
            path = source.path if source and imported else each.path
            if name in store.damaged:
                status.damaged.append(name)
            elif source and (why := source.changed(path, each.start, each.end)):
                status.stale[name] = why
            elif name in store:
                status.done.append(name)
            elif name in failures:
                status.failed.setdefault(failures[name].reason, []).append(name)
            else:
                status.missing.append(name)
        status.other = [name for name in store if name not in manifest]
        status.frames = sum(store.length(name) for name in store)
        status.bytes = sum(file.stat().st_size for file in paths.features.rglob("*") if file.is_file())
        if not imported or store.text_dim:
            status.texts = [text for text in manifest.steps() if not store.has_text(text, "step")]
            status.texts += [text for text in manifest.paragraphs() if not store.has_text(text, "paragraph")]
        status.problems = list(store.problems)
    return status


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if len(names) > count else "")
