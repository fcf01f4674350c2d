"""Decoders: `get_decoder(name)`, and `backends()`, which says which of them can be used here."""

from __future__ import annotations

from importlib import import_module, metadata, util

from ...cache.errors import nearest
from .base import (
    Backend,
    DecodeError,
    Decoder,
    End,
    Frames,
    Picker,
    Sampling,
    Shown,
)

__all__ = [
    "DECODERS",
    "Backend",
    "DecodeError",
    "Decoder",
    "End",
    "Frames",
    "Picker",
    "Sampling",
    "Shown",
    "backends",
    "get_decoder",
]

# torchcodec asks for a newer torch than it needs, so it is installed alone
TORCHCODEC = (
    "apt install ffmpeg, and pip install --no-deps torchcodec==0.13.0 (beside a CPU build of torch; "
    'with a CUDA build: pip install -c constraints.txt -e ".[gpu]")'
)
# name -> (module, class, what it imports, its distribution, what to run to get it)
DECODERS: dict[str, tuple[str, str, str, str, str]] = {
    "pyav": (".pyav", "PyAVDecoder", "av", "av", "pip install av"),
    "decord": (
        ".decord",
        "DecordDecoder",
        "decord",
        "decord",
        "pip install decord (x86-64 Linux, macOS, Windows)",
    ),
    "ffmpeg": (
        ".ffmpeg",
        "FFmpegDecoder",
        "ffmpeg",
        "ffmpeg-python",
        "pip install ffmpeg-python imageio-ffmpeg (or ffmpeg itself: apt install ffmpeg)",
    ),
    "torchcodec": (".torchcodec", "TorchCodecDecoder", "torchcodec", "torchcodec", TORCHCODEC),
    "torchcodec:cuda": (
        ".torchcodec",
        "NvdecDecoder",
        "torchcodec",
        "torchcodec",
        'an NVIDIA GPU, and pip install -c constraints.txt -e ".[gpu]" with a CUDA build of torch',
    ),
}


def get_decoder(name: str = "pyav") -> Decoder:
    """The decoder called `name`. DecodeError `decoder-unavailable` if it is unknown or cannot be used."""
    if name not in DECODERS:
        raise DecodeError(
            "decoder-unavailable",
            f"no decoder is called '{name}'{nearest(name, DECODERS)}",
            f"one of {', '.join(DECODERS)}",
        )
    module, cls, _, _, install = DECODERS[name]
    try:
        decoder: Decoder = getattr(import_module(module, __name__), cls)()
    except (ImportError, OSError, RuntimeError) as error:  # the latter: a shared library that does not load
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DecodeError(
            "decoder-unavailable", f"the decoder {name} cannot be used here: {said}", "its packages", install
        ) from error
    return decoder


def backends() -> list[Backend]:
    """Every decoder: whether it can be used here, its version, and how to install it."""
    found = []
    for name, (_, _, imported, distribution, install) in DECODERS.items():
        version, usable = "", False
        if util.find_spec(imported) is not None:
            try:
                version, usable = get_decoder(name).version or metadata.version(distribution), True
            except DecodeError as error:
                version = error.found
        found.append(Backend(name, "decoder", usable, version, install))
    return found
