"""The table of benchlab: WeakSVR as released, corrected, and our own, by several seeds, beside every control.

    python benchmarks/bench_benchlab.py [--root DIR] [--people 5] [--seeds 5] [--bench-seed 0]
    ... --part 0/2 & ... --part 1/2                 shares the runs of two processes; then without --part

Renders and extracts the bench under ROOT if it is not there yet, trains every entry once per seed, evaluates
on the test split (tasks and people that were not trained on), and writes benchlab.json, .md and .svg beside
this script, and the table into README.md and docs/results.md. A run that is finished is not run again: stop
it and start it as often as you like. `--part i/n` runs a share of them and writes no table.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchlab_report import save
from machine import machine

HERE = Path(__file__).parent
DATASET = "benchlab"
#: of the papers' presets: their shape and losses, in a width that 5 seeds of 13 can have, as long as our own
PAPER = ("model.width=256", "data.items=0", "train.epochs=40")
COARSE = ("loss.fine=0.0", "loss.fine_text=0.0")
OURS = "stepclip-weaksvr"
PARTS = ("verification", "matching", "localisation", "pseudo_labels")
KEPT = ("uniform",)  # of the controls: it depends on how many frames a view has


@dataclass(frozen=True)
class Entry:
    """A line of the table: a recipe and what is changed in it. `labels`: it trains on pseudo-labels.
    `every_table`: it is measured on the tasks of the other methods, too."""

    group: str
    name: str
    recipe: str
    changed: tuple[str, ...] = field(default_factory=tuple)
    labels: bool = True
    every_table: bool = False

    @property
    def run(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in f"{self.group}--{self.name}")


def paper(group: str, name: str, recipe: str, *changed: str, labels: bool = True) -> Entry:
    return Entry(group, name, recipe, (*PAPER, *changed), labels)


ENTRIES = (
    paper("official", "coarse only", "weaksvr-official", *COARSE, labels=False),
    *(paper("official", n, "weaksvr-official", f"loss.labels={n}") for n in ("sort", "viterbi", "split")),
    paper("corrected", "coarse only", "weaksvr-corrected", *COARSE, labels=False),
    *(
        paper("corrected", name, "weaksvr-corrected", f"loss.labels={name}")
        for name in ("sort", "viterbi", "split", "prior", "soft-prior", "corpus")
    ),
    paper("corrected", "with labels", "weaksvr-with-labels"),
    paper("SVIP", "with labels", "svip", "model.depth=2", labels=False),
    Entry(OURS, "before training", OURS, ("train.epochs=1", "optim.lr=1e-12"), labels=False),
    Entry(OURS, "coarse only", OURS, COARSE, labels=False),
    Entry(OURS, "as it is", OURS),
)


def prepare(layout: Any, people: int, bench_seed: int) -> dict[str, float]:
    """Render and extract what is not there; seconds of each, 0 for what was there."""
    from stepclip.extract.benchlab import make_benchlab
    from stepclip.pipelines.stages import extract_stage

    seconds, paths = {"render": 0.0, "extract": 0.0}, layout.dataset(DATASET)
    began = time.perf_counter()
    if not (paths.folder / "manifest").exists():
        make_benchlab(paths.folder, people=people, seed=bench_seed)
        seconds["render"] = round(time.perf_counter() - began, 1)
    began = time.perf_counter()
    if not (paths.features / "cache.json").exists():
        extract_stage(layout, DATASET, encoder="embedded", fps=2.0)
        seconds["extract"] = round(time.perf_counter() - began, 1)
    return seconds


def one(layout: Any, entry: Entry, seed: int) -> dict[str, Any]:
    """The results of an entry with a seed, and the processor seconds it took: from its run, or run now."""
    from stepclip.cache.files import read_json, write_json
    from stepclip.pipelines.stages import eval_stage, train_stage

    run = layout.run(f"{entry.run}--{seed}")
    asked = {"recipe": entry.recipe, "changed": list(entry.changed), "seed": seed}
    kept, results = run.folder / "bench.json", run.folder / "results.json"
    if kept.is_file() and results.is_file():
        made = read_json(kept)
        if made["asked"] == asked:
            return {"results": read_json(results), **made}
    began = time.process_time()
    changed = [*entry.changed, f"seed={seed}", "train.keep=1"]
    train_stage(layout, DATASET, entry.recipe, run.name, changed, overwrite=True)
    trained = time.process_time()
    _, found = eval_stage(layout, DATASET, run.name, report=False, every_table=entry.every_table)
    spent = {"train": round(trained - began, 1), "evaluate": round(time.process_time() - trained, 1)}
    shutil.rmtree(run.folder / "checkpoints")  # some GB of all runs together
    write_json(kept, {"asked": asked, "seconds": spent})
    return {"results": found.to_dict(), "asked": asked, "seconds": spent}


def all_runs(
    layout: Any, entries: Sequence[Entry], seeds: int, part: tuple[int, int]
) -> dict[tuple[str, int], dict[str, Any]]:
    """What `one` gives of every entry's run and seed, or of the `part` i of n of them."""
    wanted = [(entry, seed) for entry in entries for seed in range(seeds)]
    return {(entry.run, seed): one(layout, entry, seed) for entry, seed in wanted[part[0] :: part[1]]}


def options(description: str | None) -> dict[str, Any]:
    """The arguments of `run`, of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("build/bench"))
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bench-seed", type=int, default=0)
    parser.add_argument("--part", default="0/1", help="i/n: every n-th run, from the i-th")
    given = vars(parser.parse_args())
    first, of = (int(x) for x in given["part"].split("/"))
    return given | {"part": (first, of)}


def run(
    root: Path,
    people: int,
    bench_seed: int,
    seeds: int,
    part: tuple[int, int] = (0, 1),
    entries: tuple[Entry, ...] = ENTRIES,
) -> dict[str, Any]:
    """All runs, or a share of them; what the table is made from."""
    from stepclip.evaluate import over_seeds
    from stepclip.pipelines.paths import Layout

    layout = Layout(root)
    preparing = prepare(layout, people, bench_seed)
    done = all_runs(layout, entries, seeds, part)
    if part[1] > 1:
        return {}
    rows, first = [], done[entries[0].run, 0]["results"]
    for entry in entries:
        runs = [done[entry.run, seed] for seed in range(seeds)]
        spread = over_seeds([r["results"] for r in runs])
        seconds = {k: sum(r["seconds"][k] for r in runs) / seeds for k in ("train", "evaluate")}
        rows.append(
            {
                "group": entry.group, "name": entry.name, "recipe": entry.recipe,
                "changed": list(entry.changed), "labels": entry.labels,
                "seconds": {k: round(v, 1) for k, v in seconds.items()},
                "figures": [
                    {
                        "part": row.part, "name": row.name, "kind": row.kind, "headline": row.headline,
                        "figures": {
                            k: [round(v.mean, 6), round(v.deviation, 6)]
                            for k, v in row.figures.items()
                            if _kept(k)
                        },
                    }
                    for row in spread
                    if row.part in PARTS
                    and (entry is entries[0] or row.headline or row.kind == "trained" or row.name in KEPT)
                ],
            }
        )  # fmt: skip
    what = {
        "people": people, "bench_seed": bench_seed, "seeds": seeds, "videos": 70 * people,
        "test_videos": first["videos"], "paper": list(PAPER),
    }  # fmt: skip
    return {"what": what, "machine": machine("torch"), "seconds": preparing, "rows": rows}


def _kept(name: str) -> bool:
    """The figures that the table is made from; all others are in the runs' own results.json."""
    return name.split(".")[-1] in ("auc", "wdr", "wdr_constant", "acc1", "frame_accuracy", "iou") or (
        name.startswith("by_kind.")
    )


if __name__ == "__main__":
    if found := run(**options(__doc__)):
        print(save(found, HERE))
