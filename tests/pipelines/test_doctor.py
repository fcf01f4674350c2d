"""The doctor: sound where all is well, each fault with its cure, exit code 1 only for what is essential."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stepclip.cache.errors import StepclipError
from stepclip.pipelines import doctor
from stepclip.pipelines.doctor import BROKEN, NOTE, OK, Check, Diagnosis, artefacts, decoders, diagnose
from stepclip.pipelines.paths import Layout

from .conftest import Outcome

Cli = Callable[..., Outcome]


def by_name(checks: object) -> dict[str, Check]:
    return {check.name: check for check in checks}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_this_machine_is_sound(made: Path, cli: Cli) -> None:
    done = cli("doctor", "--root", made, "--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["sound"] and not done.err
    assert {check["area"] for check in found["checks"]} == set(doctor.AREAS)
    assert all(check["state"] in (OK, NOTE) for check in found["checks"])
    read = by_name(Check(**check) for check in found["checks"])
    assert "read 4 frames" in read["pyav"].found and "4 of 4 videos" in read["data/mine"].found
    printed = cli("doctor", "--root", made)
    assert printed.code == 0 and "nothing essential is broken" in printed.out


def test_what_lies_under_the_root(root: Path, tmp_path: Path) -> None:
    layout = Layout(root)
    assert {check.state for check in artefacts(layout)} == {OK}
    (root / "indexes" / "old").mkdir(parents=True)
    shard = next((root / "data" / "mine" / "features" / "shards").glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:100])
    weights = next((root / "runs").glob("*/checkpoints/*/model.safetensors"))
    weights.write_bytes(b"not weights")
    found = by_name(artefacts(layout))
    assert found["data/mine"].state == BROKEN and "4 damaged" in found["data/mine"].found
    assert found["data/mine"].cure == "stepclip cache repair --dataset mine"
    assert (
        found["indexes/old"].state == NOTE and "stepclip index build --run old" in found["indexes/old"].cure
    )
    assert next(check for name, check in found.items() if name.startswith("runs/")).state == BROKEN
    empty = list(artefacts(Layout(tmp_path / "nothing")))
    assert [check.state for check in empty] == [NOTE] and "stepclip demo" in empty[0].cure


def test_a_decoder_that_only_seems_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from stepclip.extract.decoders import Decoder

    def broken(self: Decoder, *_: object) -> object:
        raise StepclipError(f"{self.name} does not load")

    monkeypatch.setattr(Decoder, "decode", broken)
    found = by_name(decoders(Layout(tmp_path)))
    assert found["pyav"].state == BROKEN and "does not load" in found["pyav"].found and found["pyav"].cure
    assert found["ffmpeg"].state == NOTE, "there are others"


def test_the_exit_code_and_a_doctor_that_falls_ill(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ill(layout: Layout) -> object:
        raise RuntimeError("no pulse\nand more")

    monkeypatch.setattr(
        doctor, "AREAS", {"one": lambda layout: [Check("one", "a", NOTE, "x", "y")], "two": ill}
    )
    found = diagnose(Layout(tmp_path))
    assert [check.state for check in found.checks] == [NOTE, BROKEN] and not found.sound
    done = cli("doctor", "--root", tmp_path)
    assert done.code == 1 and "RuntimeError: no pulse" in done.out and "and more" not in done.out
    assert Diagnosis([Check("one", "a", NOTE, "x")]).sound
