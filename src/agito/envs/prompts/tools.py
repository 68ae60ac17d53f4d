"""Typed Python functions as tools: their JSON schema from signature and docstring, their arguments
validated.
"""

from __future__ import annotations

import inspect
import json
import re
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, get_type_hints

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from agito.errors import BadEnvironment, InvalidArguments
from agito.types import Call, Exactness, Json, ToolSpec
from agito.worlds.component import Answer, Component, overran
from agito.worlds.threads import DeadlinePassed, in_thread

_ARGUMENT = re.compile(r"^\s+\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.+)$")
CALLS = "calls"  # where the record of an episode's calls is captured


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTool:
    """A function that the policy may call."""

    spec: ToolSpec
    arguments: type[BaseModel]
    function: Callable[..., Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> FunctionTool:
        """Raises `BadEnvironment` for a function whose parameters have no types, or that says nothing of
        itself.
        """
        name = function.__name__
        said, about = _documented(inspect.getdoc(function) or "")
        if not said:
            raise BadEnvironment(
                f"tool {name}: give it a docstring; its first paragraph is what the policy is told"
            )
        try:
            hints = get_type_hints(function, include_extras=True)
        except Exception as error:  # the boundary: annotations are somebody else's code
            raise BadEnvironment(f"tool {name}: its types cannot be read: {error}") from error
        fields: dict[str, Any] = {}
        for each in inspect.signature(function).parameters.values():
            if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
                raise BadEnvironment(f"tool {name}: {each} cannot be given by name; leave it out")
            if each.name not in hints:
                raise BadEnvironment(
                    f"tool {name}: `{each.name}` has no type; write {each.name}: str, or whatever it is"
                )
            default = ... if each.default is each.empty else each.default
            fields[each.name] = (hints[each.name], Field(default, description=about.get(each.name)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a parameter may be called as a method of pydantic's is
                settings = ConfigDict(extra="forbid", protected_namespaces=())
                model = create_model(name, __config__=settings, **fields)
            schema = model.model_json_schema()
        except Exception as error:  # pydantic has many ways to say that a type has no schema
            raise BadEnvironment(
                f"tool {name}: its parameters have no JSON schema: {str(error).splitlines()[0]}"
            ) from error
        return cls(
            spec=ToolSpec(name=name, description=said, parameters=_without_titles(schema)),
            arguments=model,
            function=function,
        )

    def read(self, arguments: Mapping[str, Json]) -> dict[str, Any]:
        """Raises `InvalidArguments`, which the policy reads."""
        try:
            found = self.arguments.model_validate(dict(arguments))
        except ValidationError as error:
            wrong = [
                f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}" for each in error.errors()
            ]
            raise InvalidArguments(f"{self.spec.name}: {'; '.join(wrong[:3])}") from None
        return {name: getattr(found, name) for name in type(found).model_fields}


class Functions:
    """A component. Its only state is what was called and answered: the functions keep none."""

    name = CALLS
    exactness = Exactness.EXACT

    def __init__(
        self, tools: Sequence[FunctionTool], record: Sequence[tuple[str, Mapping[str, Json], str]] = ()
    ) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self._record = list(record)

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        """What a function raises beside `InvalidArguments` is its own fault."""
        tool, began = self._tools[call.tool], time.monotonic()
        work = partial(tool.function, **tool.read(call.arguments))
        try:
            if inspect.iscoroutinefunction(tool.function):
                with anyio.fail_after(timeout_s):
                    returned = await cast("Awaitable[Any]", work())
            else:
                returned = await in_thread(work, timeout_s=timeout_s)
        except (DeadlinePassed, TimeoutError):
            if time.monotonic() - began < timeout_s:
                raise  # the function's own
            return overran(began)
        text = _text(returned)
        self._record.append((call.tool, call.arguments, text))
        return Answer(text=text, wall_s=time.monotonic() - began)

    async def snapshot(self) -> object:
        return tuple(self._record)

    async def fork(self, token: object) -> Component:
        return Functions(
            tuple(self._tools.values()), cast("Sequence[tuple[str, Mapping[str, Json], str]]", token)
        )

    async def digest(self) -> str:
        return json.dumps(self._record, sort_keys=True)

    async def capture(self) -> Mapping[str, bytes]:
        return {CALLS: json.dumps(self._record).encode()} if self._record else {}

    async def close(self) -> None:
        return


def _text(returned: Any) -> str:
    if isinstance(returned, str):
        return returned
    if isinstance(returned, BaseModel):
        return returned.model_dump_json()
    return "" if returned is None else json.dumps(returned, ensure_ascii=False, default=str)


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph, and what is said of each argument under `Args:`."""
    said, _, rest = text.partition("\n\n")
    about: dict[str, str] = {}
    _, found, listed = f"\n{text}".partition("\nArgs:\n")
    for line in listed.splitlines() if found else ():
        if line and not line[0].isspace():
            break
        if match := _ARGUMENT.match(line):
            about[match[1]] = match[2].strip()
    del rest
    return " ".join(said.partition("Args:")[0].split()), about


def _without_titles(schema: Any) -> dict[str, Json]:
    """Pydantic's titles say the names again."""

    def cleaned(value: Any, *, is_properties: bool = False) -> Any:
        if isinstance(value, dict):
            each = cast("dict[str, Any]", value)
            return {
                name: cleaned(inner, is_properties=name == "properties")
                for name, inner in each.items()
                if is_properties or name != "title"
            }
        return [cleaned(inner) for inner in cast("list[Any]", value)] if isinstance(value, list) else value

    return cleaned(schema)
