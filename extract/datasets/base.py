"""What a data set adapter gives: the manifest of the videos that are there, the missing ones, remarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...cache.manifest import Manifest

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")


@dataclass(frozen=True)
class Loaded:
    """manifest: the videos found, their pairs and lists; missing: ids of videos that were not found."""

    manifest: Manifest
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Loader = Callable[[Path | None, Path | None], Loaded]
