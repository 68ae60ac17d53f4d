"""Recipes: TOML in, a frozen pydantic model out. Precedence: defaults, file, `--set a.b=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from agito.errors import BadRecipe, NotFound

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A part of a recipe: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read(model: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """Raises `NotFound`, or `BadRecipe` with the field, the value and the remedy."""
    if not path.is_file():
        raise NotFound(f"recipe {path}: there is no such file")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path}: not TOML: {error}") from error
    return build(model, tree, overrides, source=str(path))


def build(model: type[Model], tree: dict[str, Any], overrides: Sequence[str] = (), *, source: str = "recipe") -> Model:
    """As `read`, from a table that is already there."""
    for override in overrides:
        _override(tree, override)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise BadRecipe("\n".join(_explain(model, each, source) for each in error.errors())) from None


def dump(config: BaseModel) -> str:
    """TOML that `read` turns into the same config; what is None is left out."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _override(tree: dict[str, Any], override: str) -> None:
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


def _explain(model: type[BaseModel], error: Any, source: str) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _fields(model, error["loc"][:-1])
        return f"{source}: {name}: there is no such key; known here: {', '.join(known)}"
    given = f"={error['input']!r}" if isinstance(error["input"], str | int | float | bool) else ""
    return f"{source}: {name}{given}: {error['msg']}"


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return ["see the reference"]
        model = field.annotation
    return sorted(model.model_fields)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in cast("dict[str, Any]", value).items() if each is not None}
    return [_without_none(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value
