"""A script as people write it: a text file, a step per line."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..cache.errors import StepclipError

_NUMBER = re.compile(r"^(?:step\s+)?\d{1,3}\s*[.):]\s+|^[-*•]\s+", re.IGNORECASE)
MOST = 1 << 20  # bytes


def read_script(path: Path) -> tuple[str, ...]:
    """The steps of a script file, in order: a sentence per line (numbers and bullets before it are dropped,
    so are empty lines and those that begin with #), or a JSON list of sentences.

    StepclipError when it cannot be read, is not text, is over a megabyte, or has no step.
    """
    wanted = "a text file with a step per line"
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST else None
    except OSError as error:
        raise StepclipError(f"{path} cannot be read: {error.strerror}", wanted) from error
    if data is None:
        raise StepclipError(f"{path} has over {MOST >> 20} MiB", wanted)
    try:
        return parse_script(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise StepclipError(f"{path} is not UTF-8 text", wanted) from None
    except StepclipError as error:
        raise StepclipError(f"{path}: {error.found}", wanted) from None


def parse_script(text: str) -> tuple[str, ...]:
    """The same of the text itself."""
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            listed = None
        if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
            text = "\n".join(" ".join(each.split()) for each in listed)
    lines = (" ".join(line.split()) for line in text.splitlines())
    steps = tuple(_NUMBER.sub("", line) for line in lines if line and not line.startswith("#"))
    steps = tuple(step for step in steps if step)
    if not steps:
        raise StepclipError("there is no step in the script", "a sentence per line, in order")
    return steps
