"""The feature cache and the manifest: what videos and scripts there are, and what was extracted from them."""

from typing import TYPE_CHECKING, Any

from .errors import StepclipError, nearest
from .fingerprint import Fingerprint
from .manifest import Manifest, MatchRow, Pair, VideoRow
from .source import Source
from .store import Failure, FeatureStore, FrameFeatures
from .writer import FeatureWriter

if TYPE_CHECKING:
    from .mapped import MappedFeatures
    from .packed import PackedFeatures

__all__ = [
    "Failure",
    "FeatureStore",
    "FeatureWriter",
    "Fingerprint",
    "FrameFeatures",
    "Manifest",
    "MappedFeatures",
    "MatchRow",
    "PackedFeatures",
    "Pair",
    "Source",
    "StepclipError",
    "VideoRow",
    "nearest",
]


def __getattr__(name: str) -> Any:
    if name == "PackedFeatures":  # torch is slow to import
        from .packed import PackedFeatures

        return PackedFeatures
    if name == "MappedFeatures":
        from .mapped import MappedFeatures

        return MappedFeatures
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
