"""The model card: what a checkpoint is, on one page, beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .recipe import Recipe

_SELECTIONS = {
    "last": "the last step; nothing was looked at to choose it",
    "val": "the best of the held-out pairs, evaluated while training",
    "best-on-test": "**the best on the test pairs, evaluated while training: test figures are optimistic**",
}


def model_card(recipe: Recipe, meta: Mapping[str, Any]) -> str:
    """README.md of a checkpoint folder, from its recipe and `meta.json`."""
    encoder = {k: v for k, v in sorted(meta["fingerprint"].items()) if not isinstance(v, dict | list)}
    rows = "\n".join(f"| {key} | {value} |" for key, value in encoder.items())
    figures = "\n".join(f"| {name} | {value:.5g} |" for name, value in sorted(meta["metrics"].items()))
    used = "\n".join(f"- {name}: {weight:g}" for name, weight in recipe.loss.weights.items() if weight)
    return f"""# {recipe.name}, step {meta["step"]} of {meta["steps"]}

A StepCLIP model (version {meta["stepclip"]}): a light transformer on cached features of frames and sentences.
Method `{recipe.method}`, {recipe.model.size}. {meta["parameters"] / 1e6:.2f} M parameters,
float32, in `model.safetensors`;
trained in {meta["precision"]} with seed {recipe.seed} on {meta["videos"]} videos.

**Supervision**: {recipe.loss.supervision}.

**Losses** (weights):
{used}

**Chosen**: {_SELECTIONS[recipe.evaluate.select]}.

**Features** it was trained on, and wants (fingerprint {meta["digest"]}):

| key | value |
|---|---|
{rows}

**Figures** of the training (means since the line of the log before, and evaluations if there were any):

| | |
|---|---|
{figures}

Use: `stepclip eval`, `stepclip search`, or `stepclip.train.load_checkpoint(this folder).model`. Frozen
features say less than fine-tuned ones: compare with published figures of fine-tuned CLIP only when saying so.
"""
