"""Mean and deviation over seeds, from results as `evaluate` makes and saves them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.evaluate import evaluate
from stepclip.evaluate.seeds import Spread, over_seeds

from .conftest import World
from .test_evaluation import planted


def test_three_seeds_of_a_random_model(world: World) -> None:
    results = []
    for seed in range(3):
        torch.manual_seed(seed)
        found = evaluate(planted(world, "random"), world.store, world.manifest, device="cpu", progress=False)
        results.append(json.loads(json.dumps(found.to_dict())))
    rows = {(row.part, row.name): row for row in over_seeds(results)}
    aucs = [one["verification"][1]["auc"] for one in results]
    found = rows["verification", "alignment"]
    assert found.headline and found.kind == "trained" and len(set(aucs)) == 3
    assert found.figures["auc"] == Spread(
        pytest.approx(np.mean(aucs)), pytest.approx(np.std(aucs, ddof=1)), 3
    )
    kinds = [one["verification"][1]["by_kind"]["order"] for one in results]
    assert found.figures["by_kind.order"].mean == pytest.approx(np.mean(kinds))
    assert rows["verification", "dtw-raw"].figures["auc"].deviation == 0  # learns nothing, whatever the seed
    assert "wdr" not in rows["verification", "clock"].figures  # undefined in each
    assert rows["pseudo_labels", "viterbi"].figures["split.iou"].runs == 3
    assert rows["distances", "norm-l2"].figures["three.auc"].runs == 3
    del results[2]["localisation"][0]
    assert over_seeds(results)[0].part == "verification"
    fewer = {(row.part, row.name): row for row in over_seeds(results)}
    assert fewer["localisation", "trained"].figures["iou"].runs == 2


def test_written_and_refused() -> None:
    assert str(Spread(0.12345, 0.01, 3)) == "0.123 ± 0.010"
    assert Spread(0.5, 0.0, 3).write(100, 1) == "50.0" and Spread(0.5, 0.02, 2).write(100, 1) == "50.0 ± 2.0"
    with pytest.raises(StepclipError, match="no results"):
        over_seeds([])
    one = {"dataset": "a", "split": "test", "selection": {"rule": "last"}}
    for other in ({"split": "val"}, {"dataset": "b"}, {"selection": {"rule": "best-on-test"}}):
        with pytest.raises(StepclipError, match=f"several kinds of {next(iter(other))}"):
            over_seeds([one, one | other])
