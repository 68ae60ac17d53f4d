#!/usr/bin/env bash
# Makes .venv from constraints.txt; quick when nothing changed. TORCH=cpu|cuda, PYTHON=python3.11.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=${TORCH:-$(cat .venv/.torch 2>/dev/null || echo cpu)} # the choice is remembered
PYTHON=${PYTHON:-python3}
TORCH_VERSION=$(sed -n 's/^torch==//p' constraints.txt)
CPU_INDEX=https://download.pytorch.org/whl/cpu
LOG=.venv/setup.log
STAMP=.venv/.stamp
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# pip's output goes to the log; pip also warns about every find-links or index folder that lacks a package.
pip_install() { .venv/bin/python -m pip install --quiet "$@" >>"$LOG" 2>&1; }

explain() {
    grep -v -E "^WARNING: Location '.*' is ignored|^\s*$" "$LOG" | tail -n 15 >&2 || true
    die "$1 (whole log: $LOG)"
}

has_torch() { .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch') != '$1')" 2>/dev/null; }

install_torch_cpu() {
    has_torch "$TORCH_VERSION+cpu" && return
    pip_install --no-deps "torch==$TORCH_VERSION+cpu" && return
    say "not in the configured sources; trying $CPU_INDEX"
    pip_install --no-deps --index-url "$CPU_INDEX" "torch==$TORCH_VERSION" || explain "cannot install torch $TORCH_VERSION for the CPU"
}

make_venv() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "$PYTHON is missing or older than 3.11: install Python 3.11, or name one with make setup PYTHON=/path/to/python3.11"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || die "$PYTHON cannot make virtual environments: apt install python3.11-venv"
    [ -x .venv/bin/python ] || say "making .venv with $("$PYTHON" --version)"
    [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
}

case "$TORCH" in cpu | cuda) ;; *) die "TORCH=$TORCH: write cpu or cuda" ;; esac
wanted="$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -c1-16)-$TORCH"
[ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ] && exit 0

make_venv
rm -f "$STAMP"
: >"$LOG"
# torch first: everything after it then finds its dependency met, and never asks an index for another build
say "torch $TORCH_VERSION ($TORCH)"
if [ "$TORCH" = cpu ]; then
    install_torch_cpu
else
    pip_install "torch===$TORCH_VERSION" || explain "cannot install torch $TORCH_VERSION with CUDA"
fi
say "libraries and developer tools (a few minutes the first time)"
pip_install -c constraints.txt setuptools || explain "cannot install setuptools"
pip_install -c constraints.txt --no-build-isolation -e '.[dev]' || explain "cannot install the libraries"

uninvited=$(.venv/bin/python -m pip list --format=freeze 2>/dev/null | grep -i '^nvidia-' | tr '\n' ' ' || true)
if [ "$TORCH" = cpu ] && [ -n "$uninvited" ]; then
    die "NVIDIA packages came in uninvited: ${uninvited}- remove .venv and run make setup again, or invite them with make setup TORCH=cuda"
fi
.venv/bin/python -c 'import torch, agito' >>"$LOG" 2>&1 || explain "what was installed cannot be imported"
echo "$TORCH" >.venv/.torch
echo "$wanted" >"$STAMP"
say "done"
