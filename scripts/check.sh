#!/usr/bin/env bash
# The gate: tests, and beside them format, lint, dead code, import contracts and types. Runs every part even after one failed. `check.sh full` adds the long tests.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # or each of the several hundred processes that the tests start compiles the sources anew

which="not full and not gpu"
[ "${1:-}" = full ] && which="not gpu"
failed=()
table=""

part() {
    local name=$1 began=$SECONDS state=ok
    shift
    printf '== %s\n' "$name"
    "$@" || { state=FAILED && failed+=("$name"); }
    table+=$(printf '  %-10s %4d s  %s' "$name" $((SECONDS - began)) "$state")$'\n'
}

# What only reads the sources runs beside the tests, in the moments in which these wait for something.
static() {
    local state=0
    ruff format --check --quiet . || { echo "format: run ruff format ." && state=1; }
    ruff check --quiet . || state=1
    vulture || state=1
    lint-imports --no-cache --no-logo || state=1
    pyright || state=1
    return "$state"
}
static_log=$(mktemp)
start_static() {
    (renice -n 10 $BASHPID >/dev/null && static) >"$static_log" 2>&1 &
    static_pid=$!
}
finish_static() {
    local state=0
    wait "$static_pid" || state=$?
    cat "$static_log"
    return "$state"
}

# Tests that are skipped are told at the end, by reason; tests/conftest.py writes them here.
AGITO_SKIPS=$(mktemp)
export AGITO_SKIPS
trap 'rm -f "$AGITO_SKIPS" "$static_log"' EXIT
[ -d .venv/mcp-servers ] && export AGITO_MCP_SERVERS=${AGITO_MCP_SERVERS:-$PWD/.venv/mcp-servers}

start_static
# One process more than cores: many tests wait for deadlines and for processes that they started.
part tests pytest -q -n $(($(getconf _NPROCESSORS_ONLN) + 1)) --dist worksteal --durations=8 -m "$which"
part sources finish_static

printf '\n%s  %-10s %4d s\n\n' "$table" all "$SECONDS"
cat "$AGITO_SKIPS"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'check: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
