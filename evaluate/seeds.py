"""Several runs of one recipe, one per seed, as one table: mean and standard deviation of every figure.

What differs between the runs is the seed of the training, so the deviation says how much of a difference
between two recipes is luck. (The intervals in each run's own table are another thing: how much another draw
of test pairs would change.)
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cache.errors import StepclipError
from .results import PARTS


@dataclass(frozen=True)
class Spread:
    """A figure over the runs that have it: mean, standard deviation (n - 1; 0 of one run), how many."""

    mean: float
    deviation: float
    runs: int

    def __str__(self) -> str:
        return self.write()

    def write(self, unit: float = 1.0, digits: int = 3) -> str:
        """`mean ± deviation` in units (100: percent); without a deviation where nothing varies."""
        text = f"{unit * self.mean:.{digits}f}"
        return text if self.deviation == 0 else f"{text} ± {unit * self.deviation:.{digits}f}"


@dataclass(frozen=True)
class SeedRow:
    """A row of a part over the seeds; `figures` by dotted name: "auc", "by_kind.order", "train.iou"."""

    part: str
    name: str
    kind: str
    headline: bool
    figures: dict[str, Spread]


def over_seeds(results: Sequence[Mapping[str, Any]]) -> list[SeedRow]:
    """Rows of all parts from several results (`Results.to_dict()`, or results.json as read).

    A row is known by its part and name; the figures of runs that lack it do not count, as Spread.runs tells.
    StepclipError without a result, and where they are of different data or splits or differ in how their
    checkpoint was chosen: their mean would mean nothing.
    """
    if not results:
        raise StepclipError("no results", "results.json of at least one run", "stepclip eval")
    for what in ("dataset", "split"):
        _same({str(one.get(what)) for one in results}, what)
    _same({str((one.get("selection") or {}).get("rule", "")) for one in results}, "selection")
    rows: list[SeedRow] = []
    for part in PARTS:
        names = dict.fromkeys(row["name"] for one in results for row in one.get(part, []))
        for name in names:
            found = [row for one in results for row in one.get(part, []) if row["name"] == name]
            values: dict[str, list[float]] = {}
            for row in found:
                for key, value in _numbers(row):
                    values.setdefault(key, []).append(value)
            figures = {key: _spread(value) for key, value in values.items()}
            rows.append(SeedRow(part, name, found[0]["kind"], bool(found[0]["headline"]), figures))
    return rows


def _same(values: set[str], what: str) -> None:
    if len(values) > 1:
        raise StepclipError(f"results of several kinds of {what}: {', '.join(sorted(values))}", "one")


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + key, float(value)


def _spread(values: list[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(statistics.fmean(values), deviation, len(values))
