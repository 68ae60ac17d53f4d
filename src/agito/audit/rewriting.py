"""Attacks that take the world's state from a text, change it to that of solved episodes, and hand it back:
saves, exports, settings.

What solved captures say under a name and failed ones never do, such as `safe: open`, is put into any text of
a tool that has such names, plainly or in base64 or hex; it is also sent to every command as it is.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, cast

from agito.audit.agents import ending, fill, strings
from agito.audit.episode import Episode
from agito.audit.literals import commands_of
from agito.protocols import Environment, Script
from agito.types import Call, Task, ToolSpec

T = TypeVar("T")

_MOST_SIGNS, _MOST_TEXT, _MOST_SHOWN = 6, 20_000, 4
_NAMED = re.compile(r"[\"']?([A-Za-z_][\w-]*)[\"']?\s*[:=]\s*(\"[^\"]*\"|'[^']*'|[\w.+-]+)")
_CODED = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A value that most solved captures have under a name, and no failed one."""

    name: str
    value: str
    others: frozenset[str]  # values of failed captures


def signs_of(solved: Sequence[Episode], failed: Sequence[Episode]) -> list[Sign]:
    said, unsaid = ([_named(each) for each in episodes if each.sealed] for episodes in (solved, failed))
    others: dict[str, set[str]] = defaultdict(set)
    for names in unsaid:
        for name, values in names.items():
            others[name] |= values
    counts = Counter((name, value) for names in said for name, values in names.items() for value in values)
    found = [
        (count, name, value)
        for (name, value), count in counts.items()
        if value not in others[name] and 2 * count > len(said)
    ]
    return [
        Sign(name=name, value=value, others=frozenset(others[name]))
        for _, name, value in sorted(found, reverse=True)[:_MOST_SIGNS]
    ]


def _named(episode: Episode) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    assert episode.sealed is not None
    for data in episode.sealed.files.values():
        for name, value in _NAMED.findall(data[:_MOST_TEXT].decode("utf-8", "replace")):
            found[name].add(value.strip("\"'"))
    return found


def rewritten(text: str, signs: Sequence[Sign]) -> list[str]:
    """The text as it would be in a solved episode, in its original code; empty if it has no such names."""
    found = [_altered(text, signs), _completed(text, signs)]
    for token in _CODED.findall(text):
        for decode, encode in _CODES:
            with suppress(ValueError, binascii.Error, UnicodeDecodeError):
                inner = decode(token)
                found += [
                    encode(each)
                    for each in (_altered(inner, signs), _completed(inner, signs))
                    if each != inner
                ]
    return [each for each in dict.fromkeys(found) if each != text]


def _altered(text: str, signs: Sequence[Sign]) -> str:
    """Replaces values under such a name; without a name, words that occur there only in failed captures."""
    for sign in signs:

        def put(found: re.Match[str], sign: Sign = sign) -> str:
            quote = found[2][:1] if found[2][:1] in "\"'" else ""
            value = f"{quote}{sign.value}{quote}"
            return found[0][: found.start(2) - found.start()] + value if found[1] == sign.name else found[0]

        changed = _NAMED.sub(put, text)
        words = [re.escape(each) for each in sign.others if each.isalpha() and sign.value.isalpha()]
        text = (
            changed if changed != text or not words else re.sub(rf"\b({'|'.join(words)})\b", sign.value, text)
        )
    return text


def _completed(text: str, signs: Sequence[Sign]) -> str:
    """Adds missing names, if the text is a JSON or Python object."""
    for read, write in ((json.loads, json.dumps), (ast.literal_eval, repr)):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            value = read(text)
            if isinstance(value, dict):
                return write(
                    {**cast("dict[str, object]", value), **{sign.name: _value(sign.value) for sign in signs}}
                )
    return text


def _value(text: str) -> object:
    with suppress(ValueError):
        return json.loads(text.replace("True", "true").replace("False", "false"))
    return text


def _from_base64(token: str) -> str:
    return base64.b64decode(
        token + "=" * (-len(token) % 4), altchars=b"-_" if set("-_") & set(token) else None, validate=True
    ).decode()


_CODES: Sequence[tuple[Callable[[str], str], Callable[[str], str]]] = (
    (_from_base64, lambda text: base64.b64encode(text.encode()).decode()),
    (_from_base64, lambda text: base64.urlsafe_b64encode(text.encode()).decode()),
    (lambda token: bytes.fromhex(token).decode(), lambda text: text.encode().hex()),
)


def writing_back(
    environment: Environment, task: Task, signs: Sequence[Sign], said: Sequence[Call], final: Call | None
) -> Mapping[str, Callable[[], Script]]:
    """Scripts by name: for every tool that takes a text, alone or after a command."""
    end = ending(task)
    tools = [tool for tool in task.tools if end is None or tool.name != end.name]
    most = max(min(task.limits.calls, task.limits.turns) - 1, 1)
    commands = [(tool, command) for tool in tools for command in commands_of(environment, tool, said)]
    ways = [(tool, name, "") for tool in tools for name in strings(tool)] + [
        (tool, strings(tool)[0], command) for tool, command in commands
    ]
    shows = [fill(tool, "") for tool in sorted(tools, key=lambda tool: len(strings(tool)))] + [
        fill(*each) for each in commands
    ]
    found: dict[str, Callable[[], Script]] = {}
    if not signs:
        return found
    half = max(most // 2, 1)
    for at, asked in enumerate(batches(shows, half)):
        for number, told in enumerate(batches(ways, max(most - len(asked), 1))):
            found[f"state that is shown, altered and handed back {at}.{number}"] = _hands_back(
                asked, told, signs, most, final
            )
    plain = [f"{sign.name}{mark}{sign.value}" for sign in signs[:2] for mark in ("=", " ", ": ")] + [
        sign.value for sign in signs[:2]
    ]
    calls = [_telling(tool, name, command, text) for tool, name, command in ways for text in plain]
    for at, batch in enumerate(batches(calls, most)):
        found[f"what a solved state says {at}"] = _says(batch, final)
    return found


def _telling(tool: ToolSpec, name: str, command: str, text: str) -> Call:
    return fill(tool, "zq", **{name: f"{command} {text}".strip()})


def _hands_back(
    asked: Sequence[Call],
    ways: Sequence[tuple[ToolSpec, str, str]],
    signs: Sequence[Sign],
    most: int,
    final: Call | None,
) -> Callable[[], Script]:
    def script() -> Script:
        shown: dict[str, None] = {}
        said = 0
        for call in asked:
            event = yield call
            said += 1
            if event.ended:
                return
            shown |= dict.fromkeys(rewritten(event.text[:_MOST_TEXT], signs))
        for text in list(shown)[:_MOST_SHOWN]:
            for tool, name, command in ways:
                if said < most:
                    said += 1
                    event = yield _telling(tool, name, command, text)
                    if event.ended:
                        return
        if final is not None:
            yield final

    return script


def _says(calls: Sequence[Call], final: Call | None) -> Callable[[], Script]:
    def script() -> Script:
        for call in calls:
            if (yield call).ended:
                return
        if final is not None:
            yield final

    return script


def batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
