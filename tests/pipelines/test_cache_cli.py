"""`stepclip cache ...`: what it says, its exit codes, what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepclip.cache import FeatureStore, Manifest, VideoRow
from stepclip.pipelines.paths import record

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def extracted(mine: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the dataset `mine` extracted, and its videos beside, so that a copy has its own."""
    from stepclip.pipelines.paths import Layout
    from stepclip.pipelines.stages import extract_stage

    root = tmp_path_factory.mktemp("caches")
    shutil.copytree(mine, root / "videos")
    extract_stage(
        Layout(root),
        name="mine",
        manifest=str(root / "videos" / "mine.csv"),
        encoder=str(tiny_clip),
        fps=2.0,
        progress=False,
    )
    return root


@pytest.fixture
def root(extracted: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(extracted, tmp_path / "root"))
    record(root / "data" / "mine" / "extraction.json", manifest=str(root / "videos" / "mine.csv"))
    return root


def features(root: Path, name: str = "mine") -> Path:
    return root / "data" / name / "features"


def shard_of(root: Path) -> Path:
    return next((features(root) / "shards").glob("*.h5"))


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(0, 0))


def test_status_of_a_whole_cache(root: Path, cli: Cli) -> None:
    done = cli("cache", "status", "--root", root)
    assert done.code == 0 and "done" in done.out and "note" not in done.out
    told = json.loads(cli("cache", "status", "--json", "--root", root).out)
    assert told["whole"] and len(told["done"]) == told["inputs"] == 4 and told["frames"] > 4
    assert told["missing"] == told["damaged"] == told["texts"] == [] and told["stale"] == {}


def test_status_names_what_is_stale_missing_and_not_in_the_manifest(root: Path, cli: Cli) -> None:
    folder = root / "data" / "mine" / "manifest"
    kept = Manifest.read(folder)
    change(Path(kept["anna"].path))
    rows = [row for row in kept.videos if row.video_id != "ben"]
    Manifest((*rows, VideoRow("eve", "/nowhere/eve.mp4", steps=("wave",))), name="mine").write(folder)
    done = cli("cache", "status", "--root", root)
    assert done.code == 1
    assert "stale" in done.out and "anna: the file was written anew" in done.out
    assert "not extracted yet" in done.out and "eve" in done.out
    assert "not in the manifest: ben" in done.out and "texts have no features: wave" in done.out
    told = json.loads(cli("cache", "status", "--json", "--root", root).out)
    assert not told["whole"] and sorted(told["done"]) == ["cleo", "dora"]


def test_a_stale_video_is_extracted_again(root: Path, cli: Cli) -> None:
    change(Path(Manifest.read(root / "data" / "mine" / "manifest")["anna"].path))
    assert cli("cache", "status", "--root", root).code == 1
    done = cli("extract", "--dataset", "mine", "--root", root, "--quiet")
    assert done.code == 0 and "done again" in done.out and "anna" in done.out
    assert cli("cache", "status", "--root", root).code == 0


def test_damage_is_found_repaired_and_extracted_again(root: Path, cli: Cli) -> None:
    shard = shard_of(root)
    os.truncate(shard, shard.stat().st_size // 2)
    assert "damaged" in (status := cli("cache", "status", "--root", root)).out and status.code == 1
    found = cli("cache", "verify", "--root", root, "--quiet")
    assert found.code == 1 and shard.name in found.out and "stepclip cache repair" in found.out
    before = sorted(path.name for path in features(root).rglob("*"))
    dry = cli("cache", "repair", "--dry-run", "--root", root, "--quiet")
    assert sorted(path.name for path in features(root).rglob("*")) == before and dry.out
    repaired = cli("cache", "repair", "--root", root, "--quiet")
    assert repaired.code == 1 and "stepclip extract" in repaired.out  # videos are lost
    assert cli("cache", "verify", "--root", root, "--quiet").code == 0
    assert cli("extract", "--dataset", "mine", "--root", root, "--quiet").code == 0
    assert cli("cache", "status", "--root", root).code == 0
    assert cli("cache", "repair", "--root", root, "--quiet").code == 0


def test_verify_deep_encodes_frames_again(root: Path, cli: Cli) -> None:
    done = cli("cache", "verify", "--deep", "--frames", "6", "--root", root, "--quiet")
    assert done.code == 0 and "encoded again: 6 frames of 2 videos" in done.out
    manifest = Manifest.read(root / "data" / "mine" / "manifest")
    shutil.copy(manifest["ben"].path, manifest["anna"].path)
    shutil.copy(manifest["ben"].path, manifest["cleo"].path)
    shutil.copy(manifest["ben"].path, manifest["dora"].path)
    done = cli("cache", "verify", "--deep", "--frames", "100", "--root", root, "--quiet")
    assert done.code == 1 and "Not the features of their files" in done.out


def test_caches_of_several_roots_are_merged_with_their_manifests(
    root: Path, tmp_path: Path, cli: Cli
) -> None:
    other = tmp_path / "other"
    shutil.copytree(root / "data" / "mine", other / "data" / "theirs")
    whole = Manifest.read(root / "data" / "mine" / "manifest")
    whole.select(["anna", "ben"]).write(root / "data" / "mine" / "manifest")
    done = cli(
        "cache", "merge", "mine", other / "data" / "theirs", "--into", "all", "--root", root, "--quiet"
    )
    assert done.code == 0, done.err
    assert set(Manifest.read(root / "data" / "all" / "manifest")._index) == {"anna", "ben", "cleo", "dora"}
    with FeatureStore.open(features(root, "all")) as merged, FeatureStore.open(features(root)) as one:
        assert len(merged) == 4 and merged.fingerprint == one.fingerprint
        assert (merged["dora"].features == one["dora"].features).all()
    assert cli("cache", "status", "--dataset", "all", "--root", root).code == 0
    again = cli("extract", "--dataset", "all", "--root", root, "--quiet")
    assert again.code == 0, again.err  # the settings came along


def test_rows_that_contradict_each_other_are_not_merged(root: Path, tmp_path: Path, cli: Cli) -> None:
    other = tmp_path / "other" / "data" / "theirs"
    shutil.copytree(root / "data" / "mine", other)
    kept = Manifest.read(other / "manifest")
    rows = [VideoRow(row.video_id, row.path, steps=("another script",)) for row in kept]
    Manifest(tuple(rows)).write(other / "manifest")
    done = cli("cache", "merge", "mine", other, "--into", "all", "--root", root, "--quiet")
    assert done.code == 2 and "contradict" in done.err and not (root / "data" / "all").exists()
    done = cli("cache", "merge", "mine", tmp_path / "nowhere", "--into", "all", "--root", root)
    assert done.code == 2 and "no dataset in the folder" in done.err


def test_compact_makes_one_shard_and_keeps_every_video(root: Path, cli: Cli) -> None:
    manifest = Manifest.read(root / "data" / "mine" / "manifest")
    with FeatureStore.open(features(root)) as store:
        before = {name: store[name].features.copy() for name in store}
    for name in ("anna", "dora"):
        change(Path(manifest[name].path))
        assert cli("extract", "--dataset", "mine", "--root", root, "--quiet").code == 0
        manifest = Manifest.read(root / "data" / "mine" / "manifest")
    assert len(list((features(root) / "shards").glob("*.h5"))) == 3
    done = cli("cache", "compact", "--root", root, "--quiet")
    assert done.code == 0, done.err
    assert len(list((features(root) / "shards").glob("*.h5"))) == 1
    with FeatureStore.open(features(root)) as store:
        assert set(store) == set(before) and all(
            (store[name].features == before[name]).all() for name in ("ben", "cleo")
        )
    assert cli("cache", "verify", "--root", root, "--quiet").code == 0


# ---- the doors


def test_an_export_is_imported_exactly_and_can_be_trained_on(root: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("cache", "export", tmp_path / "out", "--format", "parquet", "--root", root, "--quiet")
    assert done.code == 0 and "parquet" in done.out and (tmp_path / "out" / "stepclip.json").is_file()
    again = cli("cache", "export", tmp_path / "out", "--root", root, "--quiet")
    assert again.code == 2 and "--overwrite" in again.err
    done = cli("cache", "import", tmp_path / "out", "--dataset", "back", "--root", root, "--quiet")
    assert done.code == 0, done.err
    with FeatureStore.open(features(root)) as old, FeatureStore.open(features(root, "back")) as new:
        assert new.fingerprint == old.fingerprint and set(new) == set(old)
        for name in old:
            assert (new[name].features == old[name].features).all()
            assert (new[name].times == old[name].times).all()
    assert cli("cache", "status", "--dataset", "back", "--root", root).code == 0
    manifest = Manifest.read(root / "data" / "back" / "manifest")
    assert manifest["anna"].steps == Manifest.read(root / "data" / "mine" / "manifest")["anna"].steps


def test_own_features_come_in_with_a_manifest_and_an_encoder_for_its_texts(
    tiny_clip: Path, tmp_path: Path, cli: Cli
) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "s3d").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "s3d" / f"{name}.npy", random.normal(size=(9, 20)).astype(np.float32))
    (tmp_path / "mine.csv").write_text("video,steps\na.mp4,stir|pour the water\nb.mp4,pour the water|stir\n")
    words = ("cache", "import", tmp_path / "s3d", "--dataset", "own", "--root", tmp_path / "root", "--quiet")
    words += ("--manifest", tmp_path / "mine.csv")
    refused = cli(*words)
    assert refused.code == 2 and "--fps" in refused.err
    done = cli(*words, "--fps", "3", "--encoder", tiny_clip, "--device", "cpu")
    assert done.code == 0, done.err
    with FeatureStore.open(features(tmp_path / "root", "own")) as store:
        assert (store.dim, store.text_dim) == (20, 16) and store["a"].times[1] == 1 / 3
        assert store.has_text("stir") and store.has_text("stir, pour the water", "paragraph")
    assert cli("cache", "status", "--root", tmp_path / "root").code == 0
    deep = cli("cache", "verify", "--deep", "--root", tmp_path / "root", "--quiet")
    assert deep.code == 2 and "were imported" in deep.err


def test_gtea_comes_in_with_its_labels_as_steps(tmp_path: Path, cli: Cli) -> None:
    source = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "features" / "gtea.npz"
    if not source.is_file():
        pytest.skip(f"no {source}")
    words = ("cache", "import", source, "--dataset", "gtea", "--root", tmp_path, "--quiet")
    assert cli(*words, "--split", "9").code == 2
    done = cli(*words, "--split", "2")
    assert done.code == 0, done.err
    manifest = Manifest.read(tmp_path / "data" / "gtea" / "manifest")
    assert len(manifest) == 28 and len(manifest.split("test")) == 7
    row = manifest["S2_Cheese_C1"]
    assert set(row.steps) <= {
        "close",
        "fold",
        "open",
        "pour",
        "put",
        "scoop",
        "shake",
        "spread",
        "stir",
        "take",
    }
    assert row.step_start is not None and row.step_end is not None and row.step_start[0] < row.step_end[0]
    assert row.task == "Cheese"
    told = cli("extract", "--dataset", "gtea", "--videos", source.parent, "--root", tmp_path, "--quiet")
    assert told.code == 2 and "stepclip cache import" in told.err


def test_transcripts_of_names_with_the_background_a_step(tmp_path: Path, cli: Cli) -> None:
    """What aligning transcripts wants: every frame in a step, and texts that are no language."""
    frames, labels = (
        np.random.default_rng(0).standard_normal((2, 12, 8)),
        [[0] * 4 + [1] * 8, [1] * 7 + [0] * 5],
    )
    np.savez(tmp_path / "own.npz", **{f"v{i}/features": x for i, x in enumerate(frames)},
             **{f"v{i}/labels": np.array(x) for i, x in enumerate(labels)})  # fmt: skip
    words = ("cache", "import", tmp_path / "own.npz", "--dataset", "own", "--root", tmp_path, "--fps", 2)
    names = ("--label-names", "background,P03", "--no-background", "--encoder", "names", "--quiet")
    done = cli(*words, *names)
    assert done.code == 0 and "every label is a step" in done.out, done.err
    manifest = Manifest.read(tmp_path / "data" / "own" / "manifest")
    assert manifest["v0"].steps == ("background", "P03") and manifest["v1"].step_end == (3.5, 6.0)
    with FeatureStore.open(features(tmp_path, "own")) as store:
        pair = store.text(["background", "P03"], "step")
        both = store.text(["background, P03"], "paragraph")
    np.testing.assert_allclose(both[0], pair.mean(0), atol=1e-3)
    wrong = cli(*words, *names, "--background", "P03")
    assert wrong.code == 2 and "one of them" in wrong.err
