"""`stepclip encoder`: the card, and what is refused before anything is rendered."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .conftest import Outcome

Cli = Callable[..., Outcome]


def test_the_card_of_the_embedded_encoder(cli: Cli) -> None:
    done = cli("encoder", "card")
    assert done.code == 0 and done.out == cli("encoder", "card", "embedded").out
    for words in ("benchlab only", "unseen people, unseen tasks", "chance", "frames"):
        assert words in done.out


def test_a_card_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    done = cli("encoder", "card", tmp_path)
    assert done.code == 2 and "card.json" in done.err and "stepclip encoder train" in done.err
    (tmp_path / "card.json").write_text("[1]")
    assert cli("encoder", "card", tmp_path).code == 2
    (tmp_path / "card.json").write_text(json.dumps({"what": "mine"}))
    assert "mine" in cli("encoder", "card", tmp_path).out


def test_training_does_not_replace_a_folder_unasked(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = cli("encoder", "train", "--out", tmp_path, "--clips", 1)
    assert done.code == 2 and "--overwrite" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_training_refuses_a_start_that_is_none(cli: Cli, tmp_path: Path) -> None:
    done = cli("encoder", "train", "--out", tmp_path / "new", "--start", tmp_path / "old", "--clips", 1)
    assert done.code == 2 and str(tmp_path / "old") in done.err and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_training_by_the_command_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepclip.extract.benchlab import pretrain

    monkeypatch.setattr(pretrain, "CHECKED", 1)
    monkeypatch.setattr(pretrain, "Training", partial(pretrain.Training, groups=12))  # a step of seconds
    out = tmp_path / "encoder"
    done = cli(
        "encoder", "train", "--out", out, "--clips", 1, "--steps", 1, "--workers", 1, "--device", "cpu"
    )
    assert done.code == 0 and "chance" in done.out and (out / "train.jsonl").is_file()
    assert "training" in done.err and "rendering" in done.err
