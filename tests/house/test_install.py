"""tools/install.sh where it cannot do its work: one plain message, no half-made state that looks finished."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "__init__.py", "py.typed", "Makefile")


@pytest.fixture
def checkout(project_root: Path, tmp_path: Path) -> Path:
    """As much of the project as an installation needs, in a folder with a blank in its name."""
    folder = tmp_path / "a check out"
    (folder / "tools").mkdir(parents=True)
    for name in (*FILES, "tools/install.sh"):
        shutil.copy(project_root / name, folder / name)
    return folder


def make_install(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    hidden = ("MAKE", "MFLAGS", "PIP_", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    return subprocess.run(
        ["make", "install"], cwd=folder, capture_output=True, text=True, env={**environment, **variables},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_without_a_python(checkout: Path) -> None:
    done = make_install(checkout, PYTHON="/nowhere/python3.11")
    assert done.returncode != 0
    assert "no Python 3.11 or newer found" in done.stderr and "/nowhere/python3.11" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_too_old_is_not_taken(checkout: Path) -> None:
    old = checkout / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")  # what `sys.exit(sys.version_info < (3, 11))` answers there
    old.chmod(0o755)
    done = make_install(checkout, PYTHON=str(old))
    assert done.returncode != 0 and "no Python 3.11 or newer found" in done.stderr


@pytest.mark.slow
def test_without_a_network(checkout: Path, tmp_path: Path) -> None:
    """A closed port in place of the index: the message says so, and the next `make` tries again."""
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    done = make_install(checkout, **closed, PIP_NO_CACHE_DIR="1")
    assert done.returncode != 0
    assert "Is there a network?" in done.stderr and "PIP_FIND_LINKS" in done.stderr
    assert not (checkout / ".venv" / ".installed").exists()
    again = make_install(checkout, **closed, PIP_NO_CACHE_DIR="1")
    assert again.returncode != 0 and "using the environment that is in .venv" in again.stdout
