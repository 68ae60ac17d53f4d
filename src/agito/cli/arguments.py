"""Options that several commands share, and what the shell may complete them with. Nothing heavy is imported
to complete a word.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from agito.types import Effort

_ENVIRONMENTS = (
    *("shell", "thinking", "decisions", "desk", "research", "code", "parallel", "replan", "web", "web-text"),
    *("shell-realistic", "desk-realistic", "code-realistic", "thinking-realistic"),
)
_EFFORTS = ("none", "low", "medium", "high", "auto")
_SPLITS = ("train", "heldout", "structural")
_RECIPES = Path(__file__).parents[1] / "recipes"
_NARROW = 60  # columns; in less, what an option is for stands beneath it


class Command(TyperCommand):
    """Its help says what an argument is for, and keeps to the terminal's width. (Typer's own copy of click:
    `Any`.)
    """

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_params(self.get_params(ctx), ctx, formatter)


class Group(TyperGroup):
    """The same for what holds commands."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_params(self.get_params(ctx), ctx, formatter)
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        _write_rows(
            "Commands",
            [(name, each.get_short_help_str(200)) for name, each in found if each and not each.hidden],
            formatter,
        )


def _write_text(text: str, formatter: Any) -> None:
    """A line of an example that is too long goes on beneath itself."""
    width = formatter.width - 2
    lines = [
        part
        for line in inspect.cleandoc(text).split("\n")
        for part in (textwrap.wrap(line, width, subsequent_indent=" " * 6) if len(line) > width else [line])
    ]
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text("\n".join(lines))


def _write_params(params: Sequence[Any], ctx: Any, formatter: Any) -> None:
    """Without the types in angle brackets, which tell a person nothing."""
    records = [
        (param.param_type_name == "argument", found)
        for param in params
        if (found := param.get_help_record(ctx))
    ]
    for title, is_argument in (("Arguments", True), ("Options", False)):
        _write_rows(
            title,
            [(name.partition(" <")[0], about) for each, (name, about) in records if each is is_argument],
            formatter,
        )


def _write_rows(title: str, rows: list[tuple[str, str]], formatter: Any) -> None:
    if not rows:
        return
    with formatter.section(title):
        if formatter.width >= _NARROW:
            formatter.write_dl(rows)
            return
        for name, about in rows:
            formatter.write_text(name)
            with formatter.indentation():
                formatter.write_text(about)


def environments(incomplete: str) -> list[str]:
    """Bundled ones; with a path begun, the classes that a file of that name may hold."""
    return [name for name in _ENVIRONMENTS if name.startswith(incomplete)] + [
        f"{path}:" for path in _files(incomplete, ".py")
    ]


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


def efforts(incomplete: str) -> list[str]:
    return [name for name in (*_EFFORTS, "all") if name.startswith(incomplete)]


def effort_of(name: str | None, *, with_all: bool = False) -> Effort | None:
    """None for what is not given, and for `all`."""
    from agito.types import Effort

    if name is None or (with_all and name == "all"):
        return None
    if name not in _EFFORTS:
        known = ", ".join((*_EFFORTS, "all") if with_all else _EFFORTS)
        raise typer.BadParameter(f"{name!r}: there is {known}", param_hint="--effort")
    return Effort(name)


def _files(incomplete: str, suffix: str) -> list[str]:
    where = Path(incomplete).parent
    names = sorted(str(path) for path in where.glob(f"*{suffix}")) if where.is_dir() else []
    return [name for name in names if name.startswith(incomplete)]


Sets: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as rl.steps=10; again for more."
    ),
]
RecipeName: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A bundled recipe (agito recipes), or the path of a TOML file.",
        autocompletion=recipes,
    ),
]
EnvName: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="ENV",
        help="A bundled environment, path.py:Class, or DATA,reward=FILE.py:NAME.",
        autocompletion=environments,
    ),
]
Split: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="SPLIT",
        help="train, heldout, structural, or what the environment has.",
        autocompletion=splits,
    ),
]
Seed: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Other tasks. Default: those of the run.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

# Of `agito train`.
MaybeRecipe: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A bundled recipe (agito recipes), or the path of a TOML file.",
        autocompletion=recipes,
    ),
]
TrainEnv: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ENV",
        help="Train on this environment, all of it, with the rest as in RECIPE or quickstart.",
        autocompletion=environments,
    ),
]
TrainModel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Begin from this pre-trained model: a folder, a name of `agito models`, a hub id.",
    ),
]
Prompts: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Train on prompts: JSONL, Parquet, the folder of a data set. With --reward and --model.",
    ),
]
Reward: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE.py:NAME", help="The reward function of --prompts.")
]
Tools: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE.py:NAME,NAME", help="Functions that the model may call.")
]
Sft: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Imitate first what turned out well: JSONL with `messages`, what `agito gateway --record` kept, "
        "or a run.",
    ),
]
TrainSeed: TypeAlias = Annotated[int | None, typer.Option(metavar="N", help="Same as --set seed=N.")]
OnPlace: TypeAlias = Annotated[
    str | None, typer.Option(metavar="PLACE", help="Same as --set compute.on=PLACE: local, or ray.")
]
RunName: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The run goes to runs/NAME. Default: named after what it trains."),
]
OutDir: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The run goes to this folder instead.")
]
ResumeRun: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Go on with the run in this folder, bit for bit.", autocompletion=runs),
]
AdmitAnyway: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--admit-anyway", help="Train even on an environment that fails its audit; the run says so."
    ),
]

DryRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Begin nothing; say what it takes: memory, disk, seconds a step, by a short probe."
    ),
]

# Of `agito eval`, and of others that take a run.
Checkpoints: TypeAlias = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUN", help="A run, or one of its checkpoints. Two with --suite.", autocompletion=runs
    ),
]
OtherEnv: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ENV", help="Another environment than that of the run.", autocompletion=environments
    ),
]
Levels: TypeAlias = Annotated[
    list[int] | None, typer.Option(metavar="N", help="Only this level; again for more.")
]
Families: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Only this family; again for more.")
]
NumTasks: TypeAlias = Annotated[
    int | None,
    typer.Option("--n", "-n", "--tasks", metavar="N", min=1, help="Number of tasks. Default: as in the run."),
]
NumAttempts: TypeAlias = Annotated[
    int, typer.Option(metavar="K", min=1, help="At each task; from 2 on pass@k and pass^k are told too.")
]
Choose: TypeAlias = Annotated[
    bool,
    typer.Option("--choose", help="Every checkpoint of the run, and which is best; on `validation`, say."),
]
Temperature: TypeAlias = Annotated[
    float | None, typer.Option(metavar="T", min=0.0, help="0 is greedy. Default: as in the run.")
]
AtEffort: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="EFFORT",
        help="How much it is asked to think: none, low, medium, high, auto; all compares those it learned.",
        autocompletion=efforts,
    ),
]
ActingEffort: TypeAlias = Annotated[
    str | None, typer.Option(metavar="EFFORT", help="Of the checkpoint's thinking.", autocompletion=efforts)
]
Baselines: TypeAlias = Annotated[
    bool, typer.Option("--baselines/--no-baselines", help="Scripts on the same tasks, too.")
]
Suite: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="A scorecard instead: decisions.")]
Endpoint: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="An OpenAI-compatible endpoint, ending in /v1, on the tasks of RUN, --env or --suite.",
    ),
]
EndpointModel: TypeAlias = Annotated[str, typer.Option(metavar="NAME", help="The endpoint's model.")]
RunPath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.", autocompletion=runs),
]
