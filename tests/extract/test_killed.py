"""The engine killed with -9 in the middle, again and again: what is kept is whole, the end is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from stepclip.cache import FeatureStore, Manifest, VideoRow
from stepclip.cache.upkeep.verify import verify
from stepclip.extract import ExtractionReport, Sampling, extract, load_encoder

ENGINE = """
import sys, time
from stepclip.cache import Manifest
from stepclip.extract import Sampling, extract, load_encoder, run

if __name__ == "__main__":
    encoder = load_encoder(sys.argv[1], device="cpu")
    encode = encoder.encode_images
    encoder.encode_images = lambda images: time.sleep(0.2) or encode(images)
    run.COMMIT = 0.0
    manifest, out = Manifest.read(sys.argv[2]), sys.argv[3]
    extract(manifest, out, encoder=encoder, sampling=Sampling(every=1), progress=False)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace) -> Manifest:
    """Sixteen videos of 20 to 95 frames, one that is text."""
    folder = tmp_path_factory.mktemp("killed")
    for k in range(16):
        tools.video(folder / f"{k:02d}.mp4", [frame / 8 for frame in range(20 + 5 * k)], size=(96, 64), fps=8)
    (folder / "text.mp4").write_text("not a video")
    names = [*(f"{k:02d}.mp4" for k in range(16)), "text.mp4"]
    return Manifest(tuple(VideoRow(name, str(folder / name), steps=("stir", name)) for name in names))


def shards(out: Path) -> int:
    return len(list((out / "shards").glob("*.parquet")))


@pytest.mark.slow
def test_kill_9_of_the_engine_and_the_same_features_in_the_end(
    many: Manifest, clip_folder: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    (tmp_path / "engine.py").write_text(ENGINE)
    manifest = many.write(tmp_path / "manifest")
    encoder = load_encoder(str(clip_folder), device="cpu")

    def run(out: Path) -> ExtractionReport:
        return extract(many, out, encoder=encoder, sampling=Sampling(every=1), progress=False)

    assert run(whole).done == 16
    for already in (0, 3):  # killed when some more of the videos are in the cache than before
        engine = subprocess.Popen(
            [sys.executable, str(tmp_path / "engine.py"), str(clip_folder), str(manifest), str(cut)]
        )
        family = []
        end = time.monotonic() + 300
        while shards(cut) <= already and engine.poll() is None and time.monotonic() < end:
            family = psutil.Process(engine.pid).children(recursive=True) or family
            time.sleep(0.01)
        assert engine.poll() is None, "it had ended before it was killed"
        os.kill(engine.pid, signal.SIGKILL)
        engine.wait()
        assert family and not psutil.wait_procs(family, timeout=10)[1], "its children outlive it"
        assert (found := verify(cut, progress=False)).videos >= shards(cut) > already
        assert not [fault for fault in found.faults if fault.videos], found
    with FeatureStore.open(cut) as store:
        kept = len(store)
    assert 4 <= kept < 16
    report = run(cut)
    assert (report.inputs, report.skipped, report.done, report.failed) == (17, kept, 16 - kept, 1)
    with FeatureStore.open(whole) as expected, FeatureStore.open(cut) as got:
        assert set(expected) == set(got) and len(got) == 16
        for name in expected:
            assert np.array_equal(expected[name].features, got[name].features)
            assert np.array_equal(expected[name].times, got[name].times)
            assert expected[name].duration == got[name].duration
        for kind, texts in (("step", many.steps()), ("paragraph", many.paragraphs())):
            assert np.array_equal(expected.text(texts, kind), got.text(texts, kind))
    assert run(cut).skipped == 16
