"""What README.md and the Makefile name exists: commands, options, targets, variables, files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORDS = re.compile(r"\bstepclip((?: [a-z]+)*)((?: [^`\n]*)?)")


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """Command -> its options, for every command and group."""
    import typer

    from stepclip.pipelines.cli import app

    found: dict[str, set[str]] = {}

    def walk(command: Any, name: str) -> None:
        found[name] = {opt for p in command.params for opt in p.opts if opt.startswith("-")} | {
            "--help",
            "-h",
        }
        for word, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {word}".strip())

    walk(typer.main.get_command(app), "")
    return found


def make_targets(root: Path) -> dict[str, tuple[str, str]]:
    """Target -> (what its help says, its recipe)."""
    text = (root / "Makefile").read_text().replace("\\\n", " ")
    blocks = re.findall(r"^([a-z-]+):[^\n=]*?(?:## ([^\n]*))?\n((?:\t[^\n]*\n)*)", text, flags=re.M)
    return {name: (about, recipe) for name, about, recipe in blocks}


def calls_in_code(text: str) -> Iterator[str]:
    """Every `stepclip ...` of a code block or of inline code."""
    for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.S):
        yield from (line for line in block.splitlines() if line.startswith("stepclip "))
    yield from (code for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text) if code.startswith("stepclip "))


def resolve(call: str, known: dict[str, set[str]]) -> tuple[str, list[str]]:
    """(command, options) of a call such as `stepclip index build --run x`."""
    words = call.split("#")[0].split()[1:]
    name = ""
    while words and f"{name} {words[0]}".strip() in known:
        name = f"{name} {words.pop(0)}".strip()
    assert name or not words or words[0].startswith("-"), f"no command {words[0]!r} in {call!r}"
    return name, [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]


def test_the_reference_in_the_readme_is_in_step(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"], cwd=project_root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/clusters.md",
        "docs/real-data.md",
        "docs/search.md",
        "docs/checking.md",
    ],
)
def test_every_call_in_the_texts_exists(project_root: Path, known: dict[str, set[str]], name: str) -> None:
    for call in calls_in_code((project_root / name).read_text()):
        command, options = resolve(call, known)
        assert set(options) <= known[command], f"{name}: {call}"


def test_a_wrong_call_would_be_found(known: dict[str, set[str]]) -> None:
    text = "```\nstepclip extract --manifest x --nope 3\n```\nand `stepclip evaluate --run x`"
    first, second = calls_in_code(text)
    command, options = resolve(first, known)
    assert command == "extract" and "--manifest" in known["extract"] and "--nope" not in known["extract"]
    assert options == ["--manifest", "--nope"]
    with pytest.raises(AssertionError, match="evaluate"):
        resolve(second, known)


def test_the_makefile_passes_only_options_that_exist(project_root: Path, known: dict[str, set[str]]) -> None:
    seen = 0
    where = re.findall(
        r"\$\(call option,([a-z]+),", re.search(r"^WHERE := (.*)$", _makefile(project_root), re.M)[1]
    )
    for name, (about, recipe) in make_targets(project_root).items():
        call = re.search(r"\$\(STEPCLIP\) ([a-z]+)", recipe)
        if not call:
            continue
        seen += 1
        options = re.findall(r"\$\(call option,([a-z]+),", recipe) + (where if "$(WHERE)" in recipe else [])
        assert {f"--{option}" for option in options} <= known[call[1]], name
        assert "$(ARGS)" in recipe, f"{name} does not pass ARGS on"
        told = set(re.findall(r"\b([A-Z]{3,})=", about))
        passed = set(re.findall(r"\$\(call option,[a-z]+,([A-Z]+)\)", recipe)) | {"ARGS"}
        passed |= {"ROOT"} if "$(WHERE)" in recipe else set()
        passed |= set(re.findall(r"\$\(call quoted,\$\(([A-Z]+)\)\)", recipe))
        assert told == passed, f"the help of {name} tells {told}, its recipe takes {passed}"
    assert seen >= 6


def test_make_help_tells_every_target(project_root: Path) -> None:
    done = subprocess.run(
        ["make", "help"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=True,
        env=_clean_environment(),
    )
    phony = re.search(r"^\.PHONY: (.*)$", _makefile(project_root), re.M)[1].split()
    told = set(re.findall(r"^\s+(?:\x1b\[1m)?([a-z-]+)", done.stdout, re.M))
    assert told == set(phony)
    asked = {"demo", "extract", "train", "eval", "query", "test", "test-fast", "lint", "bench", "clean"}
    assert asked | {"install"} <= told


def test_make_targets_in_the_texts_exist(project_root: Path) -> None:
    targets = make_targets(project_root)
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (project_root / name).read_text()
        lines = [
            line for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.S) for line in block.splitlines()
        ]
        lines += re.findall(r"(?<!`)`(make [^`\n]+)`", text)
        for line in lines:
            if not (call := re.match(r"make ([a-z-]+)(.*)", line)):
                continue
            assert call[1] in targets, f"{name}: {line}"
            about, _ = targets[call[1]]
            for variable in re.findall(r"\b([A-Z]+)=", call[2].split("#")[0]):
                assert f"{variable}=" in about, f"{name}: {line}"


@pytest.mark.parametrize(
    "text", ['it\'s a "test"', "a, b (c) | d; e & f", "back\\slash `x` *?", "pour the blue liquid"]
)
def test_make_query_hands_the_text_over_whole(project_root: Path, tmp_path: Path, text: str) -> None:
    """`make query TEXT=...` with a stand-in for the program that writes down its arguments."""
    stand_in = tmp_path / "stepclip"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["make", "-o", ".venv/.installed", "query", f"STEPCLIP={stand_in}", f"TEXT={text}", "RUN=a b",
         "ARGS=--json"],
        cwd=project_root, capture_output=True, text=True, env=_clean_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["search", text, "--run", "a b", "--json"]


def test_files_named_in_the_readme_exist(project_root: Path) -> None:
    text = (project_root / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (project_root / target).is_file(), target
    assert re.search(r"<!-- results -->.*<!-- /results -->", text, re.S)


def test_ci_runs_make_test_and_nothing_else(project_root: Path) -> None:
    script = project_root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail" and lines[1].startswith("cd ")
    assert lines[2:] == ["exec make test </dev/null"]


def _makefile(root: Path) -> str:
    return (root / "Makefile").read_text().replace("\\\n", " ")


def _clean_environment() -> dict[str, str]:
    """Without what an outer make hands down to an inner one."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
