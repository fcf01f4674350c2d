"""The loop of a run: steps in their order, lines of the log, evaluations, checkpoints, and how it is taken up
again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cache.errors import StepclipError
from .checkpoint import load_state, save_checkpoint
from .console import interruptible, show_progress
from .logs import Log, no_log, open_log
from .method import Inputs, Method
from .recipe import Recipe
from .run import RunFolder
from .selection import METRIC, Selection, Watch
from .step import Step, learning_rate

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Loop:
    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        run: RunFolder,
        precision: str,
        fabric: Fabric,
        watch: Watch | None = None,
    ) -> None:
        self.recipe, self.method, self.model, self.run = recipe, method, method.model, run
        self.device, self.precision, self.fabric, self.watch = method.device, precision, fabric, watch
        self.advance = Step(recipe, method, fabric)
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.first_loss = math.nan
        self.stopped = ""
        self.selection = Selection(recipe.evaluate.select, recipe.train.patience)
        unit = fabric.world_size * method.unit
        if method.batch % unit:
            together = " that stay together" if method.unit > 1 else ""
            raise StepclipError(
                f"batches of {method.batch} videos{together} for {fabric.world_size} processes",
                f"data.batch a multiple of {unit}, and no larger than the {len(method.ids)} videos",
            )
        self.per_epoch = method.steps_of_epoch
        self.steps = self.per_epoch * recipe.train.epochs
        self._plans: dict[int, Inputs] = {}
        self._begun, self._factor = -1, 1.0

    # ---- one step

    def inputs(self, step: int) -> Inputs:
        """Its part of the plan of its epoch, on the device."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch not in self._plans:
            self._plans = {epoch: tuple(x.to(self.device) for x in self.method.plan(epoch))}
        return tuple(x[place] for x in self._plans[epoch])

    def one_step(self) -> None:
        epoch = self.step // self.per_epoch
        if epoch != self._begun:
            self._begun, self._factor = epoch, self.method.begin(epoch)
        rate = self._factor * learning_rate(self.recipe, self.step, self.steps, self.per_epoch)
        self.advance(self.inputs(self.step), rate, self.step)
        self.step += 1

    def read(self) -> None:
        """Means since the last reading into `metrics`. The one place where the host waits; a loss gone bad
        stops the run here."""
        seen, bad = self.advance.read()
        self.metrics |= seen
        if bad >= 0:
            self._fail(
                bad,
                "the loss or its gradient is not finite",
                f"a lower optim.lr ({self.recipe.optim.lr:g} now), or train.precision=fp32",
            )
        if math.isnan(self.first_loss):
            self.first_loss = seen["loss"]
        limit = self.recipe.train.diverged * self.first_loss
        if 0 < limit < seen["loss"]:
            self._fail(
                self.step - 1,
                f"the loss grew from {self.first_loss:.4g} to {seen['loss']:.4g}",
                f"a lower optim.lr ({self.recipe.optim.lr:g} now), a longer optim.warmup; or a larger "
                "train.diverged, if it is meant to grow",
            )

    def _fail(self, step: int, found: str, run: str) -> None:
        ids = self.method.videos(self.inputs(step))
        kept = self.save(self.run.path / "diverged", pointed=False)
        raise StepclipError(
            f"{found} at step {step}; its videos: {', '.join(ids)}",
            f"finite numbers that fall; the checkpoints are as they were, the state that failed is in {kept}",
            run,
        )

    # ---- the run

    def run_to(self, stop_after: int | None, heads: list[str], progress: bool) -> float:
        t, first = self.recipe.train, self.fabric.global_rank == 0
        end = self.steps if stop_after is None else min(self.steps, self.step + stop_after)
        clock = began = time.monotonic()
        self.model.train()
        if first:
            self.run.say_recipe()
        self.fabric.barrier()
        going_on = self.run.found is not None
        with (
            show_progress(progress, heads, self.step, self.steps) as bar,
            open_log(self.run.path, heads, self.step, going_on) if first else no_log() as log,
            interruptible() as check,
        ):
            while self.step < end and not self.stopped:
                check()
                self.one_step()
                epoch, inside = divmod(self.step, self.per_epoch)
                if self.step % t.log_every == 0 or self.step == end:
                    steps, now = self.advance.pending, time.monotonic()
                    self.read()
                    rate = steps * self.method.batch / max(now - clock, 1e-9)
                    clock = now
                    log(self._row(rate, now - began))
                    bar(self.step, self.metrics["loss"], rate)
                best = self._evaluated(log, epoch, inside)
                if self.step == end or best or self.stopped or (not inside and epoch % t.save_every == 0):
                    if self.advance.pending:
                        self.read()
                    if (held := self.held_out_loss()) is not None:
                        self.metrics["held_out_loss"] = held
                        log({"step": self.step, "held_out_loss": held})
                    self.save(self.run.checkpoints, best=best)
        return self.metrics.get("loss", math.nan)

    def _row(self, rate: float, seconds: float) -> dict[str, Any]:
        row = {"step": self.step, "epoch": self.step / self.per_epoch, **self._losses()}
        row["lr"] = float(self.advance.optimiser.param_groups[0]["lr"])
        row |= self.method.gauges()
        return {**row, "videos_per_s": rate, "seconds": seconds}

    def _losses(self) -> dict[str, float]:
        return {name: self.metrics[name] for name in (*self.advance.parts, "grad_norm")}

    def _evaluated(self, log: Log, epoch: int, inside: int) -> bool:
        """The evaluation of an epoch's end, where one is due; whether its weights are the ones to keep."""
        every = self.recipe.evaluate.every
        due = not inside and every and (epoch % every == 0 or self.step == self.steps)
        if not due or self.watch is None:
            return False
        found: dict[str, float] = {}
        if self.fabric.global_rank == 0:
            with self.quietly():
                found = dict(self.watch(self.model, self.step))
        found = self.fabric.broadcast(found)
        if METRIC not in found:
            raise StepclipError(f"an evaluation without '{METRIC}'", "what `stepclip train` hands to fit")
        better = self.selection.look(found, self.step)
        self.metrics |= {f"watched_{name}": value for name, value in found.items()}
        log({"step": self.step, **{f"watched_{name}": value for name, value in found.items()}})
        if self.selection.exhausted:
            self.stopped = (
                f"stopped early: {self.selection.waits} evaluations no better than {METRIC} "
                f"{self.selection.best:.4f} of step {self.selection.step}"
            )
        return better and self.selection.selects

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """Of the videos held out, with the weights that are saved; None where the method has none."""
        if self.method.held is None:
            return None
        with self.quietly():
            return self.method.held_out_loss(self.fabric.autocast)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """The weights that are saved, in evaluation mode; the random generators of the run stand still."""
        with self.advance.averaged(), torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)
            self.model.eval()
            yield
            self.model.train()

    # ---- saved and found again

    def save(self, folder: Path, best: bool = False, pointed: bool = True) -> Path:
        """By the first process; all wait for it."""
        target = folder
        if self.fabric.global_rank == 0:
            with self.advance.averaged():
                weights = _copied(self.model)
            metrics = {name: value for name, value in self.metrics.items() if math.isfinite(value)}
            meta = self.run.meta | {
                "step": self.step,
                "steps": self.steps,
                "epoch": self.step / self.per_epoch,
                "metrics": metrics,
                **self.model.shape,
                "precision": self.precision,
                "processes": self.fabric.world_size,
                "parameters": self.model.parameter_count,
                "selection": self.selection.says(self.step),
            }
            target = save_checkpoint(
                folder,
                recipe=self.recipe,
                weights=weights,
                state=self._state(),
                meta=meta,
                keep=self.recipe.train.keep,
                best=best,
                pointed=pointed,
            )
        self.fabric.barrier()
        return target

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "step": self.step,
            "model": _copied(self.model),
            "optimiser": self.advance.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "rng_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "first_loss": self.first_loss,
            "selection": self.selection.state(),
        }
        if self.advance.average:
            state["average"] = [a.detach().cpu() for a in self.advance.average]
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        return state

    def resume(self) -> None:
        """Take up the checkpoint that the run folder found, if any."""
        if self.run.found is None:
            return
        state = load_state(self.run.found)
        try:
            self.model.load_state_dict(state["model"])
            self.advance.optimiser.load_state_dict(state["optimiser"])
            for mean, saved in zip(self.advance.average, state.get("average", []), strict=True):
                mean.copy_(saved)
            self.step = int(state["step"])
            self.first_loss = float(state.get("first_loss", math.nan))
            if "selection" in state:
                self.selection.load(state["selection"])
            scaler = getattr(self.fabric.strategy.precision, "scaler", None)
            if scaler is not None and "scaler" in state:
                scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["rng_device"] is not None:
                torch.cuda.set_rng_state(state["rng_device"], self.device)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise StepclipError(
                f"{self.run.found}/state.pt does not fit this run: {error}", "its own state"
            ) from error
        self.metrics = dict(self.run.found_meta.get("metrics", {}))


def _copied(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
