"""Anthropic's messages: requests read, answers written, whole and as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agito.gateway.api_request import AUTO, NEVER, REQUIRED, Answer, Ask
from agito.gateway.chat import event
from agito.gateway.fields import Fields, tool_of
from agito.protocols import Renderer
from agito.render.messages import Message, Said, Speaker, ToolUse
from agito.types import Json, Thinking, ToolSpec

_FEW = 1 << 20  # tokens
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def read(body: Fields, *, overrides: bool) -> Ask:
    """Raises `Refused`."""
    return replace(
        read_prompt(body),
        max_tokens=_required(body),
        temperature=body.number("temperature", 0, 1),
        top_p=_top_p(body, overrides=overrides),
        stop=body.texts("stop_sequences", 16),
        streams=body.flag("stream"),
    )


def read_prompt(body: Fields) -> Ask:
    """What tokens are counted of, without how they are answered."""
    system = _text(body, "system")
    messages = [Message(speaker=Speaker.SYSTEM, text=system)] if system else []
    for each in body.objects("messages"):
        messages += _messages(each)
    if not any(message.speaker is not Speaker.SYSTEM for message in messages):
        raise body.wrong("messages", "must hold at least one message")
    choice = body.object("tool_choice") if body.has("tool_choice") else None
    return Ask(
        model=body.text("model"),
        messages=tuple(messages),
        tools=tuple(_tool(each) for each in body.objects("tools")),
        choice=AUTO if choice is None else _choice(choice),
        thinking=_thinking(body),
        is_parallel=choice is None or not choice.flag("disable_parallel_tool_use"),
    )


def _required(body: Fields) -> int:
    found = body.whole("max_tokens", 1, _FEW)
    if found is None:
        raise body.wrong("max_tokens", "is required")
    return found


def _top_p(body: Fields, *, overrides: bool) -> float | None:
    if not overrides:
        body.refuse("top_k", unless=(None, 0, -1))
    return body.number("top_p", 0, 1) or None


def _text(given: Fields, name: str) -> str:
    """A string, or blocks of text one after the other."""
    return given.parts(name, ("text",))


def _messages(given: Fields) -> list[Message]:
    """A user's message may hold results of tools, which are messages of their own, and text."""
    role = given.text("role")
    if role not in ("user", "assistant", "system"):
        raise given.wrong("role", "must be user or assistant")
    content = given.get("content")
    if isinstance(content, str) or role == "system":
        return [Message(speaker=Speaker(role), text=_text(given, "content"))]
    if not given.has("content"):
        raise given.wrong("content", "must be a string, or a list of blocks")
    blocks = given.objects("content")
    return [_answer(blocks)] if role == "assistant" else _asked(blocks)


def _answer(blocks: Sequence[Fields]) -> Message:
    text, thinking, uses = "", "", list[ToolUse]()
    for block in blocks:
        match block.text("type"):
            case "text":
                text += block.text("text")
            case "thinking":
                thinking += block.text("thinking", "")
            case "tool_use":
                block.object("input")
                arguments = json.dumps(block.get("input"), ensure_ascii=False)
                uses.append(ToolUse(tool=block.text("name"), arguments=arguments, id=block.text("id", "")))
            case kind:
                raise block.wrong("type", f"{kind!r} cannot be read by this model")
    return Message(speaker=Speaker.ASSISTANT, text=text, uses=tuple(uses), thinking=thinking)


def _asked(blocks: Sequence[Fields]) -> list[Message]:
    messages: list[Message] = []
    text: list[str] = []
    for block in blocks:
        match block.text("type"):
            case "text":
                text.append(block.text("text"))
            case "tool_result":
                messages.append(
                    Message(
                        speaker=Speaker.TOOL,
                        text=_text(block, "content"),
                        answers=block.text("tool_use_id", ""),
                    )
                )
            case kind:
                raise block.wrong("type", f"{kind!r} cannot be read by this model: it reads text")
    return (
        [*messages, Message(speaker=Speaker.USER, text="".join(text))] if text or not messages else messages
    )


def _tool(given: Fields) -> ToolSpec:
    if given.text("type", "custom") != "custom":
        raise given.wrong("type", "must be custom: there are no other tools here")
    return tool_of(given, "input_schema")


def _choice(given: Fields) -> str:
    kinds = {"auto": AUTO, "none": NEVER, "any": REQUIRED}
    kind = given.text("type")
    if kind != "tool" and kind not in kinds:
        raise given.wrong("type", "must be auto, any, none or tool")
    return given.text("name") if kind == "tool" else kinds[kind]


def _thinking(body: Fields) -> Thinking | None:
    has_effort = body.has("output_config") and body.object("output_config").has("effort")
    effort = body.object("output_config").effort("effort") if has_effort else None
    return body.budgeted(effort)


def whole(ask: Ask, answers: Sequence[Answer], renderer: Renderer, *, name: str, created: int) -> Json:
    answer = answers[0]
    found: dict[str, Json] = {"content": _blocks(answer.said), "usage": _usage(answer)}
    return _head(ask, name) | found | _ended(answer)


def _head(ask: Ask, name: str) -> dict[str, Json]:
    nothing: Json = {
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": nothing,
    }


def _ended(answer: Answer) -> dict[str, Json]:
    return {
        "stop_reason": "stop_sequence" if answer.stop else _REASONS[answer.finish],
        "stop_sequence": answer.stop,
    }


def _usage(answer: Answer) -> Json:
    kept = min(answer.num_kept, answer.num_prompt)
    return {
        "input_tokens": answer.num_prompt - kept,
        "output_tokens": len(answer.ids),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": kept,
    }


def _blocks(said: Said) -> list[Json]:
    thinking: list[Json] = (
        [{"type": "thinking", "thinking": said.thinking, "signature": ""}] if said.thinking else []
    )
    text: list[Json] = [{"type": "text", "text": said.text}] if said.text or not said.uses else []
    return [*thinking, *text, *(_use(use, use.parsed() or {}) for use in said.uses)]


def _use(use: ToolUse, arguments: dict[str, Json]) -> dict[str, Json]:
    return {"type": "tool_use", "id": use.id, "name": use.tool, "input": arguments}


class Stream:
    """The events of one streamed answer."""

    def __init__(self, ask: Ask, renderer: Renderer, *, name: str, created: int) -> None:
        self._ask, self._name = ask, name
        self._sent: Said | None = None
        self._open = ""  # the kind of block that is open
        self._index = -1

    def more(self, index: int, said: Said) -> Iterator[bytes]:
        sent = self._sent
        if sent is None:
            sent = Said(text="")
            yield _event("message_start", message=_head(self._ask, self._name))
        if len(said.thinking) > len(sent.thinking):
            yield from self._begin({"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": said.thinking[len(sent.thinking) :]})
        if len(said.text) > len(sent.text):
            yield from self._begin({"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": said.text[len(sent.text) :]})
        self._sent = said if len(said.text) >= len(sent.text) else replace(said, text=sent.text)

    def end(self, index: int, answer: Answer) -> Iterator[bytes]:
        said = answer.said
        yield from self.more(index, replace(said, uses=()))
        if not said.uses:
            yield from self._begin({"type": "text", "text": ""})
        for use in said.uses:
            yield from self._end()
            yield from self._begin(_use(use, {}))
            yield self._delta({"type": "input_json_delta", "partial_json": use.arguments})
        yield from self._end()

    def close(self, answers: Sequence[Answer]) -> Iterator[bytes]:
        yield _event("message_delta", delta=_ended(answers[0]), usage=_usage(answers[0]))
        yield _event("message_stop")

    def _begin(self, block: dict[str, Json]) -> Iterator[bytes]:
        kind = str(block["type"])
        if self._open != kind:
            yield from self._end()
            self._open, self._index = kind, self._index + 1
            yield _event("content_block_start", index=self._index, content_block=block)

    def _end(self) -> Iterator[bytes]:
        if self._open:
            self._open = ""
            yield _event("content_block_stop", index=self._index)

    def _delta(self, delta: Json) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **data: Json) -> bytes:
    return event({"type": kind, **data}, kind)
