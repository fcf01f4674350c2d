"""Indices that change, that are several, that are approximate; and whose texts they may be asked with."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.cache.fingerprint import Fingerprint
from stepclip.evaluate.search import Filter, SearchIndex, add_videos, build_index, remove_videos
from stepclip.evaluate.search.kinds import (
    choose_kind,
    factory,
    load_faiss,
    make_level,
    open_level,
    save_level,
)
from stepclip.train.method import Embedder

from .conftest import DIM, World
from .test_search import PlantedEncoder

faiss = pytest.importorskip("faiss")


def build(world: World, out: Path, ids: Any = None, **options: Any) -> Path:
    return build_index(None, world.store, world.manifest, out, ids, device="cpu", **options)


def everything(index: SearchIndex, world: World) -> list[Any]:
    """The answers to a query of each sort, without scores' last digits."""
    encoder, script = PlantedEncoder(world), world.manifest["1.2-p1"].steps
    found = []
    for answers in (
        *(index.search("task 1 step 3", encoder, 100, by) for by in ("moment", "step", "video")),
        index.search_script(script, encoder, 100),
        index.search_script(script, encoder, 5, candidates=7),
        index.search_like("1.2-p1", 4.0, 100),
    ):
        found.append(
            sorted((a.video_id, round(a.score, 4), a.start, a.end, a.step, a.steps) for a in answers)
        )
    return found


def test_added_videos_answer_as_if_built_at_once(world: World, tmp_path: Path) -> None:
    ids = list(world.store.video_ids)
    whole = SearchIndex.open(build(world, tmp_path / "whole"))
    grown = build(world, tmp_path / "grown", ids[:11])
    kept = next(grown.glob("parts/*/windows.faiss")).stat().st_mtime_ns
    assert add_videos(grown, None, world.store, world.manifest, ids[:20], device="cpu") == ids[11:20]
    assert add_videos(grown, None, world.store, world.manifest, device="cpu") == ids[20:]
    assert add_videos(grown, None, world.store, world.manifest, device="cpu") == []
    opened = SearchIndex.open(grown)
    assert len(opened.parts) == 3 and opened.video_ids() == ids
    assert min(p.stat().st_mtime_ns for p in grown.glob("parts/*/windows.faiss")) == kept
    assert everything(opened, world) == everything(whole, world)


def test_removed_videos_never_answer_and_may_come_back(world: World, tmp_path: Path) -> None:
    ids, gone = list(world.store.video_ids), ["1.0-p0", "1.1-p1", "0.0-p0"]
    folder = build(world, tmp_path / "index")
    assert sorted(remove_videos(folder, [*gone, "nobody"])) == sorted(gone)
    less = SearchIndex.open(folder)
    expected = SearchIndex.open(build(world, tmp_path / "b", [v for v in ids if v not in gone]))
    assert len(less) == len(ids) - 3 and everything(less, world) == everything(expected, world)
    with pytest.raises(StepclipError, match=r"no video '1.0-p0' in the index"):
        less.search_like("1.0-p0", 1.0)
    assert set(add_videos(folder, None, world.store, world.manifest, device="cpu")) == set(gone)
    again = SearchIndex.open(folder)
    assert everything(again, world) == everything(SearchIndex.open(build(world, tmp_path / "c")), world)
    remove_videos(folder, gone)  # the part that was added is empty now, and goes
    assert len(list((folder / "parts").iterdir())) == 1
    with pytest.raises(StepclipError, match="every video"):
        remove_videos(folder, ids)
    assert len(SearchIndex.open(folder)) == len(ids) - 3


def test_shards_are_searched_as_one(world: World, tmp_path: Path) -> None:
    ids = list(world.store.video_ids)
    folders = [build(world, tmp_path / str(i), ids[i::3]) for i in range(3)]
    whole = SearchIndex.open(build(world, tmp_path / "whole"))
    assert everything(SearchIndex.open(*folders), world) == everything(whole, world)
    world.store.fingerprint, kept = Fingerprint({"encoder.name": "other"}), world.store.fingerprint
    try:
        folders.append(build(world, tmp_path / "other"))
    finally:
        world.store.fingerprint = kept
    with pytest.raises(StepclipError, match="differ in fingerprint"):
        SearchIndex.open(*folders)


@pytest.mark.slow
def test_dask_workers_answer_as_one_index(world: World, tmp_path: Path) -> None:
    from stepclip.evaluate.search.fleet import fleet

    ids = list(world.store.video_ids)
    folders = [str(build(world, tmp_path / str(i), ids[i::3])) for i in range(3)]
    here = SearchIndex.open(*folders)
    encoder, script = PlantedEncoder(world), world.manifest["2.3-p0"].steps
    queries = here.encode(encoder, script, "windows").numpy()
    with fleet("local:2", folders) as far:
        scores, shards, rows = far.search_vectors("windows", queries, 7, Filter(task="2"))
        answers = far.search_script(script, encoder, 4)
        texts = {by: far.search(script[1], encoder, 4, by) for by in ("moment", "step", "video")}
    expected, places = here.search_vectors("windows", queries, 7, Filter(task="2"))
    assert scores == pytest.approx(expected, abs=1e-5)
    first = np.cumsum([0, *(len(part.levels["windows"]) for part in here.parts)])
    assert np.array_equal(np.sort(first[shards] + rows), np.sort(places))
    assert [a.video_id for a in answers] == [a.video_id for a in here.search_script(script, encoder, 4)]
    for by, found in texts.items():
        wanted = here.search(script[1], encoder, 4, by)
        assert [a.score for a in found] == pytest.approx([a.score for a in wanted], abs=1e-5)


def test_another_run_or_other_features_are_not_added(world: World, tmp_path: Path) -> None:
    from .test_embed import small_checkpoint

    folder = build(world, tmp_path / "index", list(world.store.video_ids)[:5])
    with pytest.raises(StepclipError, match=r"index at .* is of None"):
        add_videos(folder, small_checkpoint(world), world.store, world.manifest, device="cpu")
    world.store.fingerprint, kept = Fingerprint({"encoder.name": "other"}), world.store.fingerprint
    try:
        with pytest.raises(StepclipError, match="other features"):
            add_videos(folder, None, world.store, world.manifest, device="cpu")
    finally:
        world.store.fingerprint = kept
    with pytest.raises(StepclipError, match="no index at"):
        add_videos(tmp_path / "none", None, world.store, world.manifest, device="cpu")
    assert not (tmp_path / "none").exists()


def test_an_open_index_outlives_the_part_it_was_opened_from(world: World, tmp_path: Path) -> None:
    folder = build(world, tmp_path / "index", list(world.store.video_ids)[:30])
    first, second = SearchIndex.open(folder), SearchIndex.open(folder)
    expected = first.search("task 0 step 1", PlantedEncoder(world), 5)
    shutil.rmtree(folder)
    assert second.search("task 0 step 1", PlantedEncoder(world), 5) == expected


def test_readers_see_before_or_after(world: World, tmp_path: Path) -> None:
    """One thread adds and removes, others open and search: no fault, and always a state that was written."""
    ids = list(world.store.video_ids)
    folder = build(world, tmp_path / "index", ids[:30])
    faults, sizes, done = [], set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                sizes.add(len(SearchIndex.open(folder).search("task 0 step 1", PlantedEncoder(world), 100)))
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        add_videos(folder, None, world.store, world.manifest, ids[30:33], device="cpu")
        remove_videos(folder, ids[30:31])
    done.set()
    for thread in threads:
        thread.join()
    assert not faults and sizes <= {30, 32, 33}


# ---- kinds


@pytest.fixture(scope="module")
def clustered() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, DIM))
    x = centres[rng.integers(60, size=6000)] + 0.5 * rng.normal(size=(6000, DIM))
    queries = centres[:40] + rng.normal(size=(40, DIM))
    return tuple((v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (x, queries))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw", pytest.param("pq", marks=pytest.mark.slow)])
def test_kinds_find_what_exact_search_finds(clustered, kind: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    x, queries = clustered
    made = make_level(x, kind, queries)
    save_level(made, tmp_path, "level")
    level = open_level(tmp_path, "level", made.about())
    cosine = queries @ x.T
    scores, rows = level.search(queries, 10)
    truth = np.argsort(-cosine, axis=1)[:, :10]
    found = np.mean([np.isin(a, b).mean() for a, b in zip(truth, rows, strict=True)])
    assert found >= 0.95 and made.recall == pytest.approx(found)
    assert np.all(np.diff(scores, axis=1) <= 1e-6)
    assert scores == pytest.approx(np.take_along_axis(cosine, rows, 1), abs=2e-3)
    assert level.vectors(np.array([5, 4000])) == pytest.approx(x[[5, 4000]], abs=1e-3)
    assert level.vectors(slice(7, 9)) == pytest.approx(x[7:9], abs=1e-3)
    allowed = np.zeros(len(x), bool)
    allowed[100:160] = True
    scores, rows = level.search(queries, 10, allowed)
    real = rows[np.isfinite(scores)]
    assert len(real) and ((real >= 100) & (real < 160)).all()


def test_an_exact_index_is_read_into_memory_where_it_fits(clustered, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    x, queries = clustered
    save_level(made := make_level(x, "exact"), tmp_path, "level")
    for free, stays in ((10**9, False), (1000, True)):
        monkeypatch.setattr("stepclip.train.features.free_memory", lambda _, free=free: free)
        level = open_level(tmp_path, "level", made.about())
        mapped = level.index
        _, rows = level.search(queries, 3)
        assert (level.index is mapped) == stays and np.array_equal(rows, made.search(queries, 3)[1])
        assert level.vectors(np.array([7])) == pytest.approx(x[[7]])


def test_a_gpu_takes_what_it_can(clustered, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """With faiss-gpu and a GPU in sight the index goes there, a graph stays; without, nothing changes."""
    x, _ = clustered
    moved: list[Any] = []
    for kind in ("exact", "hnsw"):
        made = make_level(x[:3000], kind)
        save_level(made, tmp_path, kind)
        assert len(open_level(tmp_path, kind, made.about(), gpu=True)) == 3000 and not moved
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda i: moved.append(i) or i, raising=False)
    for kind in ("exact", "hnsw"):
        about = make_level(x[:3000], kind).about()
        assert len(open_level(tmp_path, kind, about, gpu=True)) == 3000
    assert [type(index) for index in moved] == [faiss.IndexFlatIP]


def test_a_level_that_is_added_to_keeps_its_training(clustered, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    x, queries = clustered
    first = make_level(x[:4000], "ivf", queries)
    second = make_level(x[4000:4010], "ivf", queries[:2], first.trained)
    assert first.trained.ntotal == 0 and len(second) == 10
    _, rows = second.search(x[4000:4010], 1)
    assert rows[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_scores_are_the_vectors_own_and_what_errs_is_raised(kind: str) -> None:
    """Codes choose, the vectors themselves are compared; where codes err, more candidates are compared again
    before all cells are looked at."""
    rng = np.random.default_rng(0)

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    x = unit(unit(rng.normal(size=(20, 32))).repeat(1000, 0) + 0.05 * rng.normal(size=(20_000, 32)))
    queries = unit(x[rng.integers(len(x), size=200)] + 0.1 * rng.normal(size=(200, 32)))
    level = make_level(x, kind, queries)
    assert level.recall >= 0.95
    assert level.effort < load_faiss().extract_index_ivf(level.index).nlist
    scores, rows = level.search(queries[:20], 10)
    for q in range(20):
        assert scores[q] == pytest.approx(x[rows[q]] @ queries[q], abs=2e-3)
        assert (np.diff(scores[q]) <= 0).all()
    if kind == "pq":  # codes of 4 bytes cannot tell a thousand neighbours
        assert level.refine > 10


def test_the_memory_chooses() -> None:
    assert choose_kind(10**6, 512, 3e9) == "exact"
    assert choose_kind(10**6, 512, 2e9) == "ivf"
    assert choose_kind(10**6, 512, 5e8) == "pq"
    assert choose_kind(10**6, 512, None) == "exact"
    assert choose_kind(500, 512, 10.0) == "exact"
    assert (factory("ivf", 10**6, 512), factory("pq", 10**6, 512)) == ("IVF4096,SQ8", "IVF4096,PQ64")
    assert factory("pq", 10**6, 50).endswith("PQ5") and factory("ivf", 100, 8) == "Flat"
    with pytest.raises(StepclipError, match="did you mean 'hnsw'"):
        factory("hsnw", 10**6, 512)


def test_an_approximate_index_says_its_recall(world: World, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("stepclip.evaluate.search.kinds.LEAST", 250)
    said: list[str] = []
    ids = list(world.store.video_ids)
    folder = build(world, tmp_path / "a", ids[:30], kind="ivf", say=said.append)
    assert any("windows" in line and "of the ten nearest to a sentence" in line for line in said)
    add_videos(folder, None, world.store, world.manifest, device="cpu", say=said.append)
    made = SearchIndex.open(folder)
    assert [part.levels["windows"].kind for part in made.parts] == ["ivf", "ivf"]
    answers = made.search("task 1 step 2", PlantedEncoder(world), 5)
    exact = SearchIndex.open(build(world, tmp_path / "b")).search("task 1 step 2", PlantedEncoder(world), 5)
    assert [a.video_id for a in answers] == [a.video_id for a in exact]
    # with little effort fewer moments are found than are asked for: the script's videos all the same
    for part in made.parts:
        part.levels["windows"].effort = 1
    script = world.manifest["1.0-p0"].steps
    found = made.search_script(script, PlantedEncoder(world), 3, candidates=20)
    assert [a.procedure for a in found] == ["1.0"] * 3 and np.isfinite([a.score for a in found]).all()
    with pytest.raises(StepclipError, match="auto or one of"):
        build(world, tmp_path / "d", kind="flat")


@pytest.mark.slow
def test_what_does_not_fit_is_kept_as_codes(world: World, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("stepclip.evaluate.search.kinds.LEAST", 250)
    index = SearchIndex.open(build(world, tmp_path / "c", kind="auto", memory=1000))
    level = index.parts[0].levels["windows"]
    assert level.kind == "pq" and level.recall >= 0.95
    assert index.search("task 1 step 2", PlantedEncoder(world), 1)[0].step == "task 1 step 2"


def test_blocks_become_parts(world: World, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    whole = SearchIndex.open(build(world, tmp_path / "a"))
    monkeypatch.setattr("stepclip.train.features.free_memory", lambda _: 1_000_000)
    parts = SearchIndex.open(build(world, tmp_path / "b", kind="exact"))
    assert len(parts.parts) > 2 and everything(parts, world) == everything(whole, world)


# ---- texts


@pytest.mark.parametrize(
    ("kept", "good"),
    [
        ("planted, abcdef012345", True),  # as `stepclip cache import --encoder` writes it
        ("another name, abcdef012345", True),
        ("planted", True),
        ("planted, 000000000000", False),
        ("a file of features", False),
        ("none", False),
    ],
)
def test_imported_features_are_asked_with_their_text_encoder(world: World, tmp_path, kept, good) -> None:  # type: ignore[no-untyped-def]
    """What made the pictures' features (encoder.*) says nothing about the texts."""
    fields = {"source": "import", "encoder.name": "s3d", "text.encoder": kept}
    world.store.fingerprint, before = Fingerprint(fields), world.store.fingerprint
    try:
        index = SearchIndex.open(build(world, tmp_path / "index"))
    finally:
        world.store.fingerprint = before
    encoder = PlantedEncoder(world, **{"encoder.weights": "abcdef0123456789"})
    if good:
        assert index.search("task 0 step 1", encoder, 1)[0].step == "task 0 step 1"
    else:
        with pytest.raises(StepclipError, match=r"text.encoder.*index: .*asked with: planted, abcdef012345"):
            index.search("task 0 step 1", encoder, 1)


class Turned(Embedder):
    """A method that trains a place for texts: everything turned by one rotation."""

    frames = None

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = self.text_dim = DIM
        self.turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0)))[0]

    def embed_packed(self, packed: Any, batch: int = 256) -> Any:
        frames = packed.features.float() @ self.turn
        owner = torch.repeat_interleave(torch.arange(len(packed)), packed.offsets.diff())
        return torch.zeros(len(packed), DIM).index_add_(0, owner, frames), frames

    def embed_texts(self, features: torch.Tensor, kind: str) -> torch.Tensor:
        return features @ self.turn


def test_texts_go_through_the_model_where_it_embeds_them(world: World, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    model = Turned()
    recipe = SimpleNamespace(name="turned")
    checkpoint: Any = SimpleNamespace(
        recipe=recipe, model=model, fingerprint=world.store.fingerprint, step=1, metrics={}
    )
    monkeypatch.setattr("stepclip.train.checkpoint.load_checkpoint", lambda _: checkpoint)
    folder = build_index(tmp_path / "run", world.store, world.manifest, tmp_path / "i", device="cpu")
    turned, plain = SearchIndex.open(folder), SearchIndex.open(build(world, tmp_path / "b"))
    encoder = PlantedEncoder(world)
    for by in ("moment", "step"):
        a, b = (index.search("task 2 step 2", encoder, 6, by) for index in (turned, plain))
        assert [x.video_id for x in a] == [x.video_id for x in b]
        assert [x.score for x in a] == pytest.approx([x.score for x in b], abs=1e-3)
    assert turned.search_script(world.manifest["2.1-p0"].steps, encoder)[0].procedure == "2.1"
