"""Contenders in turn, round by round, and what a number is worth."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any


def measured(rounds: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median and spread of what was measured, each round with it."""

    def rounded(value: float) -> float:
        return float(f"{value:.{digits}g}")

    return {
        "median": rounded(statistics.median(rounds)),
        "spread": [rounded(min(rounds)), rounded(max(rounds))],
        "rounds": [rounded(value) for value in rounds],
    }


def in_turn(rounds: int, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Every contender once a round, each time in another order; one round before counts for nothing."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(rounds + 1):
        random.Random(turn).shuffle(order)
        for name in order:
            value = contenders[name]()
            if turn:
                found[name].append(value)
    return found
