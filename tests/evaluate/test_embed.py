"""Embedding with a real model equals one forward per view, written out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.evaluate.embed import content_free, embed, embed_raw, embed_views, raw_views
from stepclip.train.recipe import load_recipe
from stepclip.train.weaksvr.knobs import WeakSVRModel
from stepclip.train.weaksvr.model import StepModel
from stepclip.train.weaksvr.sampling import dense_rows, view_rows

from .conftest import DIM


def small_checkpoint(world, frames: int = 8, **config):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = WeakSVRModel(frames=frames, width=16, depth=1, heads=2, head_dim=8, residual=False, **config)
    recipe = load_recipe("weaksvr-corrected").model_copy(update={"model": model})
    return SimpleNamespace(
        recipe=recipe,
        model=StepModel(model, DIM, DIM),
        fingerprint=world.store.fingerprint,
        step=3,
        metrics={},
    )


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_embed_is_the_loop_over_videos_and_views(world, batch: int) -> None:  # type: ignore[no-untyped-def]
    checkpoint = small_checkpoint(world)
    ids = world.store.video_ids[::5]
    found = embed(checkpoint, world.store, ids, device="cpu", batch=batch)
    assert found.video_ids == ids
    with torch.no_grad():
        for i, video_id in enumerate(ids):
            features = torch.from_numpy(world.store.frames[video_id]).float()
            views = [checkpoint.model(features[rows][None]).video[0] for rows in view_rows(len(features), 8)]
            assert torch.allclose(found.video[i], torch.stack(views).mean(0), atol=1e-5)
            rows, own = dense_rows(len(features), 8)
            dense = torch.full((len(features), DIM), torch.nan)
            for view, mine in zip(rows, own, strict=True):
                dense[view[mine]] = checkpoint.model(features[view][None]).frames[0][mine]
            assert torch.allclose(found.frames[found.slice(i)], dense, atol=1e-5)
    assert found.durations == pytest.approx([len(world.store.frames[v]) / 4 for v in ids])
    assert found.times[found.slice(1)] == pytest.approx(np.arange(found.lengths[1]) / 4)


@pytest.mark.parametrize(("chosen", "batch"), [((0, 1, 2), 256), ((1,), 2), ((2,), 256)])
def test_views_are_the_loop_over_segments(world, chosen, batch: int) -> None:  # type: ignore[no-untyped-def]
    checkpoint = small_checkpoint(world)
    ids = world.store.video_ids[::9]
    found = embed_views(checkpoint, world.store, ids, chosen, device="cpu", batch=batch)
    raw = raw_views(embed_raw(world.store, ids, "cpu"), 8, chosen)
    with torch.no_grad():
        for i, video_id in enumerate(ids):
            features = torch.from_numpy(world.store.frames[video_id]).float()
            edges = np.linspace(0, len(features) - 2, 9).astype(int)  # weaksvr.md 2.1, written out
            views = [edges[:-1] + k * (np.diff(edges) // 4) for k in (1, 2, 3)]
            outs = [checkpoint.model(features[views[k]][None]) for k in chosen]
            assert torch.allclose(found.video[i], sum(o.video[0] for o in outs) / len(outs), atol=1e-5)
            frames = sum(o.frames[0] for o in outs) / len(outs)
            assert torch.allclose(found.frames[found.slice(i)], frames, atol=1e-5)
            middle = views[1] if len(chosen) == 3 else views[chosen[0]]
            assert found.times[found.slice(i)] == pytest.approx(middle / 4)
            assert raw.times[raw.slice(i)] == pytest.approx(middle / 4)
            mean = sum(features[views[k]] for k in chosen) / len(chosen)
            assert torch.allclose(raw.frames[raw.slice(i)], mean, atol=1e-5)
    whole = embed(checkpoint, world.store, ids, device="cpu")
    assert (chosen == (0, 1, 2)) == torch.allclose(whole.video, found.video, atol=1e-5)


def test_content_free_is_the_model_on_one_frame_throughout(world) -> None:  # type: ignore[no-untyped-def]
    checkpoint = small_checkpoint(world)
    ids = world.store.video_ids[::6]
    raw = embed_raw(world.store, ids, "cpu")
    found = content_free(checkpoint, raw)
    same = raw.frames.mean(0).numpy()
    blank = type(world.store)(
        {v: np.tile(same, (len(world.store.frames[v]), 1)) for v in ids}, {}, world.store.fingerprint
    )
    expected = embed(checkpoint, blank, ids, device="cpu")
    assert torch.allclose(found.video, expected.video, atol=1e-5)
    assert torch.allclose(found.frames, expected.frames, atol=1e-5)
    assert (found.video == found.video[0]).all() and (found.offsets == raw.offsets).all()


def test_some_of_the_videos_in_another_order(world) -> None:  # type: ignore[no-untyped-def]
    raw = embed_raw(world.store, world.store.video_ids, "cpu")
    part = raw.take([7, 2, 11])
    assert part.video_ids == tuple(raw.video_ids[i] for i in (7, 2, 11))
    for j, i in enumerate((7, 2, 11)):
        assert torch.equal(part.frames[part.slice(j)], raw.frames[raw.slice(i)])
        assert part.times[part.slice(j)].tolist() == raw.times[raw.slice(i)].tolist()
        assert torch.equal(part.video[j], raw.video[i]) and part.durations[j] == raw.durations[i]
    assert raw.take(range(len(raw))) is raw


def test_no_video_is_an_error(world) -> None:  # type: ignore[no-untyped-def]
    from .conftest import MemoryStore

    empty = MemoryStore({}, {}, world.store.fingerprint)
    empty.load = lambda *_: world.store.load(video_ids=world.store.video_ids[:1])  # type: ignore[method-assign]
    assert len(embed(small_checkpoint(world), empty, [], device="cpu")) == 1
    with pytest.raises(StepclipError):
        world.embedded.row("nobody")
