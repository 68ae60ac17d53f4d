#!/usr/bin/env bash
# The gate: format, lint, import contracts, types, tests. Runs every part even after one failed. `check.sh full` adds the long tests.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1

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

# Tests that are skipped are told at the end, by reason; tests/conftest.py writes them here.
AGITO_SKIPS=$(mktemp)
export AGITO_SKIPS
trap 'rm -f "$AGITO_SKIPS"' EXIT
[ -d .venv/mcp-servers ] && export AGITO_MCP_SERVERS=${AGITO_MCP_SERVERS:-$PWD/.venv/mcp-servers}

part format ruff format --check --quiet .
part lint ruff check --quiet .
part contracts lint-imports --no-cache --no-logo
part types pyright
part tests pytest -q -n 2 --dist worksteal --durations=8 -m "$which"

printf '\n%s  %-10s %4d s\n\n' "$table" all "$SECONDS"
cat "$AGITO_SKIPS"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'check: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
