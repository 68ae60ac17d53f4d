"""OpenAI's responses: requests read, answers written, whole and as a stream. Nothing is stored: every request
brings its whole input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from agito.gateway.api_request import AUTO, NEVER, REQUIRED, Answer, Ask
from agito.gateway.chat import event
from agito.gateway.fields import Fields, tool_of
from agito.protocols import Renderer
from agito.render.messages import Message, Said, Speaker, ToolUse
from agito.types import Json, Thinking, ToolSpec

_SPEAKERS = {
    "system": Speaker.SYSTEM,
    "developer": Speaker.SYSTEM,
    "user": Speaker.USER,
    "assistant": Speaker.ASSISTANT,
}
_TEXTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")
_FEW = 1 << 20  # tokens


def read(body: Fields, *, overrides: bool) -> Ask:
    """Raises `Refused`."""
    body.refuse("previous_response_id", "conversation", "prompt")
    body.refuse("background", unless=(None, False))
    body.refuse("top_logprobs", unless=(None, 0))
    if body.has("text") and body.object("text").has("format"):
        wanted = body.object("text").object("format")
        if wanted.text("type") != "text":
            raise wanted.wrong(
                "type", "this model's answers cannot be held to a format: ask for text, or for a tool"
            )
    given = body.get("input")
    said = (
        [Message(speaker=Speaker.USER, text=body.text("input"))]
        if isinstance(given, str)
        else _items(body.objects("input"))
    )
    if not said:
        raise body.wrong("input", "must be a string, or a list of at least one item")
    instructions = body.text("instructions", "")
    system = [Message(speaker=Speaker.SYSTEM, text=instructions)] if instructions else []
    return Ask(
        model=body.text("model"),
        messages=(*system, *said),
        tools=tuple(_tool(each) for each in body.objects("tools")),
        choice=_choice(body),
        max_tokens=body.whole("max_output_tokens", 1, _FEW),
        temperature=body.number("temperature", 0, 2),
        top_p=body.number("top_p", 0, 1) or None,
        thinking=_thinking(body),
        is_parallel=body.flag("parallel_tool_calls", True),
        streams=body.flag("stream"),
    )


def _thinking(body: Fields) -> Thinking | None:
    reasoning = body.object("reasoning") if body.has("reasoning") else None
    return Thinking(effort=reasoning.effort("effort")) if reasoning and reasoning.has("effort") else None


def _items(items: Sequence[Fields]) -> list[Message]:
    """An answer may come back as several items; they are one message again."""
    said: list[Message] = []
    is_open = False  # the last message is an answer that more may belong to
    for item in items:
        kind = item.text("type", "message")
        part = _item(item, kind)
        last = said[-1] if is_open else None
        if part.speaker is not Speaker.ASSISTANT:
            is_open = False
        elif (
            last is not None
            and not (kind == "message" and (last.text or last.uses))
            and not (kind == "reasoning" and _is_more(last))
        ):
            said[-1] = replace(
                last,
                text=last.text + part.text,
                uses=(*last.uses, *part.uses),
                thinking=last.thinking + part.thinking,
            )
            continue
        else:
            is_open = True
        said.append(part)
    return said


def _is_more(message: Message) -> bool:
    return bool(message.text or message.uses)


def _item(item: Fields, kind: str) -> Message:
    if kind == "message":
        role = item.text("role")
        if role not in _SPEAKERS:
            raise item.wrong("role", f"must be one of {', '.join(_SPEAKERS)}")
        return Message(speaker=_SPEAKERS[role], text=item.parts("content", _TEXTS))
    if kind == "function_call":
        use = ToolUse(
            tool=item.text("name"), arguments=item.text("arguments", ""), id=item.text("call_id", "")
        )
        return Message(speaker=Speaker.ASSISTANT, uses=(use,))
    if kind == "function_call_output":
        return Message(
            speaker=Speaker.TOOL, text=item.parts("output", _TEXTS), answers=item.text("call_id", "")
        )
    if kind == "reasoning":
        return Message(speaker=Speaker.ASSISTANT, thinking=item.parts("content", _TEXTS))
    raise item.wrong("type", f"{kind!r} cannot be read here")


def _tool(given: Fields) -> ToolSpec:
    if given.text("type") != "function":
        raise given.wrong("type", "must be function: there are no other tools here")
    return tool_of(given, "parameters")


def _choice(body: Fields) -> str:
    value = body.get("tool_choice")
    if value is None or value in (AUTO, NEVER, REQUIRED):
        return AUTO if value is None else str(value)
    if isinstance(value, str):
        raise body.wrong("tool_choice", f"must be {AUTO}, {NEVER}, {REQUIRED}, or name a function")
    return body.object("tool_choice").text("name")


def whole(ask: Ask, answers: Sequence[Answer], renderer: Renderer, *, name: str, created: int) -> Json:
    answer = answers[0]
    items: list[Json] = [*_output(answer.said, name)]
    is_cut = answer.finish == "length"
    why: Json = {"reason": "max_output_tokens"} if is_cut else None
    usage: Json = {
        "input_tokens": answer.num_prompt,
        "input_tokens_details": {"cached_tokens": min(answer.num_kept, answer.num_prompt)},
        "output_tokens": len(answer.ids),
        "output_tokens_details": {"reasoning_tokens": answer.num_thinking},
        "total_tokens": answer.num_prompt + len(answer.ids),
    }
    status = "incomplete" if is_cut else "completed"
    found: dict[str, Json] = {"output": items, "usage": usage, "incomplete_details": why}
    return _head(ask, name, created, status) | found


def _head(ask: Ask, name: str, created: int, status: str) -> dict[str, Json]:
    tools: list[Json] = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
            "strict": False,
        }
        for tool in ask.tools
    ]
    choice: Json = (
        ask.choice if ask.choice in (AUTO, NEVER, REQUIRED) else {"type": "function", "name": ask.choice}
    )
    return {
        "id": name,
        "object": "response",
        "created_at": created,
        "status": status,
        "model": ask.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": ask.is_parallel,
        "tools": tools,
        "tool_choice": choice,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "max_output_tokens": ask.max_tokens,
        "usage": None,
        "previous_response_id": None,
        "reasoning": {"effort": ask.effort.value, "summary": None},
        "store": False,
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
    }


def _output(said: Said, name: str) -> list[dict[str, Json]]:
    """The items of an answer."""
    thinking = [_reasoning(name, said.thinking)] if said.thinking else []
    text = [_message(name, said.text)] if said.text or not said.uses else []
    return [*thinking, *text, *map(_call, said.uses)]


def _reasoning(name: str, text: str) -> dict[str, Json]:
    parts: list[Json] = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": f"rs_{name[5:]}", "type": "reasoning", "summary": [], "content": parts}


def _message(name: str, text: str, *, is_done: bool = True) -> dict[str, Json]:
    parts: list[Json] = [_part(text)] if is_done else []
    status = "completed" if is_done else "in_progress"
    return {
        "id": f"msg_{name[5:]}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": parts,
    }


def _part(text: str) -> dict[str, Json]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(use: ToolUse, *, is_done: bool = True) -> dict[str, Json]:
    status, arguments = ("completed", use.arguments) if is_done else ("in_progress", "")
    return {
        "id": f"fc_{use.id[5:]}",
        "type": "function_call",
        "call_id": use.id,
        "name": use.tool,
        "arguments": arguments,
        "status": status,
    }


class Stream:
    """The events of one streamed answer."""

    def __init__(self, ask: Ask, renderer: Renderer, *, name: str, created: int) -> None:
        self._ask, self._renderer, self._name, self._created = ask, renderer, name, created
        self._number = 0
        self._sent = Said(text="")
        self._is_begun = False
        self._open: list[str] = []  # reasoning, message: those that were begun, the last one still open

    def more(self, index: int, said: Said) -> Iterator[bytes]:
        if not self._is_begun:
            self._is_begun = True
            head: Json = _head(self._ask, self._name, self._created, "in_progress")
            yield self._event("response.created", response=head)
            yield self._event("response.in_progress", response=head)
        if len(said.thinking) > len(self._sent.thinking):
            if not self._open:
                yield from self._begin("reasoning", _reasoning(self._name, ""))
            delta = said.thinking[len(self._sent.thinking) :]
            yield self._event(
                "response.reasoning_text.delta",
                **self._at(f"rs_{self._name[5:]}"),
                content_index=0,
                delta=delta,
            )
            self._sent = replace(self._sent, thinking=said.thinking)
        if len(said.text) > len(self._sent.text):
            yield from self._begin_text()
            delta = said.text[len(self._sent.text) :]
            yield self._event(
                "response.output_text.delta",
                **self._at(f"msg_{self._name[5:]}"),
                content_index=0,
                delta=delta,
                logprobs=[],
            )
            self._sent = replace(self._sent, text=said.text)

    def end(self, index: int, answer: Answer) -> Iterator[bytes]:
        said = answer.said
        yield from self.more(index, replace(said, uses=()))
        if said.text or not said.uses:
            yield from self._begin_text()
        yield from self._end_open()
        for number, use in enumerate(said.uses, len(self._open)):
            at: dict[str, Json] = {"output_index": number, "item_id": f"fc_{use.id[5:]}"}
            yield self._event(
                "response.output_item.added", output_index=number, item=_call(use, is_done=False)
            )
            yield self._event("response.function_call_arguments.delta", **at, delta=use.arguments)
            yield self._event(
                "response.function_call_arguments.done", **at, name=use.tool, arguments=use.arguments
            )
            yield self._event("response.output_item.done", output_index=number, item=_call(use))

    def close(self, answers: Sequence[Answer]) -> Iterator[bytes]:
        found = whole(self._ask, answers, self._renderer, name=self._name, created=self._created)
        yield self._event(
            "response.incomplete" if answers[0].finish == "length" else "response.completed", response=found
        )

    def _begin_text(self) -> Iterator[bytes]:
        if "message" not in self._open:
            yield from self._end_open()
            yield from self._begin("message", _message(self._name, "", is_done=False))
            yield self._event(
                "response.content_part.added",
                **self._at(f"msg_{self._name[5:]}"),
                content_index=0,
                part=_part(""),
            )

    def _begin(self, kind: str, item: Json) -> Iterator[bytes]:
        self._open.append(kind)
        yield self._event("response.output_item.added", output_index=len(self._open) - 1, item=item)

    def _end_open(self) -> Iterator[bytes]:
        """Of the item that was begun last."""
        if not self._open:
            return
        if self._open[-1] == "reasoning":
            at, text = self._at(f"rs_{self._name[5:]}"), self._sent.thinking
            yield self._event("response.reasoning_text.done", **at, content_index=0, text=text)
            yield self._event(
                "response.output_item.done",
                output_index=at["output_index"],
                item=_reasoning(self._name, text),
            )
            return
        at, text = self._at(f"msg_{self._name[5:]}"), self._sent.text
        yield self._event("response.output_text.done", **at, content_index=0, text=text, logprobs=[])
        yield self._event("response.content_part.done", **at, content_index=0, part=_part(text))
        yield self._event(
            "response.output_item.done", output_index=at["output_index"], item=_message(self._name, text)
        )

    def _at(self, item: str) -> dict[str, Json]:
        return {"item_id": item, "output_index": len(self._open) - 1}

    def _event(self, kind: str, **data: Json) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **data}, kind)
