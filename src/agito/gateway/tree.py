"""The conversations of one attempt as a tree of tokens: what was sampled stays as it was sampled.

A node is an answer: the exact tokens up to it, on the row that sampled them, filed under the history that a
client was answered with. A request is looked up by the history that it brings. The same history goes on with
the same row. A history that has gone on otherwise already (a retry, a parallel branch, a row that was given
up) begins a new row with the very same tokens. A history that was rewritten begins one with what the sampler
is really shown: nothing is repaired, and nothing is put in the place of what a client sent.

A row is a segment. What a segment has of its parent's tokens is trained on there, once.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agito.gateway.api_request import Refused
from agito.protocols import Agent
from agito.render.messages import Conversing, Message, Speaker, with_tool_names
from agito.sampling.capture import Capture
from agito.types import Segment, TokenSource, ToolSpec, Turn

_SHOWN = 60  # letters of a value in a message for people


class Way(StrEnum):
    """How a request came to its row."""

    OPENED = "opened"  # a conversation begins
    CONTINUED = "continued"  # the same history, or one that comes to the same tokens
    BRANCHED = "branched"  # the same history, which has gone on otherwise already
    REWRITTEN = "rewritten"  # the history is not what was answered


class Line:
    """One segment in the making, on one row."""

    def __init__(
        self, number: int, agent: Agent, renderer: Conversing, *, seed: int, session: str, parent: Node | None
    ) -> None:
        self.number, self.seed, self.session = number, seed, session
        self.capture = Capture(agent.engine, seed=seed, stop_ids=renderer.stop_ids, segment=number)
        self.parent = parent
        self.root: Line = self if parent is None else parent.line.root
        self.length = 0  # tokens that the engine has seen
        self.is_busy, self.is_open, self.used = False, True, 0
        self.messages: tuple[Message, ...] = ()  # as last sent, and the answer
        if parent is not None:
            self.capture.extend(parent.line.capture.ids(parent.stop))

    def segment(self, numbers: dict[int, int], *, role: str, policy: str) -> Segment:
        made = self.capture.segment(agent=self.session or role, role=role, policy=policy)
        parent = None if self.parent is None else numbers.get(self.parent.line.number)
        return replace(
            made,
            id=numbers[self.number],
            parent=parent,
            prefix_len=0 if self.parent is None else self.parent.stop,
        )

    def turns(self) -> Sequence[Turn]:
        return self.capture.turns

    async def close(self) -> None:
        self.is_open = False
        await self.capture.close()


@dataclass(slots=True, eq=False)
class Node:
    """An answer. `stop`: tokens of its line up to and including it."""

    line: Line
    stop: int
    message: Message
    is_cut: bool  # it ended without an end token


@dataclass(slots=True, kw_only=True)
class Place:
    """Where one request is answered. Its line is busy until `leave`."""

    line: Line
    way: Way
    key: bytes  # of the history that the request brought
    messages: tuple[Message, ...]
    num_kept: int  # tokens of the prompt that were on the row already


@dataclass(slots=True)
class KeptMeter:
    """How much of what clients brought back was what they had been answered."""

    turns: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    history: int = 0  # tokens of prompts that had been on a row before
    kept: int = 0  # those that still were
    first: str = ""  # where a client first sent something else

    @property
    def share_of_turns(self) -> float:
        """Of the turns with a history: those that stayed on their segment."""
        back = sum(count for way, count in self.turns.items() if way is not Way.OPENED)
        return self.turns[Way.CONTINUED] / back if back else 1.0

    @property
    def share_of_tokens(self) -> float:
        return self.kept / self.history if self.history else 1.0

    def told(self) -> str:
        """One line for people."""
        if not any(self.turns.values()):
            return "nobody has asked for anything"
        back = sum(count for way, count in self.turns.items() if way is not Way.OPENED)
        if not back:
            return f"{self.turns[Way.OPENED]} answered; none went on with an earlier answer"
        kept = f"{self.turns[Way.CONTINUED]} of {back} turns and {self.share_of_tokens:.0%} of their tokens"
        said = f"{kept} stayed on their segment"
        return f"{said}; first otherwise: {self.first}" if self.first else said


class TokenTree:
    """One agent's. `seed` is that of the first row; later rows draw theirs from it and from the history that
    they begin with.
    """

    def __init__(self, agent: Agent, renderer: Conversing, *, seed: int, context: int) -> None:
        self._agent, self._renderer, self._seed, self._context = agent, renderer, seed, context
        self.lines: list[Line] = []
        self.meter = KeptMeter()
        self._nodes: dict[bytes, list[Node]] = {}
        self._opened: dict[bytes, int] = {}
        self._asked: set[bytes] = set()  # histories that a request has brought
        self._told: set[bytes] = set()  # answers, wherever they stood
        self._has_forgotten = False
        self._idle: dict[int, Line] = {}  # open, and at rest: the longest first
        self._clock = self._num_lines = 0

    def place(
        self,
        messages: tuple[Message, ...],
        tools: Sequence[ToolSpec],
        *,
        session: str,
        seed: int | None,
        reserve: int,
    ) -> Place:
        """A line that has been extended by what the request brings, and at least `reserve` tokens of room.

        Raises `Refused` for what does not fit into the context or cannot be rendered.
        """
        messages = with_tool_names(messages)
        key, path, is_same = self._walk(messages, tools, session)
        node, at = path[-1] if path else (None, -1)
        self._asked.add(key)
        try:
            if not is_same:
                found = self._by_tokens(self._renderer.conversation(messages, tools), seed, reserve)
                if found is not None:
                    line, extension = found
                    return self._placed(
                        line, extension, Way.CONTINUED, key, messages, reserve, len(line.capture)
                    )
            extension = (
                self._renderer.conversation(messages, tools)
                if node is None
                else self._renderer.continuation(messages[at + 1 :])
            )
        except Refused:
            raise
        except (ValueError, RecursionError) as error:
            raise Refused(
                400, f"these messages cannot be put into this model's format: {error}", param="messages"
            ) from error
        way = Way.REWRITTEN if not is_same else Way.OPENED if node is None else Way.BRANCHED
        if not is_same and not self.meter.first:
            self.meter.first = self._divergence(messages)
        history = node.stop if node is not None else len(extension) if not is_same else 0
        if node is not None and _may_go_on(node, seed):
            way = way if way is Way.REWRITTEN else Way.CONTINUED
            return self._placed(node.line, extension, way, key, messages, reserve, history, cut=node.is_cut)
        self._require_room((node.stop if node else 0) + len(extension) + reserve + 1)
        line = self._open(key, node, session, seed)
        return self._placed(
            line, extension, way, key, messages, reserve, history, cut=node is not None and node.is_cut
        )

    def answered(self, place: Place, message: Message, *, is_cut: bool, is_whole: bool) -> None:
        """Files an answer. One that a client was shown only in part is none that it can go on from."""
        line = place.line
        line.length = len(line.capture)
        line.messages = (*place.messages, message)
        self._told.add(_next(b"", message))
        if is_whole:
            node = Node(line, line.length, message, is_cut)
            self._nodes.setdefault(_next(place.key, message), []).append(node)

    def leave(self, place: Place) -> None:
        self._clock += 1
        place.line.is_busy, place.line.used = False, self._clock
        if place.line.is_open:
            self._idle[place.line.number] = place.line

    async def close_idle(self, most: int) -> None:
        """Gives up the rows that have rested longest, beyond `most`. What they hold is known here, and can be
        begun again.
        """
        while len(self._idle) > most:
            line = self._idle.pop(next(iter(self._idle)))
            await line.close()

    async def close(self) -> None:
        for line in self.lines:
            await line.close()

    def segments(
        self, root: Line | None, *, role: str, policy: str
    ) -> tuple[tuple[Segment, ...], dict[int, int]]:
        """Of every line that anything was sampled on, all or those of one root, and their numbers by those of
        the lines.
        """
        spoken = [line for line in self.lines if line.turns() and (root is None or line.root is root)]
        numbers = {line.number: number for number, line in enumerate(spoken)}
        return tuple(line.segment(numbers, role=role, policy=policy) for line in spoken), numbers

    @property
    def num_opened(self) -> int:
        """Lines so far, those that are forgotten too."""
        return self._num_lines

    async def forget(self, most: int) -> set[int]:
        """All but the lines that were used last or are in use. Returns the numbers of those that are left."""
        used = sorted(self.lines, key=lambda line: (line.is_busy, line.used))
        for line in used[:-most]:
            if not line.is_busy:  # somebody may have gone on with it meanwhile
                self._idle.pop(line.number, None)
                await line.close()
        self.lines = [line for line in self.lines if line.is_open or line in used[-most:]]
        kept = {line.number for line in self.lines}
        left = {
            key: [node for node in nodes if node.line.number in kept] for key, nodes in self._nodes.items()
        }
        self._nodes = {key: nodes for key, nodes in left.items() if nodes}
        self._seed = _drawn(
            self._seed, b"", self._num_lines
        )  # what is forgotten must not be sampled the same again
        self._opened.clear()
        self._asked.clear()
        self._told.clear()
        self._has_forgotten = True
        return kept

    def _walk(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], session: str
    ) -> tuple[bytes, list[tuple[Node, int]], bool]:
        """The history's key; the answers in it that are ours, with their places; and whether nothing of ours
        was changed behind the last of them.

        An answer of a client's own (an example, a greeting) is part of the history that ours answered.
        """
        key, is_same = _base(tools, session), True
        path: list[tuple[Node, int]] = []
        for at, message in enumerate(messages):
            before, key = key, _next(key, message)
            if message.speaker is not Speaker.ASSISTANT:
                continue
            node = self._best(self._nodes.get(key, ()), message)
            if node is None:
                is_same = is_same and not self._may_be_ours(before, message)
                key = _apart(key, message.thinking) if message.thinking else key
            else:
                is_same = True
                path.append((node, at))
        return key, path, is_same

    def _may_be_ours(self, before: bytes, message: Message) -> bool:
        """Whether an answer that is not as it was can be one of ours: changed, or in another place."""
        return self._has_forgotten or before in self._asked or _next(b"", message) in self._told

    def _best(self, nodes: Sequence[Node], message: Message) -> Node | None:
        """That which the client means by its ids, else one that it can go on from, else the first."""
        fits = (
            [node for node in nodes if node.message.thinking == message.thinking]
            if message.thinking
            else nodes
        )
        if len(fits) < 2:
            return fits[0] if fits else None
        ids = [use.id for use in message.uses]
        named = [node for node in fits if [use.id for use in node.message.uses] == ids] if ids else []
        return next((node for node in named or fits if _may_go_on(node, None)), (named or fits)[0])

    def _by_tokens(self, ids: array[int], seed: int | None, reserve: int) -> tuple[Line, array[int]] | None:
        """The longest line at rest whose tokens these begin with, and what is left of them."""
        best: Line | None = None
        for line in self.lines:
            is_free = (
                line.is_open and not line.is_busy and seed in (None, line.seed) and 0 < line.length < len(ids)
            )
            if (
                is_free
                and (best is None or line.length > best.length)
                and line.capture.ids(line.length) == ids[: line.length]
            ):
                best = line
        return None if best is None else (best, ids[best.length :])

    def _placed(
        self,
        line: Line,
        extension: array[int],
        way: Way,
        key: bytes,
        messages: tuple[Message, ...],
        reserve: int,
        history: int,
        *,
        cut: bool = False,
    ) -> Place:
        kept = line.length
        self._require_room(len(line.capture) + cut + len(extension) + reserve)
        if cut:
            line.capture.extend(self._renderer.stop_ids[:1], TokenSource.FORCED)
        line.capture.extend(extension)
        line.is_busy = True
        self._idle.pop(line.number, None)
        self.meter.turns[way] += 1
        self.meter.history += history
        self.meter.kept += min(kept, history)
        return Place(line=line, way=way, key=key, messages=messages, num_kept=kept)

    def _require_room(self, wanted: int) -> None:
        if wanted > self._context:
            raise Refused(
                400,
                f"a context holds {self._context} tokens here, and this request needs at least {wanted}",
                code="context_length_exceeded",
                param="messages",
            )

    def _open(self, key: bytes, node: Node | None, session: str, seed: int | None) -> Line:
        number = self._opened.get(key, 0)
        self._opened[key] = number + 1
        if seed is None:
            seed = self._seed if not self._num_lines else _drawn(self._seed, key, number)
        try:
            line = Line(self._num_lines, self._agent, self._renderer, seed=seed, session=session, parent=node)
        except ValueError as error:
            raise Refused(
                429, f"no more conversations can be opened: {error}", code="rate_limit_exceeded"
            ) from error
        self.lines.append(line)
        self._num_lines += 1
        return line

    def _divergence(self, messages: Sequence[Message]) -> str:
        """The first message that is not as it was, against the conversation that has most in common."""
        alike = max(self.lines, key=lambda line: (_common(line.messages, messages), line.used), default=None)
        if alike is None:
            return "messages[0]: a history that this gateway did not answer"
        at = _common(alike.messages, messages)
        ours = alike.messages[at] if at < len(alike.messages) else None
        if ours is None:
            return f"messages[{at}]: a message that this gateway did not sample"
        return f"messages[{at}]{_difference(ours, messages[at])}"


def _may_go_on(node: Node, seed: int | None) -> bool:
    line = node.line
    return line.is_open and not line.is_busy and line.length == node.stop and seed in (None, line.seed)


def _base(tools: Sequence[ToolSpec], session: str) -> bytes:
    offered = json.dumps([session, [[tool.name, tool.description, tool.parameters] for tool in tools]])
    return hashlib.blake2b(offered.encode(), digest_size=16).digest()


def _next(key: bytes, message: Message) -> bytes:
    """Thinking apart: that of ours is kept as it was sampled whether a client sends it back or not."""
    said = json.dumps([message.speaker, message.text, [[use.tool, use.arguments] for use in message.uses]])
    return hashlib.blake2b(key + said.encode("utf-8", "replace"), digest_size=16).digest()


def _apart(key: bytes, thinking: str) -> bytes:
    """Of a history with thinking in it that is not ours."""
    return hashlib.blake2b(key + b"thinking" + thinking.encode("utf-8", "replace"), digest_size=16).digest()


def _drawn(seed: int, key: bytes, number: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{key.hex()}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _plain(message: Message) -> tuple[object, ...]:
    return message.speaker, message.text, tuple((use.tool, use.arguments) for use in message.uses)


def _common(ours: Sequence[Message], theirs: Sequence[Message]) -> int:
    at = 0
    while at < min(len(ours), len(theirs)) and _plain(ours[at]) == _plain(theirs[at]):
        at += 1
    return min(at, len(theirs) - 1)


def _difference(ours: Message, theirs: Message) -> str:
    if ours.speaker is not theirs.speaker:
        return f": {ours.speaker} was expected, {theirs.speaker} came"
    if ours.text != theirs.text:
        return f".content: {_shown(ours.text)} came back as {_shown(theirs.text)}"
    for number, (mine, other) in enumerate(zip(ours.uses, theirs.uses, strict=False)):
        if mine.arguments != other.arguments:
            changed = f"{_shown(mine.arguments)} came back as {_shown(other.arguments)}"
            return f".tool_calls[{number}].function.arguments: {changed}"
        if mine.tool != other.tool:
            return (
                f".tool_calls[{number}].function.name: {_shown(mine.tool)} came back as {_shown(other.tool)}"
            )
    if len(ours.uses) != len(theirs.uses):
        return f".tool_calls: {len(ours.uses)} calls came back as {len(theirs.uses)}"
    return ": the same words, in another place of the history"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
