"""docs/alignment.md is true: its examples run, its picture is the one that the functions draw."""

from __future__ import annotations

import doctest
import runpy
from pathlib import Path


def test_the_examples_of_the_page(project_root: Path) -> None:
    failed, tried = doctest.testfile(str(project_root / "docs" / "alignment.md"), module_relative=False)
    assert failed == 0 and tried >= 15


def test_the_picture_is_drawn_by_the_functions(project_root: Path, tmp_path: Path) -> None:
    runpy.run_path(str(project_root / "tools" / "alignment_pictures.py"))["draw"](tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert len(text) > 10_000 and (project_root / "docs" / "alignment.svg").is_file()
