"""TempCLR's tables on the planted world."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from stepclip.cache.manifest import Manifest
from stepclip.evaluate import over_seeds
from stepclip.evaluate.embed import content_free, embed, embed_raw
from stepclip.evaluate.parts import Material
from stepclip.evaluate.results import Results
from stepclip.evaluate.sequence_tables import sequence_tables

from .conftest import World
from .test_evaluation import planted


def tables(world: World, manifest: Manifest) -> Results:
    """The four tables alone: what the door gives beside them is tested elsewhere."""
    checkpoint: Any = planted(world, "perfect")
    store: Any = world.store
    videos = list(manifest)
    ids = [v.video_id for v in videos]
    trained, raw = embed(checkpoint, store, ids, "cpu"), embed_raw(store, ids, "cpu")
    m = Material(
        checkpoint, store, manifest, manifest, videos, trained, raw, content_free(checkpoint, raw), "cpu",
        lambda name, total: lambda n: None,
    )  # fmt: skip
    results = Results("planted", "planted", "test", len(videos))
    sequence_tables(results, m)
    return results


@pytest.fixture(scope="module")
def perfect(world: World) -> Results:
    return tables(world, world.manifest)


def by_name(rows: list) -> dict:
    return {row.name: row.result for row in rows}


def test_a_perfect_model_has_perfect_tables_and_what_sees_no_order_has_not(perfect: Results) -> None:
    found = by_name(perfect.sequences)
    assert found["dtw"].kept.r1 > 0.9 and found["dtw"].removed.r1 == 1 and found["dtw"].own_task.r1 > 0.9
    assert found["dtw"].shuffled.r1 == 1 and found["dtw"].swapped.r1 == 1
    assert found["cap. avg."].shuffled.r1 == pytest.approx(1 / 32, abs=0.002)
    assert found["cap. avg."].own_task.r1 < 1
    for blind in ("duration", "chance"):
        assert found[blind].shuffled.r1 == pytest.approx(1 / 32, abs=0.002)
        assert found[blind].kept.r1 < 0.3
    # half of a task's scripts have a length of their own
    assert found["duration"].removed.r1 > found["chance"].removed.r1
    assert by_name(perfect.clips)["trained"].text.r1 == 1
    assert by_name(perfect.clips)["chance"].text.r1 < 0.2
    steps = by_name(perfect.steps)
    assert steps["ordered"].recall == 1 and steps["unordered"].recall == 1
    assert steps["uniform"].recall < 1 and steps["chance"].recall < 1
    shots = by_name(perfect.few_shot)
    assert shots["otam"].one.accuracy > 0.8 and shots["dtw"].within.accuracy > 0.6
    assert shots["chance"].one.accuracy == pytest.approx(1 / shots["chance"].one.ways)
    assert shots["mean"].within.accuracy < shots["dtw"].within.accuracy  # the same steps in another order
    for rows in (perfect.sequences, perfect.clips, perfect.steps, perfect.few_shot):
        assert [row.headline for row in rows].count(True) == 1
        assert {"content-free", "chance"} < {row.name for row in rows}


def test_they_print_and_save_and_are_averaged_over_seeds(perfect: Results, tmp_path) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(perfect)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for title in ("Full-video retrieval", "Clip retrieval", "Step localisation", "Few-shot"):
        assert title in text and title in perfect.to_markdown()
    as_json, _ = perfect.save(tmp_path)
    saved = json.loads(as_json.read_text())
    assert saved["headline"]["shuffled_r1"] == 1 and saved["headline"]["few_shot"] > 0.8
    rows = [row for row in over_seeds([saved, saved]) if row.part == "sequences" and row.name == "dtw"]
    assert rows[0].figures["shuffled.r1"].mean == 1


def test_without_times_and_without_company_parts_are_left_out(world: World) -> None:
    one = [v for v in world.manifest.without_truth() if v.video_id.endswith("p0")]
    alone = [replace(v, task=v.video_id, procedure=v.video_id) for v in one]
    manifest = Manifest(tuple(alone), name="alone")
    found = tables(world, manifest)
    assert not found.clips and not found.steps and not found.few_shot
    assert by_name(found.sequences)["dtw"].removed is None
    said = " ".join(found.notes)
    assert "no video has true step times" in said and "few-shot is left out" in said
