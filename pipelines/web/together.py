"""Searches asked at once are answered together: what an exact search costs is reading the vectors, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Search = Callable[[str, np.ndarray, int, Any], tuple[np.ndarray, np.ndarray]]


@dataclass
class _Waiting:
    """One call: its queries, and what became of them."""

    queries: np.ndarray
    done: threading.Event = field(default_factory=threading.Event)
    found: tuple[np.ndarray, np.ndarray] | None = None
    error: BaseException | None = None


class Together:
    """Stands for `search_vectors(level, queries, top, where)`. Nobody is waited for: the first caller's
    search runs alone; those who come meanwhile are then answered in one batch, by one of them."""

    def __init__(self, search: Search, most: int = 64) -> None:
        self._search, self._most = search, most
        self._lock = threading.Lock()  # of the lists
        self._turn = threading.Lock()  # one search at a time: it has all cores
        self._waiting: dict[tuple[str, int, Any], list[_Waiting]] = {}

    def __call__(
        self, level: str, queries: np.ndarray, top: int, where: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        key, mine = (level, top, where), _Waiting(queries)
        with self._lock:
            self._waiting.setdefault(key, []).append(mine)
        with self._turn:
            if not mine.done.is_set():
                self._lead(key, mine)
        if mine.error is not None:
            raise mine.error
        assert mine.found is not None
        return mine.found

    def _lead(self, key: tuple[str, int, Any], mine: _Waiting) -> None:
        with self._lock:
            waiting = self._waiting.pop(key)
            waiting.sort(key=lambda each: each is not mine)  # whoever leads is among those served
            batch, rest = waiting[: self._most], waiting[self._most :]
            if rest:
                self._waiting[key] = rest
        level, top, where = key
        try:
            scores, rows = self._search(level, np.concatenate([each.queries for each in batch]), top, where)
            first = 0
            for each in batch:
                last = first + len(each.queries)
                each.found = scores[first:last], rows[first:last]
                first = last
        except BaseException as error:
            for each in batch:
                each.error = error
        finally:
            for each in batch:
                each.done.set()
