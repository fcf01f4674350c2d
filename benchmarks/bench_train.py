"""WeakSVR's losses and training step: the released structure, sample by sample, against StepCLIP's.

    python benchmarks/bench_train.py [--rounds 7] [--device cpu] [--quick] [--whole]

The released losses are written out literally in weaksvr_literal.py. Contenders take turns in one process,
in a new order each round; the median counts. On a CPU: one thread, CPU time (a neighbour does not
count). On a GPU: wall time to the end of the device's work. A step is everything: gather from the cache,
forward, losses, backward, clip, AdamW. `--whole` runs all 7,500 steps of the released CSV schedule (on a CPU
they are reckoned from the median step). Writes train.json, .md and .svg beside this script.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import weaksvr_literal as literal
from machine import machine
from train_report import save

HERE = Path(__file__).parent
KINDS = ("split", "viterbi", "sort")
DIM, MOST, CSV_STEPS = 512, 20, 7500
OFFICIAL = ["data.items=0", "optim.lr=1e-5", "train.diverged=0"]


@dataclass(frozen=True)
class Sizes:
    rounds: int = 7
    batches: tuple[int, ...] = (16, 32, 64)
    videos: int = 192
    frames: int = 16
    width: int = 1024
    device: str = "cpu"
    whole: bool = False


def median_times(rounds: int, contenders: dict[str, Callable[[], Any]], device: str) -> dict[str, Any]:
    """Milliseconds of each, taken in turn; a first round counts for nothing."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(rounds + 1):
        random.Random(turn).shuffle(order)
        for name in order:
            began = clock()
            contenders[name]()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:
                found[name].append(1e3 * (clock() - began))
    return {
        name: {"median": statistics.median(v), "spread": [min(v), max(v)], "rounds": v}
        for name, v in found.items()
    }


def losses(sizes: Sizes) -> list[dict[str, Any]]:
    """Value and gradient of the fine loss alone, Gumbel noise on, on random features."""
    from stepclip.train.losses import frame_sentence_official

    rows = []
    for size in sizes.batches:
        torch.manual_seed(0)
        frames = torch.randn(size, sizes.frames, DIM, device=sizes.device, requires_grad=True)
        steps = torch.rand(size, MOST, DIM, device=sizes.device)
        lengths = torch.randint(5, 17, (size,), device=sizes.device)
        tau = torch.tensor(1 / 0.07, device=sizes.device, requires_grad=True)
        for kind in KINDS:

            def released(kind: str = kind) -> float:
                literal.fine_loss(frames, steps, lengths, tau, kind).backward()  # noqa: B023
                return 0.0

            def ours(kind: str = kind) -> float:
                out = frame_sentence_official(frames, steps, lengths, tau, labelling=kind)  # noqa: B023
                (out.image + out.text).backward()
                return 0.0

            with torch.no_grad():  # the same number, or the comparison is void
                if sizes.device == "cpu":
                    want = literal.fine_loss(frames, steps, lengths, tau, kind, noise=False)
                    out = frame_sentence_official(frames, steps, lengths, tau, labelling=kind, noise=False)
                    torch.testing.assert_close(out.image + out.text, want)
            found = median_times(sizes.rounds, {"released": released, "ours": ours}, sizes.device)
            rows.append({"batch": size, "kind": kind, **found, "ratio": _ratio(found, "released", "ours")})
    return rows


def _ratio(found: dict[str, Any], above: str, below: str) -> float:
    return found[above]["median"] / found[below]["median"]


def made_cache(folder: Path, sizes: Sizes) -> Any:
    """Random features of `videos` videos of 45 procedures of 5 to 16 steps: the training set of CSV in
    shape."""
    from stepclip.cache import FeatureWriter, Fingerprint, VideoRow

    rng = np.random.default_rng(0)
    sentences = [f"step {i}" for i in range(105)]
    scripts = [tuple(rng.choice(sentences, rng.integers(5, 17), replace=False)) for _ in range(45)]
    rows = []
    with FeatureWriter(folder, Fingerprint({"encoder.name": "random"}), dim=DIM) as writer:
        for i in range(sizes.videos):
            length = 64
            writer.add(
                f"v{i}", rng.normal(size=(length, DIM)).astype(np.float16), np.arange(length) / 8, length / 8
            )
            script = scripts[i % 45]
            rows.append(
                VideoRow(f"v{i}", f"v{i}", str(i % 9), str(i % 45), "train", None, None, script, None, None)
            )
        for kind, strings in (("step", sentences), ("paragraph", sorted({r.paragraph for r in rows}))):
            writer.add_text(list(strings), rng.normal(size=(len(strings), DIM)).astype(np.float32), kind)
    return rows


class Engine:
    """Steps of the real engine, one after the other."""

    def __init__(self, rows: Any, store: Any, name: str, overrides: list[str], sizes: Sizes) -> None:
        from stepclip.train import load_recipe
        from stepclip.train.launch import start_fabric
        from stepclip.train.method import Setting
        from stepclip.train.step import Step
        from stepclip.train.weaksvr.method import start

        shape = [f"model.width={sizes.width}", f"model.frames={sizes.frames}"]
        recipe = load_recipe(name, [*OFFICIAL, *shape, *overrides])
        fabric = start_fabric(torch.device(sizes.device), recipe.train.precision)
        method = start(recipe, Setting(store, rows, (), fabric.device))
        self.model, self.data, self.at = method.model.train(), method.data, 0
        self.advance = Step(recipe, method, fabric)
        self.plan = tuple(x.to(fabric.device) for x in method.plan(0))

    def inputs(self, at: int) -> tuple[torch.Tensor, ...]:
        """Videos (B,) and draws (B, N) of a step."""
        return tuple(x[at % len(x)] for x in self.plan)

    def __call__(self) -> None:
        self.advance(self.inputs(self.at), 1e-5, self.at)
        self.at += 1


def released_step(engine: Engine, kind: str) -> Callable[[], None]:
    """The same model and batches in the released structure: fp32, loops, AdamW as it comes."""
    model, data = engine.model, engine.data
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    at = 0

    def step() -> None:
        nonlocal at
        index, draws = engine.inputs(at)
        at += 1
        optimiser.zero_grad()
        batch = data.gather(index, draws)
        out = model(batch.frames)
        coarse = literal.coarse_loss(out.video, batch.paragraphs, model.scale_video)
        fine = literal.fine_loss(out.frames, batch.steps, batch.step_lengths, model.scale_frame, kind)
        total = coarse + fine
        total.backward()
        total.item()  # the released loop prints it
        optimiser.step()
        model.clamp_scales()

    return step


def steps(sizes: Sizes, folder: Path) -> list[dict[str, Any]]:
    from stepclip.cache import FeatureStore

    videos = made_cache(folder, sizes)
    half = "bf16"
    found = []
    with FeatureStore.open(folder) as store:
        for size in sizes.batches:
            batch = [f"data.batch={size}"]
            split = [*batch, "loss.labels=split"]
            kinds: dict[str, Callable[[], Any]] = {}
            base = Engine(videos, store, "weaksvr-official", [*split, "train.precision=fp32"], sizes)
            kinds["released, split, fp32"] = released_step(base, "split")
            kinds["ours, split, fp32"] = Engine(
                videos, store, "weaksvr-official", [*split, "train.precision=fp32"], sizes
            )
            kinds[f"ours, split, {half}"] = Engine(
                videos, store, "weaksvr-official", [*split, f"train.precision={half}"], sizes
            )
            kinds[f"ours, corrected, {half}"] = Engine(
                videos, store, "weaksvr-corrected", [*batch, f"train.precision={half}"], sizes
            )
            if sizes.device != "cpu":
                kinds[f"ours, split, {half}, CUDA graph"] = Engine(
                    videos, store, "weaksvr-official",
                    [*split, f"train.precision={half}", "train.cuda_graph=true"], sizes,
                )  # fmt: skip
                for _ in range(5):  # record it
                    kinds[f"ours, split, {half}, CUDA graph"]()
            times = median_times(sizes.rounds, kinds, sizes.device)
            fastest = [name for name in times if "split, bf16" in name][-1]
            weights = sum(
                m.weight.numel() for m in base.model.modules() if isinstance(m, torch.nn.Linear)
            ) - base.model.pool.linear.weight.numel()  # fmt: skip
            flops = 6 * size * (weights * (sizes.frames + 1) + base.model.pool.linear.weight.numel())
            found.append(
                {
                    "batch": size,
                    "times": times,
                    "ratio": _ratio(times, "released, split, fp32", fastest),
                    "ratio_fp32": _ratio(times, "released, split, fp32", "ours, split, fp32"),
                    "fastest": fastest,
                    "gflop": round(flops / 1e9, 1),
                    "gflop_per_s": round(flops / times[fastest]["median"] / 1e6, 1),
                }
            )
    return found


def matmul(sizes: Sizes) -> dict[str, float]:
    """GFLOP/s of large square products: the bound of a step, by precision."""
    n = 2048 if sizes.device == "cpu" else 8192
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(n, n, device=sizes.device, dtype=dtype)
        found[name] = median_times(3, {"product": lambda a=a: a @ a}, sizes.device)["product"]["median"]
    return {name: round(2 * n**3 / took / 1e6, 1) for name, took in found.items()}


def whole_run(sizes: Sizes, found: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Seconds of the released CSV schedule (300 epochs of 25 steps of 32): run on a GPU, reckoned on a
    CPU."""
    at_32 = next((row for row in found if row["batch"] == 32), found[-1])
    if not sizes.whole or sizes.device == "cpu":
        step = at_32["times"][at_32["fastest"]]["median"]
        return {"steps": CSV_STEPS, "seconds": round(CSV_STEPS * step / 1e3, 1), "how": "median step x steps"}
    from stepclip.cache import FeatureStore

    videos = made_cache(folder, sizes)
    with FeatureStore.open(folder) as store:
        options = ["data.batch=32", "loss.labels=split", "train.precision=bf16", "train.cuda_graph=true"]
        engine = Engine(videos, store, "weaksvr-official", options, sizes)
        began = time.perf_counter()
        for _ in range(CSV_STEPS):
            engine()
        torch.cuda.synchronize()
        return {"steps": CSV_STEPS, "seconds": round(time.perf_counter() - began, 1), "how": "run"}


def run(sizes: Sizes) -> dict[str, Any]:
    if sizes.device == "cpu":
        torch.set_num_threads(1)
    result: dict[str, Any] = {
        "what": asdict(sizes), "machine": machine("torch", "numba", "lightning-fabric"),
    }  # fmt: skip
    if sizes.device != "cpu":
        result["machine"]["gpu"] = torch.cuda.get_device_name()
    result["losses"] = losses(sizes)
    with tempfile.TemporaryDirectory() as folder:
        result["steps"] = steps(sizes, Path(folder) / "features")
        result["matmul_gflop_per_s"] = matmul(sizes)
        result["whole"] = whole_run(sizes, result["steps"], Path(folder) / "whole")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a small model, one round")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    chosen = Sizes(rounds=given.rounds, device=given.device, whole=given.whole)
    if given.quick:
        chosen = Sizes(1, (16,), 32, 16, 64, given.device)
    measured = run(chosen)
    print(save(measured, given.out))
