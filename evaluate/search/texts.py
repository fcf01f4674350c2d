"""Whose texts an index may be asked with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...cache.errors import StepclipError
from ...cache.fingerprint import Fingerprint


class TextEncoder(Protocol):
    """What search asks of an encoder (docs/interfaces.md, extract)."""

    name: str

    def fields(self) -> dict[str, Any]: ...

    def encode_texts(self, texts: list[str]) -> np.ndarray: ...


def check_encoder(fingerprint: Fingerprint, encoder: TextEncoder, folder: Path) -> None:
    """StepclipError when the texts of `encoder` are not those of the features an index was built on.

    The weights decide; a name, a precision, a crop of the images change nothing that a text meets. Of
    imported features only `text.encoder` counts, "NAME, WEIGHTS" or a name alone: what made the features of
    the pictures (encoder.*) is another model.
    """
    fields, given = fingerprint.fields, encoder.fields()
    if "text.encoder" in fields:
        named, weights = str(fields["text.encoder"]), str(given.get("encoder.weights", ""))
        if named == encoder.name or (weights and named.rpartition(", ")[2] == weights[:12]):
            return
        here = Fingerprint({"text.encoder": named})
        asked = Fingerprint({"text.encoder": f"{encoder.name}, {weights:.12}"})
    else:
        mine = {k: v for k, v in fields.items() if k == "encoder.weights"}
        mine = mine or {k: v for k, v in fields.items() if k.startswith("encoder.")}
        here, asked = Fingerprint(mine), Fingerprint({k: v for k, v in given.items() if k in mine})
        if here == asked:
            return
    raise StepclipError(
        f"the index at {folder} was built on features of another encoder:\n"
        + here.table(asked, "index", "asked with"),
        "the encoder of the index's texts",
        "give --encoder the index's encoder, or extract and index anew",
    )
