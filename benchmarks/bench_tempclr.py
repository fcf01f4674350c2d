"""TempCLR on the synthetic bench and on GTEA: stage B over stage A over CLIP, and what each choice of it is
worth.

    python benchmarks/bench_tempclr.py [--root build/bench] [--seeds 5] [--ablation-seeds 2] [--part 0/2]

Trains on the training split of benchlab (seed 0, five people): units alone (stage A), sequences after that
(stage B, layer norms or all weights, with units or without), and the recipe `stepclip-tempclr`, which is
stage B straight from CLIP.
Scored on the test split, whose tasks and people were not trained on, beside CLIP itself: full-video retrieval
with its hard galleries, clips, steps, few shots. Then one choice changed at a time. On GTEA
(../shared/data/features/gtea.npz; skipped where it is absent): few-shot with one person left out, and
retrieval, of real features and of models trained on the others by the video-video form. A run that is
finished is not run again (build/tempclr); `--part 0/2` and `--part 1/2` share the runs of two processes.
Writes tempclr.json, .md and .svg beside this script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).parent
RECIPE = "stepclip-tempclr"
GTEA = HERE.parent.parent / "shared" / "data" / "features" / "gtea.npz"
UNITS = ["loss.unit=1.0", "loss.sequence=0.0"]
BOTH = ["loss.unit=0.3", "loss.sequence=0.7"]
# name: (what differs from the recipe, which run its weights are from)
MAIN: dict[str, tuple[list[str], str]] = {
    "stage A, units alone": (UNITS, ""),
    "stage A, then B, layer norms": (
        [*BOTH, "stages.trained=layernorm", "optim.lr=1e-3"],
        "stage A, units alone",
    ),
    "stage A, then B, all weights": (BOTH, "stage A, units alone"),
    "stage A, then B, sequences alone, all weights": (["train.epochs=20"], "stage A, units alone"),
    "stage B from CLIP (the recipe)": ([], ""),
}
RECIPE_ROW, STAGE_A = "stage B from CLIP (the recipe)", "stage A, units alone"
# one choice of the recipe changed at a time
ABLATIONS: dict[str, list[str]] = {
    "no two neighbours exchanged": ["loss.adjacent=0.0"],
    "7 negatives": ["loss.negatives=7"],
    "127 negatives": ["loss.negatives=127"],
    "soft OTAM": ["loss.distance=soft_otam", "loss.normalise=L+N"],
    "video side, segments": ["loss.side=video"],
    "video side, segments and clips": ["loss.side=video", "loss.granularity=both"],
    "video side, clips alone": ["loss.side=video", "loss.granularity=clips", "loss.adjacent=0.0"],
    "both sides, segments": ["loss.side=both"],
    "other scripts of the batch too": ["loss.rivals=true"],
    "units beside sequences": BOTH,
    "true step times": ["data.spans=given"],
}
COLUMNS = (
    ("R@1", "sequences", "dtw", "kept.r1"),
    ("own task", "sequences", "dtw", "own_task.r1"),
    ("shuffled", "sequences", "dtw", "shuffled.r1"),
    ("swapped", "sequences", "dtw", "swapped.r1"),
    ("removed", "sequences", "dtw", "removed.r1"),
    ("clip R@1", "clips", "trained", "text.r1"),
    ("recall", "steps", "ordered", "recall"),
    ("IoU", "steps", "ordered", "iou"),
    ("F1@25", "steps", "ordered", "f1_25"),
    ("few-shot", "few_shot", "dtw", "one.accuracy"),
    ("within", "few_shot", "dtw", "within.accuracy"),
)
#: rows of the same tables that learn nothing
CONTROLS = {
    "CLIP": ("dtw-raw", "raw", "raw ordered", "dtw-raw"),
    "CLIP, centred": ("dtw-centred", "centred", "centred ordered", "dtw-centred"),
    "content-free": ("content-free", "content-free", "content-free", "content-free"),
    "duration / clock": ("duration", "clock", "uniform", "duration"),
    "chance": ("chance", "chance", "chance", "chance"),
}
PLACES = {"sequences": 0, "clips": 1, "steps": 2, "few_shot": 3}


def bench(root: Path) -> tuple[Any, Path]:
    """The manifest and features of the bench; rendered and extracted where they are not there yet."""
    from stepclip.cache import Manifest
    from stepclip.pipelines.paths import Layout

    paths = Layout(root).dataset("benchlab")
    if not (paths.features / "cache.json").exists():
        from stepclip.extract.benchlab import make_benchlab
        from stepclip.pipelines.stages import extract_stage

        make_benchlab(root / "data" / "benchlab", people=5, seed=0)
        extract_stage(Layout(root), "benchlab", encoder="embedded", fps=2.0)
    return Manifest.read(paths.manifest), paths.features


def tables(checkpoint: Any, store: Any, manifest: Any) -> dict[str, Any]:
    """The four tables of one checkpoint on the test split, as a dict."""
    from stepclip.evaluate.embed import content_free, embed, embed_raw
    from stepclip.evaluate.parts import Material
    from stepclip.evaluate.results import Results
    from stepclip.evaluate.sequence_tables import sequence_tables

    part = manifest.split("test")
    videos = list(part)
    ids = [v.video_id for v in videos]
    trained, raw = embed(checkpoint, store, ids, "cpu"), embed_raw(store, ids, "cpu")
    bare = content_free(checkpoint, raw)
    results = Results("tempclr", "benchlab", "test", len(videos))
    m = Material(
        checkpoint,
        store,
        manifest,
        part,
        videos,
        trained,
        raw,
        bare,
        "cpu",
        lambda name, total: lambda n: None,
    )
    sequence_tables(results, m)
    found = results.to_dict()
    return {part: found[part] for part in PLACES}


def folder_of(build: Path, name: str, seed: int) -> Path:
    return build / "".join(c if c.isalnum() else "-" for c in name) / f"seed{seed}"


def trained(root: Path, build: Path, name: str, seed: int) -> dict[str, Any]:
    """The tables of one run; trained unless it was before."""
    from stepclip.cache import FeatureStore
    from stepclip.train import fit, load_checkpoint, load_recipe

    run = folder_of(build, name, seed)
    done = run.with_suffix(".json")
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    overrides, before = MAIN[name] if name in MAIN else (ABLATIONS[name], "")
    if before:
        trained(root, build, before, seed)
        overrides = [*overrides, f"train.init={folder_of(build, before, seed)}"]
    manifest, features = bench(root)
    recipe = load_recipe(RECIPE, [*overrides, f"seed={seed}"])
    began = time.process_time()
    fit(recipe, features, manifest, run, device="cpu", progress=False, overwrite=True)
    seconds = time.process_time() - began
    with FeatureStore.open(features) as store:
        checkpoint = load_checkpoint(run)
        found = {"seconds": seconds, "tables": tables(checkpoint, store, manifest)}
        if name == RECIPE_ROW and seed == 0:
            found["step 0"] = tables(untrained(checkpoint), store, manifest)
    done.write_text(json.dumps(found))
    return found


def untrained(checkpoint: Any) -> Any:
    """The same model before its first step: CLIP, by windows."""
    from dataclasses import replace

    from stepclip.train.method import build_model

    model: Any = build_model(checkpoint.recipe, checkpoint.model.shape)
    model.text_mean.copy_(checkpoint.model.text_mean)
    return replace(checkpoint, model=model.eval())


def figure(table: dict[str, Any], part: str, row: str, key: str) -> float | None:
    found: Any = next((r for r in table[part] if r["name"] == row), None)
    for name in key.split("."):
        found = None if found is None else found.get(name)
    return found


def spread(values: list[float | None]) -> list[float] | None:
    known = [v for v in values if v is not None]
    if not known:
        return None
    return [statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0]


def less(
    one: list[dict[str, Any]], other: list[dict[str, Any]], part: str, row: str, key: str
) -> list[float | None]:
    """Seed by seed: a figure of `one` less that of `other`."""
    pairs = [(figure(a, part, row, key), figure(b, part, row, key)) for a, b in zip(one, other, strict=True)]
    return [None if a is None or b is None else a - b for a, b in pairs]


def benchlab(
    root: Path, build: Path, seeds: int, ablation_seeds: int, part: tuple[int, int]
) -> dict[str, Any]:
    jobs = [(name, seed) for name in MAIN for seed in range(seeds)]
    jobs += [(name, seed) for name in ABLATIONS for seed in range(ablation_seeds)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*MAIN, *ABLATIONS)}
    for name, seed in jobs:
        if seed % part[1] == part[0]:
            runs[name].append(trained(root, build, name, seed))
    main = runs[RECIPE_ROW]
    rows = [figures("before the first step", "control", [r["step 0"] for r in main if "step 0" in r])]
    rows += [figures(name, "trained", [r["tables"] for r in runs[name]]) for name in MAIN]
    for name, places in CONTROLS.items():
        values = {c: spread([figure(main[0]["tables"], p, places[PLACES[p]], k)]) for c, p, _, k in COLUMNS}
        rows.append({"name": name, "kind": "control", "runs": 1, **values})
    paired = [
        {"name": f"{name}, less stage A"}
        | {
            c: spread(less([r["tables"] for r in runs[name]], [r["tables"] for r in runs[STAGE_A]], p, n, k))
            for c, p, n, k in COLUMNS
        }
        for name in MAIN
        if name != STAGE_A
    ]
    changed = {RECIPE_ROW: main[:ablation_seeds], **{name: runs[name] for name in ABLATIONS}}
    ablation = [figures(name, "trained", [r["tables"] for r in found]) for name, found in changed.items()]
    every = [r["tables"] for r in main]
    measures = [
        {"name": row["name"]}
        | {
            c: spread([figure(t, "sequences", row["name"], f"{c}.r1") for t in every])
            for c in ("kept", "removed", "shuffled")
        }
        for row in every[0]["sequences"]
        if row["kind"] == "trained"
    ]
    shots = [
        {"name": row["name"]}
        | {
            c: spread([figure(t, "few_shot", row["name"], f"{c}.accuracy") for t in every])
            for c in ("one", "more", "within")
        }
        for row in every[0]["few_shot"]
    ]
    seconds = round(sum(r["seconds"] for found in runs.values() for r in found), 1)
    return {
        "seeds": len(main), "seconds": seconds, "rows": rows, "paired": paired, "ablation": ablation,
        "measures": measures, "few_shot": shots,
    }  # fmt: skip


def figures(name: str, kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A row: every column over the runs."""
    values = {c: spread([figure(t, p, n, k) for t in found]) for c, p, n, k in COLUMNS}
    return {"name": name, "kind": kind, "runs": len(found), **values}


# ---- GTEA

# the video-video form, at 15 frames a second; no sentence and no label but the activity is looked at
VIDEOS = [
    "loss.sequence=0.0", "loss.videos=1.0", "data.spans=uniform", "data.windows=1", "data.batch=21",
    "data.shortest=15", "data.longest=15", "model.window=15", "model.reach=15", "train.epochs=60",
]  # fmt: skip
GTEA_SEEDS = 3


def trained_on_gtea(folder: Path, split: int, seed: int) -> list[Any]:
    """Frame embeddings (T, E) of the 28 videos in the order of their names, by a model of the training
    videos of a split: those of the other people."""
    from dataclasses import replace

    from bench_carl import import_gtea

    from stepclip.cache import FeatureStore, Manifest
    from stepclip.evaluate.embed import embed
    from stepclip.train import fit, load_checkpoint, load_recipe

    data = import_gtea(folder, GTEA, split)
    read = Manifest.read(data / "manifest")
    by_activity = Manifest(tuple(replace(v, procedure=v.task) for v in read.videos), name="gtea")
    recipe, run = load_recipe(RECIPE, [*VIDEOS, f"seed={seed}"]), folder / f"run{split}-{seed}"
    fit(recipe, data / "features", by_activity, run, device="cpu", progress=False, overwrite=True)
    with FeatureStore.open(data / "features") as store:
        found = embed(load_checkpoint(run), store, sorted(store.video_ids), "cpu")
    return [found.frames[found.slice(i)] for i in range(len(found))]


def gtea() -> dict[str, Any] | None:
    """7 activities, 4 people. Features of split k were trained on the other people's frames, so only person
    k's videos are unseen: they ask, the 21 others answer, which our models are trained on. Mean of the two
    splits in the file."""
    import tempfile

    import numpy as np
    import torch

    from stepclip.evaluate.fewshot import draw_episodes, few_shot, video_distances
    from stepclip.evaluate.sequences import Sequences

    if not GTEA.exists():
        return None
    data = np.load(GTEA)
    rows: dict[str, dict[str, list[float]]] = {}
    for split in ("split1", "split2"):
        unseen = {str(v) for v in data[f"{split}/test_ids"]}
        names = sorted(
            {key.split("/")[1] for key in data if key.startswith(f"{split}/") and key.count("/") == 2}
        )
        person = [name.split("_")[0] for name in names]
        activity = [name.split("_")[1] for name in names]
        frames = [torch.from_numpy(data[f"{split}/{name}/features"]).float() for name in names]
        asking = np.array([name in unseen for name in names])
        who = next(iter({p for p, asks in zip(person, asking, strict=True) if asks}))
        apart = [p if p == who else "others" for p in person]
        seconds = per_second(frames)
        units = Sequences.of(seconds)
        centred = Sequences.of([x - x.mean(0) for x in seconds])
        lengths = np.log([len(x) for x in frames])
        ours = []
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(GTEA_SEEDS):
                own = trained_on_gtea(Path(folder), int(split[-1]), seed)
                ours.append(video_distances(Sequences.of(per_second(own)), "dtw"))
        found = {
            **{f"trained, seed {seed}": x for seed, x in enumerate(ours)},
            "otam": video_distances(units, "otam"),
            "dtw": video_distances(units, "dtw"),
            "dtw-centred": video_distances(centred, "dtw"),
            "chamfer": video_distances(units, "chamfer"),
            "mean-pool": video_distances(units, "mean"),
            "duration": np.abs(lengths[:, None] - lengths),
            "chance": np.zeros((len(names), len(names))),
        }
        for name, distances in found.items():
            row = rows.setdefault(name, {"1-shot": [], "3-shot": [], "R@1": []})
            for shots in (1, 3):
                episodes = draw_episodes(activity, 7, shots, 20_000, apart=apart)
                kept = asking[
                    episodes.query[:, 0]
                ]  # the other direction asks with videos that were trained on
                chosen = type(episodes)(episodes.query[kept], episodes.support[kept])
                row[f"{shots}-shot"].append(few_shot(distances, chosen).accuracy)
            group = np.unique(activity, return_inverse=True)[1]
            scores = distances.copy()
            scores[:, asking] = np.inf  # who asks is no answer
            single = [nearest_of(scores[i], group, group[i]) for i in np.flatnonzero(asking)]
            row["R@1"].append(float(np.mean(single)))
    means = {
        name: {key: statistics.fmean(values) for key, values in row.items()} for name, row in rows.items()
    }
    seeds = [means.pop(f"trained, seed {seed}") for seed in range(GTEA_SEEDS)]
    return {"trained, by dtw": {key: statistics.fmean(s[key] for s in seeds) for key in seeds[0]}} | means


def per_second(videos: list[Any]) -> list[Any]:
    """Means of each second's frames, of 15 frames a second."""
    import torch

    return [torch.stack([second.mean(0) for second in frames.split(15)]) for frames in videos]


def nearest_of(distances: Any, group: Any, own: int) -> float:
    import numpy as np

    best = distances == distances[np.isfinite(distances)].min()
    return float((group[best] == own).mean())


# ---- what is written


def cell(value: list[float] | None) -> str:
    if value is None:
        return "–"
    mean, deviation = value
    return f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if deviation else "")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def markdown(result: dict[str, Any]) -> str:
    columns = [c for c, *_ in COLUMNS]
    found = result["benchlab"]
    lines = [f"{found['seeds']} seeds, mean ± deviation; per cent.", ""]
    lines += table(["", *columns], [[r["name"], *(cell(r[c]) for c in columns)] for r in found["rows"]])
    lines += ["Seed by seed, less stage A of the same seed:", ""]
    lines += table(["", *columns], [[r["name"], *(cell(r[c]) for c in columns)] for r in found["paired"]])
    lines += ["One choice changed at a time:", ""]
    lines += table(
        ["", "runs", *columns],
        [[r["name"], str(r["runs"]), *(cell(r[c]) for c in columns)] for r in found["ablation"]],
    )
    lines += ["The recipe, by measure:", ""]
    lines += table(
        ["", "R@1", "removed", "shuffled"],
        [[r["name"], *(cell(r[c]) for c in ("kept", "removed", "shuffled"))] for r in found["measures"]],
    )
    lines += ["Few-shot, 10,000 episodes:", ""]
    lines += table(
        ["", "1-shot", "4-shot", "within a task"],
        [[r["name"], *(cell(r[c]) for c in ("one", "more", "within"))] for r in found["few_shot"]],
    )
    if result["gtea"]:
        lines += ["GTEA, 7 activities, one person left out:", ""]
        heads = ("1-shot", "3-shot", "R@1")
        rows = [[name, *(f"{100 * row[h]:.1f}" for h in heads)] for name, row in result["gtea"].items()]
        lines += table(["", *heads], rows)
    return "\n".join(lines)


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    rows = [r for r in result["benchlab"]["rows"] if r["name"] not in ("content-free",)][::-1]
    figure_, axes = plt.subplots(1, 3, figsize=(11, 3), constrained_layout=True, sharey=True)
    for axis, key, title in zip(
        axes,
        ("R@1", "shuffled", "recall"),
        (
            "which video follows this script? R@1 %",
            "its script among 31 re-ordered, %",
            "steps found, recall %",
        ),
        strict=True,
    ):
        means = [100 * (r[key] or [0.0])[0] for r in rows]
        errors = [100 * (r[key] or [0.0, 0.0])[1] for r in rows]
        colours = ["#0072B2" if r["kind"] == "trained" else "#999999" for r in rows]
        axis.barh([r["name"] for r in rows], means, xerr=errors, color=colours)
        for y, (mean, error) in enumerate(zip(means, errors, strict=True)):
            axis.text(mean + error + 1, y, f"{mean:.1f}", va="center", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, 100)
        axis.spines[["top", "right"]].set_visible(False)
    figure_.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("build/bench"))
    parser.add_argument("--build", type=Path, default=Path("build/tempclr"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ablation-seeds", type=int, default=2)
    parser.add_argument("--part", default="0/1")
    given = parser.parse_args()
    first, of = map(int, given.part.split("/"))
    found = benchlab(given.root, given.build, given.seeds, given.ablation_seeds, (first, of))
    result = {
        "what": {"recipe": RECIPE, "bench_seed": 0, "people": 5}, "machine": machine("torch", "numba"),
        "benchlab": found, "gtea": gtea(),
    }  # fmt: skip
    if of == 1:
        from stepclip.cache.files import write_json

        write_json(HERE / "tempclr.json", result)
        (HERE / "tempclr.md").write_text(markdown(result))
        chart(result, HERE / "tempclr.svg")
    print(markdown(result))
