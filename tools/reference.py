"""Writes the command reference of README.md from the commands themselves; tests/house compares them.

.venv/bin/python tools/reference.py           write it
.venv/bin/python tools/reference.py --check   exit code 1 when README.md is out of step
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- commands: written by `make docs` -->"
END = "<!-- /commands -->"
SKIPPED = {"help", "install_completion", "show_completion"}
COMMON = {"root", "device", "quiet"}  # said once, above the list


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below `command` that does something, with the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word in inner:
        yield from commands(inner[word], f"{name} {word}")


def parameters(command: Any) -> Iterator[tuple[str, str, str, str]]:
    """How a parameter is written, what it takes, what it is, its default."""
    for parameter in command.params:
        if parameter.name in SKIPPED | COMMON or getattr(parameter, "hidden", False):
            continue
        is_option = parameter.param_type_name == "option"
        flag = bool(getattr(parameter, "is_flag", False))
        written = max(parameter.opts, key=len) if is_option else (parameter.name or "").upper()
        takes = "" if flag or not is_option else (parameter.name or "").strip("_").upper()
        shown = getattr(parameter, "show_default", None)
        default = "" if flag or parameter.default in (None, []) else str(parameter.default)
        if isinstance(shown, str):
            default = shown
        yield written, takes, getattr(parameter, "help", None) or "", default


def reference() -> str:
    """The reference as Markdown."""
    import typer

    from stepclip.pipelines.cli import app

    lines = [
        "Wherever they make sense: `--root DIR` (where data/, runs/ and indexes/ lie; default: the current",
        "folder, or `STEPCLIP_ROOT`), `--device auto|cpu|cuda|cuda:N`, `--quiet` (no bars), `--help`.",
        "",
    ]
    for name, command in commands(typer.main.get_command(app), "stepclip"):
        about = " ".join((command.help or "").split("\n\n")[0].split())
        rows = list(parameters(command))
        words = [name] + [written for written, *_ in rows if not written.startswith("-")]
        lines += [f"**`{' '.join(words)}`**  {about}", ""]
        for written, takes, meaning, default in rows:
            if written.startswith("-"):
                tail = f" Default: {default}." if default else ""
                lines.append(f"- `{' '.join(filter(None, (written, takes)))}` {meaning}{tail}")
        lines.append("")
    return "\n".join(lines).strip()


def with_reference(text: str) -> str:
    """`text` with what stands between the two marks replaced."""
    if BEGIN not in text or END not in text:
        raise SystemExit(f"README.md lacks the marks {BEGIN} and {END}")
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n{reference()}\n{END}", text, flags=re.S
    )


def main() -> int:
    old = README.read_text(encoding="utf-8")
    new = with_reference(old)
    if "--check" in sys.argv[1:]:
        if old != new:
            print("the command reference in README.md is out of step: make docs", file=sys.stderr)
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
