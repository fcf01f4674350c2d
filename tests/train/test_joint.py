"""The joint method: WeakSVR's steps with two more losses on the same frames."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepclip.cache import StepclipError
from stepclip.train import fit, load_checkpoint, load_recipe
from stepclip.train.joint.knobs import JointLoss
from stepclip.train.joint.method import reorder_term
from stepclip.train.recipe import Recipe

SMALL = (
    "data.batch=8", "model.frames=8", "model.width=32", "model.heads=2", "model.head_dim=16",
    "train.epochs=6", "train.log_every=2", "train.save_every=2", "train.precision=fp32", "optim.lr=0.001",
)  # fmt: skip
NONE = ("loss.contrast=0", "loss.reorder=0")


def small(name: str, *overrides: str) -> Recipe:
    return load_recipe(name, [*SMALL, *overrides])


def trained(recipe: Recipe, made, out: Path, **more) -> dict[str, torch.Tensor]:
    fit(recipe, made.store, made.manifest, out, device="cpu", progress=False, **more)
    return load_checkpoint(out).model.state_dict()


def test_without_its_own_losses_it_is_weaksvr_to_the_bit(made, tmp_path):
    """Nothing random in the steps: its projection has drawn numbers at the start."""
    still = ("data.feature_noise=0", "data.frame_dropout=0", "model.dropout=0")
    ours = trained(small("stepclip", *NONE, *still), made, tmp_path / "joint")
    theirs = trained(small("stepclip-weaksvr", *still), made, tmp_path / "weaksvr")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_its_losses_fall_and_a_resumed_run_ends_with_the_same_weights(made, tmp_path):
    recipe = small("stepclip", "train.epochs=12", "loss.contrast=1.0", "loss.reorder=1.0")
    whole = trained(recipe, made, tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    for term in ("contrast", "reorder"):
        assert rows[-1][term] < rows[0][term]
    trained(recipe, made, tmp_path / "parts", stop_after=5)
    parts = trained(recipe, made, tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_script_in_its_own_order_beats_others_where_the_frames_show_it():
    """Frames that show the steps in order: the loss is low; in reverse: high. Padding does not matter."""
    torch.manual_seed(0)
    steps = torch.randn(2, 5, 16)
    steps[1, 3:] = 0.0
    lengths = torch.tensor([5, 3])
    frames = torch.stack([
        steps[0].repeat_interleave(3, 0), torch.cat([steps[1, :3].repeat_interleave(5, 0)])
    ])  # fmt: skip
    words = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 9, 9]])
    batch = SimpleNamespace(steps=steps, step_lengths=lengths, words=words)
    config, tau = JointLoss(reorder_negatives=30), torch.tensor(0.02)
    right = float(reorder_term(frames, batch, config, tau))
    wrong = float(reorder_term(frames.flip(1), batch, config, tau))
    assert right < 0.2 and wrong > 5 * right + 1
    torch.manual_seed(1)
    first = float(reorder_term(frames, batch, config, tau))
    batch.steps = steps.clone()
    batch.steps[1, 3:] = 7.0
    torch.manual_seed(1)
    assert float(reorder_term(frames, batch, config, tau)) == pytest.approx(first, abs=1e-6)


def test_one_sentence_has_no_other_order():
    steps, frames = torch.randn(2, 1, 8), torch.randn(2, 4, 8, requires_grad=True)
    words = torch.tensor([[0], [1]])
    batch = SimpleNamespace(steps=steps, step_lengths=torch.tensor([1, 1]), words=words)
    loss = reorder_term(frames, batch, JointLoss(), torch.tensor(0.1))
    loss.backward()
    assert float(loss.detach()) == 0.0 and frames.grad is not None and frames.grad.isfinite().all()


def test_it_wants_a_text_space():
    with pytest.raises(StepclipError, match="the rest of the recipe"):
        load_recipe("stepclip", ["model.text=false", "model.residual=false"])
