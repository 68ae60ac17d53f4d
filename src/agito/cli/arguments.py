"""Options that several commands share, and what the shell may complete them with. Nothing heavy is imported to complete a word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand

_ENVIRONMENTS = ("shell", "decisions", "desk", "research", "code", "web", "web-text")
_SPLITS = ("train", "heldout", "structural")
_RECIPES = Path(__file__).parents[1] / "recipes"


class Command(TyperCommand):
    """Its help says what an argument is for; the type in angle brackets tells a person nothing more. (Typer's own copy of click: `Any`.)"""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        records = [(param.param_type_name == "argument", found) for param in self.get_params(ctx) if (found := param.get_help_record(ctx))]
        for title, is_argument in (("Arguments", True), ("Options", False)):
            rows = [(name.partition(" <")[0], about) for each, (name, about) in records if each is is_argument]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def environments(incomplete: str) -> list[str]:
    """Bundled ones; with a path begun, the classes that a file of that name may hold."""
    return [name for name in _ENVIRONMENTS if name.startswith(incomplete)] + [f"{path}:" for path in _files(incomplete, ".py")]


def recipes(incomplete: str) -> list[str]:
    """Bundled ones, and TOML files here."""
    bundled = sorted(path.stem for path in _RECIPES.glob("*.toml"))
    return [name for name in bundled if name.startswith(incomplete)] + _files(incomplete, ".toml")


def runs(incomplete: str) -> list[str]:
    """Folders that hold a run, in `runs` or wherever the word begun leads."""
    wheres = [Path(incomplete).parent if "/" in incomplete else Path(), Path("runs")]
    found = [path.parent for where in wheres if where.is_dir() for path in sorted(where.glob("*/run.json"))]
    return [name for name in dict.fromkeys(map(str, found)) if name.startswith(incomplete)]


def splits(incomplete: str) -> list[str]:
    return [name for name in _SPLITS if name.startswith(incomplete)]


def _files(incomplete: str, suffix: str) -> list[str]:
    where = Path(incomplete).parent
    names = sorted(str(path) for path in where.glob(f"*{suffix}")) if where.is_dir() else []
    return [name for name in names if name.startswith(incomplete)]


Sets: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as rl.steps=10; again for more.")
]
RecipeName: TypeAlias = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A bundled recipe (agito recipes), or the path of a TOML file.", autocompletion=recipes)
]
EnvName: TypeAlias = Annotated[
    str, typer.Argument(metavar="ENV", help="A bundled environment, or path.py:Class.", autocompletion=environments)
]
Split: TypeAlias = Annotated[
    str, typer.Option(metavar="SPLIT", help="train, heldout, structural, or what the environment has.", autocompletion=splits)
]
Seed: TypeAlias = Annotated[int | None, typer.Option(metavar="N", min=0, help="Other tasks. Default: those of the run.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
