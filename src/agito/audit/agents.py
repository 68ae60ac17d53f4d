"""Scripted agents that work in any environment: they know only the tool schemas and what they have read."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agito.harness.scripted import advance
from agito.harness.scripted import end as finish
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Dialect, Event, Json, Task, ToolSpec

_ENDINGS = ("submit", "final_answer", "finish", "done", "answer", "complete", "stop", "end")
_WORD = re.compile(r"[^\s\"'`,;()\[\]{}]+")
_CLOCKS = frozenset({"time", "times", "date"})
_MOST_WORDS = 200


def parameters(tool: ToolSpec) -> Mapping[str, Json]:
    """The declared parameters by name."""
    found = tool.parameters.get("properties")
    return found if isinstance(found, dict) else {}


def kind_of(schema: Json) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return kind if isinstance(kind, str) else "string"


def strings(tool: ToolSpec) -> list[str]:
    """Names of the tool's free-text parameters: strings without an enum."""
    return [
        name
        for name, schema in parameters(tool).items()
        if kind_of(schema) == "string" and not (isinstance(schema, dict) and "enum" in schema)
    ]


def ending(task: Task) -> ToolSpec | None:
    """The tool that ends the episode, recognised by its usual names; otherwise the last tool. None without
    tools.
    """
    named = {tool.name: tool for tool in task.tools}
    return next((named[name] for name in _ENDINGS if name in named), task.tools[-1] if task.tools else None)


def fill(tool: ToolSpec, text: str, /, **given: Json) -> Call:
    """A call that fits the schema: `text` for every free string, the smallest value for every other
    parameter, `given` on top.
    """
    plain: dict[str, Json] = {
        "integer": 1,
        "number": 1.0,
        "boolean": True,
        "array": [],
        "object": {},
        "null": None,
    }
    arguments: dict[str, Json] = {}
    for name, schema in parameters(tool).items():
        choices = schema.get("enum") if isinstance(schema, dict) else None
        arguments[name] = (
            choices[0] if isinstance(choices, list) and choices else plain.get(kind_of(schema), text)
        )
    return Call(tool=tool.name, arguments=arguments | given, raw=f"{tool.name} {text}")


def words_of(text: str) -> list[str]:
    """Distinct words in order of appearance. Leaves out the shell's clock commands: an episode that reads a
    clock never repeats.
    """
    return [word for word in dict.fromkeys(_WORD.findall(text)) if word not in _CLOCKS][:_MOST_WORDS]


def prompt_of(task: Task) -> str:
    return task.prompt.get(Dialect.NATURAL) or next(iter(task.prompt.values()), "")


def nothing() -> Script:
    yield from ()


def at_random(task: Task, seed: int) -> ScriptFactory:
    """Draws tools uniformly, with arguments that fit the schema and words it has read. Ends the episode only
    by chance.
    """

    def script() -> Script:
        rng = random.Random(f"audit/random/{seed}")
        words = words_of(" ".join(task.prompt.values())) or ["0"]
        end = ending(task)
        while task.tools:
            tool = rng.choice(task.tools)
            if end is not None and tool.name == end.name and rng.random() < 0.5:
                tool = rng.choice(task.tools)
            call = fill(tool, "")
            drawn = {name: _random_value(rng, schema, words) for name, schema in parameters(tool).items()}
            event = yield replace(call, arguments=drawn)
            words = list(dict.fromkeys([*words, *words_of(event.text)]))[:_MOST_WORDS]

    return script


def exploring(task: Task, seed: int, guide: ScriptFactory = nothing) -> ScriptFactory:
    """Follows `guide` for a few calls, then sends every tool the words it has read (newest first) and those
    of the prompt. Never ends the episode on purpose.
    """

    def script() -> Script:
        rng = random.Random(f"audit/exploring/{seed}")
        end = ending(task)
        tools = [tool for tool in task.tools if end is None or tool.name != end.name]
        words = [*words_of(" ".join(task.prompt.values())), "1", "2", "0"]
        rng.shuffle(words)
        said: set[str] = set()
        inner, follows = coping(guide)(), rng.randrange(5)
        call = advance(inner)
        while tools:
            if call is None or follows == 0 or (end is not None and call.tool == end.name):
                call, follows = _said(rng, rng.choice(tools), words, said), 0
            event = yield call
            words = list(dict.fromkeys([*words_of(event.text)[:40], *words]))[:_MOST_WORDS]
            follows = max(follows - 1, 0)
            call = advance(inner, event) if follows else None

    return script


def _said(rng: random.Random, tool: ToolSpec, words: Sequence[str], said: set[str]) -> Call:
    """A call with words that this tool has not been sent yet, as far as there are any; records them in
    `said`.
    """
    drawn: dict[str, Json] = {}
    for name, schema in parameters(tool).items():
        fresh = [word for word in words if f"{tool.name}.{name}.{word}" not in said] or words
        word = fresh[0] if rng.random() < 0.7 else rng.choice(fresh)
        said.add(f"{tool.name}.{name}.{word}")
        drawn[name] = (
            word
            if kind_of(schema) == "string" and not _choices(schema)
            else _random_value(rng, schema, words)
        )
    return replace(fill(tool, ""), arguments=drawn)


def _choices(schema: Json) -> bool:
    return isinstance(schema, dict) and isinstance(schema.get("enum"), list)


def _random_value(rng: random.Random, schema: Json, words: Sequence[str]) -> Json:
    choices = schema.get("enum") if isinstance(schema, dict) else None
    if isinstance(choices, list) and choices:
        return rng.choice(choices)
    match kind_of(schema):
        case "integer":
            return rng.randrange(10)
        case "number":
            return round(rng.uniform(0, 10), 2)
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return [rng.choice(words)]
        case "object":
            return {}
        case _:
            return " ".join(rng.choice(words) for _ in range(rng.randrange(1, 4)))


def blind(factory: ScriptFactory) -> ScriptFactory:
    """The same agent, with the text and exit code of every observation removed."""

    def script() -> Script:
        inner = factory()
        try:
            call = advance(inner)
            while call is not None:
                event = yield call
                call = advance(inner, replace(event, text="", exit_code=None))
        except Exception:  # the boundary: a script that needs its observations ends here
            return
        finally:
            finish(inner)

    return script


def coping(factory: ScriptFactory) -> ScriptFactory:
    """The same agent, which ends quietly where its script would raise."""

    def script() -> Script:
        inner = factory()
        try:
            call = advance(inner)
            while call is not None:
                call = advance(inner, (yield call))
        except Exception:  # the boundary: a script that cannot go on just ends
            return
        finally:
            finish(inner)

    return script


def stumbling(factory: ScriptFactory) -> ScriptFactory:
    """The same agent after two mistakes, which cost it two calls and nothing else."""

    def script() -> Script:
        yield Call(tool="no_such_tool", arguments={}, raw="no_such_tool")
        yield Call(tool="", arguments={}, raw="@@ ((", problem="unparsable")
        yield from factory()

    return script


def malformed(task: Task) -> list[tuple[str, Call]]:
    """Malformed calls, each with a name for what is wrong with it."""
    found: list[tuple[str, Call]] = [
        ("unknown tool", Call(tool="no_such_tool", arguments={}, raw="no_such_tool")),
        ("unparsable", Call(tool="", arguments={}, raw="@@ ((", problem="unparsable")),
    ]
    for tool in task.tools:
        required = tool.parameters.get("required")
        if isinstance(required, list) and required:
            found.append(("missing argument", Call(tool=tool.name, arguments={}, raw=tool.name)))
            first = str(required[0])
            if kind_of(parameters(tool).get(first)) in ("string", "integer", "number"):
                nested: list[Json] = [None]
                found.append(("wrong type", fill(tool, "x", **{first: nested})))
    return found


def read(events: Sequence[Event]) -> str:
    return "\n".join(event.text for event in events)
