"""CARL, its weak version, our own, TCC and TCN on the tasks of frames, beside raw features, the clock, both.

    python benchmarks/bench_carl.py --root ROOT [--seeds 5] [--gtea FILE.npz] [--quick]

ROOT holds data/benchlab, extracted (`stepclip demo` or `stepclip extract --dataset benchlab`, 2 frames/s). A
phase is a step; classifiers are fitted in folds over the people of the test split, none of whom any model has
seen. Each recipe is trained with each seed, all with encoders of one size, for equally many steps on equally
long views; what learns nothing, and each model without content, is measured once. With --gtea also on GTEA's
splits 1 and 2: phases are its ten actions, classifiers fitted on the training split. What is done already is
kept in ROOT/carl-SET.json, and not done again. Writes carl.json, .md and .svg beside this script.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from carl_report import save
from machine import machine
from readme import put

HERE = Path(__file__).parent
METHODS = {
    "CARL": "carl-corrected",
    "CARL, weak": "carl-weak",
    "CARL, ours": "stepclip-carl",
    "TCC": "tcc",
    "TCN": "tcn",
}
# a fifth of the work of the released encoder, for little data
SMALL = (
    "model.hidden=256",
    "model.width=128",
    "model.heads=4",
    "model.mlp=256",
    "model.depth=2",
    "optim.lr=2e-3",
    "train.epochs=100",
    "train.save_every=1000",
)
BENCH = (*SMALL, "data.frames=32")
# no scripts: the weak labels are the dishes; 21 videos of a minute, 15 frames a second
GTEA = (*SMALL, "data.frames=64", "data.batch=20", "data.label=task")
QUICK = ("train.epochs=1", "model.depth=1", "model.width=32", "model.hidden=32", "model.mlp=32")


@dataclass(frozen=True)
class Where:
    """One data set of the benchmark: where it lies, what is laid over the recipes, which seeds."""

    name: str
    data: Path
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    shares: tuple[float, ...]


def run(
    root: Path, places: list[Where], methods: list[str], quick: bool = False, kept_only: bool = False
) -> list[dict[str, Any]]:
    """Records {"set", "method", "row", "seed", figures...} of all places; those that ROOT/carl-SET.json holds
    already come from there, with `kept_only` no others."""
    records = []
    for where in places:
        kept = root / f"carl-{where.name}.json"
        known: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else []
        done = {(one["method"], one["seed"]) for one in known}
        for seed in () if kept_only else where.seeds:
            for method in methods:
                if (method, seed) in done:
                    continue
                recipe = METHODS[method]
                overrides = [*where.overrides, *(QUICK if quick else ()), f"seed={seed}"]
                known += one_run(root, where, method, recipe, overrides, controls=not known)
                kept.write_text(json.dumps(known, indent=1))
        records += known
    return records


def one_run(
    root: Path, where: Where, method: str, recipe: str, overrides: list[str], controls: bool
) -> list[dict[str, Any]]:
    """Train, and score the frames of the test split."""
    from stepclip.cache import FeatureStore, Manifest
    from stepclip.evaluate.frame_tasks import FrameSets, frame_rows
    from stepclip.evaluate.phases import plan_frames
    from stepclip.train import fit, load_checkpoint, load_recipe

    manifest = Manifest.read(where.data / "manifest")
    chosen = load_recipe(recipe, overrides)
    folder = root / "runs" / f"{where.name}-{recipe}-{chosen.seed}"
    began = time.perf_counter()
    trained = fit(
        chosen, where.data / "features", manifest.without_truth(), folder, progress=False, overwrite=True
    )
    seconds = time.perf_counter() - began
    with FeatureStore.open(where.data / "features") as store:
        test, train = list(manifest.split("test")), list(manifest.split("train"))
        plan = plan_frames(test, train)
        if isinstance(plan, str):
            raise SystemExit(plan)
        checkpoint = load_checkpoint(folder)
        sets = FrameSets.of(checkpoint, store, test)
        fitted = FrameSets.of(checkpoint, store, train) if plan.fit_split else None
        rows = frame_rows(
            plan,
            sets,
            fitted,
            seed=0,
            controls=controls,
            bare=chosen.seed == where.seeds[0],
            shares=where.shares,
        )
    print(
        f"{where.name}, {method}, seed {chosen.seed}: {seconds:.0f} s, "
        f"accuracy {rows[0].result.accuracy:.3f}",
        flush=True,
    )
    about = {"set": where.name, "seed": chosen.seed, "protocol": plan.described}
    out = []
    for row in rows:
        own = row.name in ("frames", "content-free")  # of this model; the others learn nothing
        out.append(
            about
            | {"method": method if own else row.name, "row": row.name, "seconds": seconds if own else 0.0}
            | {"steps": trained.steps if own else 0}
            | row.result.to_dict()
        )
    return out


def import_gtea(root: Path, file: Path, split: int) -> Path:
    """The features of one split, imported; the folder of its data."""
    from stepclip.pipelines.caches import import_stage
    from stepclip.pipelines.paths import Layout

    here = root / f"gtea{split}"
    folder = here / "data" / "gtea"
    if not (folder / "manifest").is_dir():
        import_stage(Layout(here), str(file), "gtea", split=split, progress=False)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("build/bench"))
    parser.add_argument("--bench", type=Path, help="data/benchlab of another root, read only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gtea", type=Path)
    parser.add_argument("--gtea-seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--only", help="one data set alone, such as gtea2")
    parser.add_argument("--kept", action="store_true", help="train nothing: report what is done")
    parser.add_argument("--quick", action="store_true", help="tiny models for one epoch, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.root.mkdir(parents=True, exist_ok=True)
    bench = args.bench or args.root / "data" / "benchlab"
    if not args.kept and not (bench / "features").is_dir():
        print(f"no extracted bench in {bench}: nothing to run (bench_benchlab.py makes one in build/bench)")
        return
    places = [Where("benchlab", bench, BENCH, tuple(range(args.seeds)), (0.1, 0.5))]
    if args.gtea:
        for split in (1, 2):
            folder = args.root if args.kept else import_gtea(args.root, args.gtea, split)
            places.append(Where(f"gtea{split}", folder, GTEA, tuple(range(args.gtea_seeds)), ()))
    if args.only:
        places = [where for where in places if where.name == args.only]
    records = run(args.root, places, args.methods, args.quick, args.kept)
    save({"records": records, "machine": machine("torch", "scikit-learn")}, args.out)
    text = (args.out / "carl.md").read_text()
    if args.out == HERE:
        put("carl", text.replace("## ", "### "), HERE.parent / "docs" / "results.md")
    print(text)


if __name__ == "__main__":
    main()
