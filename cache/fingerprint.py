"""What a cache was made from and by, as flat keys, and the difference of two such accounts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import StepclipError

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"
ABSENT = "(absent)"
SCHEMA = 1  # what features of one account mean; the layout of the files has a schema of its own


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Flat fields: `encoder.name`, `encoder.weights`, `preprocess.size`, `sampling.fps`, `decoder.name`, ...

    Two fingerprints are equal when their digests are. Values are brought to plain JSON: a tuple becomes a
    list and 4.0 becomes 4, so a fingerprint read back equals the one written.
    """

    fields: dict[str, JSON]

    def __post_init__(self) -> None:
        try:
            plain = {str(key): _plain(value) for key, value in self.fields.items()}
            json.dumps(plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StepclipError(
                f"a fingerprint field is not plain JSON: {error}", "text, finite numbers, lists"
            ) from error
        object.__setattr__(self, "fields", dict(sorted(plain.items())))

    @property
    def json(self) -> str:
        """The fields as one canonical line: what the digest is taken of."""
        return json.dumps(self.fields, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> str:
        """16 hex digits of the sha256 of `json`."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return self.json == other.json if isinstance(other, Fingerprint) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.json)

    def difference(self, other: Fingerprint) -> list[tuple[str, JSON, JSON]]:
        """`(key, mine, theirs)` for every key whose values differ; a key that one lacks reads `(absent)`."""
        pairs = [
            (key, self.fields.get(key, ABSENT), other.fields.get(key, ABSENT))
            for key in sorted(self.fields.keys() | other.fields.keys())
        ]
        return [(key, mine, theirs) for key, mine, theirs in pairs if not _same(mine, theirs)]

    def table(self, other: Fingerprint, mine: str = "here", theirs: str = "there") -> str:
        """One line per difference, aligned: `encoder.name   here: a   there: b`; `""` when there is none."""
        rows = [(key, _shown(a), _shown(b)) for key, a, b in self.difference(other)]
        if not rows:
            return ""
        wide, middle = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
        return "\n".join(f"  {key:<{wide}}  {mine}: {a:<{middle}}  {theirs}: {b}" for key, a, b in rows)


def _plain(value: Any) -> JSON:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _same(a: JSON, b: JSON) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)  # so that True is not 1


def _shown(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value)
