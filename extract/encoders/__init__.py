"""Encoders: `load_encoder(name)`, and `backends()`, which says which kinds can be used here."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

from ...cache.errors import StepclipError, nearest
from ..decoders.base import Backend
from .base import EMBEDDED, Encoder, clean

__all__ = ["EMBEDDED", "NAMES", "Encoder", "backends", "clean", "load_encoder"]

# OpenAI's names and the hub's
NAMES = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}


def load_encoder(
    name: str = "embedded", device: str = "auto", precision: str = "fp32", compile: bool = False
) -> Encoder:
    """An encoder, ready to use.

    name: `embedded`; one of OpenAI's names (`ViT-B/16`); a hub name (`openai/clip-vit-base-patch16`); a local
    folder or OpenAI .pt file; `clip:NAME` for the backend through OpenAI's package; `names`, for texts that
    are labels and no language, beside features that were made elsewhere. device: `auto`, `cpu`,
    `cuda`, `cuda:1`. precision: `fp32`, `bf16`, `fp16` or `auto`. compile: images through torch.compile.
    Raises StepclipError, at once, when it cannot be had; it says how to get it.
    """
    encoder = _load(name, device, precision)
    if compile:
        if not hasattr(encoder, "compile"):
            raise StepclipError(f"--compile with the encoder {name}", "another backend, or no --compile")
        encoder.compile()
    return encoder


def _load(name: str, device: str, precision: str) -> Encoder:
    path = Path(name).expanduser()
    if name == "names":
        from .names import Names

        return Names()
    if name.startswith("clip:"):
        from .openai_clip import OpenAICLIP

        return OpenAICLIP(name.removeprefix("clip:"), device=device, precision=precision)
    if name != "embedded" and path.is_file():
        from .openai_pt import load_openai_pt

        return load_openai_pt(path, device=device, precision=precision)
    from .transformers_clip import TransformersCLIP, hub_folder

    if name == "embedded":
        if not (EMBEDDED / "config.json").is_file():
            raise StepclipError(
                f"the embedded encoder is not in {EMBEDDED}", "an installation of stepclip with its data"
            )
        return TransformersCLIP.from_folder(EMBEDDED, name=name, device=device, precision=precision)
    if path.is_dir() and name not in NAMES:
        return TransformersCLIP.from_folder(path, name=str(path), device=device, precision=precision)
    hub = NAMES.get(name, name)
    if hub.count("/") != 1 or path.suffix == ".pt" or name.startswith((".", "/", "~")):
        raise StepclipError(
            f"no encoder '{name}'{nearest(name, ['embedded', 'names', *NAMES, *NAMES.values()])}",
            f"embedded, names, one of {', '.join(NAMES)}, a hub name, a folder, a .pt file, or clip:NAME",
        )
    return TransformersCLIP.from_folder(hub_folder(hub), name=hub, device=device, precision=precision)


def backends() -> list[Backend]:
    """Each kind of encoder: whether it can be used here, its version, and how to install it."""
    there = util.find_spec("transformers") is not None
    version = metadata.version("transformers") if there else ""
    embedded = (EMBEDDED / "config.json").is_file()
    found = [
        Backend("embedded", "encoder", there and embedded, version, "pip install stepclip"),
        Backend("transformers", "encoder", there, version, "pip install transformers"),
    ]
    try:
        from .openai_clip import INSTALL, import_clip

        import_clip()
        found.append(Backend("clip", "encoder", True, _version_of_clip(), INSTALL))
    except StepclipError as error:
        from .openai_clip import INSTALL

        found.append(Backend("clip", "encoder", False, error.found, INSTALL))
    return found


def _version_of_clip() -> str:
    for distribution in ("openai-clip", "clip-anytorch"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
