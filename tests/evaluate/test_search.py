"""Search: planted moments are found, spans cover them, and damaged or foreign indices are refused."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.cache.fingerprint import Fingerprint
from stepclip.evaluate.embed import embed_raw
from stepclip.evaluate.search import SearchIndex, build_index, grow, load_faiss, search, window_means

from .conftest import DIM, World

faiss = pytest.importorskip("faiss")


class PlantedEncoder:
    """Encodes exactly the planted texts."""

    name = "planted"

    def __init__(self, world: World, **fields: Any) -> None:
        self.texts = world.store.texts
        self._fields = {"encoder.name": "planted", "encoder.weights": "w", **fields}

    def fields(self) -> dict[str, Any]:
        return self._fields

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.stack(
            [self.texts.get(f"step:{t}", self.texts.get(f"paragraph:{t}", np.ones(DIM))) for t in texts]
        )


@pytest.fixture(scope="module")
def index(world: World, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return build_index(
        None, world.store, world.manifest, tmp_path_factory.mktemp("i") / "index", device="cpu"
    )


def test_the_planted_moment_is_found(world: World, index) -> None:  # type: ignore[no-untyped-def]
    encoder, opened = PlantedEncoder(world), SearchIndex.open(index)
    for sentence in ("task 0 step 1", "task 1 extra", "task 2 step 5"):
        answers = search(opened, sentence, encoder, top=3)
        assert len(answers) == 3 and len({a.video_id for a in answers}) == 3
        assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
        for answer in answers:
            video = world.manifest[answer.video_id]
            assert answer.step == sentence and answer.path == video.path and answer.score > 0.9
            k = video.steps.index(sentence)
            start, end = video.step_start[k], video.step_end[k]
            assert start <= answer.peak <= end
            overlap = min(end, answer.end) - max(start, answer.start)
            assert overlap / (max(end, answer.end) - min(start, answer.start)) > 0.5


def test_scores_are_the_brute_force_ones(world: World, index) -> None:  # type: ignore[no-untyped-def]
    encoder, raw = PlantedEncoder(world), embed_raw(world.store, world.store.video_ids, device="cpu")
    query = encoder.encode_texts(["task 1 step 2"])[0]
    expected = {}
    for i, video_id in enumerate(raw.video_ids):
        frames, times = raw.frames[raw.slice(i)].numpy(), raw.times[raw.slice(i)]
        windows = np.stack([frames[np.abs(times - t) <= 0.5].mean(0) for t in times])
        expected[video_id] = float((windows @ query / np.linalg.norm(windows, axis=1)).max())
    answers = search(index, "task 1 step 2", encoder, top=36)
    assert {a.video_id for a in answers} == set(expected)
    for a in answers:
        assert a.score == pytest.approx(expected[a.video_id], abs=1e-4)


def test_by_video_ranks_whole_videos(world: World, index) -> None:  # type: ignore[no-untyped-def]
    encoder, raw = PlantedEncoder(world), embed_raw(world.store, world.store.video_ids, device="cpu")
    cosine = (
        torch.nn.functional.normalize(raw.video, dim=-1)
        @ torch.from_numpy(encoder.encode_texts(["task 2 step 0"])[0]).float()
    )
    best = cosine.topk(4)
    answers = search(index, "task 2 step 0", encoder, top=4, by="video")
    assert [a.video_id for a in answers] == [raw.video_ids[i] for i in best.indices.tolist()]
    assert [a.score for a in answers] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_window_means_stay_within_the_video(world: World) -> None:
    raw = embed_raw(world.store, world.store.video_ids[:3], device="cpu")
    found = window_means(raw, 1.0)
    for i in range(3):
        frames, times = raw.frames[raw.slice(i)].numpy(), raw.times[raw.slice(i)]
        expected = [frames[np.abs(times - t) <= 0.5].mean(0) for t in times]
        assert found[raw.slice(i)].numpy() == pytest.approx(np.stack(expected), abs=1e-4)


def test_grow() -> None:
    assert grow(np.array([0.1, 0.1, 0.8, 1.0, 0.9, 0.1, 0.1, 0.9]), 3) == (2, 5)
    assert grow(np.ones(5), 2) == (0, 5)
    assert grow(np.array([1.0]), 0) == (0, 1)


def test_trim_is_added_to_the_times(world: World, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    shifted = replace(
        world.manifest, videos=tuple(replace(v, start=100.0, end=200.0) for v in world.manifest.videos)
    )
    made = build_index(None, world.store, shifted, tmp_path / "index", device="cpu")
    encoder = PlantedEncoder(world)
    plain = search(
        build_index(None, world.store, world.manifest, tmp_path / "b", device="cpu"), "task 0 step 0", encoder
    )[0]
    moved = search(made, "task 0 step 0", encoder)[0]
    assert (moved.start - plain.start, moved.end - plain.end, moved.peak - plain.peak) == (100, 100, 100)


def test_rebuilding_replaces_and_a_failure_keeps(world: World, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    ids = list(world.store.video_ids)
    out = build_index(None, world.store, world.manifest, tmp_path / "index", ids[:5], device="cpu")
    assert len(search(out, "task 0 step 0", PlantedEncoder(world), top=50)) == 5
    build_index(None, world.store, world.manifest, out, ids[:7], device="cpu")
    assert len(search(out, "task 0 step 0", PlantedEncoder(world), top=50)) == 7
    monkeypatch.setattr(faiss, "write_index", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises((OSError, StepclipError)):
        build_index(None, world.store, world.manifest, out, ids[:9], device="cpu")
    assert len(SearchIndex.open(out)) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["index"], "something was left behind"


def test_a_folder_that_is_no_index_is_never_replaced(world: World, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(StepclipError, match="not an index"):
        build_index(None, world.store, world.manifest, tmp_path / "precious", device="cpu")
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_another_encoder_is_refused(world: World, index) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StepclipError, match=r"encoder.weights.*index: w.*asked with: other"):
        search(index, "task 0 step 0", PlantedEncoder(world, **{"encoder.weights": "other"}))


def test_the_same_weights_under_another_name_may_search(world: World, index) -> None:  # type: ignore[no-untyped-def]
    renamed = PlantedEncoder(world, **{"encoder.name": "a copy", "encoder.precision": "bf16"})
    assert search(index, "task 0 step 0", renamed, top=1)[0].step == "task 0 step 0"


@pytest.mark.parametrize(
    "name",
    ["videos.faiss", "windows.faiss", "steps.faiss", "ordered.npy", "ids.arrow", "part.json", "meta.json"],
)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "noise"])
def test_damaged_indices(world: World, tmp_path, name: str, damage: str) -> None:  # type: ignore[no-untyped-def]
    folder = build_index(
        None, world.store, world.manifest, tmp_path / "index", list(world.store.video_ids)[:4], device="cpu"
    )
    file = next(folder.rglob(name))
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": b"\xff" * len(data)}[damage])
    with pytest.raises(StepclipError):
        SearchIndex.open(folder)


def test_files_of_different_builds_and_other_schemas(world: World, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ids = list(world.store.video_ids)
    a = build_index(None, world.store, world.manifest, tmp_path / "a", ids[:4], device="cpu")
    b = build_index(None, world.store, world.manifest, tmp_path / "b", ids[:5], device="cpu")
    other = next(b.rglob("windows.faiss"))
    next(a.rglob("windows.faiss")).write_bytes(other.read_bytes())
    with pytest.raises(StepclipError, match=r"windows.faiss has \d+ bytes"):
        SearchIndex.open(a)
    about = next(a.rglob("part.json"))
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sizes": {}}))
    with pytest.raises(StepclipError, match="rows"):
        SearchIndex.open(a)
    meta = json.loads((b / "meta.json").read_text())
    (b / "meta.json").write_text(json.dumps(meta | {"schema": 99}))
    with pytest.raises(StepclipError, match="schema 99"):
        SearchIndex.open(b)
    with pytest.raises(StepclipError, match="no index at"):
        SearchIndex.open(tmp_path / "nowhere")


def test_bad_queries(world: World, index) -> None:  # type: ignore[no-untyped-def]
    encoder = PlantedEncoder(world)
    for arguments, found in (
        (("  ", encoder), "empty"),
        (("x", encoder, 0), "top = 0"),
        (("x", encoder, 3, "vide"), "did you mean 'video'"),
    ):
        with pytest.raises(StepclipError, match=found):
            search(index, *arguments)  # type: ignore[arg-type]
    with pytest.raises(StepclipError, match="no video to index"):
        build_index(None, world.store, world.manifest, "/tmp/never", [], device="cpu")


def test_a_checkpoint_of_other_features_is_refused(world: World, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from .test_embed import small_checkpoint

    checkpoint = small_checkpoint(world)
    build_index(checkpoint, world.store, world.manifest, tmp_path / "good", device="cpu")
    assert SearchIndex.open(tmp_path / "good").meta["recipe"] == "weaksvr-corrected"
    checkpoint.fingerprint = Fingerprint({"encoder.name": "elsewhere"})
    with pytest.raises(StepclipError, match="elsewhere"):
        build_index(checkpoint, world.store, world.manifest, tmp_path / "bad", device="cpu")
    assert not (tmp_path / "bad").exists()


def test_faiss_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(StepclipError, match=r"stepclip\[cpu\]"):
        load_faiss()


def test_the_small_batch_trap_is_cured() -> None:
    load_faiss()
    assert faiss.cvar.distance_compute_blas_threshold == 1
