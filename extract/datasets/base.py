"""What a data set adapter gives: the manifest of the videos that are there, the missing ones, remarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...cache.manifest import Manifest

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")


@dataclass(frozen=True)
class Loaded:
    """manifest: the videos found, their pairs and lists; missing: ids of videos that were not found; extra:
    what else the release says, plain JSON by video id (frames.py: the label of every frame).
    """

    manifest: Manifest
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


Loader = Callable[[Path | None, Path | None], Loaded]
