"""Embedding with a real model equals one forward per view, written out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.evaluate.embed import embed
from stepclip.train.model import StepModel
from stepclip.train.recipe import ModelConfig, load_recipe
from stepclip.train.sampling import dense_rows, view_rows

from .conftest import DIM


def small_checkpoint(world, frames: int = 8, **config):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = ModelConfig(frames=frames, width=16, depth=1, heads=2, head_dim=8, residual=False, **config)
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


def test_no_video_is_an_error(world) -> None:  # type: ignore[no-untyped-def]
    from .conftest import MemoryStore

    empty = MemoryStore({}, {}, world.store.fingerprint)
    empty.load = lambda *_: world.store.load(video_ids=world.store.video_ids[:1])  # type: ignore[method-assign]
    assert len(embed(small_checkpoint(world), empty, [], device="cpu")) == 1
    with pytest.raises(StepclipError):
        world.embedded.row("nobody")
