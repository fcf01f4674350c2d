"""The training loop: the cache lies on the device where it fits, a step is gather, forward, losses, backward,
AdamW.

Nothing in a step waits for the device: losses are summed there and read when a line of the log is written.
The order of the data is a pure function of (seed, epoch), so a resumed run continues to the same weights, bit
for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache.errors import StepclipError
from ..cache.manifest import Manifest
from ..cache.store import FeatureStore
from .batches import Batch, Epoch, TrainingSet, plan_epoch, split_rows
from .checkpoint import load_state, save_checkpoint
from .console import interruptible, pick_device, pick_precision, show_progress
from .features import place_features
from .losses import frame_sentence_loss, video_paragraph_loss
from .model import StepModel
from .recipe import LossConfig, Recipe
from .run import RunFolder

PARTS = ("loss", "coarse", "fine", "fine_text")


@dataclass(frozen=True)
class FitResult:
    """What `fit` made: the run folder, optimiser steps in all, the last logged loss, seconds of this call."""

    out: Path
    steps: int
    loss: float
    seconds: float
    videos: int
    parameters: int

    def __str__(self) -> str:
        return (
            f"trained {self.steps} steps on {self.videos} videos in {self.seconds:.1f} s, "
            f"loss {self.loss:.4f}, {self.parameters / 1e6:.2f} M parameters -> {self.out}"
        )

    def save(self, path: Path) -> None:
        from ..cache.files import write_json

        write_json(path, {**asdict(self), "out": str(self.out)})


def fit(
    recipe: Recipe,
    store_path: str | Path,
    manifest: Manifest,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    overwrite: bool = False,
    stop_after: int | None = None,
) -> FitResult:
    """Train `recipe` on the cache `store_path` and the scripts of `manifest` into the run folder `out`.

    Only the split "train" is trained on, without step times. `stop_after` ends after so many steps of this
    call, with a checkpoint (a resume goes on from there). StepclipError: a run is there already (unless
    `resume` or `overwrite`), a resume with another recipe, cache or set of videos, texts without features, a
    loss that is not finite.
    """
    began = time.monotonic()
    with FeatureStore.open(store_path) as store, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        train_rows, held_rows, notes = split_rows(
            manifest.without_truth(), store, recipe.data.val_tasks, recipe.seed
        )
        where = pick_device(device)
        ids = [row.video_id for row in (*train_rows, *held_rows)]
        mapped, why = place_features(store, ids, where, recipe.data.features)
        data = TrainingSet(store, train_rows, where, progress, mapped)
        held = TrainingSet(store, held_rows, where, progress, mapped) if held_rows else None
        precision = pick_precision(recipe.train.precision, where)
        model = StepModel(recipe.model, store.dim, data.text_dim).to(where)
        if recipe.model.input_norm == "standardise" or recipe.data.feature_noise:  # both read every frame
            model.standardise(data.spread.mean, data.spread.std)
        run = RunFolder(Path(out), recipe, store.fingerprint, data, resume=resume, overwrite=overwrite)
        trainer = _Trainer(recipe, model, data, held, run, precision)
        trainer.resume()
        first = (
            f"train: {where} ({torch.get_num_threads()} threads) · {precision} · recipe {recipe.name} · "
            f"{len(data)} videos, {distinct(data.procedures)} procedures, {distinct(data.tasks)} tasks"
            f" · cache {store.fingerprint.digest} · {model.parameter_count / 1e6:.2f} M parameters"
            + (f" · {why}" if why else "")
            + (f" · from step {trainer.step}" if trainer.step else "")
        )
        loss = trainer.run_to(stop_after, [first, *notes], progress)
    return FitResult(run.path, trainer.step, loss, time.monotonic() - began, len(data), model.parameter_count)


def loss_terms(
    model: StepModel, batch: Batch, config: LossConfig, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """All loss terms of a batch and their weighted sum under "loss"; the model under autocast, the losses in
    float32."""
    with torch.autocast(batch.frames.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        output = model(batch.frames)
    coarse = video_paragraph_loss(
        output.video.float(),
        batch.paragraphs,
        model.scale_video,
        batch.procedures[:, None] == batch.procedures,
        config.coarse_form,
    )
    fine = frame_sentence_loss(
        output.frames.float(),
        batch.steps,
        batch.step_lengths,
        model.scale_frame,
        labelling=config.labels,
        text_form=config.text_form,
    )
    total = config.coarse * coarse + config.fine * fine.image + config.fine_text * fine.text
    return {"loss": total, "coarse": coarse, "fine": fine.image, "fine_text": fine.text}


def distinct(numbers: Tensor) -> int:
    """How many of 0..max: names are numbered without gaps."""
    return int(numbers.max()) + 1


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to `final_lr` times the peak: a function of the step alone, nothing to
    save."""
    o = recipe.optim
    warm = round(o.warmup * steps)
    if step < warm:
        return o.lr * (step + 1) / warm
    share = (step - warm) / max(steps - warm - 1, 1)
    return o.lr * (o.final_lr + (1 - o.final_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


class _Trainer:
    def __init__(
        self,
        recipe: Recipe,
        model: StepModel,
        data: TrainingSet,
        held: TrainingSet | None,
        run: RunFolder,
        precision: str,
    ) -> None:
        self.recipe, self.model, self.data, self.held, self.run = recipe, model, data, held, run
        self.device, self.precision = data.device, precision
        self.dtype = torch.bfloat16 if precision == "bf16" else None
        matrices = [
            p for p in model.parameters() if p.ndim > 1 and p is not model.cls and not _is_position(model, p)
        ]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        groups = [
            {"params": matrices, "weight_decay": recipe.optim.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.optim.lr, fused=True)
        self.weights = list(model.parameters())
        self.average = [p.detach().clone() for p in self.weights] if recipe.optim.ema else []
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.per_epoch = len(data) // min(recipe.data.batch, len(data))
        self.steps = self.per_epoch * recipe.train.epochs
        self._sums = torch.zeros(len(PARTS) + 1, device=self.device)
        self._bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._since = 0
        self._plans: dict[int, Epoch] = {}

    # ---- one step

    def plan(self, epoch: int) -> Epoch:
        if epoch not in self._plans:
            d = self.recipe.data
            frames = self.recipe.model.frames
            made = plan_epoch(self.recipe.seed, epoch, self.data.tasks, d.batch, frames, d.same_task)
            self._plans = {epoch: Epoch(made.order.to(self.device), made.draws.to(self.device))}
        return self._plans[epoch]

    def one_step(self) -> None:
        epoch, place = divmod(self.step, self.per_epoch)
        plan, d = self.plan(epoch), self.recipe.data
        index = plan.order[place]
        batch = self.data.gather(index, plan.draws[index], noise=d.feature_noise, dropout=d.frame_dropout)
        terms = loss_terms(self.model, batch, self.recipe.loss, self.dtype)
        terms["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.optim.clip or math.inf)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step, self.steps)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.model.clamp_scales()
        if self.average:
            decay = min(
                self.recipe.optim.ema, (1 + self.step) / (10 + self.step)
            )  # short runs: no memory of the start
            torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - decay)
        seen = torch.stack([*(terms[name].detach() for name in PARTS), norm])
        self._sums += seen
        healthy = seen.isfinite().all()
        self._bad = torch.where((self._bad < 0) & ~healthy, self.step, self._bad)
        self.step += 1
        self._since += 1

    def read(self) -> dict[str, float]:
        """Means since the last reading. The one place where the host waits; a loss gone bad stops the run
        here."""
        values = (self._sums / max(self._since, 1)).tolist()
        bad = int(self._bad)
        if bad >= 0:
            epoch, place = divmod(bad, self.per_epoch)
            ids = [self.data.ids[i] for i in self.plan(epoch).order[place].tolist()]
            raise StepclipError(
                f"the loss or its gradient is not finite at step {bad}; its videos: {', '.join(ids)}",
                "finite numbers; the weights of this step were not saved",
                f"a lower optim.lr ({self.recipe.optim.lr:g} now), or train.precision=fp32",
            )
        self._sums.zero_()
        self._since = 0
        return dict(zip([*PARTS, "grad_norm"], values, strict=True))

    # ---- the run

    def run_to(self, stop_after: int | None, heads: list[str], progress: bool) -> float:
        t = self.recipe.train
        end = self.steps if stop_after is None else min(self.steps, self.step + stop_after)
        began, clock = time.monotonic(), time.monotonic()
        self.model.train()
        with (
            show_progress(progress, heads, self.step, self.steps) as bar,
            self.run.log(heads, self.step) as log,
            interruptible() as check,
        ):
            while self.step < end:
                check()
                self.one_step()
                epoch_ends = self.step % self.per_epoch == 0
                if self.step % t.log_every == 0 or self.step == end:
                    steps, now = self._since, time.monotonic()
                    self.metrics = self.read()
                    rate = steps * min(self.recipe.data.batch, len(self.data)) / max(now - clock, 1e-9)
                    clock = now
                    log(
                        {
                            "step": self.step,
                            "epoch": self.step / self.per_epoch,
                            **self.metrics,
                            "lr": self.optimiser.param_groups[0]["lr"],
                            "scale_video": float(self.model.scale_video.detach()),
                            "scale_frame": float(self.model.scale_frame.detach()),
                            "videos_per_s": rate,
                            "seconds": now - began,
                        }
                    )
                    bar(self.step, self.metrics["loss"], rate)
                if self.step == end or (epoch_ends and self.step // self.per_epoch % t.save_every == 0):
                    if self._since:
                        self.metrics = self.read()
                    if self.held is not None:
                        self.metrics["held_out_loss"] = self.held_out_loss(self.held)
                        log({"step": self.step, "held_out_loss": self.metrics["held_out_loss"]})
                    self.save()
        return self.metrics.get("loss", math.nan)

    @torch.no_grad()
    def held_out_loss(self, held: TrainingSet) -> float:
        """The mean loss on the held-out videos, middle rows, no augmentation, with the weights that are
        saved."""
        batch, total = min(self.recipe.data.batch, len(held)), 0.0
        draws = torch.full((batch, self.recipe.model.frames), 0.5, device=self.device)
        parts = torch.arange(len(held) // batch * batch, device=self.device).view(-1, batch)
        shuffled = torch.randperm(len(held), generator=torch.Generator().manual_seed(self.recipe.seed)).to(
            self.device
        )
        with self.averaged():
            self.model.eval()
            for part in parts:
                total += float(
                    loss_terms(self.model, held.gather(shuffled[part], draws), self.recipe.loss, self.dtype)[
                        "loss"
                    ]
                )
            self.model.train()
        return total / len(parts)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the raw ones, where the recipe averages."""
        raw = [p.detach().clone() for p in self.weights] if self.average else []
        try:
            for p, mean in zip(self.weights, self.average, strict=False):
                p.data.copy_(mean)
            yield
        finally:
            for p, kept in zip(self.weights, raw, strict=False):
                p.data.copy_(kept)

    # ---- saved and found again

    def save(self) -> None:
        raw = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        state: dict[str, Any] = {
            "step": self.step,
            "model": raw,
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "rng_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        with self.averaged():
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        metrics = {name: value for name, value in self.metrics.items() if math.isfinite(value)}
        meta = self.run.meta | {
            "step": self.step,
            "steps": self.steps,
            "epoch": self.step / self.per_epoch,
            "metrics": metrics,
            "feature_dim": self.model.feature_dim,
            "text_dim": self.model.text_dim,
            "precision": self.precision,
            "parameters": self.model.parameter_count,
        }
        if self.average:
            state["average"] = [a.detach().cpu() for a in self.average]
        keep = self.recipe.train.keep
        save_checkpoint(
            self.run.checkpoints, recipe=self.recipe, weights=weights, state=state, meta=meta, keep=keep
        )

    def resume(self) -> None:
        """Take up the checkpoint that the run folder found, if any."""
        if self.run.found is None:
            return
        state = load_state(self.run.found)
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            for mean, saved in zip(self.average, state.get("average", []), strict=True):
                mean.copy_(saved)
            self.step = int(state["step"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["rng_device"] is not None:
                torch.cuda.set_rng_state(state["rng_device"], self.device)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise StepclipError(
                f"{self.run.found}/state.pt does not fit this run: {error}", "its own state"
            ) from error
        self.metrics = dict(self.run.found_meta.get("metrics", {}))


def _is_position(model: StepModel, p: Tensor) -> bool:
    return model.config.positions == "learned" and p is model.positions
