"""What an encoder of this project says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...cache.errors import StepclipError
from ...cache.files import read_json
from .base import EMBEDDED

CARD = "card.json"


def read_card(name: str = "embedded") -> dict[str, Any]:
    """The card of the embedded encoder, or of a folder that `stepclip encoder train` made.

    Its zero-shot entries hold accuracy and chance in [0, 1] and the number of frames. Raises StepclipError
    where there is no card, or it cannot be read.
    """
    folder = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if not (folder / CARD).is_file():
        raise StepclipError(
            f"no {CARD} in {folder}",
            "embedded, or the folder of an encoder",
            "stepclip encoder train --out DIR",
        )
    card = read_json(folder / CARD)
    if not isinstance(card, dict):
        raise StepclipError(f"{folder / CARD} is no card", "an object", "stepclip encoder train --out DIR")
    return card
