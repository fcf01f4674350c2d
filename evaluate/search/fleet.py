"""One search over indices that lie on several machines, by dask workers: each searches what it holds.

A worker maps a shard when it is first asked for it and keeps it. What travels is queries and answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from ...cache.errors import StepclipError
from .answers import Answer, Filter, best_of
from .index import EVERYTHING, SearchIndex, merged

KEPT = 64  # shards that a worker keeps mapped


@lru_cache(maxsize=KEPT)
def _opened(folder: str) -> SearchIndex:
    return SearchIndex.open(folder)


def _vectors(folder: str, level: str, queries: np.ndarray, top: int, where: Filter) -> Any:
    index = _opened(folder)
    return (*index.search_vectors(level, queries, top, where), index.meta)


def _text(
    folder: str, query: np.ndarray, moment: np.ndarray, top: int, by: str, where: Filter
) -> tuple[list[Answer], dict[str, Any]]:
    index = _opened(folder)
    return index.search_placed(query, moment, top, by, where), index.meta


def _script(
    folder: str, moments: np.ndarray, script: np.ndarray, steps: Sequence[str], top: int, where: Filter
) -> tuple[list[Answer], dict[str, Any]]:
    index = _opened(folder)
    return index.search_placed_script(steps, moments, script, top, where), index.meta


class Fleet:
    """Shards of one index, `folders`, as the workers of `client` (a dask Client) see their paths.

    Answers are those of `SearchIndex.open(*folders)`, which is the same on one machine. The first shard is
    opened here too, for the encoder and the spaces.
    """

    def __init__(self, client: Any, folders: Sequence[str]) -> None:
        if not folders:
            raise StepclipError("no shard to search", "the folder of one index or more")
        self.client, self.folders = client, [str(folder) for folder in folders]
        self.near = SearchIndex.open(self.folders[0])

    def search_vectors(
        self, level: str, queries: np.ndarray, top: int, where: Filter = EVERYTHING
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cosines, shards and rows in the shard, each (Q, k), of the nearest vectors over all shards."""
        found = self._each(_vectors, level, queries, top, where)
        # a row of shard i as i << 48 + row: they merge as plain numbers
        coded = [(s, np.where(r < 0, -1, r + (i << 48))) for i, (s, r, _) in enumerate(found)]
        scores, rows = merged(coded, top)
        return scores, np.where(rows < 0, -1, rows >> 48), np.where(rows < 0, -1, rows & ((1 << 48) - 1))

    def search_script(
        self, steps: Sequence[str], encoder: Any, top: int = 5, where: Filter = EVERYTHING
    ) -> list[Answer]:
        """As `SearchIndex.search_script`; each shard has its own candidates."""
        steps, moments, script = self.near.place_script(steps, encoder)
        return self._best(top, _script, moments, script, steps, top, where)

    def search(
        self,
        text: str,
        encoder: Any,
        top: int = 5,
        by: str = "moment",
        where: Filter = EVERYTHING,
    ) -> list[Answer]:
        """As `SearchIndex.search`."""
        return self._best(top, _text, *self.near.place_text(text, encoder, by), top, by, where)

    def _best(self, top: int, ask: Any, *arguments: Any) -> list[Answer]:
        """The best of what the shards answer."""
        return best_of((answer for answers, _ in self._each(ask, *arguments) for answer in answers), top)

    def _each(self, ask: Any, *arguments: Any) -> list[Any]:
        """What each shard's worker answers, its index's meta last; StepclipError where shards are not of one
        index."""
        futures = [self.client.submit(ask, folder, *arguments, pure=False) for folder in self.folders]
        found: list[Any] = self.client.gather(futures)
        for folder, (*_, meta) in zip(self.folders, found, strict=True):
            for key in ("fingerprint", "recipe", "step", "spaces"):
                if meta[key] != self.near.meta[key]:
                    raise StepclipError(
                        f"{folder} and {self.folders[0]} differ in {key}", "shards of one index"
                    )
        return found


@contextmanager
def fleet(cluster: str, folders: Sequence[str]) -> Iterator[Fleet]:
    """A Fleet on `local:N` worker processes of this machine, or on those of a scheduler (tcp://...)."""
    from dask.distributed import Client, LocalCluster

    if cluster.partition(":")[0] == "local":
        count = cluster.partition(":")[2] or "2"
        if not count.isdecimal() or int(count) < 1:
            raise StepclipError(f"the cluster {cluster!r}", "local, local:N, or tcp://HOST:PORT")
        with (
            LocalCluster(n_workers=int(count), threads_per_worker=1, dashboard_address=None) as made,
            Client(made) as client,
        ):
            yield Fleet(client, folders)
        return
    with Client(cluster, timeout=30) as client:
        yield Fleet(client, folders)
