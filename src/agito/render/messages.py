"""A conversation as a client of a chat API holds it, and the part of a renderer that puts it into tokens.

An episode has one shape (task, turns, events), which `Renderer` writes. A client may send anything: system
messages anywhere, answers that it rewrote, results without calls. `Conversing` writes that too, whole, or as
what follows a turn that was sampled.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast, runtime_checkable

from agito.protocols import Renderer, ThoughtfulCall
from agito.render import policy_json
from agito.types import Call, Dialect, Event, Json, Task, ToolSpec


class Speaker(StrEnum):
    """Whose message it is."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """A call as a chat API writes it. `arguments` is JSON as text, to the letter."""

    tool: str
    arguments: str
    id: str = ""

    def parsed(self) -> dict[str, Json] | None:
        """None for what is no JSON object."""
        try:
            found = policy_json.parse(self.arguments)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One of a conversation. `uses` and `thinking` are an assistant's; `answers` is the id of the call that a
    tool's message answers.
    """

    speaker: Speaker
    text: str = ""
    uses: tuple[ToolUse, ...] = ()
    thinking: str = ""
    answers: str = ""
    tool: str = ""  # the name of the tool that answers, where it is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One sampled turn as a client reads it: a call that cannot be parsed stays text."""

    text: str
    uses: tuple[ToolUse, ...] = ()
    thinking: str = ""


@runtime_checkable
class Conversing(Renderer, Protocol):
    """A renderer that any conversation can be put through. Raises `ValueError` for what its format does not
    take.
    """

    def conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> array[int]:
        """The whole, up to and including the token that opens the assistant's turn."""
        ...

    def continuation(self, messages: Sequence[Message]) -> array[int]:
        """What follows the end token of a sampled turn: these messages, then what opens the next turn."""
        ...

    def said(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Said:
        """What one turn says, its end token included or not. Without tools there are no calls. Where there
        are tools, the text has no white space around it.
        """
        ...

    def begun(self, tool: str) -> array[int]:
        """The tokens with which a call begins, up to its arguments; up to its name where `tool` is empty."""
        ...


def used(call: Call) -> ToolUse:
    """The call with its arguments as `json.dumps` writes them: what clients that dump anew send back
    unchanged.
    """
    return ToolUse(tool=call.tool, arguments=json.dumps(dict(call.arguments), ensure_ascii=False))


def thoughts_of(events: Sequence[Event]) -> list[str]:
    """What demonstrators thought."""
    return [event.call.thinking for event in events if isinstance(event.call, ThoughtfulCall)]


def prompt_of(task: Task, dialect: Dialect = Dialect.NATURAL) -> str:
    """What an agent is asked: in a chat, with the number of its turns."""
    said = task.prompt[dialect]
    return said if dialect is Dialect.COMPACT else f"{said}\n\n{allowance(task.limits.turns)}"


def messages_of(task: Task) -> list[dict[str, Json]]:
    """What a chat model is asked: the task's own conversation where it has one."""
    return [dict(message) for message in task.messages] or [{"role": "user", "content": prompt_of(task)}]


def allowance(turns: int) -> str:
    """What a chat model is told at the beginning."""
    return f"You have {turns} turn{'s' * (turns != 1)}."


def answered(event: Event) -> str:
    """What a chat model reads of an event."""
    status = f"[{event.fault}]\n" if event.fault else ""
    left = f"\n[{event.left.turns} turns left]" if event.left else ""
    return policy_json.printable(f"{status}{event.text}{left}")


def call_json(use: ToolUse) -> str:
    """As JSON with the keys `name` and `arguments`, the latter to the letter."""
    return f'{{"name": {json.dumps(use.tool, ensure_ascii=False)}, "arguments": {use.arguments or "{}"}}}'


def with_tool_names(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Each tool's message with the name of the tool that it answers for."""
    names: dict[str, str] = {}
    named = list[Message]()
    for message in messages:
        names.update({use.id: use.tool for use in message.uses})
        if message.speaker is Speaker.TOOL and not message.tool:
            message = Message(
                speaker=Speaker.TOOL,
                text=message.text,
                answers=message.answers,
                tool=names.get(message.answers, "tool"),
            )
        named.append(message)
    return tuple(named)


def templated(messages: Sequence[Message]) -> list[dict[str, Json]]:
    """As chat templates read them; calls are numbered, as some templates ask for ids of one form."""
    numbers: dict[str, int] = {}
    written = list[dict[str, Json]]()
    for message in messages:
        if message.speaker is Speaker.TOOL:
            number = numbers.setdefault(message.answers, len(numbers))
            written.append(
                {
                    "role": "tool",
                    "tool_call_id": call_id(number),
                    "name": message.tool or "tool",
                    "content": message.text,
                }
            )
            continue
        text = f"<think>{message.thinking}</think>{message.text}" if message.thinking else message.text
        entry: dict[str, Json] = {"role": message.speaker.value, "content": text}
        if message.uses:
            entry["tool_calls"] = [
                _templated(use, numbers.setdefault(use.id or str(len(numbers)), len(numbers)))
                for use in message.uses
            ]
        written.append(entry)
    return written


def call_id(number: int) -> str:
    return f"call{number:05d}"  # nine letters: Mistral's templates ask for that


def _templated(use: ToolUse, number: int) -> Json:
    arguments = use.parsed()
    function: Json = {
        "name": use.tool,
        "arguments": use.arguments if arguments is None else cast("Json", arguments),
    }
    return {"id": call_id(number), "type": "function", "function": function}
