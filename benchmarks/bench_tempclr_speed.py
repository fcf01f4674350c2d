"""TempCLR's stage B: the formulas as the released code computes them, and StepCLIP's.

    python benchmarks/bench_tempclr_speed.py [--rounds 7] [--device cpu] [--quick]

16 videos, each a script of 16 sentences and 16 windows, 1 + 31 sequences of each: 512 matrices of 16 x 16.
First the losses alone (unit and sequence, forward and backward, orders drawn anew), by soft-DTW and by soft
OTAM; then whole steps of stage B (windows cut from the cache, encoder, losses, backward to the layer norms,
clip, AdamW) with three sizes of the same encoder, ours in float32 and as the engine runs it (bf16 where the
processor has it). The released structure is written out in tempclr_literal.py: windows cut and padded one by
one, permutations per video, a loop over cells. Both sides are checked to give the same loss first. Contenders
take turns, the median counts; on a CPU one thread and CPU time.
Writes tempclr_speed.json, .md and .svg beside this script.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tempclr_literal as literal
import torch
from machine import machine
from rounds import in_turn, measured

HERE = Path(__file__).parent
DIM, STEPS, VIDEOS, NEGATIVES = 512, 16, 16, 31
ASKED = 10.0  # times the literal steps
ENCODERS = {
    "5 frames, 64 x 1": (5, 64, 1),
    "16 frames, 256 x 1": (16, 256, 1),
    "32 frames, 512 x 2": (32, 512, 2),
}


@dataclass(frozen=True)
class Sizes:
    rounds: int = 7
    device: str = "cpu"
    quick: bool = False


def clocked(work: Callable[[], Any], device: str) -> Callable[[], float]:
    """Milliseconds of one call."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def once() -> float:
        began = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        return 1e3 * (clock() - began)

    return once


def compared(name: str, rounds: int, device: str, released: Any, ours: Any) -> dict[str, Any]:
    contenders = {"released": clocked(released, device), "ours": clocked(ours, device)}
    found = {key: measured(values) for key, values in in_turn(rounds, contenders).items()}
    return {"name": name, **found, "times": found["released"]["median"] / found["ours"]["median"]}


def losses(sizes: Sizes) -> list[dict[str, Any]]:
    from stepclip.train.alignment import cost_matrix
    from stepclip.train.losses import reordered, sequence_contrast_loss, sequence_distance, unit_contrast_loss
    from stepclip.train.tempclr.orders import draw_orders

    torch.manual_seed(0)
    shape = (VIDEOS, STEPS, DIM)
    texts, clips = (torch.randn(shape, device=sizes.device, requires_grad=True) for _ in range(2))
    place = torch.arange(STEPS, device=sizes.device).expand(VIDEOS, STEPS)
    lengths = torch.full((VIDEOS,), STEPS, device=sizes.device)
    rows = []
    for name, distance in (("losses, soft-DTW", "soft_dtw"), ("losses, soft OTAM", "soft_otam")):

        def ours(orders: torch.Tensor | None = None, distance: Any = distance) -> torch.Tensor:
            cost = cost_matrix(texts, clips, "tempclr")
            if orders is None:
                orders = draw_orders(place, lengths, NEGATIVES).places
            right = sequence_distance(cost, distance=distance)
            wrong = sequence_distance(reordered(cost, orders), distance=distance)
            unit = unit_contrast_loss(clips.flatten(0, 1), texts.flatten(0, 1))
            loss = 0.3 * unit + 0.7 * sequence_contrast_loss(right, wrong)
            loss.backward()
            return loss.detach()

        def released(otam: bool = distance == "soft_otam") -> torch.Tensor:
            sequence = literal.sequence_loss(list(texts), list(clips), NEGATIVES, otam)
            loss = 0.3 * literal.unit_loss(clips.flatten(0, 1), texts.flatten(0, 1)) + 0.7 * sequence
            loss.backward()
            return loss.detach()

        drawn: list[list[int]] = []
        real_orders = literal.orders
        literal.orders = lambda n, count: kept(drawn, real_orders, n, count)  # noqa: B023
        want = released()
        literal.orders = real_orders
        same = torch.tensor(drawn, device=sizes.device).view(VIDEOS, NEGATIVES, STEPS)
        torch.testing.assert_close(ours(same), want, rtol=1e-4, atol=1e-4)  # or the comparison is void
        rows.append(compared(name, sizes.rounds, sizes.device, released, ours))
    return rows


def kept(into: list[list[int]], orders: Any, n: int, count: int) -> Any:
    for order in orders(n, count):
        into.append(order)
        yield order


def made(folder: Path) -> list[Any]:
    """64 videos of 16 steps of 8 frames each, random features."""
    from stepclip.cache import FeatureWriter, Fingerprint, VideoRow

    rng = np.random.default_rng(0)
    words = [f"step {i}" for i in range(200)]
    rows = []
    with FeatureWriter(folder, Fingerprint({"encoder.name": "random"}), dim=DIM) as writer:
        for i in range(64):
            length = 8 * STEPS
            features = rng.normal(size=(length, DIM)).astype(np.float16)
            writer.add(f"v{i}", features, np.arange(length) * 1.0, float(length))
            script = tuple(rng.choice(words, STEPS, replace=False))
            edges = np.arange(STEPS + 1) * 8.0
            rows.append(
                VideoRow(
                    f"v{i}", f"v{i}", "t", f"p{i}", "train", None, None, script,
                    tuple(edges[:-1].tolist()), tuple(edges[1:].tolist()),
                )
            )  # fmt: skip
        writer.add_text(words, rng.normal(size=(len(words), DIM)).astype(np.float32), "step")
    return rows


def whole_steps(sizes: Sizes, folder: Path) -> list[dict[str, Any]]:
    from stepclip.cache import FeatureStore
    from stepclip.train import load_recipe
    from stepclip.train.console import pick_precision
    from stepclip.train.method import Setting, start_method

    rows, store, out = made(folder), FeatureStore.open(folder), []
    for name, (window, width, depth) in list(ENCODERS.items())[: 1 if sizes.quick else None]:
        recipe = load_recipe(
            "tempclr-corrected",
            [
                "data.spans=given", "data.windows=1", "data.neighbours=0", "loss.rivals=false",
                "stages.first=0", "loss.unit_form=dot", "loss.same=wrong", "loss.cost=tempclr",
                "loss.standardise=false",
                "loss.normalise=sum", "loss.tau=1.0", "loss.learn_tau=false", "model.dropout=0.0",
                f"model.window={window}", f"data.longest={window}", "model.reach=0", f"model.width={width}",
                f"model.depth={depth}", "data.shortest=3",
            ],
        )  # fmt: skip
        torch.manual_seed(0)
        method: Any = start_method(recipe, Setting(store, rows, [], torch.device(sizes.device)))
        torch.nn.init.normal_(method.model.output.weight, std=0.01)  # as after stage A
        method.begin(0)
        learned = [p for p in method.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(learned, lr=1e-6, fused=True)
        plan = [tuple(x[i].to(sizes.device) for x in method.plan(0)) for i in range(method.steps_of_epoch)]

        def update(loss: torch.Tensor) -> None:
            optimiser.zero_grad(set_to_none=True)  # noqa: B023
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 2.0)  # noqa: B023
            optimiser.step()  # noqa: B023

        def ours() -> None:
            update(method.terms(method.model, plan[0])["loss"])  # noqa: B023

        def as_run() -> None:
            with torch.autocast(sizes.device, torch.bfloat16):
                loss = method.terms(method.model, plan[0])["loss"]  # noqa: B023
            update(loss)

        def released() -> None:
            update(literal_step(method, plan[0]))  # noqa: B023

        out.append(compared(f"step, {name}", sizes.rounds, sizes.device, released, ours))
        if pick_precision("auto", torch.device(sizes.device)) == "bf16":
            row = compared(f"step, {name}, bf16", sizes.rounds, sizes.device, released, as_run)
            out.append(row)
    return out


def literal_step(method: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The same step in the released structure: each window cut and padded by itself."""
    data, model = method.data, method.model
    index, draws, _ = inputs
    first, size = (x.tolist() for x in windows_of(data, index, draws))
    frames, real = [], []
    for video, starts, sizes in zip(index.tolist(), first, size, strict=True):
        at = int(data.first[video])
        for start, length in zip(starts, sizes, strict=True):
            cut = data.packed.features[at + start : at + start + length].float()
            pad = data.config.longest - length
            frames.append(torch.nn.functional.pad(cut, (0, 0, 0, pad)))
            real.append(torch.tensor([True] * length + [False] * pad))
    padded = torch.stack(frames), torch.stack(real).to(index.device)
    clips = model._windows(*padded, None).view(len(index), STEPS, -1)
    texts = model.texts(data.sentences)[data.table[index]]
    sequence = literal.sequence_loss(list(texts), list(clips), NEGATIVES)
    return 0.3 * literal.unit_loss(clips.flatten(0, 1), texts.flatten(0, 1)) + 0.7 * sequence


def windows_of(data: Any, index: torch.Tensor, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    units = data.gather(index, draws)
    return units.first, units.last - units.first


def run(sizes: Sizes) -> dict[str, Any]:
    if sizes.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*losses(sizes), *whole_steps(sizes, Path(folder))]
    setting = {"videos": VIDEOS, "sequences": NEGATIVES + 1, "matrix": [STEPS, STEPS], **asdict(sizes)}
    return {"setting": setting, "machine": machine("torch", "numba"), "asked": ASKED, "rows": rows}


def markdown(result: dict[str, Any]) -> str:
    lines = ["| stage B, ms | as released | ours | times faster |", "|---|---:|---:|---:|"]
    for row in result["rows"]:
        there, here = (f"{row[key]['median']:.3g}" for key in ("released", "ours"))
        lines.append(f"| {row['name']} | {there} | {here} | {row['times']:.1f} |")
    m = result["machine"]
    lines += [
        "",
        f"{m['cpu']}, one thread, CPU time, torch {m['torch']}. Asked: {result['asked']:.0f} times.",
    ]
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    rows = result["rows"][::-1]
    figure, axis = plt.subplots(figsize=(7, 2.6), constrained_layout=True)
    axis.barh([row["name"] for row in rows], [row["times"] for row in rows], color="#0072B2")
    for y, row in enumerate(rows):
        axis.text(row["times"], y, f" {row['times']:.1f}", va="center", fontsize=8)
    axis.axvline(result["asked"], color="#D55E00", linewidth=1)
    axis.set_title("stage B of TempCLR: times as fast as the released structure (line: asked)", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def save(result: dict[str, Any], out: Path) -> None:
    from stepclip.cache.files import write_json

    write_json(out / "tempclr_speed.json", result)
    (out / "tempclr_speed.md").write_text(markdown(result))
    chart(result, out / "tempclr_speed.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="the smallest encoder only; writes nothing")
    given = parser.parse_args()
    found = run(Sizes(given.rounds, given.device, given.quick))
    if not given.quick:
        save(found, HERE)
    print(markdown(found))
