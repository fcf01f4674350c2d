#!/usr/bin/env bash
# Makes .venv and installs the package, its tools and ffmpeg into it, held to the versions in constraints.txt.
#   PYTHON=/path/to/python3.11   the interpreter to build with (default: the first of 3.11, 3, 3.12, 3.13)
#   EXTRAS=cpu,ffmpeg,dev        the extras of pyproject.toml to install
# Needs no root: as root, on a machine with apt, it also installs what only the system can give.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH=2.13.0
say() { printf '[install] %s\n' "$*"; }
fail() { printf '[install] error: %s\n' "$*" >&2; exit 1; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
apt_install() {  # quiet, never asks, gives up after five minutes
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  export DEBIAN_FRONTEND=noninteractive
  timeout 300 apt-get install -y -q --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return 0
  timeout 120 apt-get update -q </dev/null >/dev/null 2>&1 || true
  timeout 300 apt-get install -y -q --no-install-recommends "$@" </dev/null >/dev/null 2>&1
}

# 1. a Python
python=""
for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
  if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "no Python 3.11 or newer found (looked for ${PYTHON:-python3.11, python3, python3.12, python3.13}).
  Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: PYTHON=/path/to/python3.11 make install"
say "$("$python" --version) at $(command -v "$python")"

# 2. .venv
if [ -x .venv/bin/python ] && is_new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; then
  say "using the environment that is in .venv"
else
  say "making the environment .venv"
  if ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    say "this Python has no ensurepip; installing $version with apt"
    apt_install "$version" || apt_install python3-venv ||
      fail "this Python cannot make environments. Run as root: apt install $version"
  fi
  rm -rf .venv
  "$python" -m venv .venv || fail "$python -m venv .venv failed; the lines above say why"
fi

# 3. which torch, which faiss
has_nvidia() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }
has_local_torch() { .venv/bin/python -m pip install --dry-run --ignore-installed --no-deps --no-index "torch==$TORCH" >/dev/null 2>&1; }
faiss=cpu
if has_nvidia; then
  faiss=gpu
  say "NVIDIA GPU found: torch with CUDA, faiss-gpu, torchcodec"
elif has_local_torch; then
  say "torch $TORCH: a build for this machine is at hand"
elif [ "$(uname -s)" = Linux ] && ! .venv/bin/python -c 'import torch' >/dev/null 2>&1; then
  say "torch $TORCH comes from the package index, whose Linux build brings several GB of CUDA packages;"
  say "  for the small CPU build put its wheel into a folder and run: PIP_FIND_LINKS=FOLDER make install"
fi
extras=${EXTRAS:-$faiss,ffmpeg,dev}

# 4. the package and everything it needs, in one command so that nothing replaces torch
say "installing stepclip[$extras] with the versions of constraints.txt (about 2 GB, a minute or a few)"
quiet=--quiet
[ -t 1 ] && quiet=""
# shellcheck disable=SC2086
.venv/bin/python -m pip install $quiet -c constraints.txt "torch==$TORCH" -e ".[$extras]" </dev/null ||
  fail "pip could not install the packages; its last lines are above. Is there a network?
  Behind a mirror: PIP_INDEX_URL=ADDRESS make install. From a folder of wheels: PIP_FIND_LINKS=FOLDER make install"

# 5. ffmpeg
if command -v ffmpeg >/dev/null; then
  say "ffmpeg: $(command -v ffmpeg)"
elif apt_install ffmpeg && command -v ffmpeg >/dev/null; then
  say "ffmpeg: installed with apt"
elif .venv/bin/python -c 'import imageio_ffmpeg; imageio_ffmpeg.get_ffmpeg_exe()' >/dev/null 2>&1; then
  say "ffmpeg: not on this machine; the binary of imageio-ffmpeg serves"
else
  say "ffmpeg: none found. Decoding works without (PyAV carries its own); for the rest install ffmpeg"
fi
say "done: .venv/bin/stepclip --help"
