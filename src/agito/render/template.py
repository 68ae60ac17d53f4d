"""Chat templates as `transformers` runs them, in a sandbox, on texts that cannot become control tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from agito.errors import AgitoError
from agito.render.tokenizer import ModelTokenizer, free_mark
from agito.types import Call, Json

if TYPE_CHECKING:
    from jinja2 import Environment

Message: TypeAlias = "dict[str, Json]"
_DATED = "{%- macro strftime_now(format) -%}"
_DATE = date(2024, 7, 26)  # that of Llama's templates where they are told none


class UnsupportedTemplate(AgitoError, ValueError):
    """A chat template that conversations cannot be held in: what is wrong with it."""

    exit_code = 5


class ChatTemplate:
    """`variables` are what the template may ask for beside the conversation: `bos_token`, `enable_thinking`
    and the like.
    """

    def __init__(self, source: str, tokenizer: ModelTokenizer, variables: Mapping[str, Json]) -> None:
        """Raises `UnsupportedTemplate`."""
        self.source, self._tokenizer, self.variables = source, tokenizer, dict(variables)
        try:
            self._template = _environment().from_string(source)
        except Exception as error:
            raise UnsupportedTemplate(f"the chat template cannot be read: {error}") from error

    def guarded(self, calls: Sequence[Call], mark: str) -> list[Call]:
        """The calls, with the mark as `render` puts it into texts."""
        return [
            Call(
                tool=self._tokenizer.guard(call.tool, mark),
                arguments=cast("dict[str, Json]", _guarded(dict(call.arguments), self._tokenizer, mark)),
            )
            for call in calls
        ]

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Json],
        *,
        prompts: bool,
        mark: str = "",
        is_trusted: bool = False,
    ) -> tuple[str, str]:
        """The conversation, and the mark within whatever reads like a control token but is not the template's
        own.

        `prompts`: it ends with what opens the assistant's turn. A `mark` that is given stands in none of the
        texts. `is_trusted`: the texts may hold control tokens. Raises `UnsupportedTemplate` for what the
        template does not take.
        """
        mark = mark or free_mark(strings([*messages, *tools]))
        guarded: Sequence[Json] = (
            messages if is_trusted else [_guarded(message, self._tokenizer, mark) for message in messages]
        )
        offered = [_guarded(tool, self._tokenizer, mark) for tool in tools]
        try:
            text = self._template.render(
                messages=guarded,
                tools=offered or None,
                documents=None,
                add_generation_prompt=prompts,
                **self.variables,
            )
        except Exception as error:  # a template is a program of somebody else's
            raise UnsupportedTemplate(f"the chat template: {error}") from error
        return text, mark


def dated(source: str) -> str:
    """The template with its date held fast, so that a prompt does not change overnight, neither in training
    nor in serving.
    """
    formats = dict.fromkeys(re.findall(r"strftime_now\(\s*['\"]([^'\"]*)['\"]\s*\)", source))
    if not formats or _DATED in source:
        return source
    cases = "".join(
        f"{{%- if format == '{each}' -%}}{_DATE.strftime(each)}{{%- endif -%}}" for each in formats
    )
    return f"{_DATED}{cases}{{%- endmacro -%}}{source}"


def guarded(
    message: Message, tokenizer: ModelTokenizer, mark: str, *, free: frozenset[str] = frozenset()
) -> Message:
    """As `render` guards it; the control tokens in `free` may stand in what the assistant says."""
    said = message.get("content")
    if message.get("role") != "assistant" or not isinstance(said, str) or not free:
        return cast("Message", _guarded(message, tokenizer, mark))
    parts = re.split(f"({'|'.join(map(re.escape, sorted(free)))})", said)
    whole = "".join(part if part in free else tokenizer.guard(part, mark) for part in parts)
    return cast("Message", _guarded({**message, "content": ""}, tokenizer, mark)) | {"content": whole}


def _environment() -> Environment:
    try:
        from jinja2 import nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise AgitoError(
            "a model's chat template needs the package jinja2: pip install 'agito[models]'"
        ) from error

    class Generation(Extension):
        """`{% generation %}` encloses what the assistant says, for trainers; it prints what it encloses."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return cast(
                "list[nodes.Node]", parser.parse_statements(("name:endgeneration",), drop_needle=True)
            )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    def raise_exception(message: str) -> NoReturn:
        raise ValueError(message)

    cast("Any", environment).filters["tojson"] = tojson
    cast("Any", environment).globals["raise_exception"] = raise_exception
    return environment


def _guarded(value: Json, tokenizer: ModelTokenizer, mark: str) -> Json:
    if isinstance(value, str):
        return tokenizer.guard(value, mark)
    if isinstance(value, list):
        return [_guarded(each, tokenizer, mark) for each in value]
    if isinstance(value, dict):
        return {tokenizer.guard(name, mark): _guarded(each, tokenizer, mark) for name, each in value.items()}
    return value


def strings(value: Json) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    if isinstance(value, dict):
        return [text for name, each in value.items() for text in (name, *strings(each))]
    return []
