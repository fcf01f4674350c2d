"""A tiny CLIP of random weights, a user's CSV with four made videos, two ways to call the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = {
    "anna": ["take up the flask", "pour the water", "stir", "put down the flask"],
    "ben": ["take up the flask", "stir", "pour the water", "put down the flask"],
    "cleo": ["take up the flask", "pour the water", "put down the flask"],
    "dora": ["take up the flask", "pour the water", "stir", "put down the flask"],
}
SMALL = [
    "data.batch=2", "train.epochs=2", "train.log_every=1", "train.save_every=1",
    "model.frames=4", "model.width=32", "model.depth=1", "model.heads=2", "model.head_dim=16",
]  # fmt: skip


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`cli("eval", "--run", "x")`: the real entry point in this process."""

    def call(*words: object) -> Outcome:
        from stepclip.pipelines.cli import main

        monkeypatch.setattr(sys, "argv", ["stepclip", *map(str, words)])
        monkeypatch.delenv("STEPCLIP_DEBUG", raising=False)
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def shell(*words: object, cwd: Path | None = None, **variables: str) -> Outcome:
    """The installed command in a process of its own."""
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **variables}
    program = Path(sys.executable).with_name("stepclip")
    done = subprocess.run(
        [str(program), *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers CLIP folder, random weights, features of 16 numbers."""
    return make_clip(tmp_path_factory.mktemp("tiny") / "clip", seed=0)


def make_clip(folder: Path, seed: int) -> Path:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = sorted({word for steps in SCRIPTS.values() for step in steps for word in step.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", ",", "<s>", "</s>", *words])}
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 24,
        "eos_token_id": 4,
        "bos_token_id": 3,
    }
    torch.manual_seed(seed)
    config = CLIPConfig(
        projection_dim=16,
        text_config={**tower, **text, "pad_token_id": 0, "projection_dim": 16},
        vision_config={**tower, "image_size": 32, "patch_size": 16, "projection_dim": 16},
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 4)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 32}, "crop_size": side, "resample": 3,
                    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3]})
    )  # fmt: skip
    return folder


def write_csv(path: Path, rows: dict[str, list[str]], suffix: str = ".mp4") -> Path:
    """A user's CSV: video,steps."""
    lines = [f"videos/{name}{suffix},{'|'.join(steps)}" for name, steps in rows.items()]
    path.write_text("\n".join(["video,steps", *lines]) + "\n")
    return path


@pytest.fixture(scope="session")
def mine(tmp_path_factory: pytest.TempPathFactory, make_mp4: Callable[..., Path]) -> Path:
    """A folder with mine.csv and its four videos, as a user has them."""
    folder = tmp_path_factory.mktemp("mine")
    for n, name in enumerate(SCRIPTS):
        make_mp4(folder / "videos" / f"{name}.mp4", seconds=2 + n / 4, shade=n)
    write_csv(folder / "mine.csv", SCRIPTS)
    return folder


@pytest.fixture(scope="session")
def made(mine: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root where the three stages were run by the real command. Read only: copy it to change it."""
    root = tmp_path_factory.mktemp("root")
    for words in (
        ("extract", "--manifest", mine / "mine.csv", "--encoder", tiny_clip, "--workers", "1"),
        ("train", *(word for knob in SMALL for word in ("--set", knob)), "--seed", "3"),
    ):
        done = shell(*words, "--root", root, "--device", "cpu", "--quiet")
        assert done.code == 0, done.out + done.err
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "copy", symlinks=True))
