"""Features read from the disk train the same model as features in memory; which it is, is chosen and said."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stepclip.cache import FeatureStore
from stepclip.evaluate.embed import embed
from stepclip.train import features, fit, load_checkpoint
from stepclip.train.features import free_memory, place_features, spread

CPU = torch.device("cpu")


def run(recipe, made, out, **more):
    fit(recipe, made.store, made.manifest, out, device="cpu", progress=False, **more)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(log):
    return [(row["step"], row["loss"], row["grad_norm"]) for row in log if "loss" in row]


def weights(out):
    return load_checkpoint(out).model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "extra", [[], ["model.input_norm=layernorm", "data.feature_noise=0", "data.val_tasks=1"]]
)
def test_mapped_features_train_the_same_model_bit_for_bit(made, recipe_with, tmp_path, extra):
    logs = {
        kind: run(recipe_with(f"data.features={kind}", *extra), made, tmp_path / kind)
        for kind in ("device", "mapped", "auto")
    }
    assert losses(logs["device"]) == losses(logs["mapped"]) == losses(logs["auto"]) != []
    assert same(weights(tmp_path / "device"), weights(tmp_path / "mapped"))
    assert "read from the disk" in logs["mapped"][0]["says"][0]
    assert not any("read from the disk" in logs[kind][0]["says"][0] for kind in ("device", "auto"))


def test_what_does_not_fit_is_mapped_and_the_first_line_says_why(made, recipe_with, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "free_memory", lambda device: 1000)
    recipe = recipe_with("train.epochs=1")
    assert "0.0 GB free on cpu" in run(recipe, made, tmp_path / "auto")[0]["says"][0]
    forced = recipe_with("train.epochs=1", "data.features=device")
    assert "read from the disk" not in run(forced, made, tmp_path / "forced")[0]["says"][0]


def test_the_place_may_change_on_a_resume(made, recipe_with, tmp_path):
    run(recipe_with(), made, tmp_path / "whole")
    run(recipe_with("data.features=mapped"), made, tmp_path / "parts", stop_after=7)
    run(recipe_with("data.features=device"), made, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_features_take_no_more_than_their_share_of_what_is_free(made, monkeypatch):
    store = FeatureStore.open(made.store)
    ids = store.video_ids
    size = sum(store.length(video_id) for video_id in ids) * store.dim * 2
    for answer, needed in ((0, size), (store.dim, 3 * size)):  # as many float32 beside them: twice their size
        for free, mapped in ((needed / features.SHARE + 1, False), (needed / features.SHARE - 1, True)):
            monkeypatch.setattr(features, "free_memory", lambda device, free=free: int(free))
            assert place_features(store, ids, CPU, answer=answer)[0] is mapped
    monkeypatch.setattr(features, "free_memory", lambda device: None)  # the system does not say
    assert place_features(store, ids, CPU) == (False, "")


def test_the_free_memory_is_what_machine_and_container_leave(tmp_path, monkeypatch):
    here = free_memory(CPU)
    assert here is None or 0 < here < 1 << 50
    real = Path.read_text
    said = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "/sys/fs/cgroup/memory.max": "max\n",
        "/sys/fs/cgroup/memory.current": "1000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 200000\n",
    }
    monkeypatch.setattr(
        Path, "read_text", lambda self, **how: said[str(self)] if str(self) in said else real(self, **how)
    )
    assert free_memory(CPU) == 5000 * 1024
    said["/sys/fs/cgroup/memory.max"] = "2000000\n"
    assert free_memory(CPU) == 1_200_000
    said["/proc/meminfo"] = "nothing of use"
    assert free_memory(CPU) == 1_200_000
    said["/sys/fs/cgroup/memory.max"] = ""
    assert free_memory(CPU) is None


def test_the_spread_of_many_features_is_that_of_all_at_once(made, monkeypatch):
    store = FeatureStore.open(made.store)
    x = store.load().features.double() + 0.0
    whole = spread(store.load())
    monkeypatch.setattr(features, "_WHOLE", 100)
    monkeypatch.setattr(features, "_CHUNK", 37 * store.dim)
    packed, mapped = spread(store.load()), spread(store.mapped())
    for found in (whole, packed, mapped):
        torch.testing.assert_close(found.mean.double(), x.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.std.double(), x.std(0, correction=0), rtol=1e-5, atol=0)
        torch.testing.assert_close(found.size.double(), x.square().mean().sqrt(), rtol=1e-5, atol=0)
        assert found.mean.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(packed, mapped, strict=True))


def test_a_long_reading_shows_its_progress(made, monkeypatch):
    for name in ("_WHOLE", "_CHUNK", "_SHOWN"):
        monkeypatch.setattr(features, name, 100)
    seen = []

    @contextmanager
    def bar(what, total, shown):
        seen.append([total, shown, 0])

        def done(count):
            seen[-1][2] += count

        yield done

    monkeypatch.setattr(features, "byte_bar", bar)
    mapped = FeatureStore.open(made.store).mapped()
    size = mapped.count * mapped.dim * 2
    spread(mapped), spread(mapped, progress=False)
    assert seen == [[size, True, size], [size, False, size]]


def test_features_that_do_not_fit_are_embedded_all_the_same(made, recipe_with, tmp_path, monkeypatch):
    run(recipe_with("train.epochs=1"), made, tmp_path / "run")
    checkpoint, store = load_checkpoint(tmp_path / "run"), FeatureStore.open(made.store)
    loaded = embed(checkpoint, store, store.video_ids, "cpu", batch=16)
    monkeypatch.setattr(features, "free_memory", lambda device: 1000)
    monkeypatch.setattr(FeatureStore, "load", None)
    mapped = embed(checkpoint, store, store.video_ids, "cpu", batch=16)
    assert torch.equal(loaded.video, mapped.video) and torch.equal(loaded.frames, mapped.frames)
    for name in ("times", "offsets", "durations"):
        assert (getattr(loaded, name) == getattr(mapped, name)).all()
