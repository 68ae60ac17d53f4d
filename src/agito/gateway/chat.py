"""OpenAI's chat completions: requests read, answers written, whole and as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agito.gateway.api_request import AUTO, MOST_CHOICES, NEVER, REQUIRED, Answer, Ask
from agito.gateway.fields import Fields, tool_of
from agito.protocols import Renderer
from agito.render.messages import Message, Said, Speaker, ToolUse
from agito.types import Json, ToolSpec

_SPEAKERS = {
    "system": Speaker.SYSTEM,
    "developer": Speaker.SYSTEM,
    "user": Speaker.USER,
    "assistant": Speaker.ASSISTANT,
    "tool": Speaker.TOOL,
}
_FEW = 1 << 20  # tokens


def read(body: Fields, *, overrides: bool) -> Ask:
    """Raises `Refused`. `overrides`: sampling is the agent's own, so that what only changes it is passed
    over.
    """
    body.refuse("functions", "function_call", "audio", "prediction", "web_search_options")
    body.refuse("modalities", unless=(None, ["text"]))
    if not overrides:
        body.refuse("frequency_penalty", "presence_penalty", unless=(None, 0))
        body.refuse("logit_bias", unless=(None, {}))
    if body.has("response_format"):
        wanted = body.object("response_format")
        if wanted.text("type") != "text":
            raise wanted.wrong(
                "type", "this model's answers cannot be held to a format: ask for text, or for a tool"
            )
    if (body.whole("top_logprobs", 0, 20) or 0) > 0:
        raise body.wrong(
            "top_logprobs", "only the log-probabilities of what was sampled are known: leave it out, or 0"
        )
    messages = tuple(map(_message, body.objects("messages")))
    if not messages:
        raise body.wrong("messages", "must hold at least one message")
    tools = tuple(_tool(each) for each in body.objects("tools"))
    return Ask(
        model=body.text("model"),
        messages=messages,
        tools=tools,
        choice=_choice(body),
        max_tokens=body.whole("max_completion_tokens", 1, _FEW) or body.whole("max_tokens", 1, _FEW),
        temperature=body.number("temperature", 0, 2),
        top_p=body.number("top_p", 0, 1) or None,
        seed=body.whole("seed", -(1 << 63), (1 << 63) - 1),
        stop=body.texts("stop", 4),
        num_choices=body.whole("n", 1, MOST_CHOICES) or 1,
        thinking=body.thinking(),
        is_parallel=body.flag("parallel_tool_calls", True),
        streams=body.flag("stream"),
        wants_logprobs=body.flag("logprobs"),
        wants_usage=body.has("stream_options") and body.object("stream_options").flag("include_usage"),
    )


def _message(given: Fields) -> Message:
    role = given.text("role")
    if role not in _SPEAKERS:
        raise given.wrong("role", f"must be one of {', '.join(_SPEAKERS)}")
    speaker = _SPEAKERS[role]
    if speaker is not Speaker.ASSISTANT:
        if not given.has("content"):
            raise given.wrong("content", "must be a string, or a list of parts")
        text = given.parts("content", ("text",))
        answers = given.text("tool_call_id", "") if speaker is Speaker.TOOL else ""
        return Message(speaker=speaker, text=text, answers=answers)
    thinking = given.text("reasoning_content", "") or given.text("reasoning", "")
    uses = tuple(_use(each) for each in given.objects("tool_calls"))
    return Message(
        speaker=speaker, text=given.parts("content", ("text", "refusal")), uses=uses, thinking=thinking
    )


def _use(given: Fields) -> ToolUse:
    if given.text("type", "function") != "function":
        raise given.wrong("type", "must be function")
    function = given.object("function")
    return ToolUse(
        tool=function.text("name"), arguments=function.text("arguments", ""), id=given.text("id", "")
    )


def _tool(given: Fields) -> ToolSpec:
    if given.text("type") != "function":
        raise given.wrong("type", "must be function")
    return tool_of(given.object("function"), "parameters")


def _choice(body: Fields) -> str:
    value = body.get("tool_choice")
    if value is None or value in (AUTO, NEVER, REQUIRED):
        return AUTO if value is None else str(value)
    if isinstance(value, str):
        raise body.wrong("tool_choice", f"must be {AUTO}, {NEVER}, {REQUIRED}, or name a function")
    return body.object("tool_choice").object("function").text("name")


def whole(ask: Ask, answers: Sequence[Answer], renderer: Renderer, *, name: str, created: int) -> Json:
    choices: list[Json] = [
        {
            "index": number,
            "message": _written(answer.said),
            "finish_reason": answer.finish,
            "logprobs": _logprobs(answer, renderer) if ask.wants_logprobs else None,
        }
        for number, answer in enumerate(answers)
    ]
    head = _head("chat.completion", ask, name, created)
    return {**head, "choices": choices, "usage": usage(answers)}


def _head(kind: str, ask: Ask, name: str, created: int) -> dict[str, Json]:
    return {"id": name, "object": kind, "created": created, "model": ask.model, "system_fingerprint": None}


def _written(said: Said) -> dict[str, Json]:
    message: dict[str, Json] = {
        "role": "assistant",
        "content": said.text if said.text or not said.uses else None,
        "refusal": None,
    }
    if said.uses:
        message["tool_calls"] = [_call(use) for use in said.uses]
    if said.thinking:
        message["reasoning_content"] = said.thinking
    return message


def _call(use: ToolUse) -> dict[str, Json]:
    return {"id": use.id, "type": "function", "function": {"name": use.tool, "arguments": use.arguments}}


def _logprobs(answer: Answer, renderer: Renderer) -> Json:
    entries: list[Json] = []
    for token, logprob in zip(answer.ids, answer.logprobs, strict=True):
        piece = renderer.text([token])
        entries.append(
            {
                "token": piece,
                "logprob": logprob,
                "bytes": list(piece.encode("utf-8", "replace")),
                "top_logprobs": [],
            }
        )
    return {"content": entries, "refusal": None}


def usage(answers: Sequence[Answer]) -> Json:
    prompt, completion = answers[0].num_prompt, sum(len(answer.ids) for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": min(answers[0].num_kept, prompt), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(answer.num_thinking for answer in answers),
            "audio_tokens": 0,
        },
    }


class Stream:
    """The events of one streamed answer, choice after choice."""

    def __init__(self, ask: Ask, renderer: Renderer, *, name: str, created: int) -> None:
        self._ask, self._renderer = ask, renderer
        self._head = _head("chat.completion.chunk", ask, name, created)
        self._sent: dict[int, Said] = {}

    def more(self, index: int, said: Said) -> Iterator[bytes]:
        """What has been added to thinking and text."""
        before = self._sent.get(index)
        if before is None:
            before = Said(text="")
            yield self._chunk(index, {"role": "assistant", "content": ""})
        for field, old, new in (
            ("reasoning_content", before.thinking, said.thinking),
            ("content", before.text, said.text),
        ):
            if len(new) > len(old):
                yield self._chunk(index, {field: new[len(old) :]})
        self._sent[index] = said

    def end(self, index: int, answer: Answer) -> Iterator[bytes]:
        yield from self.more(index, replace(answer.said, uses=()))
        for number, use in enumerate(answer.said.uses):
            yield self._chunk(index, {"tool_calls": [{"index": number, **_call(replace(use, arguments=""))}]})
            if use.arguments:
                yield self._chunk(
                    index, {"tool_calls": [{"index": number, "function": {"arguments": use.arguments}}]}
                )
        logprobs = _logprobs(answer, self._renderer) if self._ask.wants_logprobs else None
        yield self._chunk(index, {}, finish=answer.finish, logprobs=logprobs)

    def close(self, answers: Sequence[Answer]) -> Iterator[bytes]:
        if self._ask.wants_usage:
            yield event({**self._head, "choices": [], "usage": usage(answers)})
        yield b"data: [DONE]\n\n"

    def _chunk(
        self, index: int, delta: dict[str, Json], *, finish: str | None = None, logprobs: Json = None
    ) -> bytes:
        choice: Json = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return event({**self._head, "choices": [choice]})


def event(data: Json, name: str = "") -> bytes:
    """One of a stream of server-sent events."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()
