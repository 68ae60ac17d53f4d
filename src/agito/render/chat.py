"""A pre-trained model's own tokenizer and chat template as a renderer.

The opening is what the template makes of the task. An observation is what the template writes between the end
of one turn of the assistant's and the beginning of its next; it does not depend on what was said before, so
nothing is ever tokenised twice. That this comes to the same tokens as rendering the whole conversation is
checked when a renderer is made. Past thinking is kept as it was sampled, in training and in serving alike;
`strips_thinking` says that the template itself would drop it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from agito.render import hermes
from agito.render.template import ChatTemplate, Message, UnsupportedTemplate, guarded, strings
from agito.render.tokenizer import ModelTokenizer, free_mark
from agito.types import Call, Channel, Dialect, Event, Json, Task, ToolSpec

Tools: TypeAlias = Literal["auto", "own", "hermes"]
_THINK, _END_THINK = "<think>", "</think>"
# What an assistant that is imitated may say as tokens.
_FREE = frozenset((_THINK, _END_THINK, hermes.OPEN, hermes.CLOSE))
_ASK: Message = {"role": "user", "content": "Go on."}


class ChatRenderer:
    """`tools`: who says how calls are offered and written: the model's own template, if that is in Hermes'
    format, or Hermes around it.
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
        files: Mapping[str, str] | None = None,
    ) -> None:
        """`end_ids` end a turn beside the template's own token; `files` are what both were read from.

        Raises `UnsupportedTemplate`, which says what does not hold.
        """
        self._tokenizer, self._files = tokenizer, dict(files or {})
        self.vocab_size = len(tokenizer) if vocab_size is None else vocab_size
        if tokenizer.largest_id >= self.vocab_size:
            raise UnsupportedTemplate(
                f"the tokenizer has the id {tokenizer.largest_id}, the network only {self.vocab_size} rows"
            )
        self._template, self._end = self._choose(template, tools, variables or {})
        end = tokenizer.control(self._end)
        assert end is not None
        self.stop_ids = tuple(dict.fromkeys((end, *end_ids)))
        thought: list[Message] = [_ASK, _said(f"{_THINK}zebra{_END_THINK}yes"), _ASK]
        self.strips_thinking = (
            "zebra" not in self._template.render(thought, [], prompts=True, is_trusted=True)[0]
        )
        self._opens_thinking = self._template.render([_ASK], [], prompts=True)[0].rstrip().endswith(_THINK)

    @property
    def chat_template(self) -> str:
        return self._template.source

    def files(self) -> Mapping[str, str]:
        return self._files | {"chat_template.jinja": self.chat_template}

    def opening(self, task: Task) -> array[int]:
        prompt = f"{task.prompt[Dialect.NATURAL]}\n\nYou have {task.limits.turns} turns."
        messages: list[Message] = [dict(message) for message in task.messages] or [
            {"role": "user", "content": prompt}
        ]
        return self._encode(*self._template.render(messages, _offers(task.tools), prompts=True))

    def observation(self, events: Sequence[Event]) -> array[int]:
        calls = [Call(tool=event.call.tool or "tool", arguments={}) for event in events]
        answers: list[Message] = [
            _answer(event.call.tool or "tool", number, _response(event))
            for number, event in enumerate(events)
        ]
        text, mark = self._template.render([_ASK, _called(calls), *answers], [], prompts=True)
        return self._encode(text[self._turn(text, mark)[1] :], mark)

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        speech = _speech(tools)
        said = [
            _said(str(next(iter(call.arguments.values()), "")))
            for call in calls
            if speech is not None and call.tool == speech.name
        ]
        answers = [_answer(call.tool, number, "") for number, call in enumerate(calls)]
        turn = said or [_called(calls), *answers]
        text, mark = self._template.render([_ASK, *turn], _offers(tools), prompts=False)
        return self._encode(text[slice(*self._turn(text, mark, tools))], mark)

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Json] = ()
    ) -> list[tuple[array[int], bytes]]:
        """The tokens of a whole conversation, and 1 for each that the assistant said, its end included.

        Where the template writes what was said otherwise as the conversation grows, a new stretch begins,
        with what it then writes. Raises `UnsupportedTemplate`.
        """
        stretches: list[tuple[array[int], bytes]] = []
        mark, so_far = free_mark(strings([*messages, *tools])), ""
        safe = [guarded(message, self._tokenizer, mark, free=_FREE) for message in messages]
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = (
                self._template.render(safe[:until], tools, prompts=prompts, mark=mark, is_trusted=True)[0]
                for until, prompts in ((number, True), (number + 1, False))
            )
            if not after.startswith(before) or self._end not in after[len(before) :]:
                raise UnsupportedTemplate("the chat template opens a turn otherwise once it has been taken")
            if not stretches or not before.startswith(so_far):
                stretches.append((array("i"), b""))
                so_far = ""
            stop = after.index(self._end, len(before)) + len(self._end)
            read, said = (
                self._encode(text, mark) for text in (before[len(so_far) :], after[len(before) : stop])
            )
            ids, trainable = stretches[-1]
            stretches[-1] = (ids + read + said, trainable + bytes(len(read)) + b"\1" * len(said))
            so_far = after[:stop]
        return stretches

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        is_cut, speech = not ids or ids[-1] not in self.stop_ids, _speech(tools)
        text = self.text(ids if is_cut else ids[:-1])
        said = text[self._thought(text) :]
        if speech is not None and (len(tools) == 1 or hermes.OPEN not in said):
            return (speech.spoken(said, text),)
        return (
            (Call(tool="", arguments={}, raw=text, problem="the turn was cut off"),)
            if is_cut
            else hermes.parse(said)
        )

    def channels(self, ids: Sequence[int]) -> bytes:
        """A token that holds any of a tag belongs to what the tag encloses."""
        pieces = self._tokenizer.pieces(ids)
        text, channels, at = "".join(pieces), bytearray(), 0
        letters = bytearray([Channel.TEXT]) * len(text)
        thought = self._thought(text)
        letters[:thought] = bytes([Channel.THINK]) * thought
        for start, stop, _ in hermes.calls(text[thought:]):
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

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return self._tokenizer.pieces(ids)

    def _thought(self, text: str) -> int:
        """Where thinking ends, with which a turn begins or not; the same tags later on, in an argument, mean
        nothing.
        """
        if not self._opens_thinking and not text.lstrip().startswith(_THINK):
            return 0
        stop = text.find(_END_THINK)
        return len(text) if stop < 0 else stop + len(_END_THINK)

    def _encode(self, text: str, mark: str) -> array[int]:
        return self._tokenizer.encode(text, mark)

    def _choose(self, template: str, tools: Tools, variables: Mapping[str, Json]) -> tuple[ChatTemplate, str]:
        """The first way that holds, and what ends a turn in it."""
        ways = {
            "own": [template],
            "hermes": [hermes.with_tools(template, has_system=each) for each in (True, False)],
        }
        problems: list[str] = []
        for source in ways["own"] * (tools != "hermes") + ways["hermes"] * (tools != "own"):
            try:
                self._template = ChatTemplate(source, self._tokenizer, variables)
                self._prefixes: dict[tuple[str, str], str] = {}
                self._end = self._find_end()
                self._check()
                return self._template, self._end
            except UnsupportedTemplate as error:
                problems.append(str(error))
        raise UnsupportedTemplate(problems[-1])

    def _find_end(self) -> str:
        text, _ = self._template.render([_ASK, _said("zebra"), _ASK], [], prompts=True)
        after = text.partition("zebra")[2]
        found = self._tokenizer.first_control(after)
        asked, opened = (self._template.render([_ASK], [], prompts=prompts)[0] for prompts in (False, True))
        if found is None or after[: after.index(found)].strip() or found in opened.removeprefix(asked):
            raise UnsupportedTemplate("the chat template ends the assistant's turn by no control token")
        return found

    def _prefix(self, tools: Sequence[ToolSpec], mark: str) -> str:
        """What stands before a first turn of the assistant's."""
        key = (repr(tools), mark)
        if key not in self._prefixes:
            self._prefixes[key] = self._template.render([_ASK], _offers(tools), prompts=True, mark=mark)[0]
        return self._prefixes[key]

    def _turn(self, text: str, mark: str, tools: Sequence[ToolSpec] = ()) -> tuple[int, int]:
        """Where the assistant's first turn begins, and where it ends, its end token included."""
        prefix = self._prefix(tools, mark)
        if not text.startswith(prefix):
            raise UnsupportedTemplate("the chat template opens a turn otherwise once it has been taken")
        return len(prefix), text.index(self._end, len(prefix)) + len(self._end)

    def _check(self) -> None:
        """Tools are offered, calls read back, and increments come to what rendering the whole comes to."""
        spec = ToolSpec(
            name="zebra_tool",
            description="A probe.",
            parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        )
        calls = [
            Call(tool=spec.name, arguments={"text": 'a "b"\n<c> é'}),
            Call(tool=spec.name, arguments={"text": "d"}),
        ]
        if spec.name not in self._template.render([_ASK], _offers([spec]), prompts=True)[0]:
            raise UnsupportedTemplate("the chat template does not say which tools there are")
        ids = self._encode(*self._template.render([_ASK], _offers([spec]), prompts=True))
        messages: list[Message] = [_ASK]
        for turn in (calls, calls[:1]):
            action = self.action(turn, [spec])
            found = hermes.parse(self.text(action[:-1]))
            if [(call.tool, call.arguments) for call in found] != [
                (call.tool, call.arguments) for call in turn
            ]:
                raise UnsupportedTemplate("the chat template writes calls in a format that is not Hermes")
            events = [
                Event(index=index, call=call, text=f"answer {index}\n") for index, call in enumerate(turn)
            ]
            ids += action
            ids += self.observation(events)
            messages += [
                _called(turn),
                *(_answer(call.tool, number, f"answer {number}\n") for number, call in enumerate(turn)),
            ]
        whole = self._encode(*self._template.render(messages, _offers([spec]), prompts=True))
        if whole != ids:
            at = next(
                (at for at, (mine, other) in enumerate(zip(ids, whole, strict=False)) if mine != other),
                min(len(ids), len(whole)),
            )
            near = self._tokenizer.decode(whole[max(at - 4, 0) : at + 4])
            raise UnsupportedTemplate(
                f"the chat template writes a conversation anew as it grows, at {near!r}"
            )


def _offers(tools: Sequence[ToolSpec]) -> list[Json]:
    return [tool.as_function() for tool in tools if not tool.is_speech]


def _speech(tools: Sequence[ToolSpec]) -> ToolSpec | None:
    """The tool that a turn without a call calls."""
    return next((tool for tool in tools if tool.is_speech), None)


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _called(calls: Sequence[Call]) -> Message:
    made: list[Json] = [
        {
            "id": _id(number),
            "type": "function",
            "function": {"name": call.tool, "arguments": dict(call.arguments)},
        }
        for number, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def _answer(tool: str, number: int, content: str) -> Message:
    return {"role": "tool", "tool_call_id": _id(number), "name": tool, "content": content}


def _id(number: int) -> str:
    return f"call{number:05d}"  # nine letters: Mistral's templates ask for that


def _response(event: Event) -> str:
    status = f"[{event.fault}]\n" if event.fault else ""
    left = f"\n[{event.left.turns} turns left]" if event.left else ""
    return f"{status}{event.text}{left}"
