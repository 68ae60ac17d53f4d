#!/usr/bin/env bash
# The gate: format, lint, dead code, import contracts, types, tests. Runs every part even after one failed. `check.sh full` adds the long tests.
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

# Types are checked beside the tests, in the moments in which these wait for something.
types_log=$(mktemp)
start_types() {
    nice -n 10 pyright >"$types_log" 2>&1 &
    types_pid=$!
}
finish_types() {
    local state=0
    wait "$types_pid" || state=$?
    cat "$types_log"
    return "$state"
}

# Tests that are skipped are told at the end, by reason; tests/conftest.py writes them here.
AGITO_SKIPS=$(mktemp)
export AGITO_SKIPS
trap 'rm -f "$AGITO_SKIPS" "$types_log"' EXIT
[ -d .venv/mcp-servers ] && export AGITO_MCP_SERVERS=${AGITO_MCP_SERVERS:-$PWD/.venv/mcp-servers}

part format ruff format --check --quiet .
part lint ruff check --quiet .
part dead vulture
part contracts lint-imports --no-cache --no-logo
start_types
part tests pytest -q -n 2 --dist worksteal --durations=8 -m "$which"
part types finish_types

printf '\n%s  %-10s %4d s\n\n' "$table" all "$SECONDS"
cat "$AGITO_SKIPS"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'check: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
