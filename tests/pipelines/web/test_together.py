"""Searches that are asked at once: each gets its own answer, those who wait are answered in one batch."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stepclip.pipelines.web.together import Together


def test_each_gets_its_own_and_those_who_wait_go_together() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    calls: list[tuple[str, int]] = []
    free = threading.Event()

    def search(level: str, queries: np.ndarray, top: int, where: object) -> tuple[np.ndarray, np.ndarray]:
        calls.append((level, len(queries)))
        assert free.wait(10)
        scores = queries @ vectors.T
        rows = np.argsort(-scores, axis=1)[:, :top]
        return np.take_along_axis(scores, rows, 1), rows

    asked = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    both = Together(search, most=25)
    with ThreadPoolExecutor(41) as pool:
        first = pool.submit(both, "windows", asked[:1], 3, None)
        while not calls:
            time.sleep(0.01)
        others = [pool.submit(both, "windows", asked[n : n + 1], 3, None) for n in range(1, 40)]
        another = pool.submit(both, "videos", asked[:2], 3, "a filter")
        while sum(map(len, both._waiting.values())) < 40:
            time.sleep(0.01)
        free.set()
        for n, each in enumerate([first, *others]):
            scores, rows = each.result(10)
            expected = np.argsort(-(asked[n] @ vectors.T))[:3]
            assert rows[0].tolist() == expected.tolist() and scores.shape == (1, 3)
        assert another.result(10)[1].shape == (2, 3)
    assert sorted(calls) == [("videos", 2), ("windows", 1), ("windows", 14), ("windows", 25)]
    assert not both._waiting


def test_an_error_reaches_those_it_concerns() -> None:
    def search(level: str, queries: np.ndarray, top: int, where: object) -> tuple[np.ndarray, np.ndarray]:
        if level == "broken":
            raise ValueError("no such level")
        return queries, np.zeros((len(queries), 1), int)

    both = Together(search)
    with pytest.raises(ValueError, match="no such level"):
        both("broken", np.ones((1, 2)), 1, None)
    assert both("windows", np.ones((1, 2)), 1, None)[0].tolist() == [[1.0, 1.0]]
