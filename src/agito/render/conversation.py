"""A chat template and a tool-call format that fit together: the texts of an opening, of a turn and of what
answers it.

Each stands for itself, whatever was said before. That they come to what the template makes of the whole
conversation is checked at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agito.render.keep_thinking import keeping
from agito.render.template import ChatTemplate, Message, UnsupportedTemplate, guarded
from agito.render.tokenizer import ModelTokenizer
from agito.render.tool_formats import ToolFormat
from agito.types import Call, Json, ToolSpec

END_THINK = "</think>"
_THINK = "<think>"
_ASK: Message = {"role": "user", "content": "Go on."}
_PROBE = ToolSpec(
    name="zebra_tool",
    description="A probe.",
    parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)


class Conversation:
    """`strips_thinking`: the template drops the thinking of past turns, or what it opens a turn with.
    `opens_thinking`: a turn begins within a thought. `ends`: the control tokens that end a turn, one with
    calls first.
    """

    def __init__(
        self,
        source: str,
        tokenizer: ModelTokenizer,
        variables: Mapping[str, Json],
        tool_format: ToolFormat,
        *,
        writes: bool = False,
        is_own: bool = True,
    ) -> None:
        """`writes`: calls may be written by the format where the template drops them. Raises
        `UnsupportedTemplate`.
        """
        self.template = ChatTemplate(source, tokenizer, variables)
        self._tokenizer, self.format, self._writes, self.is_own = tokenizer, tool_format, writes, is_own
        self._prefixes: dict[tuple[str, str], tuple[int, str]] = {}
        self.said_end = self._find_end()  # of a turn that only says something, as the history has it
        self.ends = tool_format.ends or (self.said_end,)
        for end in self.ends:
            if tokenizer.control(end) is None:
                raise UnsupportedTemplate(
                    f"the tokenizer has no control token {end}, with which a turn of {tool_format.name} ends"
                )
        self._scaffold = ""  # what opens a turn and does not stand in the history
        self.opens_thinking = self._prefix((), "")[1].rstrip().endswith(_THINK)
        self._takes_several = self._reads_back(2)
        if not self._takes_several and not self._reads_back(1) and not writes:
            raise UnsupportedTemplate(
                f"the chat template writes calls in a format that is not {tool_format.name}"
            )
        self._scaffold = self._find_scaffold()
        thought: list[Message] = [_ASK, said(f"{_THINK}zebra{END_THINK}yes"), _ASK]
        kept = "zebra" in self.template.render(thought, [], prompts=True, is_trusted=True)[0]
        self.strips_thinking = not kept or bool(self._scaffold)
        self._check()
        self.keeping = self._keeping() if self.strips_thinking else None  # the template that drops nothing

    @property
    def opens_closed(self) -> bool:
        """Whether a turn begins with an empty thought."""
        return END_THINK in self._scaffold

    @property
    def source(self) -> str:
        return self.template.source

    def whole(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[str, str]:
        """Any conversation, up to where the assistant's turn begins: the text, and the mark within what reads
        like a control token and is none; so with all.
        """
        return self.template.render(messages, offers(tools), prompts=True)

    def observation(
        self, tools: Sequence[str], answers: Sequence[str], rest: Sequence[Message] = ()
    ) -> tuple[str, str]:
        """What follows a turn in which these tools were called, or none, up to where the next turn begins."""
        calls = [Call(tool=tool, arguments={}) for tool in tools]
        answered = [
            _answer(tool, number, text)
            for number, (tool, text) in enumerate(zip(tools, answers, strict=True))
        ]
        turn = self._called(calls) if calls else said("zebra")
        text, mark = self.template.render([_ASK, turn, *answered, *rest], [], prompts=True)
        return text[self.turn(text, mark)[1] :], mark

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> tuple[str, str]:
        """A turn that makes these calls, its end included. Raises `ValueError` where the format cannot say
        them.
        """
        answers = [_answer(call.tool, number, "") for number, call in enumerate(calls)]
        text, mark = self.template.render(
            [_ASK, called(calls[:1] if not self._takes_several else calls), *answers],
            offers(tools),
            prompts=False,
        )
        begin, stop = self.turn(text, mark, tools)
        turn = text[begin:stop]
        if not self._says(turn, mark, calls, tools):
            guarded = self.template.guarded(calls, mark)
            turn = self.format.write(guarded) + self.ends[0]
            if not self._says(turn, mark, calls, tools):
                names = ", ".join(call.tool for call in calls)
                raise ValueError(f"{names}: cannot be called like this in the format {self.format.name}")
        return self._closing(turn) + turn, mark

    def speech(self, text: str, tools: Sequence[ToolSpec]) -> tuple[str, str]:
        """A turn that says this and calls nothing, its end included."""
        whole, mark = self.template.render([_ASK, said(text)], offers(tools), prompts=False)
        whole += self.said_end  # some families end a last turn only when the next message begins
        turn = whole[slice(*self.turn(whole, mark, tools))]
        return self._closing(turn) + turn, mark

    def turns(
        self, messages: Sequence[Message], tools: Sequence[Json], mark: str, free: frozenset[str]
    ) -> Iterator[tuple[str, str, bool]]:
        """For each turn of the assistant's: what is read before it, its text with its end, and whether the
        template rewrites what stood before, which is then read as a whole. In `free` are the control tokens
        that the assistant may say. Raises `UnsupportedTemplate`.
        """
        safe = [guarded(message, self._tokenizer, mark, free=free) for message in messages]
        so_far = ""
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = (
                self.template.render(safe[:until], tools, prompts=prompts, mark=mark, is_trusted=True)[0]
                for until, prompts in ((number, True), (number + 1, False))
            )
            after += self.said_end  # as above
            least = max(_common(before, after) - len(END_THINK), 0)
            begin, stop = self._within(before, after, least)
            is_new = not so_far or not before.startswith(so_far)
            turn = after[begin:stop]
            yield before if is_new else before[len(so_far) :], self._closing(turn) + turn, is_new
            so_far = after[:stop]

    def turn(self, text: str, mark: str, tools: Sequence[ToolSpec] = ()) -> tuple[int, int]:
        """Where the assistant's first turn begins, and where it ends, its end token included."""
        asked, opened = self._prefix(tools, mark)
        return self._within(opened, text, asked)

    def _within(self, opened: str, text: str, least: int) -> tuple[int, int]:
        """Where the turn that `opened` opens begins in `text`, from `least` on, and where it ends."""
        begin = _common(opened, text)
        while opened[begin:].replace(_THINK, "").replace(END_THINK, "").strip():
            begin -= 1
            if begin < least:
                raise UnsupportedTemplate("the chat template opens a turn otherwise once it has been taken")
        for end in (*self.ends, self.said_end):
            if (at := text.find(end, begin)) >= 0:
                return begin, at + len(end)
        raise UnsupportedTemplate(f"the chat template does not end a turn by {self.ends[0]}")

    def _closing(self, turn: str) -> str:
        """Ends a thought that the template has opened."""
        return f"\n{END_THINK}\n\n" if self.opens_thinking and END_THINK not in turn else ""

    def _says(self, turn: str, mark: str, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> bool:
        """Whether the turn reads back as these calls."""
        text = turn.replace(mark, "").removesuffix(self.ends[0])
        begin = text.find(END_THINK) + len(END_THINK) if text.lstrip().startswith((END_THINK, _THINK)) else 0
        found = [call for _, _, call in self.format.find(text[begin:], tools)]
        return [(call.tool, dict(call.arguments), call.problem) for call in found] == [
            (c.tool, dict(c.arguments), None) for c in calls
        ]

    def _called(self, calls: Sequence[Call]) -> Message:
        """In a history; a template that takes one call a turn is given the first."""
        return called(calls if self._takes_several else calls[:1])

    def _find_end(self) -> str:
        text, _ = self.template.render([_ASK, said("zebra"), _ASK], [], prompts=True)
        after = text.partition("zebra")[2]
        found = self._tokenizer.first_control(after)
        asked, opened = self._prefix((), "")
        if found is None or after[: after.index(found)].strip() or found in opened[asked:]:
            raise UnsupportedTemplate("the chat template ends the assistant's turn by no control token")
        return found

    def _prefix(self, tools: Sequence[ToolSpec], mark: str) -> tuple[int, str]:
        """What stands before a first turn of the assistant's, and where in it the turn's opening begins."""
        key = (repr(tools), mark)
        if key not in self._prefixes:
            both = [
                self.template.render([_ASK], offers(tools), prompts=prompts, mark=mark)[0]
                for prompts in (False, True)
            ]
            self._prefixes[key] = _common(*both), both[1]
        return self._prefixes[key]

    def _find_scaffold(self) -> str:
        """What the template opens a turn with, and leaves out of the history: an empty thought, or the
        beginning of one.
        """
        text, mark = self.template.render([_ASK, called(_calls(1)), _answer("", 0, "")], [], prompts=False)
        return self._prefix((), mark)[1][self.turn(text, mark)[0] :]

    def _reads_back(self, number: int) -> bool:
        calls = _calls(number)
        answers = [_answer(call.tool, at, "") for at, call in enumerate(calls)]
        try:
            text, mark = self.template.render(
                [_ASK, called(calls), *answers], offers([_PROBE]), prompts=False
            )
            begin, stop = self.turn(text, mark, [_PROBE])
        except UnsupportedTemplate:
            if number == 1 and not self._writes:
                raise
            return False
        turn = text[begin:stop].replace(mark, "")
        inside = turn.removesuffix(self.ends[0])
        outside = inside
        for start, end, _ in reversed(list(self.format.find(inside, [_PROBE]))):
            outside = outside[:start] + outside[end:]
        outside = outside.replace(_THINK, "").replace(END_THINK, "").replace(";", "")
        return self._says(turn, mark, calls, [_PROBE]) and not outside.strip()

    def _check(self) -> None:
        """Tools are offered, and increments come to what rendering the whole comes to."""
        opening, mark = self.whole([_ASK], [_PROBE])
        if _PROBE.name not in opening:
            raise UnsupportedTemplate("the chat template does not say which tools there are")
        parts, messages = [(opening, mark)], [_ASK]
        for number in (2, 1) if self._takes_several else (1, 1):
            calls = _calls(number)
            names, answers = [call.tool for call in calls], [f"answer {at}\n" for at in range(number)]
            turn, mark = self.action(calls, [_PROBE])
            parts += [
                (
                    turn.removeprefix(self._closing(turn.removeprefix(f"\n{END_THINK}\n\n")))
                    if self._scaffold
                    else turn,
                    mark,
                )
            ]
            parts += [self.observation(names, answers)]
            messages += [
                called(calls),
                *(
                    _answer(name, at, text)
                    for at, (name, text) in enumerate(zip(names, answers, strict=True))
                ),
            ]
        last = len(parts) - 1
        ids = [
            token
            for at, (text, mark) in enumerate(parts)
            for token in self._tokenizer.encode(
                text if at == last else text.removesuffix(self._scaffold), mark
            )
        ]
        text, mark = self.template.render(messages, offers([_PROBE]), prompts=True)
        whole = list(self._tokenizer.encode(text, mark))
        if self.opens_thinking and "".join(part.replace(each, "") for part, each in parts) == text.replace(
            mark, ""
        ):
            return  # what opens a turn is encoded by itself, in serving too, and may end with half of a token
        if whole != ids and not self._writes:
            at = next((at for at, pair in enumerate(zip(ids, whole, strict=False)) if pair[0] != pair[1]), -1)
            near = self._tokenizer.decode(whole[max(at - 4, 0) : at + 4])
            raise UnsupportedTemplate(
                f"the chat template writes a conversation anew as it grows, at {near!r}"
            )

    def _keeping(self) -> str | None:
        """The template that keeps past thinking, if what it makes of a conversation are our increments."""
        asked = self._prefix((), "")[1]
        source = keeping(
            self.source,
            end=self.ends[0],
            scaffold=self._scaffold,
            opens_thinking=self.opens_thinking,
            num_before=asked.count(self.ends[0]),
        )
        opening, mark = self.whole([_ASK], [_PROBE])
        text, messages = opening.replace(mark, ""), [_ASK]
        for call in _calls(2):
            turn, mark = self.action([call], [_PROBE])
            body = turn.replace(mark, "").rpartition(END_THINK)[2].lstrip("\n")
            observation, mark = self.observation([call.tool], ["an answer"])
            text += ("" if self.opens_thinking else f"{_THINK}\n") + f"zebra\n{END_THINK}\n\n{body}"
            text += observation.replace(mark, "")
            messages += [called([call]) | {"reasoning_content": "zebra"}, _answer(call.tool, 0, "an answer")]
        try:
            template = ChatTemplate(source, self._tokenizer, self.template.variables)
            whole, mark = template.render(messages, offers([_PROBE]), prompts=True)
        except UnsupportedTemplate:
            return None
        return source if whole.replace(mark, "") == text else None


def _common(one: str, other: str) -> int:
    """How many letters both begin with."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def offers(tools: Sequence[ToolSpec]) -> list[Json]:
    return [tool.as_function() for tool in tools if not tool.is_speech]


def said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def called(calls: Sequence[Call]) -> Message:
    made: list[Json] = [
        {
            "id": _id(number),
            "type": "function",
            "function": {"name": call.tool, "arguments": dict(call.arguments)},
        }
        for number, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def _calls(number: int) -> list[Call]:
    texts = ('a "b"\n<c> é', "d")
    return [Call(tool=_PROBE.name, arguments={"text": text}) for text in texts[:number]]


def _answer(tool: str, number: int, content: str) -> Message:
    return {"role": "tool", "tool_call_id": _id(number), "name": tool, "content": content}


def _id(number: int) -> str:
    return f"call{number:05d}"  # nine letters: Mistral's templates ask for that
