"""The tables of README.md that benchmarks write: what stands between the marks of one is theirs."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def put(name: str, text: str, path: Path = README) -> None:
    """Replace what stands between `<!-- NAME table -->` and `<!-- /NAME table -->`."""
    begin, end = f"<!-- {name} table -->", f"<!-- /{name} table -->"
    old = path.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1:
        raise SystemExit(f"{path} lacks the marks {begin} and {end}")
    new = re.sub(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text.strip()}\n{end}", old, flags=re.S
    )
    path.write_text(new, encoding="utf-8")
