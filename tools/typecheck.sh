#!/usr/bin/env bash
# mypy over the package. The repository root is the package `stepclip`, and the checkout's folder may have
# any name, so mypy gets a folder of its own in which a link called `stepclip` points back here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p .mypy_cache/root
ln -sfn ../.. .mypy_cache/root/stepclip
MYPYPATH=.mypy_cache/root .venv/bin/python -m mypy -p stepclip "$@" | sed 's#^\.mypy_cache/root/stepclip/##'
