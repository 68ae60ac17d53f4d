"""The `./.check` script of the repair tasks: bash alone, one complaint at a time, in the same words as `Rule.complaint`."""

from __future__ import annotations

from agito.envs.shell.instance import Instance

_HEAD = """#!/bin/bash
v() { n=0; w=; while IFS= read -r l; do case $l in "$2="*) w=${l#*=}; n=$((n+1));; esac; done <"$1"; [ $n = 1 ] || w=; } 2>/dev/null
"""


def check_script(instance: Instance) -> str:
    """Exits 0 with `ok`, or 1 with the first broken rule. A key that stands twice in a file breaks its rule."""
    places = {line.partition("=")[0]: path for path, lines in instance.files.items() for line in lines if not line.startswith("old ")}
    parts = [_HEAD]
    for rule in instance.rules:
        wanted = f"v {places[rule.same_as]} {rule.same_as}; s=$w" if rule.same_as else f"s={rule.value}"
        parts.append(f'{wanted}; v {rule.path} {rule.key}; [ "$w" = "$s" ] || {{ echo "{rule.complaint}"; exit 1; }}\n')
    return "".join([*parts, "echo ok\n"])
