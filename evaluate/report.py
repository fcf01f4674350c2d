"""One self-contained page about a run: tables with controls, ROC, training curve, alignments, provenance.

No script, no network: figures are inlined as SVG, in colours that colour-blind people can tell apart
(Okabe-Ito, viridis), and each has its words beside it. Everything that comes from data is escaped.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache.errors import StepclipError
from ..cache.files import write_atomically
from .curves import by_kind, checkpoints, pseudo_labels, roc, spread, training, validation
from .figures import Picture
from .results import TRAINED, Results
from .timelines import alignments, timelines

if TYPE_CHECKING:
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore


def write_report(
    run: str | os.PathLike[str],
    results: Results,
    store: FeatureStore | None = None,
    manifest: Manifest | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Write `report.html` (see `Results.file`) into the run folder, or to `out`, and return its path.

    `results` as `evaluate` returned them. The training curve is read from `log.jsonl` in the run folder; the
    alignments need `store` and `manifest`. What is not at hand is left out and said so. StepclipError when
    the folder is missing or cannot be written.
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
        timelines(results, manifest),
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
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
        features=sorted(results.about.get("features", {}).items()),
        about={k: v for k, v in results.about.items() if k not in ("recipe", "features")},
    )
    with write_atomically(path, "w") as file:
        file.write(page)
    return path


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
