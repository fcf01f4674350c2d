"""Labels from the whole set: planted videos whose truth is known, and what must not change them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepclip.cache import FeatureStore
from stepclip.cache.errors import StepclipError
from stepclip.train import fit
from stepclip.train.losses import CorpusFit, corpus_labels, pseudo_labels
from stepclip.train.weaksvr.batches import TrainingSet

DIM, SENTENCES, STEPS = 24, 9, 5
Planted = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def planted(videos: int = 40, text_dim: int = DIM, weak: float = 0.0) -> Planted:
    """features, offsets, scripts, lengths, sentences, truth (-1: rest): each sentence has a look that its
    text says little of, and lasts 2 to 18 frames; the hand rests in between."""
    generator = torch.Generator().manual_seed(3)
    looks = torch.randn(SENTENCES, DIM, generator=generator)
    looks -= looks.mean(0)
    sentences = torch.randn(SENTENCES, text_dim, generator=generator)
    if text_dim == DIM:
        sentences = sentences + weak * looks
    lasts = torch.linspace(2, 18, SENTENCES)
    frames, offsets, truth, lengths = [], [0], [], []
    scripts = torch.zeros(videos, STEPS, dtype=torch.int64)
    for v in range(videos):
        size = STEPS - v % 2
        script = torch.randperm(SENTENCES, generator=generator)[:size]
        scripts[v, :size] = script
        lengths.append(size)
        label: list[int] = []
        for place, sentence in enumerate(script.tolist()):
            stretch = 0.8 + 0.4 * float(torch.rand((), generator=generator))
            label += [place] * round(float(lasts[sentence]) * stretch)
            label += [-1] * int(torch.randint(0, 3, (), generator=generator))
        at = torch.tensor(label)
        look = torch.where(at[:, None] >= 0, looks[script[at.clamp(min=0)]], 0.0)
        frames.append(look + 1.5 * torch.randn(len(at), DIM, generator=generator) + 3)
        truth.append(at)
        offsets.append(offsets[-1] + len(at))
    return (
        torch.cat(frames), torch.tensor(offsets), scripts, torch.tensor(lengths), sentences, torch.cat(truth),
    )  # fmt: skip


def accuracy(labels: Tensor, truth: Tensor) -> float:
    shown = truth >= 0
    return float((labels.argmax(1) == truth)[shown].float().mean())


def uniform(offsets: Tensor, lengths: Tensor) -> Tensor:
    sizes = (offsets[1:] - offsets[:-1]).tolist()
    parts = [
        pseudo_labels(torch.zeros(1, size, STEPS), lengths[v : v + 1], "uniform")[0]
        for v, size in enumerate(sizes)
    ]
    return torch.nn.functional.one_hot(torch.cat(parts), STEPS).float()


@pytest.mark.parametrize("text_dim", [DIM, 7])
def test_what_a_sentence_looks_like_is_learned_from_the_other_videos(text_dim: int) -> None:
    features, offsets, scripts, lengths, sentences, truth = planted(text_dim=text_dim, weak=0.3)
    found = corpus_labels(features, offsets, scripts, lengths, sentences)
    blind = accuracy(uniform(offsets, lengths), truth)
    alone = corpus_labels(features, offsets, scripts, lengths, sentences, CorpusFit(rounds=0))
    assert max(blind, accuracy(alone, truth)) < 0.85 and accuracy(found, truth) > 0.9
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)))
    own = torch.repeat_interleave(torch.arange(len(scripts)), offsets[1:] - offsets[:-1])
    assert found[torch.arange(STEPS) >= lengths[own, None]].eq(0).all()  # no label beyond a script's end


def test_the_text_is_a_second_opinion() -> None:
    """With no round but the first only durations and text speak: text that knows the looks helps."""
    features, offsets, scripts, lengths, sentences, truth = planted(weak=1.0)
    start = CorpusFit(rounds=0, text=1.0)
    knows = accuracy(corpus_labels(features, offsets, scripts, lengths, sentences, start), truth)
    shuffled = sentences.roll(1, 0)
    misled = accuracy(corpus_labels(features, offsets, scripts, lengths, shuffled, start), truth)
    assert knows > 0.75 > misled


def test_the_order_of_the_videos_does_not_matter() -> None:
    features, offsets, scripts, lengths, sentences, _ = planted(70)  # more than are labelled at a time
    found = corpus_labels(features, offsets, scripts, lengths, sentences)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([torch.arange(int(offsets[v]), int(offsets[v + 1])) for v in order.tolist()])
    moved = torch.cat([torch.zeros(1, dtype=torch.int64), (offsets[1:] - offsets[:-1])[order].cumsum(0)])
    again = corpus_labels(features[rows], moved, scripts[order], lengths[order], sentences)
    torch.testing.assert_close(again, found[rows], atol=1e-3, rtol=0)


def test_short_and_single_videos_have_labels_too() -> None:
    """Fewer frames than steps; a frame of one; a video whose frames are all alike."""
    features = torch.randn(3 + 1 + 6, 8, generator=torch.Generator().manual_seed(0))
    features[4:] = features[4]
    offsets, scripts = torch.tensor([0, 3, 4, 10]), torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0], [2, 0, 0, 0]])
    found = corpus_labels(features, offsets, scripts, torch.tensor([4, 1, 2]), torch.randn(4, 8))
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(10))
    assert found[3].tolist() == [1, 0, 0, 0] and found[4, 0] > found[9, 0]


def test_each_frame_of_a_batch_has_its_own_label(made):
    """The labels go where the frames go: into views, past dropped frames, to a process's part."""
    rows = [row for row in made.manifest if row.split == "train"]
    data = TrainingSet(FeatureStore.open(made.store), rows, torch.device("cpu"), False)
    assert data.gather(torch.arange(4), torch.rand(4, 8)).labels is None
    data.learn_labels()
    index = torch.tensor([3, 20, 7, 11])
    torch.manual_seed(0)
    batch = data.gather(index, torch.rand(4, 8), dropout=0.3, rank=1, world=2)
    assert batch.labels.shape == (2, 8, 5)
    every = data.packed.features.float()
    for frames, labels in zip(batch.frames, batch.labels, strict=True):
        for frame, label in zip(frames, labels, strict=True):
            (row,) = torch.nonzero((every == frame).all(1))[:, 0]
            assert label.equal(data.labels[row])
    truth = torch.cat([torch.as_tensor(made.labels[row.video_id]) for row in rows])
    assert (data.labels.argmax(1) == truth).float().mean() > 0.9


def test_what_does_not_fit_is_refused(made, recipe_with, tmp_path, monkeypatch):
    monkeypatch.setattr("stepclip.train.weaksvr.batches.free_memory", lambda device: 1 << 17)
    with pytest.raises(StepclipError, match="soft-prior"):
        fit(recipe_with("loss.labels=corpus"), made.store, made.manifest, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_trains_on_them_and_goes_on_to_the_same_weights(made, recipe_with, tmp_path):
    recipe = recipe_with("loss.labels=corpus", "data.val_tasks=1")
    whole = fit(recipe, made.store, made.manifest, tmp_path / "whole", progress=False)
    fit(recipe, made.store, made.manifest, tmp_path / "part", progress=False, stop_after=4)
    part = fit(recipe, made.store, made.manifest, tmp_path / "part", progress=False, resume=True)
    assert whole.steps == part.steps and whole.loss == part.loss
    other = fit(
        recipe_with("data.val_tasks=1"), made.store, made.manifest, tmp_path / "other", progress=False
    )
    assert other.loss != whole.loss
    with pytest.raises(StepclipError, match=r"loss\.teacher"):
        recipe_with("loss.labels=corpus", "loss.teacher=true", "optim.ema=0.9")
