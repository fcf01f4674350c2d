"""Stage one: data set adapters, decoding, encoders, and the engine that turns videos into cached features."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets import load_dataset
    from .decoders import DecodeError, Sampling, get_decoder
    from .encoders import load_encoder
    from .engine import ExtractionReport, extract, fingerprint_of

__all__ = [
    "DecodeError",
    "ExtractionReport",
    "Sampling",
    "backends",
    "extract",
    "fingerprint_of",
    "get_decoder",
    "load_dataset",
    "load_encoder",
]

_HOMES = {
    "load_dataset": "datasets",
    "DecodeError": "decoders",
    "Sampling": "decoders",
    "get_decoder": "decoders",
    "load_encoder": "encoders",
    "ExtractionReport": "engine",
    "extract": "engine",
    "fingerprint_of": "engine",
}


def backends() -> list[Any]:
    """All decoders and encoders: whether they can be used here, and how to install those that cannot."""
    from . import decoders, encoders

    return [*decoders.backends(), *encoders.backends()]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
