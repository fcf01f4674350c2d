"""The table of frames in an evaluation: its rows, its warnings, its place in what is saved and printed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepclip.cache.manifest import Manifest
from stepclip.evaluate import evaluate
from stepclip.evaluate.results import Results
from stepclip.train.features import Features
from stepclip.train.method import Embedder
from stepclip.train.recipe import load_recipe

from .conftest import World


class AsTheyAre(Embedder):
    """Each frame is its feature."""

    text = False

    def embed_packed(self, packed: Features, batch: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
        frames = packed.gather(torch.arange(packed.count)).float()
        return torch.stack([frames[packed.rows(i)].mean(0) for i in range(len(packed))]), frames


def results_of(world: World, manifest: Manifest | None = None, **more: object) -> Results:
    checkpoint = SimpleNamespace(
        recipe=load_recipe("carl-corrected"),
        model=AsTheyAre(),
        fingerprint=world.store.fingerprint,
        step=1,
        metrics={},
    )
    manifest = manifest or world.manifest
    some = [video.video_id for video in manifest if video.task == "0"][:6]
    return evaluate(
        checkpoint,  # type: ignore[arg-type]
        world.store,  # type: ignore[arg-type]
        manifest.select(some),
        device="cpu",
        progress=False,
        **more,  # type: ignore[arg-type]
    )


def test_a_run_of_carl_has_the_table_and_what_explains_it(world: World, tmp_path: Path) -> None:
    results = results_of(world)
    names = ["frames", "raw", "raw, standardised", "clock", "clock + raw", "content-free", "chance"]
    assert [row.name for row in results.frames] == names
    found = {row.name: row.result for row in results.frames}
    # nothing was learned, and the table says so
    assert found["frames"].accuracy == pytest.approx(found["raw"].accuracy)
    said = "\n".join(results.remarks["frames"])
    assert "warning: accuracy" in said and "raw" in said and "people they have not seen" in said
    assert found["frames"].accuracy > 0.9 > found["clock"].accuracy > found["chance"].accuracy
    assert results.headline()["ap5"] == found["frames"].ap5
    as_json, as_text = results.save(tmp_path)
    saved = json.loads(as_json.read_text())["frames"]
    assert saved[0]["name"] == "frames" and saved[0]["ap5"] == pytest.approx(found["frames"].ap5)
    assert "## Frames" in as_text.read_text() and "| clock + raw | control |" in as_text.read_text()


def test_without_step_times_a_note_says_why(world: World) -> None:
    results = results_of(world, world.manifest.without_truth())
    assert not results.frames
    assert any("table of frames is left out" in note for note in results.notes)
    assert results_of(world, frames=False).frames == []
