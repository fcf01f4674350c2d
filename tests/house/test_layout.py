"""The plan of the house: packages listed, no import up a floor or in a circle, dependencies declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = {"cache": 0, "extract": 1, "train": 2, "evaluate": 3, "pipelines": 4}
# docs/interfaces.md: who may import whom
MAY_IMPORT = {
    "cache": set(),
    "extract": {"cache"},
    "train": {"cache"},
    "evaluate": {"train", "cache"},
    "pipelines": {"cache", "extract", "train", "evaluate"},
}
DISTRIBUTION = {  # module -> distribution, where the names differ
    "lightning_fabric": "lightning-fabric",
    "av": "av", "ffmpeg": "ffmpeg-python", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml",
    "faiss": "faiss-cpu", "clip": "openai-clip", "imageio_ffmpeg": "imageio-ffmpeg", "distributed": "dask",
    "huggingface_hub": "huggingface-hub", "prometheus_client": "prometheus-client",
}  # fmt: skip


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file, for every module of every room."""
    found = {"": root / "__init__.py"}
    for room in FLOORS:
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str], tree: ast.AST | None = None) -> Iterator[tuple[str, int]]:
    """Modules of ours that `tree` (default: the whole file) imports, relative or absolute, with lines."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "stepclip":
                    yield alias.name.removeprefix("stepclip").removeprefix("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package.split(".") if package else []
                base = base[: len(base) - node.level + 1]
                target = ".".join([*base, *(node.module.split(".") if node.module else [])])
            elif (node.module or "").split(".")[0] == "stepclip":
                target = (node.module or "").removeprefix("stepclip").removeprefix(".")
            else:
                continue
            for alias in node.names:
                inner = f"{target}.{alias.name}" if target else alias.name
                yield (inner if inner in known else target), node.lineno


def at_import_time(tree: ast.Module) -> ast.Module:
    """The file without what runs later: function bodies, and `if TYPE_CHECKING:` blocks."""

    class Later(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            if "TYPE_CHECKING" in ast.unparse(node.test):
                return None
            return self.generic_visit(node)

    return Later().visit(tree)


def test_every_package_is_listed(project_root: Path) -> None:
    listed = tomllib.loads((project_root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {"stepclip"}
    for room in FLOORS:
        for init in (project_root / room).rglob("__init__.py"):
            there.add(".".join(("stepclip", *init.parent.relative_to(project_root).parts)))
    assert sorted(listed) == sorted(there)


def test_every_module_lies_in_a_package(project_root: Path) -> None:
    for path in modules(project_root).values():
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has modules and no __init__.py"
    assert not list(project_root.glob("[a-z]*.py")), (
        "a module at the root would be installed as stepclip.<name>"
    )


def test_no_import_runs_up_a_floor(project_root: Path) -> None:
    found = modules(project_root)
    wrong = []
    for name, path in found.items():
        room = name.split(".")[0]
        for target, line in imports(name, path, set(found)):
            other = target.split(".")[0]
            if other == "__version__" or not other or other == room:
                continue
            if room == "" or other not in MAY_IMPORT[room]:
                wrong.append(f"{path.relative_to(project_root)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_import_runs_in_a_circle(project_root: Path) -> None:
    """Between modules, over what is imported when a module is imported (a lazy import may close a circle)."""
    found = modules(project_root)
    edges: dict[str, set[str]] = {}
    for name, path in found.items():
        tree = at_import_time(ast.parse(path.read_text(encoding="utf-8")))
        edges[name] = {t for t, _ in imports(name, path, set(found), tree) if t in found and t != name}
    assert circle(edges) is None, " -> ".join(circle(edges) or [])


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    """A circle of the graph as a path that ends where it began, or None."""
    state: dict[str, int] = {}
    path: list[str] = []

    def visit(node: str) -> list[str] | None:
        state[node] = 1
        path.append(node)
        for other in sorted(edges[node]):
            if state.get(other) == 1:
                return [*path[path.index(other) :], other]
            if other not in state and (found := visit(other)):
                return found
        path.pop()
        state[node] = 2
        return None

    for node in sorted(edges):
        if node not in state and (found := visit(node)):
            return found
    return None


def test_the_circle_finder_finds_one() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_the_import_finder_reads_relative_and_absolute(tmp_path: Path) -> None:
    path = tmp_path / "engine.py"
    path.write_text(
        "from ..cache.store import FeatureStore\nfrom .. import cache\nimport stepclip.train.model\n"
        "from stepclip.evaluate import search\nfrom . import decoders\nimport torch\n"
    )
    known = {"cache", "cache.store", "evaluate.search", "extract.decoders", "train.model"}
    found = [target for target, _ in imports("extract.engine", path, known)]
    assert found == ["cache.store", "cache", "train.model", "evaluate.search", "extract.decoders"]


def test_what_is_imported_is_declared(project_root: Path) -> None:
    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        x for extra in project["optional-dependencies"].values() for x in extra
    ]
    declared = {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in lines}
    wrong = []
    for path in modules(project_root).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top in sys.stdlib_module_names or top == "stepclip":
                    continue
                if DISTRIBUTION.get(top, top).lower() not in declared:
                    wrong.append(
                        f"{path.relative_to(project_root)}:{node.lineno} imports {top}, which is not declared"
                    )
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_without_the_heavy_libraries(room: str) -> None:
    import subprocess

    code = (
        f"import sys, stepclip.{room}; heavy = 'torch transformers av faiss matplotlib sklearn'.split(); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
