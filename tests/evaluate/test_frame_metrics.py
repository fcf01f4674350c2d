"""The measures of frames, against loops written from their definitions, released numbers, and cases with a
known answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score

from stepclip.evaluate.frame_metrics import (
    Phased,
    first_share,
    joined,
    kendalls_tau,
    linear_evaluation,
    phase_classification,
    phase_progression,
    precision_at_k,
    progress_targets,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden" / "carl.json"


def phased(videos, labels):
    lengths = [len(v) for v in videos]
    return Phased(
        np.concatenate(videos).astype(np.float32),
        np.concatenate(labels).astype(np.int64),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def made(seed, videos=5, phases=4, e=6, drop=False):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(phases, e))
    xs, ys = [], []
    for i in range(videos):
        shown = [c for c in range(phases) if not (drop and c == 1 and i % 2)]
        y = np.repeat(shown, rng.integers(3, 7, len(shown)))
        xs.append(means[y] + 0.8 * rng.normal(size=(len(y), e)))
        ys.append(y)
    return phased(xs, ys)


def clock_of(data):
    times = [np.arange(n)[:, None] / n for n in data.lengths]
    return Phased(np.concatenate(times).astype(np.float32), data.labels, data.offsets)


def literal_precision(data, k):
    owner = np.repeat(np.arange(len(data)), data.lengths)
    x = data.x.astype(np.float64)
    videos = []
    for v in range(len(data)):
        rows = []
        for q in np.flatnonzero(owner == v):
            others = np.flatnonzero(owner != v)
            near = others[np.argsort(((x[others] - x[q]) ** 2).sum(1), kind="stable")[:k]]
            rows.append((data.labels[near] == data.labels[q]).mean())
        videos.append(np.mean(rows))
    return float(np.mean(videos))


def literal_tau(data):
    out = []
    for i in range(len(data)):
        for j in range(len(data)):
            if i == j:
                continue
            a, b = data.take([i]).x.astype(float), data.take([j]).x.astype(float)
            near = [int(((b - row) ** 2).sum(1).argmin()) for row in a]
            out.append(kendalltau(np.arange(len(a)), near).statistic)
    return float(np.nanmean(out)), int(np.isnan(out).sum())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_retrieval_and_order_equal_the_loops(seed):
    data = made(seed)
    for k, value in precision_at_k(data, (1, 5, 15)).items():
        assert value == pytest.approx(literal_precision(data, k), abs=1e-6)
    tau, pairs, undefined = kendalls_tau(data)
    wanted, nan = literal_tau(data)
    assert tau == pytest.approx(wanted, abs=1e-6)
    assert (pairs, undefined) == (len(data) * (len(data) - 1) - nan, nan)


@pytest.mark.parametrize("drop", [False, True])
def test_progression_equals_the_loop(drop):
    fit, test = made(1, drop=drop), made(2, drop=drop)
    scores = []
    for c in range(3):
        rows = {"fit": ([], []), "test": ([], [])}
        for name, data in (("fit", fit), ("test", test)):
            for v in range(len(data)):
                one = data.take([v])
                if c not in one.labels:
                    continue
                last = max(t for t in range(len(one.labels)) if one.labels[t] == c)
                rows[name][0].append(one.x)
                rows[name][1].extend((t - last) / len(one.labels) for t in range(len(one.labels)))
        model = LinearRegression().fit(np.concatenate(rows["fit"][0]), rows["fit"][1])
        scores.append(r2_score(rows["test"][1], model.predict(np.concatenate(rows["test"][0]))))
    found, columns = phase_progression([(fit, test)], 4)
    assert columns == 3
    assert found == pytest.approx(float(np.mean(scores)), abs=1e-4)


def test_an_absent_phase_is_left_out_and_no_fault():
    data = made(3, drop=True)
    targets = progress_targets(data, 4)
    absent = np.isnan(targets[:, 1])
    assert absent.any() and not absent.all()
    only = phased([np.eye(3)[[0, 0, 2]]] * 2, [[0, 0, 2]] * 2)  # nobody shows phase 1
    score, columns = phase_progression([(only, only)], 3)
    # targets -1/3, 0, 1/3, of which the first two cannot be told apart
    assert columns == 1 and score == pytest.approx(0.75)


def golden_data():
    golden = json.loads(GOLDEN.read_text())
    (q0, q1), videos, labels = golden["q"], [], []
    for i in range(4):
        length = 30 + 7 * i
        t, d = np.meshgrid(np.arange(length) / length, np.arange(6), indexing="ij")
        e = np.sin(q0 + 3 * t * (1 + 0.3 * d) + 0.4 * i * np.cos(d)) + 0.3 * np.cos(q1 * t * d + i)
        videos.append(e / np.linalg.norm(e, axis=1, keepdims=True))
        y = np.zeros(length)
        y[int(length * (0.25 + 0.02 * i)) :] = 1
        y[int(length * (0.55 - 0.03 * i)) :] = 2
        y[int(0.8 * length) :] = 3
        labels.append(y)
    return phased(videos, labels), golden["eval"]


@pytest.mark.skipif(not GOLDEN.is_file(), reason="golden values of ../shared are not here")
def test_equals_the_released_numbers():
    data, golden = golden_data()
    fit, test = data.take([0, 1]), data.take([2, 3])
    assert phase_classification(fit, test).mean() == pytest.approx(golden["logistic_accuracy"], abs=1e-9)
    assert phase_progression([(fit, test)], 4)[0] == pytest.approx(golden["progression_r2"], rel=1e-3)
    strided = data.strided(2)
    assert kendalls_tau(strided)[0] == pytest.approx(golden["kendalls_tau"], abs=1e-6)
    for k, value in precision_at_k(strided).items():
        assert value == pytest.approx(golden["precision_at_k"][str(k)], abs=1e-6)


def test_known_answers():
    data = made(5)
    perfect = Phased(np.eye(4, dtype=np.float32)[data.labels], data.labels, data.offsets)
    assert phase_classification(perfect, perfect).mean() == 1
    assert precision_at_k(perfect, (1, 3))[1] == 1
    assert kendalls_tau(clock_of(data))[0] >= 0.97
    constant = Phased(np.ones((len(data.labels), 2), np.float32), data.labels, data.offsets)
    tau, pairs, undefined = kendalls_tau(constant)
    assert np.isnan(tau) and (pairs, undefined) == (0, 20)
    one = phased([np.ones((3, 2))], [[2, 2, 2]])
    assert phase_classification(one, data).tolist() == (data.labels == 2).tolist()


def test_classification_is_scikit_learns():
    fit, test = made(7), made(8)
    model = LogisticRegression(C=1.0, max_iter=100_000).fit(fit.x, fit.labels)
    assert phase_classification(fit, test).mean() == model.score(test.x, test.labels)


def test_shares_of_labels():
    assert first_share(20, 0.1).tolist() == [0, 1]
    assert first_share(5, 0.1).tolist() == [0]
    drawn = first_share(20, 0.5, seed=1)
    assert len(set(drawn.tolist())) == 10 and drawn.tolist() == first_share(20, 0.5, seed=1).tolist()
    assert drawn.tolist() != first_share(20, 0.5, seed=2).tolist()


def test_linear_evaluation_separates_what_can_be_separated():
    data = made(9, videos=12)
    perfect = Phased(np.eye(4, dtype=np.float32)[data.labels], data.labels, data.offsets)
    assert linear_evaluation(perfect, perfect, 4, epochs=20) == 1
    blind = Phased(np.ones((len(data.labels), 2), np.float32), data.labels, data.offsets)
    most = np.bincount(data.labels).max() / len(data.labels)
    assert linear_evaluation(blind, blind, 4, lr=0.1, epochs=20) <= most + 1e-6


def test_sets_are_joined_and_taken_apart():
    a, b = made(1, videos=2), made(2, videos=3)
    both = joined([a, b])
    again = both.take([2, 3, 4])
    assert len(both) == 5 and np.array_equal(again.x, b.x) and np.array_equal(again.labels, b.labels)
    assert np.array_equal(both.take([]).offsets, [0])
