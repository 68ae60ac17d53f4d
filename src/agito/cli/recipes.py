"""`agito recipes`: the bundled recipes, and every key of one with its value and what it is for."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rich.text import Text

from agito.cli.recipe_keys import keys_of
from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import out
from agito.recipe import bundled, find, read
from agito.types import Json

_LINK = re.compile(r"\[(\w+)\]\([\w.]+\)")


def print_recipes() -> None:
    table = plain_table("recipe", "trains on", "what it is", wrapped=("what it is",))
    for name in bundled():
        table.add_row(Text(name, "bold"), read(name).env.title, _about(find(name)))
    console = out()
    print_table(console, table)
    console.print(
        "\nEvery key of one: agito recipes RECIPE. Change some: agito train RECIPE --set KEY=VALUE",
        style="dim",
    )


def print_recipe(name: str) -> None:
    table = plain_table("key", "value", "what it is", wrapped=("value", "what it is"))
    for key in keys_of(read(name)):
        table.add_row(
            Text(key.name, "bold"),
            _toml(key.value),
            Text(_LINK.sub(r"\1", key.about).replace("`", ""), "dim"),
        )
    print_table(out(), table)


def _toml(value: Json) -> str:
    """As it stands in a recipe, or after `--set KEY=`; what is not set cannot stand there."""
    if isinstance(value, dict):
        return (
            f"{{ {', '.join(f'{json.dumps(name)} = {_toml(each)}' for name, each in value.items())} }}"
            if value
            else "{}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return "(not set)" if value is None else json.dumps(value, ensure_ascii=False)


def _about(path: Path) -> str:
    """The comment that a recipe begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#")), "")
