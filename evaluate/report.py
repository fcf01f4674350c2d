"""One self-contained page about a run: tables with controls, curves, alignments, maps, failures, provenance.

No script, no network: figures are inlined as SVG, in colours that colour-blind people can tell apart
(Okabe-Ito, viridis), and each has its words beside it. Everything that comes from data is escaped.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.errors import StepclipError
from ..cache.files import write_atomically
from .curves import by_kind, checkpoints, pseudo_labels, roc, spread, training, validation
from .figures import Picture
from .maps import embedding_map
from .results import TRAINED, Results
from .timelines import Stills, alignments, timelines

if TYPE_CHECKING:
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore

FAILED = 8  # videos of each reason that are named


def write_report(
    run: str | os.PathLike[str],
    results: Results,
    store: FeatureStore | None = None,
    manifest: Manifest | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    stills: Stills | None = None,
) -> Path:
    """Write `report.html` (see `Results.file`) into the run folder, or to `out`, and return its path.

    `results` as `evaluate` returned them. The training curve is read from `log.jsonl` in the run folder; the
    alignments and the failed extractions need `store` and `manifest`, the frames over the timelines `stills`.
    What is not at hand is left out and said so. StepclipError when the folder is missing or cannot be
    written.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    run = Path(run)
    path = Path(out) if out is not None else run / results.file(".html", "report")
    if out is None and not run.is_dir():
        raise StepclipError(f"no run folder at {run}", "a trained run", "stepclip train")
    pictures: list[Picture] = []
    missing: list[str] = []
    for made in (
        roc(results),
        spread(results),
        by_kind(results),
        checkpoints(results),
        training(run / "log.jsonl"),
        validation(run / "log.jsonl"),
        pseudo_labels(results),
        *alignments(results, store, manifest),
        timelines(results, manifest, stills),
        embedding_map(results, manifest),
    ):
        if isinstance(made, Picture):
            pictures.append(made)
        elif made:
            missing.append(made)
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
    )
    recipe = results.about.get("recipe", {})
    page = environment.get_template("report.html.j2").render(
        results=results,
        parts=results.parts(),
        best=_best(results),
        pictures=pictures,
        missing=missing,
        failures=_failures(store, manifest),
        extracted=0 if store is None else len(store),
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
        features=sorted(results.about.get("features", {}).items()),
        about={k: v for k, v in results.about.items() if k not in ("recipe", "features")},
    )
    with write_atomically(path, "w") as file:
        file.write(page)
    return path


def _failures(store: FeatureStore | None, manifest: Manifest | None) -> list[dict[str, Any]]:
    """Why videos of the manifest have no features: reason, how many, the first of them; most first."""
    if store is None or manifest is None:
        return []
    reasons: dict[str, list[str]] = {}
    for failure in store.failures():
        if failure.video_id in manifest and failure.video_id not in store:
            reasons.setdefault(failure.reason, []).append(failure.video_id)
    return [
        {"reason": reason, "count": len(videos), "some": videos[:FAILED]}
        for reason, videos in sorted(reasons.items(), key=lambda each: (-len(each[1]), each[0]))
    ]


def _best(results: Results) -> list[dict[str, str]]:
    """The headline figures, each with the best control beside it."""
    tiles = []
    for title, rows, value, unit in (
        ("Same procedure? (AUC)", results.verification, lambda r: 100 * r.auc, "%"),
        ("Text finds its video (R@1)", results.retrieval, lambda r: 100 * r.r1, "%"),
        ("Text picks its video (acc@1)", results.matching, lambda r: 100 * r.acc1, "%"),
        ("Frames in the right step", results.localisation, lambda r: 100 * r.frame_accuracy, "%"),
        ("Procedure read off (linear probe)", results.probe, lambda r: 100 * r.accuracy, "%"),
    ):
        mine = [row for row in rows if row.headline]
        controls = [row for row in rows if row.kind != TRAINED and math.isfinite(value(row.result))]
        if not mine or not controls or not math.isfinite(value(mine[0].result)):
            continue
        best = max(controls, key=lambda row: value(row.result))
        tiles.append(
            {
                "title": title,
                "value": f"{value(mine[0].result):.1f} {unit}",
                "control": f"best without training: {best.name}, {value(best.result):.1f} {unit}",
            }
        )
    return tiles
