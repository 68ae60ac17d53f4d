"""Recipes: TOML in, a frozen pydantic model out. Precedence: defaults, file, `--set a.b=value`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, cast, get_args

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from agito.errors import BadRecipe, NotFound

Model = TypeVar("Model", bound=BaseModel)


def _one_folder(name: str) -> str:
    if not name.strip() or "/" in name or name in (".", ".."):
        raise ValueError("it names a folder in runs; a path goes with --out")
    return name


FolderName: TypeAlias = Annotated[str, AfterValidator(_one_folder)]


class Section(BaseModel):
    """A part of a recipe: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read(model: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """Raises `NotFound`, or `BadRecipe` with the field, the value and the remedy."""
    return build(model, load(path), overrides, source=str(path))


def under(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was given, and of the defaults what was not."""
    merged = dict(given)
    for name, default in defaults.items():
        found = merged.get(name)
        if name not in merged:
            merged[name] = default
        elif isinstance(default, dict) and isinstance(found, dict | Section):
            merged[name] = under(cast("dict[str, Any]", default), table(found))
    return merged


def table(section: Any) -> dict[str, Any]:
    """What was given for a section, by name; nothing for what is no section."""
    if isinstance(section, Section):
        return section.model_dump(exclude_unset=True)
    return cast("dict[str, Any]", section) if isinstance(section, dict) else {}


def load(path: Path) -> dict[str, Any]:
    """What the file says. Raises `NotFound`, and `BadRecipe` for what is not TOML."""
    if not path.is_file():
        raise NotFound(f"recipe {path}: there is no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path}: not TOML: {error}") from error


def build(
    model: type[Model], tree: dict[str, Any], overrides: Sequence[str] = (), *, source: str = "recipe"
) -> Model:
    """As `read`, from a table that is already there."""
    _override(tree, overrides)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise BadRecipe(
            "\n".join(_explain(model, each, source, overrides) for each in error.errors())
        ) from None


def tree_of(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides alone say."""
    tree: dict[str, Any] = {}
    _override(tree, overrides)
    return tree


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean steps?`, or nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def dump(config: BaseModel) -> str:
    """TOML that `read` turns into the same config; what is None is left out."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _override(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    if isinstance(overrides, str):
        raise BadRecipe(f"overrides={overrides!r}: give a list of such words, [{overrides!r}]")
    for override in overrides:
        _set(tree, override)


def _set(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise BadRecipe(f"--set {override}: write a.b=value, such as rl.steps=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *parents, last = name.strip().split(".")
    for parent in parents:
        inner: Any = tree.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise BadRecipe(f"--set {override}: {parent} is a value, not a table")
        tree = cast("dict[str, Any]", inner)
    tree[last] = value


def _explain(model: type[BaseModel], error: Any, source: str, overrides: Sequence[str]) -> str:
    """The place, the field, the value and what is wrong; the place is the override where one
    brought it in.
    """
    place, known = _walk(model, tuple(map(str, error["loc"])))
    blamed = [
        each
        for each in overrides
        if place and _touches(tuple(each.partition("=")[0].strip().split(".")), place)
    ]
    source, name = f"--set {blamed[-1]}" if blamed else source, ".".join(place)
    if error["type"] == "extra_forbidden":
        return (
            f"{source}: {name}: there is no such key; known here: {', '.join(known)}{meant(place[-1], known)}"
        )
    given = f"={error['input']!r}" if isinstance(error["input"], str | int | float | bool) else ""
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] in ("tuple_type", "list_type"):
        said = f"should be a list, such as [{json.dumps(error['input'])}]"
    return f"{source}: {name}{given}: {said}" if name else f"{source}: {said}"


def _touches(key: tuple[str, ...], place: tuple[str, ...]) -> bool:
    shared = min(len(key), len(place))
    return key[:shared] == place[:shared]


def _walk(model: type[BaseModel], loc: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The keys of `loc`, without the name by which one of several tables was chosen; and those that are known
    beside the last.
    """
    found, place, beside = [model], list[str](), [model]
    for part in loc:
        inner = [
            each
            for one in found
            for name, field in one.model_fields.items()
            if name == part
            for each in _models(field.annotation)
        ]
        chosen = [
            each
            for each in found
            if "name" in each.model_fields and each.model_fields["name"].default == part
        ]
        if chosen and len(found) > 1:
            found = chosen
            continue
        place.append(part)
        beside, found = found, inner or (found if part.isdigit() else [])
    return tuple(place), sorted({name for each in beside for name in each.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for part in get_args(annotation) for each in _models(part)]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_none(each)
            for key, each in cast("dict[str, Any]", value).items()
            if each is not None
        }
    return [_without_none(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value
