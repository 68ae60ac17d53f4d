"""Writes docs/recipes.md from the configuration classes: python scripts/recipe_keys.py > docs/recipes.md"""

from __future__ import annotations

import json
import sys

from agito.cli.recipe_keys import Key, Table, keys_of, tables
from agito.config import load
from agito.recipe import bundled, find, read
from agito.types import Json

HEAD = """\
# Recipes

A recipe is a TOML file that says how one run is made. What it does not say has the default below; `--set KEY=VALUE` beats the file.
`agito train --env ENV` without a recipe starts from `quickstart`, whose values stand beside the defaults where they differ.
`agito recipes` lists the bundled ones, `agito recipes NAME` shows every key of one with its value, and what a run was made with stands in
the `config.toml` of its folder. This page is written by `scripts/recipe_keys.py`.

```toml
name = "mine"

[env]
name = "path/to/own.py:Own"
levels = [1, 2]

[rl]
steps = 60
```

```bash
agito train mine.toml --set seed=1 --set 'env.families=["find"]'
```

Values are TOML; a bare word is a string. Where `--env` or `--set env.name=` names another environment than the recipe's, all of that
environment is trained on: the recipe's own `env.families`, `env.levels`, `env.mix` and `sft.weights` are left behind, unless they are set
too, and the run is named after both. A path is relative to the folder in which the command is given.

| recipe | trains on | |
|---|---|---|
"""  # noqa: E501

_OWN = ("name", "env.", "sft.weights")  # what a recipe says about its own environment is left out
_QUICKSTART = {key.name: key.value for key in keys_of(read("quickstart")) if not key.name.startswith(_OWN)}


def main() -> None:
    rows = [
        f"| `{name}` | `{read(name).env.title}`{_chosen(name)} | {_comment(name)} |" for name in bundled()
    ]
    sys.stdout.write(HEAD + "\n".join(rows) + "\n")
    for table in tables():
        sys.stdout.write(_section(table))


def _section(table: Table) -> str:
    is_chosen = all(
        _QUICKSTART.get(key.name, key.value) == key.value for key in table.keys if _last(key.name) == "name"
    )
    rows = [
        f"| `{_last(key.name)}` | {_value(key, beside=is_chosen)} | {key.takes} | {key.about} |"
        for key in table.keys
    ]
    chosen = next(
        (f" with `name = {json.dumps(key.value)}`" for key in table.keys if key.name.endswith("loss.name")),
        "",
    )
    is_list = table.name == "env.mix"
    title = f"`[[{table.name}]]`" if is_list else f"`[{table.name}]`{chosen}" if table.name else "At the top"
    head = "\n| key | default | takes | |\n|---|---|---|---|\n" if rows else ""
    return f"\n## {title}\n\n{table.about}\n{head}" + "".join(f"{row}\n" for row in rows)


def _value(key: Key, *, beside: bool) -> str:
    default = "" if key.value is None else f"`{json.dumps(key.value, ensure_ascii=False)}`"
    started = _QUICKSTART.get(key.name, key.value)
    return (
        default
        if started == key.value or not beside
        else f"{default} (quickstart: `{json.dumps(started, ensure_ascii=False)}`)".strip()
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _chosen(name: str) -> str:
    """Families and levels, if a recipe selects some."""
    section: Json = load(find(name)).get("env", {})
    assert isinstance(section, dict)
    parts = [
        f"{what} {', '.join(map(str, some))}"
        for what in ("families", "levels")
        if isinstance(some := section.get(what), list) and some
    ]
    return f", {', '.join(parts)}" if parts else ""


def _comment(name: str) -> str:
    lines = find(name).read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#")), "")


if __name__ == "__main__":
    main()
