"""The whole of stage three: planted models, a real short training, splits that lack one thing or another."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.cache.fingerprint import Fingerprint
from stepclip.cache.manifest import Manifest
from stepclip.cache.writer import FeatureWriter
from stepclip.evaluate import evaluate
from stepclip.evaluate.controls import CONTROLS
from stepclip.evaluate.results import PARTS
from stepclip.evaluate.verification import verify
from stepclip.train.features import Features
from stepclip.train.method import Embedder
from stepclip.train.recipe import load_recipe
from stepclip.train.weaksvr.embedding import embed_packed
from stepclip.train.weaksvr.model import ModelOutput

from .conftest import DIM, World, build_world


class Planted(Embedder):
    """frames: the features as they are (`perfect`), noise, or one constant; video: their mean."""

    frames = 8

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> ModelOutput:
        h = (
            x
            if self.kind == "perfect"
            else torch.randn(x.shape)
            if self.kind == "random"
            else torch.ones_like(x)
        )
        return ModelOutput(h, h.mean(1))

    def embed_packed(self, packed: Features, batch: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
        return embed_packed(self, packed, batch)  # type: ignore[arg-type]


def planted(world: World, kind: str, distance: str = "alignment") -> SimpleNamespace:
    recipe = load_recipe("weaksvr-corrected", [f"evaluate.distance={distance}"])
    return SimpleNamespace(
        recipe=recipe, model=Planted(kind), fingerprint=world.store.fingerprint, step=1, metrics={}
    )


def by_name(rows: list) -> dict:  # type: ignore[type-arg]
    return {row.name: row.result for row in rows}


def test_perfect_random_and_constant_models(world: World) -> None:
    torch.manual_seed(0)
    perfect, random, constant = (
        evaluate(planted(world, kind), world.store, world.manifest, device="cpu", progress=False)
        for kind in ("perfect", "random", "constant")
    )
    assert by_name(perfect.verification)["alignment"].auc == 1
    assert by_name(perfect.localisation)["trained"].frame_accuracy > 0.99
    assert by_name(perfect.retrieval)["script"].r1 == 1 and by_name(perfect.matching)["script"].acc1 == 1
    assert 0.3 < by_name(random.verification)["alignment"].auc < 0.7
    assert by_name(random.retrieval)["paragraph"].r1 < 0.4
    flat = by_name(constant.verification)
    assert flat["pooled"].auc == pytest.approx(0.5) and flat["alignment"].auc == pytest.approx(0.5, abs=0.2)
    chance = by_name(constant.retrieval)
    assert chance["paragraph"].r5 == pytest.approx(chance["chance"].r5)
    # the controls do not depend on the model, but for the one that is the model without content
    for name in set(CONTROLS) - {"content-free"}:
        assert by_name(random.verification)[name].auc == by_name(perfect.verification)[name].auc
    assert by_name(random.localisation)["uniform"] == by_name(perfect.localisation)["uniform"]


def test_every_table_has_its_controls_and_one_headline(world: World) -> None:
    results = evaluate(
        planted(world, "perfect", "combined"),
        world.store,
        world.manifest,
        frames=True,
        sequences=True,
        device="cpu",
        progress=False,
    )
    assert [r.name for r in results.verification] == ["pooled", "alignment", "combined", *CONTROLS]
    assert [r.name for r in results.verification if r.headline] == ["combined"]
    for part in PARTS:
        rows = getattr(results, part)
        assert [r.headline for r in rows].count(True) == 1, part
        assert {r.kind for r in rows} == {"trained", "control", "chance"}, part
        names = {r.name for r in rows}
        assert {"chance", "content-free"} <= names, part
        assert names & {"duration", "clock", "uniform"}, part
    assert results.headline()["auc"] == by_name(results.verification)["combined"].auc
    assert set(by_name(results.verification)["pooled"].by_kind) == {"order", "deletion", "addition"}
    free = by_name(results.verification)["content-free"]
    assert free.auc == 0.5 and by_name(results.matching)["content-free"].acc1 < 0.5
    said = results.remarks["verification"][0]
    aucs = {name: by_name(results.verification)[name].auc for name in CONTROLS}
    best = max(aucs, key=aucs.__getitem__)
    assert said.startswith(f"combined over the best control, {best}: ") and "the same resampled pairs" in said
    assert f"{100 * (results.headline()['auc'] - aucs[best]):+.1f} AUC points" in said


def test_other_distances_and_views(world: World) -> None:
    """The table repeats the quoted rows, and its others are those of the views by hand."""
    results = evaluate(
        planted(world, "perfect", "pooled"), world.store, world.manifest, device="cpu", progress=False
    )
    rows, main = by_name(results.distances), by_name(results.verification)
    assert [r.name for r in results.distances if r.headline] == ["norm-l2"]
    assert rows["norm-l2"].three.auc == pytest.approx(main["pooled"].auc)
    assert rows["cos"].three.auc == rows["norm-l2"].three.auc  # 2 - 2 cos: the same order
    assert rows["cos"].three.wdr == pytest.approx(rows["norm-l2"].three.wdr)
    for name in ("alignment", "combined", *CONTROLS):
        assert rows[name].three is main[name] and (rows[name].one is None) == (name != "flat")
    frames = {v: world.store.frames[v].astype(float) for v in world.store.video_ids}

    def middle(video_id: str) -> np.ndarray:
        edges = np.linspace(0, len(frames[video_id]) - 2, 9).astype(int)
        return frames[video_id][edges[:-1] + 2 * (np.diff(edges) // 4)]

    pairs = world.manifest.pairs
    by_hand = [np.abs(middle(p.video_a).mean(0) - middle(p.video_b).mean(0)).sum() for p in pairs]
    assert rows["l1"].one.auc == verify(np.array(by_hand), pairs, world.manifest).auc
    unit = {v: m / np.linalg.norm(m, axis=1, keepdims=True) for v in frames for m in [middle(v)]}
    by_hand = [1 - (unit[p.video_a] * unit[p.video_b]).sum(1).mean() for p in pairs]
    assert rows["diagonal"].one.auc == pytest.approx(verify(np.array(by_hand), pairs, world.manifest).auc)
    assert results.to_dict()["distances"][0]["one"]["auc"] == rows["norm-l2"].one.auc


def test_a_model_without_text_space_has_no_trained_rows_that_need_one(world: World) -> None:
    run = planted(world, "perfect")
    run.model.text = False
    results = evaluate(run, world.store, world.manifest, device="cpu", progress=False)
    assert results.verification and results.probe and not results.pseudo_labels
    for rows in (results.retrieval, results.matching, results.localisation):
        assert rows and not any(r.kind == "trained" or r.name == "content-free" for r in rows)
    assert sum("no text space" in note for note in results.notes) == 2


def test_transfer_lists_of_the_probe(world: World) -> None:
    lists = {v.video_id: "test" if v.video_id.endswith("p2") else "train" for v in world.manifest}
    run = planted(world, "perfect")
    results = evaluate(
        run, world.store, world.manifest, transfer={**lists, "gone": "test"}, device="cpu", progress=False
    )
    found = by_name(results.probe)["video"]
    assert (found.train, found.test, found.folds) == (24, 12, 0) and not results.remarks.get("probe")
    assert "linear probe: 1 of 37 listed videos have no features here" in results.notes
    folds = evaluate(run, world.store, world.manifest, device="cpu", progress=False)
    assert by_name(folds.probe)["video"].folds == 3 and "no transfer lists" in folds.remarks["probe"][0]


def test_saved_and_printed(world: World, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console

    results = evaluate(planted(world, "perfect"), world.store, world.manifest, device="cpu", progress=False)
    as_json, as_text = results.save(tmp_path)
    saved = json.loads(as_json.read_text())
    assert saved["verification"][1]["auc"] == by_name(results.verification)["alignment"].auc
    at = [row["name"] for row in saved["verification"]].index("clock")
    assert saved["verification"][at]["wdr"] is None  # undefined, and JSON has no nan
    assert saved["about"]["fingerprint"] == world.store.fingerprint.digest
    assert "| **alignment** | trained | 100.0 |" in as_text.read_text()
    for width in (80, 140):
        console = Console(width=width, record=True, file=io.StringIO())
        results.print(console)
        text = console.export_text()
        titles = [part.title for part in results.parts()]
        assert len(titles) == 9
        for name in (*CONTROLS, *titles):
            assert name in text
        assert "…" not in text, "a figure was cut off"
        assert ("DTW on raw CLIP frames" in text) == (width == 140)


def test_another_fingerprint_is_refused_with_the_difference(world: World) -> None:
    other = planted(world, "perfect")
    other.fingerprint = Fingerprint({**world.store.fingerprint.fields, "encoder.name": "elsewhere"})
    with pytest.raises(StepclipError, match=r"encoder.name.*elsewhere.*planted"):
        evaluate(other, world.store, world.manifest, progress=False)


def test_what_a_split_lacks_is_left_out_and_said(world: World) -> None:
    run = planted(world, "perfect")
    bare = Manifest(world.manifest.without_truth().videos, name="bare")
    results = evaluate(run, world.store, bare, device="cpu", progress=False)
    assert (
        not results.verification and not results.localisation and not results.matching and results.retrieval
    )
    said = "\n".join(results.notes)
    assert (
        "verification is left out" in said
        and "localisation is left out" in said
        and "no matching list" in said
    )
    assert [part.title for part in results.parts()] == [
        "Video-to-video search",
        "Retrieval",
        "Linear probe",
    ]
    one_sided = replace(world.manifest, pairs=tuple(p for p in world.manifest.pairs if p.matched))
    results = evaluate(run, world.store, one_sided, device="cpu", progress=False)
    assert not results.verification and "0 unmatched" in "\n".join(results.notes)
    with pytest.raises(StepclipError, match="no row of the split 'val'"):
        evaluate(run, world.store, world.manifest, "val", progress=False)


def test_videos_without_features_are_counted(world: World) -> None:
    store = build_world().store
    for gone in ("0.0-p0", "1.2-p1"):
        del store.frames[gone]
    store.video_ids = tuple(store.frames)
    results = evaluate(planted(world, "perfect"), store, world.manifest, device="cpu", progress=False)
    said = "\n".join(results.notes)
    left = [p for p in world.manifest.pairs if {p.video_a, p.video_b} & {"0.0-p0", "1.2-p1"}]
    assert "2 of 36 videos" in said and f"{len(left)} of {len(world.manifest.pairs)} pairs left out" in said
    assert by_name(results.verification)["alignment"].matched + by_name(results.verification)[
        "alignment"
    ].unmatched == (len(world.manifest.pairs) - len(left))
    assert "matching: 8 of 36 rows left out" in said  # the four of each list that holds a lost video
    store.frames.clear()
    with pytest.raises(StepclipError, match="none of the 36 videos"):
        evaluate(planted(world, "perfect"), store, world.manifest, progress=False)


def test_texts_without_features_leave_retrieval_out(world: World) -> None:
    store = build_world().store
    del store.texts[f"paragraph:{world.manifest['0.0-p0'].paragraph}"]
    results = evaluate(planted(world, "perfect"), store, world.manifest, device="cpu", progress=False)
    assert not results.retrieval and "retrieval is left out: 1 texts" in "\n".join(results.notes)
    assert results.localisation and results.verification


def write_store(world: World, folder) -> None:  # type: ignore[no-untyped-def]
    with FeatureWriter(folder, world.store.fingerprint, dim=DIM) as writer:
        for video_id, features in world.store.frames.items():
            times = np.arange(len(features)) / 4
            writer.add(video_id, features, times, len(features) / 4)
        for kind in ("step", "paragraph"):
            texts = [t.removeprefix(f"{kind}:") for t in world.store.texts if t.startswith(f"{kind}:")]
            writer.add_text(texts, world.store.text(texts, kind), kind)


def test_a_real_cache_and_a_real_training(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from stepclip.train.trainer import fit

    world = build_world()
    write_store(world, tmp_path / "features")
    videos = tuple(replace(v, split="train" if v.task == "0" else "test") for v in world.manifest.videos)
    kept = {v.video_id for v in videos if v.split == "test"}
    manifest = Manifest(
        videos,
        tuple(p for p in world.manifest.pairs if p.video_a in kept),
        tuple(r for r in world.manifest.matching if r.candidates[0] in kept),
        "planted",
    )
    overrides = ["train.epochs=2", "model.width=16", "model.depth=1", "model.heads=2", "model.head_dim=8"]
    recipe = load_recipe("weaksvr-corrected", overrides)
    fit(recipe, tmp_path / "features", manifest, tmp_path / "run", device="cpu", progress=False)
    first = evaluate(tmp_path / "run", tmp_path / "features", manifest, device="cpu", progress=False)
    again = evaluate(tmp_path / "run", tmp_path / "features", manifest, device="cpu", progress=False)
    assert first.to_dict() | {"seconds": 0} == again.to_dict() | {"seconds": 0}
    assert first.videos == 24 and first.run == "run" and not first.notes
    assert by_name(first.localisation)["raw"].frame_accuracy > 0.99
    everything = evaluate(
        tmp_path / "run", tmp_path / "features", manifest, "all", device="cpu", progress=False
    )
    assert everything.videos == 36
