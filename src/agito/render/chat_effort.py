"""Efforts of a pre-trained model, in the words of its chat template.

Where the template takes `reasoning_effort` it is given a level, where it takes `enable_thinking` it is told,
and Qwen3's soft switch stands behind the prompt. A line of the system's says the effort where no level does.
The turn begins within a block, which is empty for `none`. Tags are found in the text, however many tokens
they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agito.protocols import Thought
from agito.render.effort import INSIDE, TAG, Blocks
from agito.render.messages import Message, Speaker, messages_of
from agito.render.template import UnsupportedTemplate
from agito.types import Effort, Json, Task, ToolSpec

if TYPE_CHECKING:
    from agito.render.chat import ChatRenderer

_LEVELS = {Effort.NONE: "low", Effort.AUTO: "medium"}  # of templates that know three
_TAGS, _IN_CHANNELS = ("<think>", "</think>"), ("<|channel|>analysis<|message|>", "<|end|>")
_GOES_ON = "<|start|>assistant"  # behind a thought, in channels


def variables_of(source: str, effort: Effort) -> dict[str, Json]:
    """What a template is told."""
    found: dict[str, Json] = {}
    if "reasoning_effort" in source:
        found["reasoning_effort"] = _LEVELS.get(effort, effort.value)
    if "enable_thinking" in source:
        found["enable_thinking"] = effort is not Effort.NONE
    return found


class ChatBlocks(Blocks):
    """`inner` has been told of the effort as its template takes it. Raises `UnsupportedTemplate`."""

    _inner: ChatRenderer

    def __init__(self, inner: ChatRenderer, effort: Effort) -> None:
        super().__init__(inner, effort)
        source = inner.chat_template
        in_channels = _IN_CHANNELS[0].partition(">")[0] in source and "analysis" in source
        self._begin, self._end = _IN_CHANNELS if in_channels else _TAGS
        self._goes_on = _GOES_ON if in_channels else "\n\n"
        self._has_level = "reasoning_effort" in source
        self._switch = "enable_thinking" in source and not inner.opens_thinking
        self.closer = inner.encode(self._end + self._goes_on)
        if inner.opens_thinking:
            closed = inner.encode(f"\n{self._end}{self._goes_on}")
            self._before, self.opener = closed, closed if effort is Effort.NONE else array("i")
            return
        empty = "" if in_channels else "\n\n"
        said = f"{self._begin}{empty}{self._end}{self._goes_on}" if effort is Effort.NONE else self._begin
        if not in_channels and effort is not Effort.NONE:
            said += "\n"
        is_written = effort is Effort.NONE and inner.opens_closed  # by the template
        self.opener = array("i") if is_written else inner.encode(said)

    def opening(self, task: Task) -> array[int]:
        messages = messages_of(task)
        if self._switch:
            last = max(at for at, each in enumerate(messages) if each["role"] == "user")
            switch = "/no_think" if self.effort is Effort.NONE else "/think"
            messages[last] |= {"content": f"{messages[last]['content']} {switch}"}
        line = f"Reasoning effort: {self.effort}."
        is_told = self._has_level and self.effort not in _LEVELS
        return self._opened(task, messages if is_told else _told(messages, line)) + self.opener

    def _opened(self, task: Task, messages: list[dict[str, Json]]) -> array[int]:
        try:
            return self._inner.opening(replace(task, messages=tuple(messages)))
        except UnsupportedTemplate:  # some take no system message
            line, *rest = messages
            if line["role"] != "system" or not rest:
                raise
            first = rest[0] | {"content": f"{line['content']}\n\n{rest[0]['content']}"}
            return self._inner.opening(replace(task, messages=(first, *rest[1:])))

    def told(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """A client's conversation, with the effort said at its beginning."""
        line = f"Reasoning effort: {self.effort}."
        first, *rest = messages
        if first.speaker is Speaker.SYSTEM:
            return replace(first, text=f"{first.text}\n\n{line}"), *rest
        asked = (Message(speaker=Speaker.SYSTEM, text=line), *messages)
        try:
            self._inner.conversation(asked[:2], ())
        except ValueError:  # this template takes no system message
            return replace(first, text=f"{line}\n\n{first.text}"), *rest
        return asked

    def thought(self, ids: Sequence[int], tools: Sequence[ToolSpec] = ()) -> Thought:
        where, is_open, may_reopen = self._scan(ids)
        leaked = self._leaked(ids, where, tools) if tools and not is_open else 0
        return Thought(
            num_tokens=where.count(INSIDE), is_open=is_open, num_leaked=leaked, may_reopen=may_reopen
        )

    def _encode(self, text: str) -> array[int]:
        return self._inner.encode(text)

    def _where(self, ids: Sequence[int]) -> bytes:
        return self._scan(ids)[0]

    def _is_open(self, ids: Sequence[int]) -> bool:
        return self._scan(ids)[1]

    def _scan(self, ids: Sequence[int]) -> tuple[bytes, bool, bool]:
        """Where each token stands, whether a block is open at the end, and whether one may be opened next."""
        pieces = self._inner.pieces(ids)
        text, is_open, at = "".join(pieces), self.effort is not Effort.NONE, 0
        marks, may_reopen = bytearray(len(text)), False
        while True:
            if is_open:
                stop = text.find(self._end, at)
                marks[at : len(text) if stop < 0 else stop] = bytes([INSIDE]) * (
                    (len(text) if stop < 0 else stop) - at
                )
                if stop < 0:
                    break
                at = stop + len(self._end)
                marks[stop:at] = bytes([TAG]) * len(self._end)
                is_open = False
                goes_on = len(text) - len(text[at:].removeprefix(self._goes_on).lstrip())
                marks[at:goes_on] = bytes([TAG]) * (goes_on - at)
            rest = text[at:]
            begin = len(text) - len(rest.removeprefix(self._goes_on).lstrip())
            may_reopen = self._begin.startswith(text[begin:]) or self._goes_on.startswith(rest)
            if not text.startswith(self._begin, begin):
                break
            marks[begin : begin + len(self._begin)] = bytes([TAG]) * len(self._begin)
            at, is_open, may_reopen = begin + len(self._begin), True, False
        return _of_tokens(ids, pieces, bytes(marks), self.stop_ids), is_open, may_reopen and not is_open


def _of_tokens(ids: Sequence[int], pieces: Sequence[str], marks: bytes, stops: Sequence[int]) -> bytes:
    """A token that holds any of a thought is of it; one that ends the turn is none."""
    found, at, last = bytearray(), 0, 0
    for token, piece in zip(ids, pieces, strict=True):
        own = marks[at : at + len(piece)]
        at += len(piece)
        last = last if not own else INSIDE if INSIDE in own else TAG if TAG in own else 0
        found.append(TAG if last == INSIDE and token in stops else last)
    return bytes(found)


def _told(messages: list[dict[str, Json]], line: str) -> list[dict[str, Json]]:
    """With a line of the system's."""
    first, *rest = messages
    if first["role"] == "system":
        return [first | {"content": f"{first['content']}\n\n{line}"}, *rest]
    return [{"role": "system", "content": line}, *messages]
