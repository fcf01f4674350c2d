"""Transcripts whose sentences recur, on features that share no space with text, and no times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, Manifest, VideoRow
from stepclip.evaluate import evaluate
from stepclip.evaluate.embed import embed
from stepclip.evaluate.localisation import align_scripts, duration_split
from stepclip.extract import load_encoder
from stepclip.train import fit, load_recipe
from stepclip.train.alignment import duration_columns
from stepclip.train.checkpoint import load_checkpoint

NAMES = ("background", "open", "pour", "stir", "take")
LASTS = np.array([5.0, 6.0, 12.0, 24.0, 4.0])


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """24 videos of 14 names each: a look of its own per name, half drowned in noise; a fifth for the test."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("transcripts") / "features"
    looks = rng.normal(size=(len(NAMES), 20))
    rows = []
    with FeatureWriter(folder, Fingerprint({"encoder.name": "made"}), dim=20) as writer:
        for i in range(24):
            said = [int(rng.integers(len(NAMES)))]
            while len(said) < 14:
                said += [k for k in [int(rng.integers(len(NAMES)))] if k != said[-1]]
            ends = np.cumsum(rng.gamma(6, LASTS[said] / 6).round().clip(2)).astype(int)
            starts = np.concatenate(([0], ends[:-1]))
            shown = np.repeat(said, ends - starts)
            frames = looks[shown] + 2.0 * rng.normal(size=(len(shown), 20))
            writer.add(f"v{i}", frames.astype(np.float16), np.arange(len(shown)) / 5, len(shown) / 5)
            rows.append(
                VideoRow(
                    f"v{i}", "", f"{i % 2}", f"p{i}", "test" if i % 5 == 4 else "train", None, None,
                    tuple(NAMES[k] for k in said), tuple((starts / 5).tolist()), tuple((ends / 5).tolist()),
                )
            )  # fmt: skip
        manifest = Manifest(tuple(rows), name="made")
        encoder = load_encoder("names")
        for kind, strings in (("step", manifest.steps()), ("paragraph", manifest.paragraphs())):
            writer.add_text(strings, encoder.encode_texts(strings), kind)
    return folder, manifest


def test_the_recipe_finds_steps_and_durations_without_times(
    transcripts: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = transcripts
    quick = ["model.frames=100", "train.epochs=80", "optim.lr=3e-3"]
    recipe = load_recipe("transcripts", quick)
    fit(recipe, folder, manifest, tmp_path / "run", device="cpu", progress=False)
    results = evaluate(tmp_path / "run", folder, manifest, device="cpu", progress=False)
    found = {row.name: row.result for row in results.localisation}
    trained, uniform, cut = found["trained"], found["uniform"], found["durations"]
    assert trained.same_sentence > 0.8 > uniform.same_sentence + 0.3
    assert trained.frame_accuracy <= trained.same_sentence and trained.iou > uniform.iou + 0.3
    assert cut.frame_accuracy > uniform.frame_accuracy + 0.05  # what names last is known

    checkpoint = load_checkpoint(tmp_path / "run")
    with FeatureStore.open(folder) as store:
        test = manifest.split("test").videos
        e = embed(checkpoint, store, [v.video_id for v in test], "cpu")
        lasting = e.lasting(store, NAMES)
        assert lasting is not None and np.corrcoef(lasting.numpy(), LASTS)[0, 1] > 0.9
        rows = np.arange(len(test))
        labels = align_scripts(e, store, rows, [v.steps for v in test]).labels
        free = align_scripts(e, store, rows, [v.steps for v in test], durations=False).labels
        for video, with_durations, without in zip(test, labels, free, strict=True):
            shares = e.lasting(store, video.steps)
            sizes = torch.tensor([len(with_durations)]), torch.tensor([len(video.steps)])
            columns, _ = duration_columns(shares[None], *sizes, 0.5, len(with_durations))
            least = np.bincount(columns[0, : round(0.5 * len(with_durations))], minlength=len(video.steps))
            assert (np.bincount(with_durations, minlength=len(video.steps)) >= least).all()
            assert (np.bincount(without) >= 1).all() and len(without) == len(with_durations)


def test_a_cut_by_durations() -> None:
    assert duration_split(10, np.array([2.0, 5.0, 3.0])).tolist() == [0] * 2 + [1] * 5 + [2] * 3
    assert duration_split(4, np.array([1e-9, 1.0])).tolist() == [1, 1, 1, 1]
