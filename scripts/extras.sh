#!/usr/bin/env bash
# What `web` and some tests need beside Python: Chromium (apt, as root) and four MCP servers (npm and pip, into .venv/mcp-servers).
# Optional: says what it could not install, and then goes on; what needs it is skipped with its reason.
set -uo pipefail
cd "$(dirname "$0")/.."

SERVERS=.venv/mcp-servers
LOG=.venv/extras.log
NPM=(@modelcontextprotocol/server-everything @modelcontextprotocol/server-filesystem)
PIP=(mcp-server-time mcp-server-git)
: >"$LOG"

say() { printf 'extras: %s\n' "$*"; }

has_chromium() { compgen -G '/usr/lib/chromium*/chromium*' >/dev/null || command -v chromium-headless-shell chromium google-chrome >/dev/null; }

chromium() {
    has_chromium && say "Chromium is there" && return
    if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
        say "no Chromium: as an administrator, apt install chromium-headless-shell"
        return
    fi
    say "Chromium (apt install chromium-headless-shell)"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium-headless-shell; } >>"$LOG" 2>&1 ||
        say "no Chromium: apt could not install it (see $LOG)"
}

servers() {
    mkdir -p "$SERVERS"
    if [ -d "$SERVERS/node_modules/@modelcontextprotocol" ]; then
        say "MCP servers from npm are there"
    elif ! command -v npm >/dev/null; then
        say "no MCP servers from npm: install Node.js and npm"
    else
        say "MCP servers from npm (${NPM[*]})"
        (cd "$SERVERS" && timeout 300 npm install --no-fund --no-audit "${NPM[@]}") >>"$LOG" 2>&1 || say "npm could not install them (see $LOG)"
    fi
    if [ -d "$SERVERS/site" ]; then
        say "MCP servers from PyPI are there"
    else
        say "MCP servers from PyPI (${PIP[*]})"
        .venv/bin/python -m pip install --quiet --target "$SERVERS/site" "${PIP[@]}" >>"$LOG" 2>&1 || {
            rm -rf "$SERVERS/site"
            say "pip could not install them (see $LOG)"
        }
    fi
}

chromium
servers
say "done"
