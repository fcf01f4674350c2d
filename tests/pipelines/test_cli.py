"""The command line as a user meets it: every stage by the real command, exit codes, what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import SCRIPTS, SMALL, Outcome, shell

Cli = Callable[..., Outcome]


def test_help_is_quick(tmp_path: Path) -> None:
    started = time.perf_counter()
    done = shell("--help", cwd=tmp_path)
    best = time.perf_counter() - started
    for _ in range(2):  # a busy machine: the best of three counts
        started = time.perf_counter()
        shell("--help", cwd=tmp_path)
        best = min(best, time.perf_counter() - started)
    assert done.code == 0 and "extract" in done.out and "demo" in done.out
    assert best < 1.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['stepclip', '--help']\n"
        "from stepclip.pipelines.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'av', 'faiss', 'matplotlib', 'sklearn', 'pandas'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_version(cli: Cli) -> None:
    import stepclip

    assert cli("--version").out.strip() == f"stepclip {stepclip.__version__}"


def test_the_three_stages_leave_what_the_interfaces_name(made: Path) -> None:
    data = made / "data" / "mine"
    assert (data / "manifest" / "videos.parquet").is_file()
    assert (data / "features" / "cache.json").is_file()
    assert (data / "missing.txt").read_text() == ""
    run = made / "runs" / "mine-weaksvr-corrected"
    assert (
        (run / "recipe.yaml").is_file() and (run / "log.jsonl").is_file() and (run / "checkpoints").is_dir()
    )
    assert json.loads((run / "source.json").read_text()) == {"dataset": "mine"}


def test_eval_prints_and_saves(root: Path, cli: Cli) -> None:
    done = cli("eval", "--root", root, "--quiet")
    assert done.code == 0, done.err
    run = root / "runs" / "mine-weaksvr-corrected"
    results = json.loads((run / "results.json").read_text())
    assert results["split"] == "all" and results["videos"] == len(SCRIPTS)
    assert {row["kind"] for row in results["retrieval"]} >= {"trained", "control"}
    assert "mean-pool" in done.out and (run / "results.md").is_file()
    report = (run / "report.html").read_text()
    assert report.lstrip().lower().startswith("<!doctype html") and "mine-weaksvr-corrected" in report


def test_eval_of_a_checkpoint_by_name(root: Path, cli: Cli) -> None:
    run = root / "runs" / "mine-weaksvr-corrected"
    before = {path.name for path in run.iterdir()}
    kept = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    done = cli("eval", "--root", root, "--quiet", "--checkpoint", kept[0])
    assert done.code == 0 and f"checkpoint of step {kept[0]}" in done.out, done.err
    made = {path.name for path in run.iterdir()} - before
    assert made >= {f"{stem}-step-{kept[0]}{end}" for stem, end in NAMES} and "report-step" in done.out
    saved = json.loads((run / f"results-step-{kept[0]}.json").read_text())
    assert saved["selection"] == {
        "rule": "step", "step": kept[0], "chosen_on": "", "on_test": False, "tried": [],
    }  # fmt: skip
    done = cli("report", "--root", root, "--quiet", "--checkpoint", "last")
    assert done.out.strip().endswith("report-last.html") and Path(done.out.strip()).is_file()
    for which, says in (("99", "kept steps"), ("best-tset", "best-on-test"), ("best-val", "'val'")):
        done = cli("eval", "--root", root, "--quiet", "--checkpoint", which)
        assert done.code == 2 and says in done.err


NAMES = (("results", ".json"), ("results", ".md"), ("report", ".html"))


def test_eval_reads_the_lists_of_the_linear_probe(root: Path, cli: Cli) -> None:
    lists = dict(zip(SCRIPTS, ("train", "train", "test", "test"), strict=True))
    extra = root / "data" / "mine" / "extra.json"
    extra.write_text(json.dumps({name: {"transfer": part} for name, part in lists.items()} | {"x": [1]}))
    assert cli("eval", "--root", root, "--quiet").code == 0
    probe = json.loads((root / "runs" / "mine-weaksvr-corrected" / "results.json").read_text())["probe"]
    assert {(row["train"], row["test"], row["folds"]) for row in probe} == {
        (2, 1, 0)
    }  # cleo's is not trained on


def test_search_answers_and_builds_its_index_once(root: Path, cli: Cli) -> None:
    words = ("search", "pour the water", "--root", root, "--top", "2", "--json")
    done = cli(*words)
    assert done.code == 0, done.err
    answers = json.loads(done.out)
    assert len(answers) == 2 and len({answer["video_id"] for answer in answers}) == 2
    for answer in answers:
        assert answer["video_id"] in SCRIPTS and Path(answer["path"]).is_file()
        assert 0 <= answer["start"] <= answer["peak"] <= answer["end"] < 3.5
        assert answer["step"] in SCRIPTS[answer["video_id"]]
    meta = root / "indexes" / "mine-weaksvr-corrected" / "meta.json"
    made_at = meta.stat().st_mtime_ns
    assert json.loads(cli(*words).out) == answers
    assert meta.stat().st_mtime_ns == made_at
    checkpoint = next((root / "runs/mine-weaksvr-corrected/checkpoints").iterdir())
    later = time.time() + 5
    os.utime(checkpoint, (later, later))
    cli(*words)
    assert meta.stat().st_mtime_ns != made_at, "an index older than its checkpoint is built anew"


def test_search_prints_a_table(root: Path, cli: Cli) -> None:
    done = cli("search", "stir", "--root", root, "--top", "1")
    assert done.code == 0 and "0:0" in done.out and "score" in done.out


def test_extract_again_needs_only_the_name_and_does_nothing(root: Path, cli: Cli) -> None:
    shards = root / "data" / "mine" / "features" / "shards"
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    done = cli("extract", "--root", root, "--dataset", "mine", "--quiet")
    assert done.code == 0, done.err
    assert "features:" in done.out
    assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_train_does_not_overwrite_unasked(root: Path, cli: Cli) -> None:
    run = root / "runs" / "mine-weaksvr-corrected"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    small = [word for knob in SMALL for word in ("--set", knob)]
    done = cli("train", "--root", root, "--quiet", *small)
    assert done.code == 2 and "--resume" in done.err and "--overwrite" in done.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    done = cli("train", "--root", root, "--quiet", "--device", "cpu", "--seed", "4", "--overwrite", *small)
    assert done.code == 0, done.err
    assert json.loads((run / "source.json").read_text())["dataset"] == "mine"


def test_the_seed_makes_a_run_repeatable(root: Path, cli: Cli) -> None:
    small = [word for knob in SMALL for word in ("--set", knob)]
    for name in ("a", "b"):
        words = ("--root", root, "--quiet", "--device", "cpu", "--seed", "7", "--run", name, *small)
        assert cli("train", *words).code == 0
    first, second = (sorted((root / "runs" / n).glob("checkpoints/*/model.safetensors"))[-1] for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert "a, b, mine-weaksvr-corrected" in cli("eval", "--root", root).err


def test_index_build_over_a_split_that_is_not_there(root: Path, cli: Cli) -> None:
    assert cli("index", "build", "--root", root).code == 0
    done = cli("index", "build", "--root", root, "--split", "test")
    assert done.code == 2 and "test" in done.err
    assert (root / "indexes" / "mine-weaksvr-corrected" / "meta.json").is_file()


def test_lists(root: Path, cli: Cli) -> None:
    done = cli("datasets", "--root", root)
    assert done.code == 0 and all(word in done.out for word in ("csv", "benchlab", "mine", "none 4"))
    done = cli("recipes")
    assert done.code == 0 and done.out == cli("recipes", "list").out and "weaksvr-corrected" in done.out
    done = cli("recipes", "show", "benchlab", "--set", "optim.lr=0.125")
    assert done.code == 0 and "lr: 0.125" in done.out
    done = cli("backends")
    assert done.code == 0 and all(word in done.out for word in ("pyav", "decord", "ffmpeg", "transformers"))


def test_recipes_show_can_be_trained_from(tmp_path: Path, cli: Cli) -> None:
    shown = cli("recipes", "show", "weaksvr-corrected").out
    (tmp_path / "mine.yaml").write_text(shown)
    assert cli("recipes", "show", tmp_path / "mine.yaml").out == shown


def test_cache_status_says_what_is_not_there(root: Path, cli: Cli) -> None:
    done = cli("cache", "status", "--root", root)
    assert done.code == 0 and "done" in done.out
    from stepclip.cache.manifest import Manifest, VideoRow

    folder = root / "data" / "mine" / "manifest"
    kept = Manifest.read(folder)
    more = VideoRow("eve", "/nowhere/eve.mp4", steps=("stir",))
    Manifest((*kept.videos, more), name="mine").write(folder)
    done = cli("cache", "status", "--root", root)
    assert done.code == 1 and "not extracted yet" in done.out


def test_the_root_may_come_from_the_environment(made: Path, tmp_path: Path) -> None:
    done = shell("datasets", cwd=tmp_path, STEPCLIP_ROOT=str(made))
    assert done.code == 0 and "mine" in done.out


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    plain = shell("eval", "--root", tmp_path)
    assert plain.code == 2 and "Traceback" not in plain.err and plain.err.startswith("stepclip: no run")
    loud = shell("eval", "--root", tmp_path, STEPCLIP_DEBUG="1")
    assert loud.code != 0 and "Traceback" in loud.err


def test_ctrl_c_ends_with_130(mine: Path, tiny_clip: Path, tmp_path: Path) -> None:
    """A training run of many epochs, interrupted once its log has begun."""
    extracted = shell(
        "extract", "--manifest", mine / "mine.csv", "--encoder", tiny_clip, "--quiet", "--root", tmp_path
    )
    assert extracted.code == 0, extracted.err
    words = [word for knob in [*SMALL, "train.epochs=1000000"] for word in ("--set", knob)]
    program = Path(sys.executable).with_name("stepclip")
    command = [str(program), "train", "--root", str(tmp_path), "--run", "long", "--quiet", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "runs" / "long" / "log.jsonl"
    end = time.monotonic() + 60
    while (
        running.poll() is None and time.monotonic() < end and not (log.is_file() and log.stat().st_size > 500)
    ):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", [("--fps", "2", "--frames", "4"), ("--fps", "0"), ("--every", "0")])
def test_sampling_is_one_of_three(
    mine: Path, tiny_clip: Path, tmp_path: Path, cli: Cli, option: tuple
) -> None:
    words = ("--manifest", mine / "mine.csv", "--encoder", tiny_clip, "--root", tmp_path, "--quiet")
    done = cli("extract", *words, *option)
    assert done.code == 2 and done.err
    assert not (tmp_path / "data").exists()
