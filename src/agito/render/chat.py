"""A pre-trained model's own tokenizer and chat template as a renderer.

The opening is what the template makes of the task. An observation is what the template writes between the end
of one turn of the assistant's and the beginning of its next; it does not depend on what was said before, so
nothing is ever tokenised twice. Past thinking is kept as it was sampled, in training and in serving alike;
`strips_thinking` says that the template itself would drop it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

from agito.render.chat_effort import ChatBlocks, variables_of
from agito.render.conversation import Conversation
from agito.render.messages import (
    Message,
    Said,
    Speaker,
    answered,
    messages_of,
    templated,
    used,
    with_tool_names,
)
from agito.render.policy_json import printable
from agito.render.template import Message as Entry
from agito.render.template import UnsupportedTemplate, dated, strings
from agito.render.tokenizer import ModelTokenizer, free_mark
from agito.render.tool_formats import FORMATS
from agito.render.tool_formats.base import after_space, begins_call
from agito.render.tool_formats.hermes import with_tools
from agito.types import Call, Channel, Dialect, Effort, Event, Json, Task, ToolSpec

Tools: TypeAlias = Literal["auto", "own", "hermes"]
AUTO = "auto"
KEEPING = "chat_template_keeping.jinja"
_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel|>analysis<|message|>", "<|end|>"))
_GOES_ON = "<|start|>assistant"  # before a second thought, in channels
_CHANNEL, _FINAL = "<|channel|>", "<|channel|>final<|message|>"


class ChatRenderer:
    """`tools`: who says how calls are offered and written: the model's own template, or Hermes around it.

    `tool_format`: a name in `FORMATS`, else what the template writes calls in.
    """

    dialect = Dialect.NATURAL

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        template: str,
        *,
        vocab_size: int | None = None,
        end_ids: Sequence[int] = (),
        variables: Mapping[str, Json] | None = None,
        tools: Tools = "auto",
        tool_format: str = AUTO,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """`end_ids` end a turn beside the template's own token; `files` are what both were read from.

        Raises `UnsupportedTemplate`, which says what does not hold.
        """
        self._tokenizer, self._files = tokenizer, dict(files or {})
        self._asking = dict[Effort, ChatBlocks]()
        self._remade = partial(
            ChatRenderer,
            tokenizer,
            template,
            vocab_size=vocab_size,
            end_ids=end_ids,
            tools=tools,
            tool_format=tool_format,
            files=files,
        )
        self._template, self._variables = template, dict(variables or {})
        self.vocab_size = len(tokenizer) if vocab_size is None else vocab_size
        if tokenizer.largest_id >= self.vocab_size:
            raise UnsupportedTemplate(
                f"the tokenizer has the id {tokenizer.largest_id}, the network only {self.vocab_size} rows"
            )
        self._conversation = _fitting(dated(template), tokenizer, variables or {}, tools, tool_format)
        ends = [token for token in map(tokenizer.control, self._conversation.ends) if token is not None]
        self.stop_ids = tuple(dict.fromkeys((*ends, *end_ids)))
        # What an assistant that is imitated may say as control tokens.
        self._free = frozenset((*_THOUGHTS[0], *_THOUGHTS[1], *self._conversation.format.tags))

    @property
    def chat_template(self) -> str:
        return self._conversation.source

    @property
    def tool_format(self) -> str:
        """The name of the format in which calls are read and written."""
        return self._conversation.format.name

    @property
    def wanted(self) -> str:
        """How a call is written, for people."""
        return self._conversation.format.wanted

    @property
    def is_own(self) -> bool:
        """Whether the model's own template offers tools and writes calls."""
        return self._conversation.is_own

    @property
    def opens_thinking(self) -> bool:
        """Whether the template begins a turn within a thought."""
        return self._conversation.opens_thinking

    @property
    def opens_closed(self) -> bool:
        """Whether it begins a turn with an empty thought."""
        return self._conversation.opens_closed

    def encode(self, text: str) -> array[int]:
        """Of the template's own words."""
        return self._encode(text, "")

    def asking(self, effort: Effort) -> ChatBlocks:
        """The renderer for this effort. Raises `UnsupportedTemplate`."""
        if effort not in self._asking:
            told = variables_of(self._template, effort)
            inner = self._remade(variables=self._variables | told) if told else self
            self._asking[effort] = ChatBlocks(inner, effort)
        return self._asking[effort]

    @property
    def strips_thinking(self) -> bool:
        return self._conversation.strips_thinking

    @property
    def keeping_template(self) -> str | None:
        """A chat template that keeps past thinking as it was sampled, where the model's own drops it."""
        return self._conversation.keeping

    def files(self) -> Mapping[str, str]:
        kept = self.keeping_template
        return self._files | {"chat_template.jinja": self.chat_template} | ({KEEPING: kept} if kept else {})

    def opening(self, task: Task) -> array[int]:
        return self._encode(*self._conversation.whole(messages_of(task), task.tools))

    def observation(self, events: Sequence[Event]) -> array[int]:
        names = [printable(event.call.tool) or "tool" for event in events]
        return self._encode(*self._conversation.observation(names, [answered(event) for event in events]))

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        """Raises `ValueError` for calls that the format cannot say."""
        speech = _speech(tools)
        for call in calls:
            if speech is not None and call.tool == speech.name:
                text = str(next(iter(call.arguments.values()), ""))
                return self._encode(*self._conversation.speech(text, tools))
        return self._encode(*self._conversation.action(calls, tools))

    def stretches(
        self, messages: Sequence[Entry], tools: Sequence[Json] = ()
    ) -> list[tuple[array[int], bytes]]:
        """The tokens of a whole conversation, and 1 for each that the assistant said, its end included.

        Where the template rewrites what was said as the conversation grows, a new stretch begins, with what
        it then writes. Raises `UnsupportedTemplate`.
        """
        found: list[tuple[array[int], bytes]] = []
        mark = free_mark(strings([*messages, *tools]))
        for read, said, is_new in self._conversation.turns(messages, tools, mark, self._free):
            if is_new:
                found.append((array("i"), b""))
            before, turn = self._encode(read, mark), self._encode(said, mark)
            ids, trainable = found[-1]
            found[-1] = (ids + before + turn, trainable + bytes(len(before)) + b"\1" * len(turn))
        return found

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        is_cut, speech = not ids or ids[-1] not in self.stop_ids, _speech(tools)
        text = self.text(ids if is_cut else ids[:-1])
        said = text[self._thought(text) :]
        tool_format = self._conversation.format
        if speech is not None and (len(tools) == 1 or not begins_call(tool_format, said, tools)):
            answer = said.rpartition(_FINAL)[2] if said.lstrip().startswith(_CHANNEL) else said
            return (speech.spoken(answer, text),)
        if is_cut:
            return (Call(tool="", arguments={}, raw=text, problem="the turn was cut off"),)
        calls = tuple(call for _, _, call in tool_format.find(said, tools))
        return calls or (
            Call(tool="", arguments={}, raw=said, problem=f"no call in the turn: write {tool_format.wanted}"),
        )

    def channels(self, ids: Sequence[int]) -> bytes:
        """A token that holds any of a tag belongs to what the tag encloses."""
        pieces = self._tokenizer.pieces(ids)
        text, channels, at = "".join(pieces), bytearray(), 0
        letters = bytearray([Channel.TEXT]) * len(text)
        thought = self._thought(text)
        letters[:thought] = bytes([Channel.THINK]) * thought
        for start, stop, _ in self._conversation.format.find(text[thought:], ()):
            letters[thought + start : thought + stop] = bytes([Channel.CALL]) * (stop - start)
        for piece in pieces:
            found = letters[at : at + len(piece)]
            channels.append(
                next((each for each in (Channel.THINK, Channel.CALL) if each in found), Channel.TEXT)
            )
            at += len(piece)
        return bytes(channels)

    def text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> array[int]:
        return self._encode(*self._conversation.whole(templated(with_tool_names(messages)), tools))

    def continuation(self, messages: Sequence[Message]) -> array[int]:
        """Does not depend on the turn that was sampled, but for how many of its calls are answered."""
        results = 0
        while results < len(messages) and messages[results].speaker is Speaker.TOOL:
            results += 1
        names = [message.tool or "tool" for message in messages[:results]]
        answers = [message.text for message in messages[:results]]
        return self._encode(*self._conversation.observation(names, answers, templated(messages[results:])))

    def said(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Said:
        text = self.text(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)
        at = self._thought(text)
        thought, text = text[:at], text[at:]
        found = self._conversation.format.find(text, tools) if tools else ()
        good = [each for each in found if each[2].problem is None]
        starts, stops = [0, *(stop for _, stop, _ in good)], [*(start for start, _, _ in good), len(text)]
        left = "".join(text[start:stop] for start, stop in zip(starts, stops, strict=True))
        return Said(
            text=left.strip() if tools else left,
            uses=tuple(used(call) for _, _, call in good),
            thinking=_inside(thought),
        )

    def begun(self, tool: str) -> array[int]:
        return self._tokenizer.encode(self._conversation.format.begin(tool))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return self._tokenizer.pieces(ids)

    def _thought(self, text: str) -> int:
        """Where thinking ends, with which a turn begins or not; the same tags later on, in an argument, mean
        nothing.
        """
        at, opens = 0, self._conversation.opens_thinking
        while True:
            begin = after_space(text, at)
            begin += len(_GOES_ON) * (at > 0 and text.startswith(_GOES_ON, begin))
            close = next(
                (close for start, close in _THOUGHTS if text.startswith(start, begin)),
                _THOUGHTS[0][1] if opens and not at else "",
            )
            if not close:
                return begin if at else 0
            stop = text.find(close, begin)
            if stop < 0:
                return len(text)
            at = stop + len(close)

    def _encode(self, text: str, mark: str) -> array[int]:
        return self._tokenizer.encode(text, mark)


def _fitting(
    template: str, tokenizer: ModelTokenizer, variables: Mapping[str, Json], tools: Tools, tool_format: str
) -> Conversation:
    """The first way of holding a conversation that holds: by the model's own template, else with Hermes
    around it.
    """
    if tool_format not in (AUTO, *FORMATS):
        raise UnsupportedTemplate(f"tool_format={tool_format}: there is {', '.join((AUTO, *FORMATS))}")
    problems: list[str] = []
    for each in FORMATS.values() if tools != "hermes" else ():
        if tool_format in (AUTO, each.name):
            try:
                return Conversation(
                    template, tokenizer, variables, each, writes=tool_format != AUTO and each.name != "hermes"
                )
            except UnsupportedTemplate as error:
                problems.append(f"{each.name}: {error}")
    for has_system in (True, False) if tools != "own" and tool_format in (AUTO, "hermes") else ():
        try:
            return Conversation(
                with_tools(template, has_system=has_system),
                tokenizer,
                variables,
                FORMATS["hermes"],
                is_own=False,
            )
        except UnsupportedTemplate as error:
            problems.append(str(error))
    raise UnsupportedTemplate(problems[-1])


def _speech(tools: Sequence[ToolSpec]) -> ToolSpec | None:
    """The tool that a turn without a call calls."""
    return next((tool for tool in tools if tool.is_speech), None)


def _inside(thought: str) -> str:
    """Without the tags around it."""
    thought = thought.strip()
    for begin, end in _THOUGHTS:
        thought = thought.removeprefix(begin).removesuffix(end)
    return thought
