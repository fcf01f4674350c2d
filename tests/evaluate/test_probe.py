"""The linear probe against scikit-learn's own pipeline, on planted classes, and on the released lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stepclip.cache.errors import StepclipError
from stepclip.evaluate.probe import Plan, listed, plan, probe


def planned(procedures: list[str], lists: list[str | None] | None = None, seed: int = 0) -> Plan:
    how = plan(procedures, lists, seed)
    assert isinstance(how, Plan)
    return how


@pytest.mark.parametrize("width", [5, 300])
def test_it_names_what_the_plain_pipeline_names(width: int) -> None:
    """Also where there are more numbers than videos, where the probe turns into the videos' span."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    procedures = [f"{i % 6}" for i in range(90)]
    features = rng.normal(size=(90, width)) + 0.8 * np.array([int(p) for p in procedures])[:, None]
    features[:, 0] = 7.0  # a constant tells nothing and divides by nothing
    lists = ["train" if i < 60 else "test" for i in range(90)]
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    named = plain.fit(features[:60], procedures[:60]).predict(features[60:])
    found = probe(features, planned(procedures, lists))
    assert found.accuracy == pytest.approx(np.mean(named == procedures[60:]))
    assert found.balanced == pytest.approx(balanced_accuracy_score(procedures[60:], named))
    assert (found.classes, found.train, found.test, found.folds) == (6, 60, 30, 0)
    hits = (named == procedures[60:]).astype(float)
    again = hits[np.random.default_rng(0).integers(30, size=(1000, 30))].mean(1)
    assert found.ci == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])))


def test_planted_random_and_chance() -> None:
    procedures = [f"{i % 4}" for i in range(80)] + ["alone"]
    how = planned(procedures)
    assert how.folds == 5 and sorted(np.concatenate([test for _, test in how.turns])) == list(range(80))
    for train, test in how.turns:
        assert not set(train) & set(test) and len(train) + len(test) == 80
        assert np.bincount(how.labels[test]).tolist() == [4, 4, 4, 4]
    rng = np.random.default_rng(1)
    planted = np.eye(4)[[int(p) if p != "alone" else 0 for p in procedures]] + 0.1 * rng.normal(size=(81, 4))
    assert probe(planted, how).accuracy == 1
    dice = probe(rng.normal(size=(81, 8)), how)
    assert 0.1 < dice.accuracy < 0.45 and dice.ci[0] < 0.25 < dice.ci[1]
    chance = probe(None, how)
    assert chance.accuracy == chance.balanced == 0.25
    assert probe(planted, how) == probe(planted, planned(procedures))
    with pytest.raises(StepclipError, match="not finite"):
        probe(np.full((81, 2), np.nan), how)


def test_fewer_folds_where_videos_are_few_and_none_where_none_can_be() -> None:
    assert planned(["a", "a", "b", "b", "b"]).folds == 2
    assert plan(["a", "b", "c"]) == "fewer than two procedures have two videos"
    assert "transfer lists" in str(plan(["a", "a", "b"], ["train", "test", None]))
    # a procedure that was never trained on cannot be named, and is not asked for
    how = planned(["a", "b", "a", "c"], ["train", "train", "test", "test"])
    assert how.turns[0][1].tolist() == [2]


def test_the_released_transfer_lists(shared_data: Path) -> None:
    """689 to train and 185 to test, 25 procedures, 6 to 9 test videos of each (weaksvr.md 5.3)."""
    transfer = {}
    for name in ("train", "test"):
        path = shared_data / "annotations" / "CSV" / "splits" / f"transfer_{name}.txt"
        for line in path.read_text().splitlines():
            folder, label = line.split()
            transfer[f"{label}/{folder.rpartition('/')[2]}"] = name
    ids = [*sorted(transfer), "9.1/somebody"]
    how = planned([video_id.split("/")[0] for video_id in ids], listed(ids, transfer))
    (train, test), labels = how.turns[0], how.labels
    assert (len(train), len(test), len(np.unique(labels[train]))) == (689, 185, 25)
    count = np.bincount(labels[test])
    assert count.min() == 6 and count.max() == 9
    found = probe(np.eye(26)[labels], how)
    assert (found.accuracy, found.train, found.test) == (1, 689, 185)
    assert listed(["elsewhere"], transfer) is None and listed(ids, None) is None
