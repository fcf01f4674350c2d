"""The frame encoder: its shape, its positions, what pads it, and long videos in parts."""

from __future__ import annotations

import pytest
import torch

from stepclip.cache.packed import PackedFeatures
from stepclip.train.carl.encode import encode_packed, encode_video
from stepclip.train.carl.knobs import CarlModel
from stepclip.train.carl.model import FrameEncoder
from stepclip.train.carl.norm import FrameNorm

SMALL = {"hidden": 24, "width": 16, "heads": 2, "mlp": 32, "embedding": 8, "projection": 8, "depth": 2}


def encoder(span=16, d=6, seed=0, **knobs):
    torch.manual_seed(seed)
    model = FrameEncoder(CarlModel(**{**SMALL, **knobs}), span, d).eval()
    for module in model.modules():
        if isinstance(module, FrameNorm):  # as after training: not the identity
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def packed_of(lengths, d=6):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    n = int(offsets[-1])
    return PackedFeatures(
        torch.randn(n, d), torch.arange(n).double(), offsets, tuple(f"v{i}" for i in range(len(lengths)))
    )


def test_has_the_released_number_of_parameters():
    """`methods/carl.md` 2: 18.85 M trained, of which 14,964,736 are conv5 and its batch norms."""
    model = FrameEncoder(CarlModel(input_norm="none"), 80, 2048)
    assert 14_964_736 + model.parameter_count == pytest.approx(18.85e6, abs=5e3)
    head = sum(p.numel() for p in model.head.parameters())
    layer = sum(p.numel() for p in model.layers[0].parameters())
    front = sum(p.numel() for p in model.front.parameters())
    assert (head, layer, front) == (33_280, 789_760, 1_313_792 + 131_328)


def test_positions_are_stretched_over_those_of_training():
    model = encoder(span=16)
    whole = model.code(model.order(torch.ones(1, 16, dtype=torch.bool)))[0]
    twice = model.code(model.order(torch.ones(1, 32, dtype=torch.bool)))[0]
    assert torch.allclose(whole[[0, -1]], twice[[0, -1]], atol=1e-5)
    assert model.order(torch.ones(1, 16, dtype=torch.bool))[0].tolist() == pytest.approx(range(16))
    one = model.order(torch.tensor([[True] + [False] * 3]))
    assert torch.isfinite(one).all()


def test_the_released_code_pairs_sines_and_cosines_otherwise():
    official, usual = encoder(positions="official"), encoder()
    at = torch.tensor([[3.0]])
    assert float(official.code(at)[0, 0, 3]) == pytest.approx(
        float(torch.tensor(3 * 10000.0 ** (-3 / 16)).cos()), abs=1e-6
    )
    assert float(usual.code(at)[0, 0, 3]) == pytest.approx(
        float(torch.tensor(3 * 10000.0 ** (-2 / 16)).cos()), abs=1e-6
    )


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("training", [False, True])
def test_padding_is_never_read(norm, training):
    model = encoder(norm=norm, dropout=0.0).train(training)
    frames, real = torch.randn(3, 10, 6), torch.arange(10) < torch.tensor([[10], [6], [3]])
    first = model(frames, real)
    frames[~real] = 50.0
    again = model(frames, real)
    for a, b in zip(first, again, strict=True):
        assert torch.allclose(a[real], b[real], atol=1e-4)


def test_the_released_norm_counts_padding():
    model = encoder(norm="batch-padded", dropout=0.0).train()
    frames, real = torch.randn(3, 10, 6), torch.arange(10) < torch.tensor([[10], [6], [3]])
    first = model(frames, real).frames[real]
    frames[~real] = 50.0
    assert not torch.allclose(first, model(frames, real).frames[real], atol=1e-2)


def test_norm_of_real_frames_is_that_of_pytorch_on_them():
    norm, theirs = FrameNorm(5), torch.nn.BatchNorm1d(5)
    x, real = torch.randn(4, 7, 5), torch.rand(4, 7) < 0.6
    for _ in range(3):
        found, wanted = norm(x, real), theirs(x[real])
    assert torch.allclose(found[real], wanted, atol=1e-5)
    assert torch.allclose(norm.running_mean, theirs.running_mean, atol=1e-6)
    assert torch.allclose(norm.running_var, theirs.running_var, atol=1e-5)
    assert torch.allclose(norm.eval()(x, real)[real], theirs.eval()(x[real]), atol=1e-5)


def test_layers_start_as_copies_where_released_so():
    first, second = encoder(copies=True).layers
    assert torch.equal(first.qkv.weight, second.qkv.weight)
    first, second = encoder().layers
    assert not torch.equal(first.qkv.weight, second.qkv.weight)


def test_every_video_of_a_batch_is_as_if_it_were_alone():
    model, packed = encoder(), packed_of([9, 30, 4, 17])
    video, frames = encode_packed(model, packed, batch=2)
    assert frames.shape == (60, 8)
    for i in range(4):
        alone = encode_video(model, packed.features[packed.rows(i)])
        assert alone.exact and torch.allclose(frames[packed.rows(i)], alone.frames, atol=1e-5)
        assert torch.allclose(video[i], alone.frames.mean(0), atol=1e-5)
    assert torch.allclose(frames.norm(dim=-1), torch.ones(60), atol=1e-5)


@pytest.mark.parametrize("length", [65, 100, 131])
def test_parts_equal_the_whole_where_attention_is_near(length):
    model, features = encoder(attention_window=4), torch.randn(length, 6)
    parts, whole = encode_video(model, features, limit=32), encode_video(model, features)
    assert parts.exact and whole.exact
    assert torch.allclose(parts.frames, whole.frames, atol=1e-5)


def test_parts_say_that_they_are_not_the_whole_where_attention_is_wide():
    model, features = encoder(), torch.randn(100, 6)
    parts, whole = encode_video(model, features, limit=32), encode_video(model, features)
    assert not parts.exact and whole.exact
    assert parts.frames.shape == whole.frames.shape
    assert not torch.allclose(parts.frames, whole.frames, atol=1e-3)


def test_videos_in_parts_are_counted_in_a_warning(monkeypatch, caplog):
    monkeypatch.setattr("stepclip.train.carl.encode.LIMIT", 32)
    _, frames = encode_packed(encoder(), packed_of([20, 50]))
    assert frames.shape == (70, 8) and "1 videos of more than 32 frames" in caplog.text
    caplog.clear()
    encode_packed(encoder(attention_window=4), packed_of([20, 50]))
    assert not caplog.text


def test_near_attention_depends_on_near_frames_only():
    model, features = encoder(attention_window=2), torch.randn(1, 40, 6)
    assert model.reach == 4
    before = model(features).frames
    features[0, 20] = torch.randn(6)
    changed = (model(features).frames - before).abs().sum(-1)[0] > 1e-5
    assert changed.nonzero()[:, 0].tolist() == list(range(16, 25))
