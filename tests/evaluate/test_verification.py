"""Verification against literal references: every pair of pairs, the golden value, planted distances."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import Manifest, Pair, VideoRow
from stepclip.evaluate.bootstrap import interval, resample
from stepclip.evaluate.verification import edit_distance, equal_error_rate, gain, verify

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def literal_auc(distances: np.ndarray, unmatched: np.ndarray) -> float:
    won = [
        1.0 if u > m else 0.5 if u == m else 0.0 for u in distances[unmatched] for m in distances[~unmatched]
    ]
    return float(np.mean(won))


def literal_edit(a: tuple[str, ...], b: tuple[str, ...], substitution: int) -> int:
    @cache
    def go(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        swap = 0 if a[i - 1] == b[j - 1] else substitution
        return min(go(i - 1, j) + 1, go(i, j - 1) + 1, go(i - 1, j - 1) + swap)

    return go(len(a), len(b))


def simple(matched: list[bool], kinds: list[str] | None = None) -> tuple[list[Pair], Manifest]:
    """Pairs of videos a (script 1 2 3) with b, whose script is the same, or lacks one step."""
    kinds = kinds or ["matched" if m else "deletion" for m in matched]
    videos, pairs = [], []
    for i, (m, kind) in enumerate(zip(matched, kinds, strict=True)):
        videos += [
            VideoRow(f"a{i}", "", steps=("1", "2", "3")),
            VideoRow(f"b{i}", "", steps=("1", "2", "3") if m else ("1", "3")),
        ]
        pairs.append(Pair(f"a{i}", f"b{i}", m, kind))
    return pairs, Manifest(tuple(videos), tuple(pairs))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: 0 < sum(m for _, m in rows) < len(rows)
    )
)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    distances = np.array([d for d, _ in rows], float)
    pairs, manifest = simple([m for _, m in rows])
    result = verify(distances, pairs, manifest, resamples=20)
    unmatched = np.array([not m for _, m in rows])
    assert result.auc == pytest.approx(literal_auc(distances, unmatched))
    assert result.by_kind == {"deletion": pytest.approx(result.auc)}
    assert 0 <= result.eer <= 1


def test_perfect_inverted_constant_random() -> None:
    matched = [True] * 200 + [False] * 200
    pairs, manifest = simple(matched)
    perfect = np.array([0.1] * 200 + [0.9] * 200)
    good = verify(perfect, pairs, manifest)
    assert (good.auc, good.eer, good.ci) == (1.0, 0.0, (1.0, 1.0))
    bad = verify(1 - perfect, pairs, manifest)
    assert (bad.auc, bad.eer) == (0.0, 1.0)
    flat = verify(np.ones(400), pairs, manifest)
    assert flat.auc == 0.5 and flat.eer == pytest.approx(0.5) and flat.ci == (0.5, 0.5)
    assert flat.wdr == flat.wdr_constant == 1.0  # each pair lacks one step: edit distance 1
    dice = verify(np.random.default_rng(0).random(400), pairs, manifest)
    assert 0.4 < dice.auc < 0.6 and dice.ci[0] < 0.5 < dice.ci[1]
    assert np.isnan(verify(np.zeros(400), pairs, manifest).wdr)


def test_auc_by_kind_holds_each_kind_against_all_matched() -> None:
    pairs, manifest = simple([True, True, False, False], ["matched", "matched", "order", "addition"])
    result = verify(np.array([1.0, 2.0, 0.5, 3.0]), pairs, manifest)
    assert result.by_kind == {"order": 0.0, "addition": 1.0}
    assert result.auc == 0.5


def test_eer_by_exhaustive_threshold() -> None:
    """On curves without ties the error rates cross within one step of the best threshold."""
    rng = np.random.default_rng(1)
    distances = np.concatenate([rng.normal(0, 1, 300), rng.normal(1, 1, 300)])
    unmatched = np.arange(600) >= 300
    pairs, manifest = simple(list(~unmatched))
    gaps = []
    for threshold in np.sort(distances):
        alarm, miss = (distances[~unmatched] >= threshold).mean(), (distances[unmatched] < threshold).mean()
        gaps.append((abs(alarm - miss), (alarm + miss) / 2))
    assert verify(distances, pairs, manifest).eer == pytest.approx(min(gaps)[1], abs=1 / 300)
    assert equal_error_rate(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0])) == 0.5


def test_intervals_are_seeded_and_as_wide_as_theory() -> None:
    rng = np.random.default_rng(2)
    distances = np.concatenate([rng.normal(0, 1, 250), rng.normal(1, 1, 250)])
    unmatched = np.arange(500) >= 250
    first = interval(resample(distances, unmatched, seed=3).auc)
    assert first == interval(resample(distances, unmatched, seed=3).auc)
    assert first != interval(resample(distances, unmatched, seed=4).auc)
    # Hanley and McNeil 1982, standard error of the AUC
    a, n = literal_auc(distances, unmatched), 250
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (n * n))
    assert first[0] < a < first[1]
    assert first[1] - first[0] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert np.isnan(interval(np.full(5, np.nan))).all()


@pytest.mark.parametrize("chunk", [1, 8_000_000])
def test_every_figure_on_the_resampled_pairs_is_that_of_the_loop(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draw as documented, build the list of drawn pairs, score it with `verify`: AUC, EER, WDR, kinds."""
    rng = np.random.default_rng(5)
    n, kinds = 24, ["order", "deletion"]
    matched = [i < 10 for i in range(n)]
    pairs, manifest = simple(matched, ["matched" if m else kinds[i % 2] for i, m in enumerate(matched)])
    pairs[-1] = Pair("a0", "b0", False, "order")  # an unmatched pair with equal scripts: no edit distance
    distances = rng.integers(0, 5, n).astype(float) + 0.5
    seeded = np.random.default_rng(7)
    monkeypatch.setattr("stepclip.evaluate.bootstrap.CHUNK_NUMBERS", chunk)
    draws = []
    for size in [1] * 30 if chunk == 1 else [30]:
        mine = seeded.integers(14, size=(size, 14)) + 10
        theirs = seeded.integers(10, size=(size, 10))
        draws += list(np.concatenate([theirs, mine], axis=1))
    again = [verify(distances[d], [pairs[i] for i in d], manifest, resamples=1, kinds=False) for d in draws]
    result = verify(distances, pairs, manifest, resamples=30, seed=7)
    assert result.samples is not None
    for name in ("auc", "eer", "wdr"):
        expected = [getattr(one, name) for one in again]
        assert getattr(result.samples, name) == pytest.approx(expected, abs=1e-12)
    for name, ci in (("auc", result.ci), ("eer", result.eer_ci), ("wdr", result.wdr_ci)):
        assert ci == pytest.approx(np.quantile([getattr(one, name) for one in again], [0.025, 0.975]))
    alone = [i for i in range(n) if matched[i] or pairs[i].kind == "order"]
    only = verify(distances[alone], [pairs[i] for i in alone], manifest, resamples=30, seed=7)
    assert result.by_kind_ci["order"] == only.ci and result.kinds == {"deletion": 6, "order": 8}
    assert only.unmatched == 8 and result.by_kind["order"] == only.auc
    assert "samples" not in result.to_dict()


def test_gain_is_over_the_same_pairs() -> None:
    """Two distances that differ by little have a sure difference, though each one's interval is wide."""
    rng = np.random.default_rng(3)
    pairs, manifest = simple([i < 60 for i in range(120)])
    first = np.concatenate([rng.normal(0, 1, 60), rng.normal(0.7, 1, 60)])
    second = first - 0.15 * (np.arange(120) >= 60)
    good, less = verify(first, pairs, manifest), verify(second, pairs, manifest)
    more, (low, high) = gain(good, less)
    assert more == good.auc - less.auc and 0 < low < more < high
    assert high - low < 0.3 * (good.ci[1] - good.ci[0])
    assert gain(good, good) == (0, (0, 0))


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.sampled_from([1, 2]))
def test_edit_distance(a: str, b: str, substitution: int) -> None:
    assert edit_distance(a, b, substitution) == literal_edit(tuple(a), tuple(b), substitution)


def test_wdr_golden_value() -> None:
    golden_file, bank_file = (
        DATA / "golden" / "weaksvr.json",
        DATA / "annotations" / "CSV" / "label_bank.json",
    )
    if not golden_file.exists() or not bank_file.exists():
        pytest.skip("shared data are not here")
    golden, bank = json.loads(golden_file.read_text())["wdr"], json.loads(bank_file.read_text())
    videos, pairs = [], []
    for i, (a, b) in enumerate(zip(golden["labels1"], golden["labels2"], strict=True)):
        videos += [VideoRow(f"a{i}", "", steps=tuple(bank[a])), VideoRow(f"b{i}", "", steps=tuple(bank[b]))]
        pairs.append(Pair(f"a{i}", f"b{i}", a == b, "matched" if a == b else "other"))
    for names, value in golden["edit_distances"].items():
        assert edit_distance(*(bank[name] for name in names.split("|"))) == value
    result = verify(np.array(golden["preds"]), pairs, Manifest(tuple(videos), tuple(pairs)))
    assert result.wdr == pytest.approx(golden["value"], abs=1e-12)
    assert result.wdr_constant == pytest.approx((1 / 2 + 1 / 13 + 1 / 1) / 3)
    plain = [
        literal_edit(tuple(bank[a]), tuple(bank[b]), 1)
        for a, b in zip(golden["labels1"], golden["labels2"], strict=True)
    ]
    far = [d / e for d, e in zip(golden["preds"], plain, strict=True) if e]
    assert result.wdr_levenshtein == pytest.approx(np.mean(far) / golden["preds"][0])
    assert result.wdr_levenshtein != pytest.approx(result.wdr)


def test_wdr_of_equal_distances_on_csv_is_the_measured_one() -> None:
    folder = DATA / "annotations" / "CSV"
    if not folder.exists():
        pytest.skip("shared data are not here")
    bank = json.loads((folder / "label_bank.json").read_text())
    rows = [line.split() for line in (folder / "test_pairs.txt").read_text().splitlines() if line.strip()]
    labels = {video: label for a, la, b, lb in rows for video, label in ((a, la), (b, lb))}
    pairs = [Pair(a, b, la == lb, "matched" if la == lb else "other") for a, la, b, lb in rows]
    manifest = Manifest(
        tuple(VideoRow(v, "", steps=tuple(bank[la])) for v, la in labels.items()), tuple(pairs)
    )
    result = verify(np.full(len(pairs), 0.7), pairs, manifest, resamples=2)
    assert result.wdr == pytest.approx(result.wdr_constant) == pytest.approx(0.293, abs=5e-4)
    assert (result.matched, result.unmatched) == (500, 500)


def test_unmatched_with_equal_scripts_are_left_out_of_wdr_only() -> None:
    videos = [VideoRow(v, "", steps=("1",)) for v in "abcd"]
    pairs = [Pair("a", "b", True, "matched"), Pair("c", "d", False, "other")]
    result = verify(np.array([1.0, 2.0]), pairs, Manifest(tuple(videos), tuple(pairs)))
    assert result.auc == 1.0 and np.isnan(result.wdr) and "1 unmatched" in result.notes[0]


@pytest.mark.parametrize(
    ("distances", "matched", "found"),
    [
        ([1.0], [True, False], "shape"),
        ([1.0, float("nan")], [True, False], "not finite"),
        ([1.0, 2.0], [True, True], "2 matched and 0 unmatched"),
        ([], [], "0 matched"),
    ],
)
def test_bad_input(distances: list[float], matched: list[bool], found: str) -> None:
    pairs, manifest = simple(matched)
    with pytest.raises(StepclipError, match=found):
        verify(np.array(distances), pairs, manifest)
