"""The wheel, the pins, the conda file, the licence."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

NAME = re.compile(r"[A-Za-z0-9._-]+")


def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def named(lines: list[str]) -> set[str]:
    return {NAME.match(line.strip())[0].lower().replace("_", "-") for line in lines}


def pins(root: Path) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines()]
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line)


@pytest.mark.slow
def test_a_wheel_installs_only_stepclip(project_root: Path, tmp_path: Path) -> None:
    """Built from a copy of what git would take, in a folder of another name."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=project_root, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    copy = tmp_path / "some where"
    for name in listed.stdout.splitlines():
        if (project_root / name).is_file() and not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project_root / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    version = project(project_root)["version"]
    assert tops == {"stepclip", f"stepclip-{version}.dist-info"}
    assert "stepclip/py.typed" in names
    for pattern, where in (
        ("train/recipes/*.yaml", "train/recipes"),
        ("extract/encoders/embedded/*", "extract/encoders/embedded"),
        ("evaluate/templates/*", "evaluate/templates"),
    ):
        files = [path for path in project_root.glob(pattern) if path.is_file()]
        assert files, f"nothing in {where}"
        assert {f"stepclip/{where}/{path.name}" for path in files} <= set(names)
    for path in project_root.glob("*/**/*.py"):
        if path.parts[len(project_root.parts)] in ("cache", "extract", "train", "evaluate", "pipelines"):
            assert f"stepclip/{path.relative_to(project_root).as_posix()}" in names
    assert not [
        name for name in names if name.startswith(("stepclip/tests", "stepclip/tools", "stepclip/bench"))
    ]


def test_the_pins_are_exact_and_plain(project_root: Path) -> None:
    for number, line in enumerate((project_root / "constraints.txt").read_text().splitlines(), 1):
        line = line.split("#")[0].strip()
        assert not line or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"line {number}: {line}"


def test_everything_declared_is_pinned(project_root: Path) -> None:
    about = project(project_root)
    wanted = named(about["dependencies"])
    for extra, lines in about["optional-dependencies"].items():
        if extra != "clip":  # of 2022, and wants another setuptools
            wanted |= named(lines)
    assert wanted - {"setuptools"} <= pins(project_root).keys()


def test_the_pins_are_within_what_is_declared(project_root: Path) -> None:
    from packaging.requirements import Requirement

    about = project(project_root)
    lines = about["dependencies"] + [x for e in about["optional-dependencies"].values() for x in e]
    pinned = pins(project_root)
    for line in lines:
        requirement = Requirement(line)
        if version := pinned.get(requirement.name.lower().replace("_", "-")):
            assert requirement.specifier.contains(version, prereleases=True), f"{line} and {version}"


def test_what_is_installed_is_what_is_pinned(project_root: Path) -> None:
    from importlib.metadata import distributions

    installed = {
        d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0] for d in distributions()
    }
    pinned = pins(project_root)
    other = {
        name: (installed[name], pinned[name])
        for name in pinned.keys() & installed
        if installed[name] != pinned[name]
    }
    assert not other, f"(installed, pinned): {other}"


def test_torch_has_one_version_everywhere(project_root: Path) -> None:
    version = pins(project_root)["torch"]
    for name in ("tools/install.sh", "environment.yml", "README.md"):
        for found in re.findall(
            r"torch(?:==|.*?TORCH=)([0-9][0-9.]*[0-9])", (project_root / name).read_text()
        ):
            assert found == version, f"{name} names torch {found}"
    assert f"TORCH={version}\n" in (project_root / "tools/install.sh").read_text()


def test_environment_yml_is_in_step(project_root: Path) -> None:
    about = project(project_root)
    conda = yaml.safe_load((project_root / "environment.yml").read_text())
    plain = [line for line in conda["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in conda["dependencies"] if isinstance(line, dict))
    names = named(plain)
    assert conda["name"] == about["name"]
    assert {"python", "pip", "ffmpeg", "faiss-gpu"} == names
    (python,) = (line.split("=")[1] for line in plain if line.startswith("python="))
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    assert python in SpecifierSet(about["requires-python"])
    assert f"Programming Language :: Python :: {python}" in about["classifiers"]
    faiss = next(line for line in plain if line.startswith("faiss-gpu"))
    gpu = next(line for line in about["optional-dependencies"]["gpu"] if line.startswith("faiss-gpu"))
    assert Requirement(faiss).specifier == Requirement(gpu).specifier
    assert "--constraint constraints.txt" in pip
    assert f"torch=={pins(project_root)['torch']}" in pip
    (extras,) = (
        re.fullmatch(r"-e \.\[([a-z,]+)\]", line)[1].split(",") for line in pip if line.startswith("-e")
    )
    assert set(extras) <= about["optional-dependencies"].keys()
    assert not {"cpu", "gpu", "ffmpeg"} & set(extras), "faiss and ffmpeg come from conda"


def test_cpu_and_gpu_faiss_never_meet(project_root: Path) -> None:
    about = project(project_root)
    assert not any(line.startswith("faiss") for line in about["dependencies"])
    for extra, lines in about["optional-dependencies"].items():
        assert len({line for line in lines if line.startswith("faiss")}) <= 1, extra


def test_the_licence_is_whole(project_root: Path) -> None:
    text = (project_root / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert project(project_root)["license"] == "Apache-2.0"


def test_no_registry_is_named(project_root: Path) -> None:
    """Where packages come from is the machine's business: no address of an index in any file of the house."""
    files = [
        "pyproject.toml",
        "constraints.txt",
        "environment.yml",
        "Makefile",
        ".ci/run",
        "README.md",
        "CONTRIBUTING.md",
    ]
    files += [f"tools/{path.name}" for path in (project_root / "tools").iterdir() if path.is_file()]
    for name in files:
        text = (project_root / name).read_text()
        assert not re.search(r"--(extra-)?index-url|pypi\.|download\.pytorch|conda\.anaconda", text), name


def test_version_is_one(project_root: Path) -> None:
    import stepclip

    assert stepclip.__version__ == project(project_root)["version"]
    assert f"## {stepclip.__version__}" in (project_root / "CHANGELOG.md").read_text()
