"""Every key of a recipe, with its value, its default and what it is for, read from the configuration's own
classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agito.recipe import Recipe
from agito.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One knob. `name` is as in `--set`; `takes` says what may be given."""

    name: str
    value: Json
    takes: str
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Keys that stand together in a recipe."""

    name: str
    about: str
    keys: tuple[Key, ...]


def keys_of(recipe: Recipe) -> tuple[Key, ...]:
    """Of one recipe, tables that are chosen by name as they were chosen."""
    return tuple(key for table in _tables(recipe, "") for key in table.keys)


def tables() -> tuple[Table, ...]:
    """Every table that a recipe may have, with its defaults; alternatives too."""
    return (*_tables(Recipe(), ""), *_alternatives(Recipe, ""))


def _tables(config: BaseModel, at: str) -> Iterator[Table]:
    """Depth first; each table's own keys come before the tables within it."""
    inner = [(name, getattr(config, name)) for name in type(config).model_fields]
    own = tuple(
        _key(
            f"{at}{name}", type(config).model_fields[name], cast("Json", config.model_dump(mode="json")[name])
        )
        for name, value in inner
        if not isinstance(value, BaseModel)
    )
    yield Table(name=at.removesuffix("."), about=_about(type(config)), keys=own)
    for name, value in inner:
        if isinstance(value, BaseModel):
            yield from _tables(value, f"{at}{name}.")


def _alternatives(model: type[BaseModel], at: str) -> Iterator[Table]:
    """Tables that defaults do not show: other choices, and those that stand in lists."""
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        for each in _models(field.annotation):
            if isinstance(default, each):
                yield from _alternatives(each, f"{at}{name}.")
            else:
                yield from _whole(each, f"{at}{name}")


def _whole(model: type[BaseModel], at: str) -> Iterator[Table]:
    """A table by its class, and those within it."""
    yield Table(name=at, about=_about(model), keys=tuple(_own(model, f"{at}.")))
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _whole(type(field.default), f"{at}.{name}")


def _own(model: type[BaseModel], at: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            continue
        yield _key(
            f"{at}{name}",
            field,
            cast("Json", list(cast("tuple[Any, ...]", default)) if isinstance(default, tuple) else default),
        )


def _key(name: str, field: FieldInfo, value: Json) -> Key:
    return Key(name=name, value=value, takes=_takes(field), about=field.description or "")


def _takes(field: FieldInfo) -> str:
    """`1 or more`, `0 to 1`, `above 0`, the words to choose from; empty where anything of the default's kind
    will do.
    """
    words = [each for each in get_args(field.annotation) if isinstance(each, str)]
    if words:
        return ", ".join(f"`{word}`" for word in words)
    bounds = {
        name: value
        for each in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if (value := getattr(each, name, None)) is not None
    }
    low = f"{bounds['ge']:g}" if "ge" in bounds else f"above {bounds['gt']:g}" if "gt" in bounds else ""
    high = (
        f"to {bounds['le']:g}" if "le" in bounds else f"to below {bounds['lt']:g}" if "lt" in bounds else ""
    )
    return f"{low} {high}".strip() if high else f"{low} or more" if "ge" in bounds else low


def _about(model: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].split())


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for part in get_args(annotation) for each in _models(part)]
