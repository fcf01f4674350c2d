"""Retrieval and matching against literal loops, every order of ties, and planted scorers."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import MatchRow, VideoRow
from stepclip.evaluate.retrieval import (
    Matching,
    Queries,
    first_rank,
    length_scores,
    match_rows,
    match_scores,
    matching,
    paragraph_scores,
    retrieve,
    script_scores,
)


def literal_rank(scores: np.ndarray, relevant: np.ndarray) -> int:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return 1 + next(place for place, i in enumerate(order) if relevant[i])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(
        lambda x: any(r for _, r in x)
    )
)
def test_ties_are_the_mean_over_all_their_orders(items: list[tuple[int, bool]]) -> None:
    """`sorted` is stable, so permuting the gallery walks through every way to break the ties."""
    ranks = [
        literal_rank(np.array([s for s, _ in p]), np.array([r for _, r in p])) for p in permutations(items)
    ]
    rank, likely = first_rank(np.array([s for s, _ in items], float), np.array([r for _, r in items]))
    assert likely.sum() == pytest.approx(1)
    assert (rank * likely).sum() == pytest.approx(np.mean(ranks))
    assert (likely / rank).sum() == pytest.approx(np.mean([1 / r for r in ranks]))
    for k in (1, 2, 5):
        assert likely[rank <= k].sum() == pytest.approx(np.mean([r <= k for r in ranks]))


def test_retrieve_equals_the_literal_loop() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.random((17, 40)), rng.random((17, 40)) < 0.1
    relevant[:, 3] = True
    ranks = np.array([literal_rank(s, r) for s, r in zip(scores, relevant, strict=True)])
    result = retrieve(scores, relevant)
    assert (result.r1, result.r5, result.r10) == pytest.approx(tuple((ranks <= k).mean() for k in (1, 5, 10)))
    assert result.medr == np.median(ranks) and result.mrr == pytest.approx((1 / ranks).mean())
    assert (result.queries, result.gallery) == (17, 40)


def test_perfect_inverted_and_constant_scorers() -> None:
    relevant = np.kron(np.eye(5), np.ones((1, 4))).astype(bool)  # 5 scripts, 4 videos each
    perfect = retrieve(relevant.astype(float), relevant)
    assert (perfect.r1, perfect.medr, perfect.mrr) == (1, 1, 1)
    inverted = retrieve(-relevant.astype(float), relevant)
    assert (inverted.r10, inverted.medr) == (0, 17)
    constant = retrieve(np.zeros((5, 20)), relevant)
    assert constant.r1 == pytest.approx(4 / 20)
    assert constant.medr == pytest.approx(
        21 / 5
    )  # (G + 1) / (r + 1): expected first of r among G in random order
    rng = np.random.default_rng(1)
    dice = retrieve(rng.random((2000, 20)), np.tile(relevant, (400, 1)))
    assert dice.r5 == pytest.approx(constant.r5, abs=0.04)
    assert dice.mrr == pytest.approx(constant.mrr, abs=0.03)


def test_matching_perfect_constant_and_uneven() -> None:
    rows = [np.array([0.9, 0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.5, 0.3, 0.2, 0.0])]
    good = matching(rows, [0, 1])
    assert (good.acc1, good.acc3, good.mrr, good.rows, good.candidates) == (1, 1, 1, 2, 5)
    second = matching(rows, [4, 2])
    assert (second.acc1, second.acc2, second.mrr) == (0, 1, 0.5)
    chance = matching([np.zeros(5)] * 3, [0, 2, 4])
    assert (chance.acc1, chance.acc2, chance.acc3) == pytest.approx((0.2, 0.4, 0.6))
    assert chance.mrr == pytest.approx(np.mean([1 / k for k in range(1, 6)]))
    assert matching([np.zeros(2), np.zeros(4)], [1, 0]).acc1 == pytest.approx((1 / 2 + 1 / 4) / 2)


def literal_auc(pairs: list[tuple[float, bool]]) -> float:
    right, wrong = [s for s, r in pairs if r], [s for s, r in pairs if not r]
    return float(np.mean([1.0 if s > w else 0.5 if s == w else 0.0 for s in right for w in wrong]))


def test_matching_auc_is_the_loop_over_candidates() -> None:
    """Scores that say little between the texts and much within one: the two AUCs differ."""
    rng = np.random.default_rng(3)
    rows, answers, texts = [], [], []
    for i in range(60):
        size, text = int(rng.integers(2, 7)), str(i % 5)
        answer = int(rng.integers(size))
        scores = rng.integers(0, 6, size).astype(float) + 4 * int(text)
        scores[answer] += 1.5
        rows.append(scores), answers.append(answer), texts.append(text)
    flat = [
        (t, float(s), j == a)
        for t, row, a in zip(texts, rows, answers, strict=True)
        for j, s in enumerate(row)
    ]
    found = matching(rows, answers, texts)
    assert found.auc == pytest.approx(literal_auc([(s, r) for _, s, r in flat]))
    each = [literal_auc([(s, r) for t, s, r in flat if t == text]) for text in sorted(set(texts))]
    assert found.query_auc == pytest.approx(np.mean(each)) and found.query_auc > found.auc + 0.05
    alone = matching(rows, answers)  # each list a text of its own
    own = [literal_auc([(s, j == a) for j, s in enumerate(r)]) for r, a in zip(rows, answers, strict=True)]
    assert alone.query_auc == pytest.approx(np.mean(own)) and alone.auc == found.auc
    again = np.random.default_rng(0).integers(60, size=(1000, 60))
    first = np.array(
        [
            float((r > r[a]).sum() == 0) / (r == r[a]).sum()  # ties: each order is as likely
            for r, a in zip(rows, answers, strict=True)
        ]
    )
    assert found.acc1 == pytest.approx(first.mean())
    assert found.ci == pytest.approx(tuple(np.quantile(first[again].mean(1), [0.025, 0.975])))
    one = matching([np.array([0.3])], [0])
    assert one.acc1 == 1 and np.isnan(one.auc) and np.isnan(one.query_auc)


def test_the_released_matching_lists(shared_data: Path) -> None:
    """800 rows, 775 of them distinct, 25 texts, 1022 videos; the answer is the text's own video."""
    folder = shared_data / "annotations" / "CSV"
    bank = json.loads((folder / "label_bank.json").read_text())
    lines = [line.split() for line in (folder / "splits" / "text_matching.txt").read_text().splitlines()]
    names = sorted({name for fields in lines for name in fields[1:]})
    videos = [
        VideoRow(
            name, "", name.split(".")[0], name.split("/")[0], "test", steps=tuple(bank[name.split("/")[0]])
        )
        for name in names
    ]
    lists = [
        MatchRow(f[0], tuple(f[1:]), [n.split("/")[0] for n in f[1:]].index(f[0]), "test") for f in lines
    ]
    queries = Queries.of(videos)
    place = {video.video_id: i for i, video in enumerate(videos)}
    embedded = Placed(place)
    rows, notes = match_rows(lists, queries, embedded)  # type: ignore[arg-type]
    assert (len(lists), len(rows), len(names), len(queries.scripts)) == (800, 775, 1022, 25)
    assert notes == ["matching: 25 repeated rows counted once"]

    def score(scores: np.ndarray) -> Matching:
        return match_scores(rows, queries, embedded, scores)  # type: ignore[arg-type]

    perfect = score(queries.relevant.astype(float))
    assert (perfect.acc1, perfect.mrr, perfect.auc, perfect.query_auc) == (1, 1, 1, 1)
    assert (perfect.rows, perfect.candidates, perfect.ci) == (775, 5, (1, 1))
    chance = score(np.zeros(queries.relevant.shape))
    assert (chance.acc1, chance.acc2, chance.acc3) == pytest.approx((0.2, 0.4, 0.6))
    assert (chance.auc, chance.query_auc) == (0.5, 0.5)
    dice = score(np.random.default_rng(0).random(queries.relevant.shape))
    assert dice.acc1 == pytest.approx(0.2, abs=0.05) and dice.ci[0] < 0.2 < dice.ci[1]


class Placed(dict):  # type: ignore[type-arg]
    """What `match_rows` asks of embeddings: which videos there are, and where."""

    def row(self, video_id: str) -> int:
        return int(self[video_id])


def test_a_long_script_asks_for_a_long_video(world) -> None:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    seconds = np.linspace(5, 60, len(world.embedded))
    embedded = replace(world.embedded, durations=seconds)
    scripts = [("a",) * n for n in (2, 5, 20)]
    best = length_scores(embedded, scripts).argmax(1)
    usual = np.exp(np.median(np.log(seconds)))
    expected = [int(np.abs(np.log(seconds / usual) - np.log(n / 5)).argmin()) for n in (2, 5, 20)]
    assert best.tolist() == expected and best[0] < best[1] < best[2]


def test_planted_world(world) -> None:  # type: ignore[no-untyped-def]
    queries = Queries.of(world.manifest.videos)
    assert len(queries.scripts) == 12 and queries.relevant.sum(1).tolist() == [3] * 12
    by_text = retrieve(paragraph_scores(world.embedded, world.store, queries.paragraphs), queries.relevant)
    assert by_text.r1 == 1
    scripts = script_scores(world.embedded, world.store, queries.scripts)
    ordered = retrieve(scripts, queries.relevant)
    assert ordered.r1 == 1  # also between scripts that differ by two swapped steps
    rows, notes = match_rows(world.manifest.matching * 2, queries, world.embedded)
    assert len(rows) == 36 and "36 repeated" in notes[0]
    assert match_scores(rows, queries, world.embedded, scripts).acc1 == 1
    assert match_scores(rows, queries, world.embedded, np.zeros_like(scripts)).acc1 == pytest.approx(0.25)


def test_script_score_is_the_literal_best_path(world) -> None:  # type: ignore[no-untyped-def]
    """Against an O(T S) loop over one video and a script that is not its own."""
    script = world.manifest["1.3-p0"].steps
    row = world.embedded.row("1.0-p1")
    frames = world.embedded.frames[world.embedded.slice(row)].numpy()
    text = world.store.text(script, "step")
    cosine = (frames / np.linalg.norm(frames, axis=1, keepdims=True)) @ text.T
    t, s = cosine.shape
    best = np.full((t, s), -np.inf)
    best[0, 0] = cosine[0, 0]
    for i in range(1, t):
        for k in range(s):
            best[i, k] = cosine[i, k] + max(best[i - 1, k], best[i - 1, k - 1] if k else -np.inf)
    assert script_scores(world.embedded, world.store, [script])[0, row] == pytest.approx(
        best[-1, -1] / t, abs=1e-5
    )


def test_rows_without_features_are_left_out_and_said(world) -> None:  # type: ignore[no-untyped-def]
    queries = Queries.of(world.manifest.videos)
    rows = [*world.manifest.matching[:2], MatchRow("0.0", ("0.0-p0", "not there"), 0, "test")]
    kept, notes = match_rows(rows, queries, world.embedded)
    assert len(kept) == 2 and "1 of 3 rows" in notes[0]


def test_bad_input() -> None:
    with pytest.raises(StepclipError, match="no relevant"):
        retrieve(np.zeros((1, 3)), np.zeros((1, 3), bool))
    with pytest.raises(StepclipError, match="not a number"):
        retrieve(np.full((1, 3), np.nan), np.ones((1, 3), bool))
    with pytest.raises(StepclipError, match="shape"):
        retrieve(np.zeros((0, 3)), np.zeros((0, 3), bool))
    with pytest.raises(StepclipError, match="answer 3"):
        matching([np.zeros(3)], [3])
    with pytest.raises(StepclipError, match="0 rows"):
        matching([], [])
