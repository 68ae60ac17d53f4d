"""`agito recipes`: the bundled recipes, and every key of one with its value and what it is for."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rich.text import Text

from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import out
from agito.keys import keys_of
from agito.recipe import bundled, find, read

_LINK = re.compile(r"\[(\w+)\]\([\w.]+\)")


def print_recipes() -> None:
    table = plain_table("recipe", "trains on", "what it is", wrapped=("what it is",))
    for name in bundled():
        table.add_row(Text(name, "bold"), read(name).env.title, _about(find(name)))
    console = out()
    print_table(console, table)
    console.print("\nEvery key of one: agito recipes RECIPE. Change some: agito train RECIPE --set KEY=VALUE", style="dim")


def print_recipe(name: str) -> None:
    table = plain_table("key", "value", "what it is", wrapped=("value", "what it is"))
    for key in keys_of(read(name)):
        table.add_row(
            Text(key.name, "bold"), json.dumps(key.value, ensure_ascii=False), Text(_LINK.sub(r"\1", key.about).replace("`", ""), "dim")
        )
    print_table(out(), table)


def _about(path: Path) -> str:
    """The comment that a recipe begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#")), "")
